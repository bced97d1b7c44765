//! The tables as plain collections: for tests, and for the daemon to explain what would happen.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    hash::Hash,
    ops::Deref,
};

use super::{BucketName, Family, Judged, Tables, Tuple, follow};
use crate::{
    abi::{
        Block, Bucket, Flood, FlowKey, Fragment, FragmentKey, GENERATIONS, Interface, KnownKey,
        PRESENT_ADDRESSES, PRESENT_PREFIXES, PinholeKey, Rule, RuleLimits, SETTING_BLOCKS,
        SETTING_SHORT_PREFIXES6, SHORT_BITS, SetMask, Settings, VlanKey, WIDE_CELLS, WIDE_HERE,
        ZONES, presence4, presence6, presence6_again, presence6_short, presence6_wide, zone_bucket,
    },
    packet::{Frame, PROTOCOL_TCP, PROTOCOL_UDP},
    verdict::Reason,
};

/// Prefixes of one family, with a value each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefixes<A: Eq + Hash, V>(HashMap<(u8, A), V>);

impl<A: Eq + Hash, V> Default for Prefixes<A, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// The first `length` bits of an address.
fn masked<const N: usize>(mut address: [u8; N], length: u8) -> [u8; N] {
    for (position, byte) in address.iter_mut().enumerate() {
        let bits = usize::from(length).saturating_sub(position * 8).min(8);
        *byte &= !(0xff_u16 >> bits) as u8;
    }
    address
}

impl<const N: usize, V: Copy> Prefixes<[u8; N], V> {
    /// Adds a prefix; bits beyond its length count for nothing.
    pub fn insert(&mut self, address: [u8; N], length: u8, value: V) {
        self.0.insert((length, masked(address, length)), value);
    }

    /// The value of the longest prefix that holds this address.
    pub fn longest(&self, address: &[u8; N]) -> Option<V> {
        let longest = u8::try_from(N * 8).unwrap_or(u8::MAX);
        (0..=longest)
            .rev()
            .find_map(|length| self.0.get(&(length, masked(*address, length))).copied())
    }

    /// All prefixes: address, length, value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8; N], u8, &V)> {
        self.0.iter().map(|((length, address), value)| (address, *length, value))
    }
}

/// One generation of a rule set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Words by [`crate::abi::port_index`].
    pub port_words: HashMap<u32, u32>,
    /// Words by [`crate::abi::protocol_index`].
    pub protocol_words: HashMap<u32, u32>,
    /// The rules.
    pub rules: Vec<Rule>,
    /// Limits, by [`Rule::limits`]; the first is not used.
    pub rates: Vec<RuleLimits>,
    /// Source sets, IPv4.
    pub sources4: Prefixes<[u8; 4], SetMask>,
    /// Source sets, IPv6.
    pub sources6: Prefixes<[u8; 16], SetMask>,
    /// Destination sets.
    pub destinations: HashMap<[u8; 16], SetMask>,
}

/// All tables. What is not in them is not there.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    /// The settings in force.
    pub settings: Settings,
    /// Interfaces by index.
    pub interfaces: HashMap<u32, Interface>,
    /// VLANs of trunks.
    pub vlans: HashMap<VlanKey, Interface>,
    /// The generations.
    pub generations: [Generation; GENERATIONS as usize],
    /// Blocked IPv4 addresses.
    pub blocked4: HashMap<[u8; 4], Block>,
    /// Blocked IPv4 prefixes.
    pub blocked4_prefixes: Prefixes<[u8; 4], Block>,
    /// Blocked IPv6 addresses.
    pub blocked6: HashMap<[u8; 16], Block>,
    /// Blocked IPv6 prefixes.
    pub blocked6_prefixes: Prefixes<[u8; 16], Block>,
    /// The IPv4 presence bitmap.
    pub presence4: HashMap<u32, u64>,
    /// The IPv6 presence bitmap.
    pub presence6: HashMap<u32, u64>,
    /// Where IPv6 prefixes shorter than /48 are.
    pub presence6_short: HashMap<u32, u64>,
    /// TCP connections that have a socket which is not listening, and UDP sockets that are
    /// connected.
    pub sockets: HashSet<FlowKey>,
    /// Flows remembered at egress.
    pub flows: HashMap<FlowKey, u64>,
    /// Seconds since boot.
    pub now_seconds: u64,
    /// Buckets of sources, by [`crate::abi::bucket_index`].
    pub source_buckets: RefCell<HashMap<u32, Bucket>>,
    /// Buckets of rules and zones.
    pub total_buckets: RefCell<HashMap<u32, Bucket>>,
    /// Sources that have proved who they are.
    pub known_sources: RefCell<HashMap<KnownKey, Bucket>>,
    /// Fragmented packets.
    pub fragments: RefCell<HashMap<FragmentKey, Fragment>>,
    /// What is seen of each zone.
    pub floods: RefCell<[Flood; ZONES as usize]>,
    /// Slots of media flows by [`crate::abi::media_port_index`].
    pub media_ports: HashMap<u32, u32>,
    /// Slots of media flows to endpoints behind us.
    pub pinholes: HashMap<PinholeKey, u32>,
    /// Sequence numbers of the first bytes of TCP connections.
    pub beginnings: RefCell<HashMap<FlowKey, u32>>,
}

