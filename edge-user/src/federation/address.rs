//! May an address learned from outside be used? One predicate for every name and address that a
//! stranger writes: SRV targets and their addresses, CRL hosts, Contact, Via, Route, and the
//! addresses a blocked domain would have us drop.
//!
//! Only global unicast passes; the configuration may name exceptions, but never an address of
//! ours, loopback, or anything that is no unicast. It never resolves and never connects.
//!
//! Ranges: RFC 6890 with the IANA special-purpose registries (RFC 1918, 3927, 4193, 4291, 5737,
//! 6598, 2544, 3849, 9637); embedding forms: RFC 4291 section 2.5.5, RFC 3056, RFC 6052.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Why an address may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum AddressFault {
    /// One of ours, in whatever form it is written.
    #[error("an address of this appliance")]
    Ours,
    /// `127.0.0.0/8`, `::1`.
    #[error("a loopback address")]
    Loopback,
    /// `0.0.0.0/8`, `::`: the system would take it for itself.
    #[error("an unspecified address")]
    Unspecified,
    /// `224.0.0.0/4`, `ff00::/8`.
    #[error("a multicast address")]
    Multicast,
    /// `255.255.255.255`.
    #[error("the broadcast address")]
    Broadcast,
    /// RFC 1918.
    #[error("a private address (RFC 1918)")]
    Private,
    /// `169.254.0.0/16`, `fe80::/10`.
    #[error("a link-local address")]
    LinkLocal,
    /// `fc00::/7`.
    #[error("a unique local address (RFC 4193)")]
    UniqueLocal,
    /// `192.0.2.0/24` and its like.
    #[error("an address for documentation")]
    Documentation,
    /// `100.64.0.0/10`.
    #[error("an address behind a provider's NAT (RFC 6598)")]
    ProviderNat,
    /// `198.18.0.0/15`, `2001:2::/48`.
    #[error("an address for benchmarks")]
    Benchmarking,
    /// Everything else that is not given out as global unicast.
    #[error("a reserved address")]
    Reserved,
}

impl AddressFault {
    /// Whether the configuration may name an exception. Never for our own addresses, loopback,
    /// and what no connection can be made to.
    pub const fn may_be_allowed(self) -> bool {
        !matches!(
            self,
            AddressFault::Ours
                | AddressFault::Loopback
                | AddressFault::Unspecified
                | AddressFault::Multicast
                | AddressFault::Broadcast
        )
    }
}

/// Whether an address learned from outside may be used.
///
/// `own`: every address of ours, the advertised ones too. `allow`: prefixes the configuration
/// names (`[federation] allow_addresses`).
pub fn usable(address: IpAddr, own: &[IpAddr], allow: &[IpNet]) -> Result<(), AddressFault> {
    let address = address.to_canonical();
    let inner = embedded(address).map(IpAddr::V4);
    if own.iter().any(|o| o.to_canonical() == address || Some(o.to_canonical()) == inner) {
        return Err(AddressFault::Ours);
    }
    let fault = match (inner, address) {
        (Some(IpAddr::V4(v4)), _) | (_, IpAddr::V4(v4)) => fault4(v4),
        (_, IpAddr::V6(v6)) => fault6(v6),
    };
    let named = |a: IpAddr| allow.iter().any(|net| net.contains(&a));
    match fault {
        None => Ok(()),
        Some(fault) if fault.may_be_allowed() && (named(address) || inner.is_some_and(named)) => {
            Ok(())
        }
        Some(fault) => Err(fault),
    }
}

/// The IPv4 address inside a 6to4 (`2002::/16`) or NAT64 (`64:ff9b::/96`) address. Mapped
/// addresses are unfolded by `to_canonical` before.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match [a, b, c, d, e, f] {
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0] => Some(v4(g, h)),
        _ => None,
    }
}

