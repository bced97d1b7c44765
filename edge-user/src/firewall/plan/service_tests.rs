//! What services imply, and what rules may ask beside ports and addresses.

use std::time::Duration;

use edge_ebpf::abi::{self, WORD_FEDERATION, WORD_REMOTE};
use ipnet::IpNet;

use super::{
    tests::{config, look_up, rule, sets_of},
    *,
};
use crate::config::{
    AdminService, AvService, Content, FirewallRule, Line, MediaMode, Protocol, Rates,
    RemoteService, Services, Sources, WebConferencingService, XmppService,
};

#[test]
fn rates_and_content_are_in_the_rules_and_equal_rates_share_an_entry() {
    let rates =
        Rates { packets_per_source: 250, burst: Duration::from_millis(200), ..Rates::default() };
    let udp = |name: &str, port, rates, content| FirewallRule {
        rates,
        content,
        ..rule(name, Protocol::Udp, &[(port, port)], &[])
    };
    let mut config = config();
    let slow = Rates { bytes_total: 1, burst: Duration::from_millis(10), ..Rates::default() };
    config.firewall.rules = vec![
        udp("a", 1, rates, Content::Any),
        udp("b", 2, rates, Content::Media),
        udp("c", 3, slow, Content::Stun),
        udp("d", 4, Rates::default(), Content::Sip),
    ];
    config.access.rates = Rates { new_per_source: 50, new_total: 1000, ..Rates::default() };
    let set = compile(&config).unwrap();
    let of = |name: &str| {
        let row = set.rows.iter().find(|row| row.name == name).unwrap();
        *set.rules.iter().find(|rule| Some(rule.id) == row.id).unwrap()
    };
    assert_eq!((of("a").limits, of("a").content), (1, abi::CONTENT_ANY));
    assert_eq!((of("b").limits, of("b").content), (1, abi::CONTENT_MEDIA));
    assert_eq!((of("c").limits, of("c").content), (2, abi::CONTENT_STUN));
    assert_eq!((of("d").limits, of("d").content), (0, abi::CONTENT_SIP));
    assert_eq!((of("access").limits, set.limits.len()), (3, 3));
    assert_eq!(set.limits[0].source.packets, PlanLimit { per_second: 250, burst: 50 });
    assert_eq!(set.limits[1].total.bytes, PlanLimit { per_second: 1, burst: 1 }, "never none");
    assert_eq!(set.limits[2].source.new, PlanLimit { per_second: 50, burst: 50 });
    assert_eq!(set.limits[2].total.new, PlanLimit { per_second: 1000, burst: 1000 });
    // A rule that asks for more than its port is never an open word.
    for port in 1..=4 {
        let (word, _) = look_up(&set, abi::ZONE_EXTERNAL, true, port);
        assert_eq!(abi::word_open_rule(word), None, "port {port}");
    }
    // Our servers' SIP in the clear is looked at, TLS is not.
    let inside = set.rows.iter().filter(|row| row.name == RULE_INSIDE);
    let inside: Vec<_> = inside.map(|row| (row.protocol.as_str(), row.content)).collect();
    assert_eq!(inside, [("tcp", Content::Any), ("udp", Content::Sip)]);
    // One too many.
    config.firewall.rules = (0..511)
        .map(|n| {
            let rates = Rates { packets_per_source: u64::from(n) + 1, ..Rates::default() };
            udp(&format!("r{n}"), n, rates, Content::Any)
        })
        .collect();
    let fault = compile(&config).unwrap_err().to_string();
    assert!(fault.contains("more than 511 different sets of rates"), "{fault}");
}

