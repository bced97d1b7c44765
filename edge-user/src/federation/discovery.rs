//! Rules for a partner's federation SRV record (RFC 2782; the trust rules, sections 2 and 6).
//!
//! Pure: records and addresses go in, an ordered list of edges comes out. The answer is written by
//! a stranger: it is cut to a size, and leads to nothing that is ours or not global unicast.

use std::{cmp::Reverse, net::IpAddr, time::Duration};

use ipnet::IpNet;

use crate::{
    config::SrvOrder,
    domain::Domain,
    federation::usable,
    proxy::{ResolveError, ResolvedHost},
};

/// SRV records of one answer that are looked at.
pub const MAX_RECORDS: usize = 128;
/// Targets of one domain that are used.
pub const MAX_TARGETS: usize = 8;
/// Addresses of one domain that are used.
pub const MAX_ADDRESSES: usize = 64;
/// An answer is used for at least this long.
pub const MIN_TTL: Duration = Duration::from_secs(30);
/// And at most this long.
pub const MAX_TTL: Duration = Duration::from_secs(3600);

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvRecord {
    /// Lower is tried first.
    pub priority: u16,
    /// Share among records of one priority.
    pub weight: u16,
    /// Port.
    pub port: u16,
    /// The host.
    pub target: SrvTarget,
}

/// Target of an SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SrvTarget {
    /// A host.
    Host(Domain),
    /// `.`: the service is decidedly not available (RFC 2782).
    None,
    /// Something that is no host name.
    Unusable,
}

/// A host and port to ask addresses for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The host.
    pub host: Domain,
    /// The port.
    pub port: u16,
}

/// The edges of a domain in the order in which to try, at most [`MAX_TARGETS`].
///
/// Targets outside the domain count only when `relax_srv_domain` is set. The same `seed` gives the
/// same order.
pub fn edges(
    domain: &Domain,
    records: Vec<SrvRecord>,
    relax_srv_domain: bool,
    by: SrvOrder,
    seed: u64,
) -> Result<Vec<Edge>, ResolveError> {
    if records.is_empty() {
        return Err(ResolveError::NotFound);
    }
    if records.iter().all(|record| record.target == SrvTarget::None) {
        return Err(ResolveError::NoService);
    }
    let mut foreign = false;
    let mut kept: Vec<(u16, u16, Edge)> = Vec::new();
    for record in records.into_iter().take(MAX_RECORDS) {
        let SrvTarget::Host(host) = record.target else { continue };
        if !relax_srv_domain && !host.is_within(domain) {
            foreign = true;
            continue;
        }
        let edge = Edge { host, port: record.port };
        if edge.port != 0 && !kept.iter().any(|(_, _, e)| *e == edge) {
            kept.push((record.priority, record.weight, edge));
        }
    }
    if kept.is_empty() {
        return Err(if foreign { ResolveError::ForeignTarget } else { ResolveError::NotFound });
    }
    let mut edges = match by {
        SrvOrder::Weighted => order(kept, seed),
        SrvOrder::HighestWeight => {
            kept.sort_by_key(|(priority, weight, _)| (*priority, Reverse(*weight)));
            kept.into_iter().map(|(.., edge)| edge).collect()
        }
    };
    edges.truncate(MAX_TARGETS);
    Ok(edges)
}

/// The XMPP servers of a domain in the order in which to try, at most [`MAX_TARGETS`], and whether
/// each takes TLS from the first byte: both kinds of records mixed by priority and weight (XEP-0368).
/// A target may lie anywhere: what is there must prove the domain itself.
///
/// # Errors
/// [`ResolveError::NotFound`]: no record of either kind says anything; the domain's own addresses
/// are tried then (RFC 6120 section 3.2.2).
pub fn xmpp_edges(
    plain: Vec<SrvRecord>,
    direct: Vec<SrvRecord>,
    seed: u64,
) -> Result<Vec<(Edge, bool)>, ResolveError> {
    let none = |records: &[SrvRecord]| {
        !records.is_empty() && records.iter().all(|record| record.target == SrvTarget::None)
    };
    let denied = none(&plain);
    let nothing = match plain.is_empty() {
        true => ResolveError::NotFound,
        false if denied => ResolveError::NoService,
        false => ResolveError::ForbiddenAddress,
    };
    let mut kept: Vec<(u16, u16, (Edge, bool))> = Vec::new();
    for (records, direct_tls) in [(plain, false), (direct, true)] {
        for record in records.into_iter().take(MAX_RECORDS) {
            let SrvTarget::Host(host) = record.target else { continue };
            let edge = Edge { host, port: record.port };
            if edge.port != 0 && !kept.iter().any(|(.., (other, _))| *other == edge) {
                kept.push((record.priority, record.weight, (edge, direct_tls)));
            }
        }
    }
    if kept.is_empty() {
        return Err(nothing);
    }
    let mut edges = order(kept, seed);
    edges.truncate(MAX_TARGETS);
    Ok(edges)
}