fn fault4(address: Ipv4Addr) -> Option<AddressFault> {
    match address.octets() {
        [0, ..] => Some(AddressFault::Unspecified),
        [127, ..] => Some(AddressFault::Loopback),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(AddressFault::Private),
        [169, 254, ..] => Some(AddressFault::LinkLocal),
        [100, 64..=127, ..] => Some(AddressFault::ProviderNat),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some(AddressFault::Documentation),
        [198, 18..=19, ..] => Some(AddressFault::Benchmarking),
        // IETF protocol assignments, and the 6to4 relay anycast that was taken back.
        [192, 0, 0, _] | [192, 88, 99, _] => Some(AddressFault::Reserved),
        [224..=239, ..] => Some(AddressFault::Multicast),
        [255, 255, 255, 255] => Some(AddressFault::Broadcast),
        [240..=255, ..] => Some(AddressFault::Reserved),
        _ => None,
    }
}

fn fault6(address: Ipv6Addr) -> Option<AddressFault> {
    if address == Ipv6Addr::LOCALHOST {
        return Some(AddressFault::Loopback);
    }
    if address == Ipv6Addr::UNSPECIFIED {
        return Some(AddressFault::Unspecified);
    }
    match address.segments() {
        [0xff00..=0xffff, ..] => Some(AddressFault::Multicast),
        [0xfe80..=0xfebf, ..] => Some(AddressFault::LinkLocal),
        [0xfc00..=0xfdff, ..] => Some(AddressFault::UniqueLocal),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some(AddressFault::Documentation),
        [0x2001, 2, 0, ..] => Some(AddressFault::Benchmarking),
        // IETF protocol assignments, Teredo among them.
        [0x2001, 0..=0x1ff, ..] => Some(AddressFault::Reserved),
        [0x2000..=0x3fff, ..] => None,
        _ => Some(AddressFault::Reserved),
    }
}

#[cfg(test)]
mod tests {
    use super::{AddressFault as F, *};

    #[test]
    fn only_global_unicast_passes_and_embedding_forms_are_judged_by_the_inner_address() {
        let cases: &[(&str, Option<F>)] = &[
            ("8.8.8.8", None),
            ("172.15.255.255", None),
            ("172.32.0.0", None),
            ("100.63.255.255", None),
            ("100.128.0.0", None),
            ("198.17.0.1", None),
            ("198.20.0.1", None),
            ("2a00:1450::1", None),
            ("2001:4860::8888", None),
            ("2001:200::1", None),
            ("3fff:1000::1", None),
            ("0.0.0.0", Some(F::Unspecified)),
            ("0.1.2.3", Some(F::Unspecified)),
            ("127.0.0.1", Some(F::Loopback)),
            ("127.255.0.1", Some(F::Loopback)),
            ("10.1.2.3", Some(F::Private)),
            ("172.16.0.1", Some(F::Private)),
            ("172.31.255.255", Some(F::Private)),
            ("192.168.0.1", Some(F::Private)),
            ("169.254.169.254", Some(F::LinkLocal)),
            ("100.64.0.1", Some(F::ProviderNat)),
            ("192.0.2.1", Some(F::Documentation)),
            ("198.51.100.1", Some(F::Documentation)),
            ("203.0.113.1", Some(F::Documentation)),
            ("198.19.255.255", Some(F::Benchmarking)),
            ("192.0.0.8", Some(F::Reserved)),
            ("192.88.99.1", Some(F::Reserved)),
            ("224.0.0.1", Some(F::Multicast)),
            ("239.255.255.255", Some(F::Multicast)),
            ("240.0.0.1", Some(F::Reserved)),
            ("255.255.255.255", Some(F::Broadcast)),
            ("::", Some(F::Unspecified)),
            ("::1", Some(F::Loopback)),
            ("::8.8.8.8", Some(F::Reserved)),
            ("fe80::1", Some(F::LinkLocal)),
            ("febf::1", Some(F::LinkLocal)),
            ("fec0::1", Some(F::Reserved)),
            ("fc00::1", Some(F::UniqueLocal)),
            ("fdff::1", Some(F::UniqueLocal)),
            ("ff02::1", Some(F::Multicast)),
            ("2001:db8::1", Some(F::Documentation)),
            ("3fff::1", Some(F::Documentation)),
            ("2001:2::1", Some(F::Benchmarking)),
            ("2001:0:a:b::1", Some(F::Reserved)),
            ("100::1", Some(F::Reserved)),
            ("4000::1", Some(F::Reserved)),
            // Mapped, 6to4, NAT64.
            ("::ffff:8.8.8.8", None),
            ("::ffff:127.0.0.1", Some(F::Loopback)),
            ("::ffff:10.0.0.1", Some(F::Private)),
            ("2002:808:808::1", None),
            ("2002:7f00:1::1", Some(F::Loopback)),
            ("2002:c0a8:1::1", Some(F::Private)),
            ("64:ff9b::8.8.8.8", None),
            ("64:ff9b::127.0.0.1", Some(F::Loopback)),
            ("64:ff9b::169.254.169.254", Some(F::LinkLocal)),
            ("64:ff9b:1::8.8.8.8", Some(F::Reserved)),
        ];
        for (text, expected) in cases {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(usable(address, &[], &[]).err(), *expected, "{text}");
        }
    }