#[test]
fn partners_are_a_set_of_their_own_that_changes_without_the_rules() {
    let mut config = config();
    config.access.partners_only = true;
    config.firewall.rules = vec![FirewallRule {
        from: Sources {
            prefixes: vec!["203.0.113.0/24".parse().unwrap()],
            sets: Vec::new(),
            partners: true,
        },
        ..rule("both", Protocol::Tcp, &[(7, 7)], &[])
    }];
    let empty = compile(&config).unwrap();
    assert!(empty.uses_partners());
    let sets_at = |port| {
        let (word, _) = look_up(&empty, abi::ZONE_EXTERNAL, false, port);
        let first = abi::word_first(word) as usize;
        let rules = &empty.rules[first..first + abi::word_count(word) as usize];
        rules.iter().map(|rule| rule.source_set).collect::<Vec<_>>()
    };
    assert_eq!(sets_at(5061), [abi::SOURCE_SET_PARTNERS]);
    assert_eq!(sets_at(7), [2, abi::SOURCE_SET_PARTNERS], "partners last: they name the reason");
    assert_eq!(empty.partners(), []);
    let mut set = empty.clone();
    let partners: Vec<IpNet> =
        ["203.0.113.7/32", "2001:db8:7::/48"].map(|text| text.parse().unwrap()).to_vec();
    assert_eq!(set.set_partners(&partners), Ok(true));
    assert_eq!(set.set_partners(&partners), Ok(false));
    assert_eq!(set.partners(), partners);
    assert_eq!(sets_of(&set, "203.0.113.7/32"), 1 << 1 | 1 << 2, "also in the prefix around it");
    assert_eq!(sets_of(&set, "2001:db8:7::/48"), 1 << 1);
    assert_eq!((&set.rules, &set.port_words), (&empty.rules, &empty.port_words));
    let many: Vec<IpNet> = (0..16_385u32)
        .map(|n| IpNet::from(IpAddr::from((0x0b00_0000 + n).to_be_bytes())))
        .collect();
    assert!(set.set_partners(&many).is_err());
    assert_eq!(set.partners(), partners, "nothing changed");
    assert_eq!(set.set_partners(&[]), Ok(true));
    assert_eq!(set, empty);
    let row = set.rows.iter().find(|row| row.name == "both").unwrap();
    assert_eq!(row.from_text(), "partners 203.0.113.0/24");
    config.access.partners_only = false;
    config.firewall.rules.clear();
    assert!(!compile(&config).unwrap().uses_partners());
}

#[test]
fn own_addresses_are_those_of_services() {
    let mut config = config();
    let own = |config: &Config| -> Vec<String> {
        compile(config).unwrap().own_addresses.iter().map(ToString::to_string).collect()
    };
    assert_eq!(own(&config), ["10.0.0.10", "203.0.113.10", "2001:db8::10"]);
    // Management is judged before blocks: those among its prefixes need no exception.
    config.management.from.push("203.0.113.0/28".parse().unwrap());
    assert_eq!(own(&config), ["10.0.0.10", "203.0.113.10", "2001:db8::10"]);
}

#[test]
fn floods_are_as_the_file_says() {
    let mut config = config();
    assert_eq!(compile(&config).unwrap().flood.syns_per_second, 10_000);
    config.firewall.flood = crate::config::Flood {
        syn_cookies_above: 0,
        external_packets_per_second: 1_000_000,
        internal_packets_per_second: 5,
    };
    config.firewall.event_bytes = 0;
    let set = compile(&config).unwrap();
    assert_eq!(set.flood.syns_per_second, 0);
    let limits = [(1_000_000, 100_000), (5, 1)];
    assert_eq!(set.flood.ceilings.map(|limit| (limit.per_second, limit.burst)), limits);
    assert_eq!(set.event_bytes, 0);
}

