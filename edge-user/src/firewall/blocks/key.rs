//! A prefix as the block tables sort it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Family, first address (IPv4 in the low 32 bits), length: covering prefixes come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::firewall) struct Key {
    pub v6: bool,
    pub first: u128,
    pub length: u8,
}

impl Key {
    pub fn new(prefix: &IpNet) -> Self {
        match prefix.trunc() {
            IpNet::V4(net) => {
                Self { v6: false, first: u32::from(net.network()).into(), length: net.prefix_len() }
            }
            IpNet::V6(net) => {
                Self { v6: true, first: net.network().into(), length: net.prefix_len() }
            }
        }
    }

    pub fn bits(self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    /// An address, not a prefix.
    pub fn single(self) -> bool {
        self.length == self.bits()
    }

    /// The last address of the prefix.
    pub fn last(self) -> u128 {
        let host = u32::from(self.bits() - self.length);
        self.first | 1u128.checked_shl(host).map_or(u128::MAX, |bit| bit - 1)
    }

    /// The greatest key of anything inside this prefix.
    pub fn last_inside(self) -> Self {
        Self { first: self.last(), length: self.bits(), ..self }
    }

    /// The prefix of this length around it.
    pub fn shortened(self, length: u8) -> Self {
        let host = u32::from(self.bits() - length);
        let first = (self.first.checked_shr(host)).map_or(0, |kept| kept << host);
        Self { first, length, ..self }
    }

    /// Whether `other` lies inside this prefix, or is it.
    pub fn holds(self, other: Self) -> bool {
        self.v6 == other.v6
            && self.length <= other.length
            && other.shortened(self.length).first == self.first
    }

    pub fn prefix(self) -> IpNet {
        let address = if self.v6 {
            IpAddr::V6(Ipv6Addr::from(self.first))
        } else {
            IpAddr::V4(Ipv4Addr::from(self.first as u32))
        };
        // A key's length always fits its family, so the fallback is never taken.
        IpNet::new(address, self.length).unwrap_or_else(|_| IpNet::from(address))
    }
}

/// How many prefixes there are of each length: which lengths are worth asking for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    counts: [[u32; 129]; 2],
    /// A bit for each length that occurs, single addresses left out.
    prefixes: [u128; 2],
}

impl Lengths {
    pub fn new() -> Self {
        Self { counts: [[0; 129]; 2], prefixes: [0; 2] }
    }

    pub fn add(&mut self, key: Key) {
        let family = usize::from(key.v6);
        self.counts[family][usize::from(key.length)] += 1;
        if !key.single() {
            self.prefixes[family] |= 1 << key.length;
        }
    }

    pub fn remove(&mut self, key: Key) {
        let family = usize::from(key.v6);
        let count = &mut self.counts[family][usize::from(key.length)];
        *count = count.saturating_sub(1);
        if *count == 0 && !key.single() {
            self.prefixes[family] &= !(1 << key.length);
        }
    }

    /// The prefixes around `key` that may be there, the widest first.
    pub fn around(&self, key: Key) -> impl Iterator<Item = Key> + use<> {
        // A length of 128 is a single address, which covers nothing else.
        let mut left = self.prefixes[usize::from(key.v6)]
            & 1u128.checked_shl(u32::from(key.length)).map_or(u128::MAX, |bit| bit - 1);
        std::iter::from_fn(move || {
            let length = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(key.shortened(length as u8))
        })
    }

    /// Single addresses of a family.
    pub fn singles(&self, v6: bool) -> u32 {
        self.counts[usize::from(v6)][if v6 { 128 } else { 32 }]
    }

    /// Prefixes of a family.
    pub fn prefixes(&self, v6: bool) -> u32 {
        let bits = if v6 { 128 } else { 32 };
        self.counts[usize::from(v6)][..bits].iter().sum()
    }
}