/// What stands in a slot that was never written.
static NO_RULE_THERE: Rule = Rule {
    id: 0,
    source_set: 0,
    destination_set: 0,
    action: 0,
    flags: 0,
    destination6: [0; 2],
    destination4: 0,
    limits: 0,
    content: 0,
    reserved: 0,
};

impl MemoryTables {
    /// Blocks an IPv4 prefix (of 32 bits: an address), presence included.
    pub fn block4(&mut self, address: [u8; 4], length: u8, block: Block) {
        if length >= 32 {
            self.blocked4.insert(address, block);
        } else {
            self.blocked4_prefixes.insert(address, length, block);
        }
        let first = u32::from_be_bytes(masked(address, length));
        let nets = 1_u32 << 24_u8.saturating_sub(length);
        let present = if length >= 32 { PRESENT_ADDRESSES } else { PRESENT_PREFIXES };
        for net in 0..nets {
            let (slot, at) = presence4((first | (net << 8)).to_be_bytes());
            *self.presence4.entry(slot).or_default() |= u64::from(present) << at;
        }
        self.settings.flags |= SETTING_BLOCKS;
    }

    /// Blocks an IPv6 prefix (of 128 bits: an address), presence included.
    pub fn block6(&mut self, address: [u8; 16], length: u8, block: Block) {
        if length >= 128 {
            self.blocked6.insert(address, block);
        } else {
            self.blocked6_prefixes.insert(address, length, block);
        }
        if length < 48 {
            self.settings.flags |= SETTING_SHORT_PREFIXES6;
            self.mark_short6(u128::from_be_bytes(masked(address, length)), length);
        } else {
            let present = if length >= 128 { PRESENT_ADDRESSES } else { PRESENT_PREFIXES };
            for (slot, at) in [presence6(address), presence6_again(address)] {
                *self.presence6.entry(slot).or_default() |= u64::from(present) << at;
            }
        }
        self.settings.flags |= SETTING_BLOCKS;
    }

    /// Says that there is an IPv6 prefix shorter than /48.
    fn mark_short6(&mut self, first: u128, length: u8) {
        let (step, cells, mark) = if length < SHORT_BITS {
            (112, 1_u128 << 16_u8.saturating_sub(length), WIDE_HERE)
        } else {
            (96, 1_u128 << 32_u8.saturating_sub(length), WIDE_CELLS)
        };
        for cell in 0..cells {
            let address = (first | cell << step).to_be_bytes();
            let (slot, at) = presence6_wide(address);
            *self.presence6_short.entry(slot).or_default() |= u64::from(mark) << at;
            if mark == WIDE_CELLS {
                let (slot, at) = presence6_short(address);
                *self.presence6_short.entry(slot).or_default() |= 1 << at;
            }
        }
    }

    /// Adds a socket: of TCP one that is not listening, of UDP one that is connected.
    pub fn add_socket(&mut self, key: &FlowKey) {
        self.sockets.insert(*key);
    }

    fn generation(&self, generation: u32) -> Option<&Generation> {
        self.generations.get(usize::try_from(generation).ok()?)
    }
}

impl Tables for MemoryTables {
    fn interface(&self, ifindex: u32) -> Option<Interface> {
        self.interfaces.get(&ifindex).copied()
    }

    fn vlan(&self, key: &VlanKey) -> Option<Interface> {
        self.vlans.get(key).copied()
    }

    fn port_word(&self, generation: u32, index: u32) -> u32 {
        self.generation(generation).and_then(|g| g.port_words.get(&index)).copied().unwrap_or(0)
    }

    fn protocol_word(&self, generation: u32, index: u32) -> u32 {
        self.generation(generation).and_then(|g| g.protocol_words.get(&index)).copied().unwrap_or(0)
    }

    fn rule(&self, generation: u32, index: u32) -> Option<impl Deref<Target = Rule>> {
        let index = usize::try_from(index).ok()?;
        if index >= crate::abi::MAX_RULES as usize {
            return None;
        }
        // An array in the kernel: what was never written is zero.
        Some(self.generation(generation)?.rules.get(index).unwrap_or(&NO_RULE_THERE))
    }