/// The records of both kinds: where one kind could not be asked for, the other's hosts are enough.
///
/// # Errors
/// Why one of them is not known, when the other names no host.
pub fn both_kinds(
    plain: Result<Vec<SrvRecord>, ResolveError>,
    direct: Result<Vec<SrvRecord>, ResolveError>,
) -> Result<(Vec<SrvRecord>, Vec<SrvRecord>), ResolveError> {
    let names_a_host = |records: &[SrvRecord]| {
        records.iter().any(|record| matches!(record.target, SrvTarget::Host(_)))
    };
    match (plain, direct) {
        (Ok(plain), Ok(direct)) => Ok((plain, direct)),
        (Ok(plain), Err(_)) if names_a_host(&plain) => Ok((plain, Vec::new())),
        (Err(_), Ok(direct)) if names_a_host(&direct) => Ok((Vec::new(), direct)),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// Order by priority, and by weighted chance within one (RFC 2782, "Weight").
fn order<T>(mut records: Vec<(u16, u16, T)>, seed: u64) -> Vec<T> {
    // Weight 0 first, so that such a record has a small chance beside others.
    records.sort_by_key(|(priority, weight, _)| (*priority, *weight));
    let mut chance = Chance(seed);
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(&(priority, ..)) = records.first() {
        let group = records.iter().take_while(|(p, ..)| *p == priority).count();
        let sum: u32 = records.iter().take(group).map(|(_, weight, _)| u32::from(*weight)).sum();
        let pick = chance.up_to(sum);
        let mut running = 0;
        let index = records
            .iter()
            .take(group)
            .position(|(_, weight, _)| {
                running += u32::from(*weight);
                running >= pick
            })
            .unwrap_or(0);
        ordered.push(records.remove(index).2);
    }
    ordered
}

/// A small generator (splitmix64): no secret depends on it.
struct Chance(u64);

impl Chance {
    /// A number from 0 to `limit`, both included.
    fn up_to(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        u32::try_from(z % (u64::from(limit) + 1)).unwrap_or(0)
    }
}

/// What came of asking for one host's addresses.
pub type HostAnswer = Result<Vec<IpAddr>, ResolveError>;

/// Joins edges and the addresses found for them; leaves out what may not be used, more than
/// [`MAX_ADDRESSES`], and edges of which nothing remains.
///
/// `own`: every address of ours. `allow`: exceptions that the configuration names.
pub fn hosts(
    answers: Vec<(Edge, HostAnswer)>,
    own: &[IpAddr],
    allow: &[IpNet],
) -> Result<Vec<ResolvedHost>, ResolveError> {
    let mut room = MAX_ADDRESSES;
    let mut hosts = Vec::new();
    let mut fault = ResolveError::NotFound;
    for (edge, answer) in answers {
        let found = match answer {
            Ok(found) => found,
            Err(error) => {
                fault = worse(fault, error);
                continue;
            }
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for ip in found {
            if usable(ip, own, allow).is_err() {
                fault = worse(fault, ResolveError::ForbiddenAddress);
            } else if room > 0 && !addresses.contains(&ip) {
                addresses.push(ip);
                room -= 1;
            }
        }
        if !addresses.is_empty() {
            hosts.push(ResolvedHost { host: edge.host, port: edge.port, addresses });
        }
    }
    if hosts.is_empty() { Err(fault) } else { Ok(hosts) }
}

/// The fault that says more to an operator.
fn worse(one: ResolveError, other: ResolveError) -> ResolveError {
    let rank = |error: ResolveError| match error {
        ResolveError::NotFound => 0,
        ResolveError::Unavailable => 1,
        ResolveError::NoService => 2,
        ResolveError::ForeignTarget => 3,
        ResolveError::ForbiddenAddress => 4,
        ResolveError::NotSecure => 5,
    };
    if rank(other) > rank(one) { other } else { one }
}

/// How long an answer is used, given its time to live.
pub fn validity(ttl: Duration) -> Duration {
    ttl.clamp(MIN_TTL, MAX_TTL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        text.parse().unwrap()
    }

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> SrvRecord {
        let target = match target {
            "." => SrvTarget::None,
            host => host.parse().map_or(SrvTarget::Unusable, SrvTarget::Host),
        };
        SrvRecord { priority, weight, port, target }
    }

    fn hosts_of(result: &Result<Vec<Edge>, ResolveError>) -> Result<Vec<String>, ResolveError> {
        match result {
            Ok(edges) => Ok(edges.iter().map(|e| format!("{}:{}", e.host, e.port)).collect()),
            Err(error) => Err(*error),
        }
    }

    #[test]
    fn which_targets_count() {
        use ResolveError as E;
        type Row<'a> = (&'a str, Vec<SrvRecord>, bool, Result<&'a [&'a str], E>);
        let inside = || srv(0, 0, 5061, "sip.fabrikam.com");
        let foreign = || srv(0, 0, 5061, "edge.hoster.example");
        let rows: Vec<Row<'_>> = vec![
            ("no record", vec![], false, Err(E::NotFound)),
            ("the service does not exist", vec![srv(0, 0, 0, ".")], false, Err(E::NoService)),
            ("in the domain", vec![inside()], false, Ok(&["sip.fabrikam.com:5061"])),
            (
                "the domain itself",
                vec![srv(0, 0, 5061, "fabrikam.com")],
                false,
                Ok(&["fabrikam.com:5061"]),
            ),
            ("elsewhere", vec![foreign()], false, Err(E::ForeignTarget)),
            ("elsewhere, relaxed", vec![foreign()], true, Ok(&["edge.hoster.example:5061"])),
            ("both", vec![foreign(), inside()], false, Ok(&["sip.fabrikam.com:5061"])),
            (
                "ends alike",
                vec![srv(0, 0, 5061, "sip.xfabrikam.com")],
                false,
                Err(E::ForeignTarget),
            ),
            (
                "begins alike",
                vec![srv(0, 0, 5061, "sip.fabrikam.com.evil.example")],
                false,
                Err(E::ForeignTarget),
            ),
            ("port 0", vec![srv(0, 0, 0, "sip.fabrikam.com")], false, Err(E::NotFound)),
            ("an address", vec![srv(0, 0, 5061, "192.0.2.1")], true, Err(E::NotFound)),
            ("no name", vec![srv(0, 0, 5061, "localhost")], true, Err(E::NotFound)),
            ("twice the same", vec![inside(), inside()], false, Ok(&["sip.fabrikam.com:5061"])),
            (
                "`.` beside another",
                vec![srv(0, 0, 0, "."), inside()],
                false,
                Ok(&["sip.fabrikam.com:5061"]),
            ),
        ];
        for (why, records, relax, expected) in rows {
            let got = edges(&domain("fabrikam.com"), records, relax, SrvOrder::Weighted, 7);
            let expected = expected.map(|hosts| hosts.iter().map(|h| h.to_string()).collect());
            assert_eq!(hosts_of(&got), expected, "{why}");
        }
    }

    #[test]
    fn one_kind_that_cannot_be_asked_for_is_none_when_the_other_names_a_host() {
        use ResolveError as E;
        let some = || vec![srv(10, 0, 5269, "a.hoster.example")];
        let dot = || vec![srv(0, 0, 0, ".")];
        let failed = || Err(E::Unavailable);
        assert_eq!(both_kinds(Ok(some()), failed()), Ok((some(), vec![])));
        assert_eq!(both_kinds(failed(), Ok(some())), Ok((vec![], some())));
        assert_eq!(both_kinds(Ok(some()), Ok(dot())), Ok((some(), dot())));
        for found in [vec![], dot()] {
            assert_eq!(both_kinds(Ok(found.clone()), failed()), Err(E::Unavailable));
            assert_eq!(both_kinds(failed(), Ok(found)), Err(E::Unavailable));
        }
    }

    #[test]
    fn records_of_both_kinds_are_mixed_by_priority_and_a_dot_offers_nothing() {
        use ResolveError as E;
        let got = |plain: &[SrvRecord], direct: &[SrvRecord]| {
            let edges = xmpp_edges(plain.to_vec(), direct.to_vec(), 7)?;
            let text = |(edge, direct): (Edge, bool)| {
                format!("{}:{}{}", edge.host, edge.port, if direct { " tls" } else { "" })
            };
            Ok::<Vec<String>, E>(edges.into_iter().map(text).collect())
        };
        let (a, b) = (srv(10, 0, 5269, "a.hoster.example"), srv(5, 0, 443, "b.other.example"));
        let nothing = srv(0, 0, 0, ".");
        assert_eq!(got(&[], &[]), Err(E::NotFound));
        assert_eq!(got(std::slice::from_ref(&a), &[]).unwrap(), ["a.hoster.example:5269"]);
        let both = got(std::slice::from_ref(&a), std::slice::from_ref(&b)).unwrap();
        assert_eq!(both, ["b.other.example:443 tls", "a.hoster.example:5269"]);
        let both = got(std::slice::from_ref(&b), std::slice::from_ref(&a)).unwrap();
        assert_eq!(both, ["b.other.example:443", "a.hoster.example:5269 tls"]);
        let one = got(std::slice::from_ref(&nothing), std::slice::from_ref(&b)).unwrap();
        assert_eq!(one, ["b.other.example:443 tls"]);
        let one = got(std::slice::from_ref(&a), std::slice::from_ref(&nothing)).unwrap();
        assert_eq!(one, ["a.hoster.example:5269"]);
        assert_eq!(got(std::slice::from_ref(&nothing), &[]), Err(E::NoService));
        let neither = got(std::slice::from_ref(&nothing), std::slice::from_ref(&nothing));
        assert_eq!(neither, Err(E::NoService));
        // That there is no direct TLS says nothing of the other kind.
        assert_eq!(got(&[], std::slice::from_ref(&nothing)), Err(E::NotFound));
        let bad = srv(0, 0, 0, "a.hoster.example");
        assert_eq!(got(&[bad], &[]), Err(E::ForbiddenAddress));
        // One place is one server.
        assert_eq!(got(std::slice::from_ref(&a), std::slice::from_ref(&a)).unwrap().len(), 1);
    }

    #[test]
    fn lower_priorities_come_first_whatever_the_weights() {
        let records = vec![srv(20, 900, 1, "c.a.b"), srv(10, 0, 1, "b.a.b"), srv(0, 1, 1, "a.a.b")];
        for seed in 0..50 {
            let got = edges(&domain("a.b"), records.clone(), false, SrvOrder::Weighted, seed);
            assert_eq!(hosts_of(&got).unwrap(), ["a.a.b:1", "b.a.b:1", "c.a.b:1"], "{seed}");
        }
    }

    #[test]
    fn one_seed_gives_one_order() {
        let records: Vec<_> = (0..8).map(|i| srv(0, i, 1, &format!("h{i}.a.b"))).collect();
        let one = edges(&domain("a.b"), records.clone(), false, SrvOrder::Weighted, 42);
        assert_eq!(one, edges(&domain("a.b"), records.clone(), false, SrvOrder::Weighted, 42));
        assert!((0..20).any(|seed| edges(
            &domain("a.b"),
            records.clone(),
            false,
            SrvOrder::Weighted,
            seed
        ) != one));
    }

    #[test]
    fn first_place_goes_by_weight() {
        let records = vec![srv(0, 60, 1, "a.a.b"), srv(0, 20, 1, "b.a.b"), srv(0, 20, 1, "c.a.b")];
        let mut first = std::collections::HashMap::<String, u32>::new();
        for seed in 0..10_000 {
            let got = hosts_of(&edges(
                &domain("a.b"),
                records.clone(),
                false,
                SrvOrder::Weighted,
                seed * 7919,
            ))
            .unwrap();
            *first.entry(got[0].clone()).or_default() += 1;
        }
        // 60 %, 20 %, 20 %, give or take 3 %.
        for (host, share) in [("a.a.b:1", 6000), ("b.a.b:1", 2000), ("c.a.b:1", 2000)] {
            let got = first[host];
            assert!(got.abs_diff(share) < 300, "{host}: {got}");
        }
    }

    #[test]
    fn weight_zero_is_tried_but_rarely_first() {
        let records = vec![srv(0, 0, 1, "zero.a.b"), srv(0, 100, 1, "heavy.a.b")];
        let zero_first = (0..1000_u64)
            .filter(|seed| {
                let got = edges(
                    &domain("a.b"),
                    records.clone(),
                    false,
                    SrvOrder::Weighted,
                    seed * 104_729,
                );
                hosts_of(&got).unwrap()[0] == "zero.a.b:1"
            })
            .count();
        assert!((1..60).contains(&zero_first), "{zero_first}");
    }

    #[test]
    fn with_highest_weight_the_order_is_always_the_same() {
        let records = vec![
            srv(10, 500, 1, "late.a.b"),
            srv(0, 1, 1, "light.a.b"),
            srv(0, 9, 1, "heavy.a.b"),
            srv(0, 5, 1, "middle.a.b"),
        ];
        for seed in 0..50 {
            let records = records.clone();
            let got = edges(&domain("a.b"), records, false, SrvOrder::HighestWeight, seed);
            let expected = ["heavy.a.b:1", "middle.a.b:1", "light.a.b:1", "late.a.b:1"];
            assert_eq!(hosts_of(&got).unwrap(), expected, "{seed}");
        }
    }

    #[test]
    fn a_flood_of_records_is_cut() {
        let records: Vec<_> =
            (0..5000).map(|i| srv(i, 0, 5061, &format!("h{i}.fabrikam.com"))).collect();
        let got = edges(&domain("fabrikam.com"), records, false, SrvOrder::Weighted, 1).unwrap();
        assert_eq!(got.len(), MAX_TARGETS);
        assert_eq!(got[0].host.as_str(), "h0.fabrikam.com");
    }

    fn edge(host: &str) -> Edge {
        Edge { host: domain(host), port: 5061 }
    }

    #[test]
    fn addresses_of_ours_and_of_private_networks_are_left_out() {
        use ResolveError as E;
        let own: Vec<IpAddr> = vec!["8.8.4.4".parse().unwrap(), "2a00::5".parse().unwrap()];
        let allow: Vec<IpNet> = vec!["10.9.0.0/16".parse().unwrap()];
        for (found, expected) in [
            (&["8.8.8.8"][..], Ok(&["8.8.8.8"][..])),
            (
                &["8.8.8.8", "127.0.0.1", "10.0.0.1", "8.8.4.4", "2a00::1"],
                Ok(&["8.8.8.8", "2a00::1"]),
            ),
            (&["10.9.1.1"], Ok(&["10.9.1.1"])),
            (&["8.8.4.4"], Err(E::ForbiddenAddress)),
            (&["::ffff:8.8.4.4"], Err(E::ForbiddenAddress)),
            (&["2a00::5"], Err(E::ForbiddenAddress)),
            (&["127.0.0.1"], Err(E::ForbiddenAddress)),
            (&["::1"], Err(E::ForbiddenAddress)),
            (&["10.0.0.1", "192.168.0.1", "fe80::1", "fc00::1"], Err(E::ForbiddenAddress)),
            (&["224.0.0.1", "255.255.255.255", "0.0.0.0"], Err(E::ForbiddenAddress)),
            (&[], Err(E::NotFound)),
        ] {
            let parse = |a: &&str| a.parse::<IpAddr>().unwrap();
            let answer = vec![(edge("a.b"), Ok(found.iter().map(parse).collect()))];
            let got = hosts(answer, &own, &allow);
            let expected = expected.map(|a| a.iter().map(parse).collect::<Vec<_>>());
            assert_eq!(got.map(|h| h[0].addresses.clone()), expected, "{found:?}");
        }
    }

    #[test]
    fn a_thousand_addresses_are_cut_over_all_hosts() {
        let many = |base: u32| {
            (0..1000).map(|i| IpAddr::V4((0x0808_0000 + base + i).into())).collect::<Vec<_>>()
        };
        let answers = vec![(edge("a.b"), Ok(many(0))), (edge("c.b"), Ok(many(5000)))];
        let got = hosts(answers, &[], &[]).unwrap();
        assert_eq!(got.iter().map(|h| h.addresses.len()).sum::<usize>(), MAX_ADDRESSES);
    }

    #[test]
    fn one_good_host_is_enough_and_the_telling_fault_is_kept() {
        use ResolveError as E;
        let good = || (edge("a.b"), Ok(vec!["8.8.8.8".parse().unwrap()]));
        let bad = |error| (edge("c.b"), Err(error));
        let forbidden = || (edge("d.b"), Ok(vec!["127.0.0.1".parse().unwrap()]));
        assert_eq!(hosts(vec![bad(E::Unavailable), good()], &[], &[]).unwrap().len(), 1);
        for (answers, expected) in [
            (vec![bad(E::NotFound), bad(E::Unavailable)], E::Unavailable),
            (vec![bad(E::Unavailable), forbidden()], E::ForbiddenAddress),
            (vec![], E::NotFound),
        ] {
            assert_eq!(hosts(answers, &[], &[]), Err(expected));
        }
    }

    #[test]
    fn times_to_live_have_a_floor_and_a_ceiling() {
        for (ttl, expected) in [(0, 30), (29, 30), (300, 300), (3600, 3600), (u64::MAX, 3600)] {
            assert_eq!(validity(Duration::from_secs(ttl)), Duration::from_secs(expected));
        }
    }
}