/// All services, as `lync-edge` topologies have them: one address for each, or one for all.
fn with_services(one_address: bool) -> Config {
    let own = |last: u8, port: u16| -> Vec<std::net::SocketAddr> {
        let last = if one_address { 10 } else { last };
        vec![
            format!("203.0.113.{last}:{port}").parse().unwrap(),
            format!("[2001:db8::{last}]:{port}").parse().unwrap(),
        ]
    };
    let inside = |port: u16| vec![format!("10.0.0.10:{port}").parse().unwrap()];
    let line = Line::default();
    let rates = Rates { new_per_source: 9, packets_per_source: 99, ..Rates::default() };
    let mut config = config();
    config.access.listen.retain(|listen| listen.port() == 5061);
    config.services = Services {
        web_conferencing: Some(WebConferencingService {
            listen: own(11, if one_address { 444 } else { 443 }),
            inside: inside(8057),
            rates: Rates::default(),
            line,
        }),
        av: Some(AvService {
            listen: own(12, 0).iter().map(std::net::SocketAddr::ip).collect(),
            advertise: Vec::new(),
            inside: vec!["10.0.0.10".parse().unwrap()],
            stun_port: 3478,
            tcp_port: 443,
            media_ports: (50_000, 59_999),
            legacy_partners: false,
            authentication_port: 5062,
            rates,
            line,
        }),
        xmpp: Some(XmppService {
            direct_tls: own(10, 5270),
            inside: inside(23_456),
            line,
            ..XmppService::at(own(10, 5269), config.access.tls.clone())
        }),
        remote: (!one_address)
            .then(|| RemoteService { line: Line(77), ..RemoteService::at(own(10, 443)) }),
        admin: Some(AdminService {
            listen: inside(8443),
            metrics: inside(9464),
            from: Sources::prefixes(vec!["192.0.2.0/28".parse().unwrap()]),
            rates: Rates::default(),
            line,
        }),
    };
    config
}

#[test]
fn every_service_implies_what_the_port_tables_say() {
    let (external, internal) = (abi::ZONE_EXTERNAL, abi::ZONE_INTERNAL);
    let set = compile(&with_services(false)).unwrap();
    let cases: &[(u8, bool, u16, &[&str], bool)] = &[
        (external, false, 5061, &["access"], true),
        (external, false, 443, &["web-conferencing", "av", "remote"], false),
        (external, true, 3478, &["av"], false),
        (external, false, 5269, &["xmpp"], true),
        (external, false, 5270, &["xmpp"], true),
        (external, false, 3478, &[], false),
        (external, true, 50_000, &[], false),
        (external, false, 59_999, &[], false),
        (external, false, 5062, &[], false),
        (external, false, 8057, &[], false),
        (external, false, 8443, &[], false),
        (internal, false, 8057, &["web-conferencing-inside"], false),
        (internal, true, 3478, &["av-inside"], false),
        (internal, false, 443, &["av-inside"], false),
        (internal, false, 5062, &["av-inside"], false),
        (internal, false, 23_456, &["xmpp-inside"], false),
        (internal, false, 8443, &["admin"], false),
        (internal, false, 9464, &["admin"], false),
        (internal, false, 5269, &[], false),
    ];
    for (zone, udp, port, names, federation) in cases {
        let (word, rules) = look_up(&set, *zone, *udp, *port);
        assert_eq!(rules, *names, "zone {zone} udp {udp} port {port}");
        assert_eq!(word & WORD_FEDERATION != 0, *federation, "port {port}");
        assert_eq!(word & WORD_REMOTE, 0, "port {port}: of no other service");
    }
    // Where remote users have a port to themselves, whoever guesses passwords is dropped there.
    let mut config = with_services(false);
    for listen in &mut config.services.remote.as_mut().unwrap().listen {
        listen.set_port(5443);
    }
    let set = compile(&config).unwrap();
    for (zone, port, remote) in [
        (external, 5443, true),
        (external, 443, false),
        (external, 5061, false),
        (internal, 5443, false),
    ] {
        let (word, _) = look_up(&set, zone, false, port);
        assert_eq!(word & WORD_REMOTE != 0, remote, "zone {zone} port {port}");
    }
    for row in set.rows.iter().filter(|row| row.id.is_some() && row.zone == Zone::External) {
        let families = row.to.iter().map(IpAddr::is_ipv4);
        assert_eq!(families.collect::<Vec<_>>(), [true, false], "{}", row.name);
        assert!(!row.why.is_empty() && row.service.is_some(), "{}", row.name);
    }
    let row = |name: &str, protocol: &str| {
        set.rows.iter().find(|row| row.name == name && row.protocol == protocol).unwrap()
    };
    // New connections are counted for TCP only; the inside is not limited by it.
    let limits = |name, protocol| row(name, protocol).limits.map(|l| l.source.new.per_second);
    assert_eq!(
        (limits("av", "tcp"), limits("av", "udp"), limits("av-inside", "tcp")),
        (Some(9), Some(0), None)
    );
    assert_eq!(row("av", "udp").content, Content::Media);
    assert_eq!(row("av", "tcp").content, Content::Any);
    assert_eq!(row("remote", "tcp").made_by(), "[service.remote] (line 77)");
    assert_eq!(row("admin", "tcp").from, set.management);
}