    fn sources4(&self, generation: u32, source: &[u8; 4]) -> SetMask {
        self.generation(generation).and_then(|g| g.sources4.longest(source)).unwrap_or_default()
    }

    fn sources6(&self, generation: u32, source: &[u8; 16]) -> SetMask {
        self.generation(generation).and_then(|g| g.sources6.longest(source)).unwrap_or_default()
    }

    fn destinations(&self, generation: u32, destination: &[u8; 16]) -> SetMask {
        self.generation(generation)
            .and_then(|g| g.destinations.get(destination))
            .copied()
            .unwrap_or_default()
    }

    fn presence4(&self, slot: u32) -> u64 {
        self.presence4.get(&slot).copied().unwrap_or(0)
    }

    fn presence6(&self, slot: u32) -> u64 {
        self.presence6.get(&slot).copied().unwrap_or(0)
    }

    fn presence6_short(&self, slot: u32) -> u64 {
        self.presence6_short.get(&slot).copied().unwrap_or(0)
    }

    fn blocked4(&self, source: &[u8; 4]) -> Option<Block> {
        self.blocked4.get(source).copied()
    }

    fn blocked4_prefix(&self, source: &[u8; 4]) -> Option<Block> {
        self.blocked4_prefixes.longest(source)
    }

    fn blocked6(&self, source: &[u8; 16]) -> Option<Block> {
        self.blocked6.get(source).copied()
    }

    fn blocked6_prefix(&self, source: &[u8; 16]) -> Option<Block> {
        self.blocked6_prefixes.longest(source)
    }

    fn tcp_socket<A: Family>(&self, tuple: &Tuple<A>) -> bool {
        self.sockets.contains(&tuple.flow(PROTOCOL_TCP))
    }

    fn udp_socket<A: Family>(&self, tuple: &Tuple<A>) -> bool {
        self.sockets.contains(&tuple.flow(PROTOCOL_UDP))
    }

    fn flow(&self, key: &FlowKey) -> Option<u64> {
        self.flows.get(key).copied()
    }

    fn now_seconds(&self) -> u64 {
        self.now_seconds
    }

    fn now_nanoseconds(&self) -> u64 {
        self.now_seconds * 1_000_000_000
    }

    fn set_beginning(&self, key: &FlowKey, sequence: u32) {
        self.beginnings.borrow_mut().insert(*key, sequence);
    }

    fn beginning(&self, key: &FlowKey) -> Option<u32> {
        self.beginnings.borrow().get(key).copied()
    }

    fn limits(&self, generation: u32, index: u32) -> Option<impl Deref<Target = RuleLimits>> {
        self.generation(generation)?.rates.get(usize::try_from(index).ok()?)
    }

    fn bucket<R>(&self, name: BucketName, change: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        Some(match name {
            BucketName::Source(index) => {
                change(self.source_buckets.borrow_mut().entry(index).or_default())
            }
            BucketName::Total(index) => {
                change(self.total_buckets.borrow_mut().entry(index).or_default())
            }
            BucketName::Known(key) => change(self.known_sources.borrow_mut().get_mut(&key)?),
        })
    }

    fn flood<R>(&self, zone: u8, change: impl FnOnce(&mut Flood) -> R) -> Option<R> {
        self.floods.borrow_mut().get_mut(usize::from(zone)).map(change)
    }

    fn new_connections(&self, zone: u8, change: impl FnOnce(u64) -> u64) -> u32 {
        let mut buckets = self.total_buckets.borrow_mut();
        let told = &mut buckets.entry(zone_bucket(zone)).or_default().new;
        *told = change(*told);
        *told as u32
    }

    fn sends_cookies(&self, zone: u8) -> bool {
        self.floods.borrow().get(usize::from(zone)).is_some_and(|flood| flood.cookies_until != 0)
    }

    fn media_port(&self, index: u32) -> u32 {
        self.media_ports.get(&index).copied().unwrap_or(0)
    }

    fn pinhole(&self, key: &PinholeKey) -> u32 {
        self.pinholes.get(key).copied().unwrap_or(0)
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.borrow().get(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, fragment: Fragment) {
        self.fragments.borrow_mut().insert(*key, fragment);
    }

    fn later_fragment(&self, key: &FragmentKey, offset: u32, length: u32) -> Reason {
        match self.fragments.borrow_mut().get_mut(key) {
            Some(known) => follow(known, self.now_seconds as u32, offset, length),
            None => Reason::Fragment,
        }
    }

    fn cookie_is_good<A: Family>(&self, _judged: &Judged, _tuple: &Tuple<A>) -> bool {
        false
    }

    fn frame_length(&self, frame: &Frame<'_>) -> u32 {
        u32::try_from(frame.len()).unwrap_or(u32::MAX)
    }
}