    #[test]
    fn an_address_of_ours_is_refused_in_every_form_and_whatever_is_allowed() {
        let own: Vec<IpAddr> =
            ["198.41.0.4", "2a00::5"].iter().map(|a| a.parse().unwrap()).collect();
        let all: Vec<IpNet> = ["0.0.0.0/0", "::/0"].iter().map(|n| n.parse().unwrap()).collect();
        for text in
            ["198.41.0.4", "2a00::5", "::ffff:198.41.0.4", "2002:c629:4::9", "64:ff9b::198.41.0.4"]
        {
            assert_eq!(usable(text.parse().unwrap(), &own, &all), Err(F::Ours), "{text}");
        }
        assert_eq!(usable("198.41.0.5".parse().unwrap(), &own, &all), Ok(()));
        let mapped: Vec<IpAddr> = vec!["::ffff:198.41.0.4".parse().unwrap()];
        assert_eq!(usable("198.41.0.4".parse().unwrap(), &mapped, &[]), Err(F::Ours));
    }

    #[test]
    fn the_configuration_names_exceptions_but_never_loopback_or_what_is_no_unicast() {
        let lab: Vec<IpNet> =
            ["10.7.0.0/16", "fd00:7::/32"].iter().map(|n| n.parse().unwrap()).collect();
        let all: Vec<IpNet> = ["0.0.0.0/0", "::/0"].iter().map(|n| n.parse().unwrap()).collect();
        let cases: &[(&str, &[IpNet], Option<F>)] = &[
            ("10.7.1.1", &lab, None),
            ("::ffff:10.7.1.1", &lab, None),
            ("64:ff9b::10.7.1.1", &lab, None),
            ("10.8.1.1", &lab, Some(F::Private)),
            ("fd00:7::1", &lab, None),
            ("fd00:8::1", &lab, Some(F::UniqueLocal)),
            ("192.0.2.7", &all, None),
            ("127.0.0.1", &all, Some(F::Loopback)),
            ("::1", &all, Some(F::Loopback)),
            ("::ffff:127.0.0.1", &all, Some(F::Loopback)),
            ("0.0.0.0", &all, Some(F::Unspecified)),
            ("::", &all, Some(F::Unspecified)),
            ("224.0.0.1", &all, Some(F::Multicast)),
            ("ff02::1", &all, Some(F::Multicast)),
            ("255.255.255.255", &all, Some(F::Broadcast)),
        ];
        for (text, allow, expected) in cases {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(usable(address, &[], allow).err(), *expected, "{text}");
        }
    }
}