#[test]
fn one_address_serves_for_all_services() {
    let set = compile(&with_services(true)).unwrap();
    for (udp, port, name) in [
        (false, 5061, "access"),
        (false, 444, "web-conferencing"),
        (false, 443, "av"),
        (true, 3478, "av"),
    ] {
        assert_eq!(look_up(&set, abi::ZONE_EXTERNAL, udp, port).1, [name], "port {port}");
    }
    assert_eq!(set.own_addresses.len(), 3);
}

#[test]
fn media_ports_are_open_inbound_for_legacy_partners_only() {
    let mut config = with_services(false);
    config.services.av.as_mut().unwrap().legacy_partners = true;
    let set = compile(&config).unwrap();
    for port in [50_000, 55_555, 59_999] {
        for udp in [false, true] {
            let (word, names) = look_up(&set, abi::ZONE_EXTERNAL, udp, port);
            assert_eq!(names, ["av"], "udp {udp} port {port}");
            let rule = set.rules[abi::word_first(word) as usize];
            let content = if udp { abi::CONTENT_MEDIA } else { abi::CONTENT_ANY };
            assert_eq!(rule.content, content);
        }
    }
    assert_eq!(look_up(&set, abi::ZONE_EXTERNAL, true, 60_000).1, [""; 0]);
}

#[test]
fn flows_come_in_at_the_relays_ports_on_both_sides_and_only_when_media_is_relayed() {
    for mode in MediaMode::ALL {
        let mut config = with_services(false);
        config.media.mode = *mode;
        let set = compile(&config).unwrap();
        for zone in [abi::ZONE_EXTERNAL, abi::ZONE_INTERNAL] {
            for (udp, port, media) in [
                (true, 50_000, true),
                (true, 59_999, true),
                (false, 50_000, false),
                (true, 49_999, false),
                (true, 60_000, false),
                (true, 3478, false),
            ] {
                let word = look_up(&set, zone, udp, port).0;
                let expected = media && *mode == MediaMode::Relay;
                assert_eq!(word & abi::WORD_MEDIA != 0, expected, "{mode} {zone} {udp} {port}");
            }
        }
        let pinholes = set.flags & abi::SETTING_PINHOLES != 0;
        assert_eq!(pinholes, *mode == MediaMode::Pinhole, "{mode}");
    }
}

#[test]
fn firewalls_around_it_let_the_media_of_calls_through_as_the_mode_wants_it() {
    for mode in MediaMode::ALL {
        let mut config = with_services(false);
        config.media.mode = *mode;
        let set = compile(&config).unwrap();
        let rows = outer(&config, &set, AvStyle::Destination);
        let of_calls: Vec<_> =
            rows.iter().filter(|row| row.why.starts_with("media of calls")).collect();
        let av = config.services.av.as_ref().unwrap();
        for (zone, addresses) in [(Zone::External, &av.listen), (Zone::Internal, &av.inside)] {
            for direction in [Direction::In, Direction::Out] {
                let row =
                    of_calls.iter().find(|row| (row.zone, row.direction) == (zone, direction));
                assert_eq!(row.is_some(), *mode != MediaMode::Off, "{mode}");
                let Some(row) = row else { continue };
                let ours = if direction == Direction::In { &row.to } else { &row.from };
                let relayed = *mode == MediaMode::Relay;
                let ports = if relayed { vec![av.media_ports] } else { Vec::new() };
                assert_eq!((&ours.ports, ours.prefixes.is_empty()), (&ports, !relayed), "{mode}");
                assert!(!relayed || ours.prefixes.len() == addresses.len(), "{mode} {zone:?}");
            }
        }
    }
}
