use std::time::Duration;

use edge_ebpf::abi::{self, SET_ANY, WORD_FEDERATION, WORD_MANAGEMENT};
use ipnet::IpNet;

use super::*;
use crate::config::{
    AccessService, Content, Dns, Federation, Firewall, FirewallRule, Inside, InsideServer,
    Interface, Limits, Line, Log, Management, Paths, Protocol, Rates, Services, Sources, TlsFiles,
    Transport,
};

fn config() -> Config {
    let tls = TlsFiles { certificate: "c".into(), key: "k".into(), trust: "t".into() };
    let second = std::time::Duration::from_secs(1);
    Config {
        file: "edge.toml".into(),
        fqdn: "edge.contoso.example".parse().unwrap(),
        domains: vec!["contoso.example".parse().unwrap()],
        paths: Paths { state: "s".into(), run: "r".into(), pins: "p".into() },
        interfaces: vec![Interface {
            device: "eth0".into(),
            vlan: None,
            zone: Zone::External,
            optional: false,
        }],
        management: Management {
            ports: vec![22],
            from: vec!["192.0.2.0/28".parse().unwrap()],
            zone: Zone::Internal,
            line: Line(3),
        },
        access: AccessService::new(
            vec![
                "203.0.113.10:5061".parse().unwrap(),
                "[2001:db8::10]:5061".parse().unwrap(),
                "203.0.113.10:443".parse().unwrap(),
            ],
            tls.clone(),
        ),
        inside: Inside {
            listen: vec![
                (Transport::Tls, "10.0.0.10:5061".parse().unwrap()),
                (Transport::Udp, "0.0.0.0:5060".parse().unwrap()),
            ],
            tls: Some(tls),
            servers: vec![InsideServer::Prefix("10.0.0.0/24".parse().unwrap())],
            next_hops: Vec::new(),
            rates: Rates::default(),
            line: Line::default(),
        },
        services: Services::default(),
        federation: Federation {
            enabled: true,
            allowed_domains: Vec::new(),
            blocked_domains: Vec::new(),
            allow_addresses: Vec::new(),
        },
        firewall: Firewall::default(),
        dns: Dns { servers: Vec::new(), timeout: second },
        limits: Limits {
            connections: 1,
            connections_per_source: 1,
            handshakes: 1,
            handshake_timeout: second,
            message_timeout: second,
            idle_timeout: second,
            head_bytes: 1,
            body_bytes: 1,
            transactions: 1,
            write_queue_bytes: 1,
        },
        log: Log { json: false, filter: "info".into() },
    }
}

fn rule(name: &str, protocol: Protocol, ports: &[(u16, u16)], from: &[&str]) -> FirewallRule {
    FirewallRule {
        ports: ports.to_vec(),
        from: Sources::prefixes(from.iter().map(|text| text.parse().unwrap()).collect()),
        ..FirewallRule::new(name, Zone::External, protocol)
    }
}

/// The word of a port, and the names of the rules it leads to.
fn look_up(set: &RuleSet, zone: u8, udp: bool, port: u16) -> (u32, Vec<String>) {
    let index = abi::port_index(zone, udp, port);
    let found = set.port_words.iter().find(|(first, last, _)| (*first..=*last).contains(&index));
    let word = found.map_or(0, |(_, _, word)| *word);
    let first = abi::word_first(word) as usize;
    let ids: Vec<u32> = match abi::word_open_rule(word) {
        Some(rule) => vec![rule],
        None => {
            let rules = &set.rules[first..first + abi::word_count(word) as usize];
            rules.iter().map(|rule| rule.id).collect()
        }
    };
    let name = |id: &u32| set.rows.iter().find(|row| row.id == Some(*id)).unwrap().name.clone();
    (word, ids.iter().map(name).collect())
}

fn sets_of(set: &RuleSet, prefix: &str) -> u64 {
    let prefix: IpNet = prefix.parse().unwrap();
    set.sources.iter().find(|(net, _)| *net == prefix).unwrap().1
}

#[test]
fn services_imply_their_rules() {
    let set = compile(&config()).unwrap();
    let (external, internal) = (abi::ZONE_EXTERNAL, abi::ZONE_INTERNAL);
    let cases: &[(u8, bool, u16, &[&str], u32)] = &[
        (external, false, 5061, &["access"], WORD_FEDERATION),
        (external, false, 443, &["access"], WORD_FEDERATION),
        (external, true, 5061, &[], 0),
        (external, false, 22, &[], 0),
        (internal, false, 22, &[], WORD_MANAGEMENT),
        (internal, true, 22, &[], 0),
        (internal, false, 5061, &["inside"], 0),
        (internal, true, 5060, &["inside"], 0),
        (internal, false, 5060, &[], 0),
        (external, false, 5060, &[], 0),
    ];
    for (zone, udp, port, names, flags) in cases {
        let (word, rules) = look_up(&set, *zone, *udp, *port);
        assert_eq!(rules, *names, "zone {zone} udp {udp} port {port}");
        assert_eq!(word & (WORD_FEDERATION | WORD_MANAGEMENT), *flags, "port {port}");
    }
    // Port 443 is open at one address, port 5061 at two; the wildcard listener at any.
    let row = |port| set.rows.iter().find(|row| row.ports == [(port, port)]).unwrap();
    assert_eq!((row(443).to.len(), row(5061).to.len(), row(5060).to.len()), (1, 2, 0));
    assert_eq!(row(5060).from, ["10.0.0.0/24".parse::<IpNet>().unwrap()]);
    assert_eq!(sets_of(&set, "192.0.2.0/28") & 1, 1, "management is set 0");
}

#[test]
fn inside_servers_known_by_name_may_come_from_anywhere_inside() {
    let mut config = config();
    config.inside.servers.push(InsideServer::Name("director.contoso.example".parse().unwrap()));
    let set = compile(&config).unwrap();
    assert!(set.rows.iter().filter(|row| row.name == RULE_INSIDE).all(|row| row.from.is_empty()));
}

#[test]
fn an_administrators_rules_come_first_and_ranges_are_cut() {
    let mut config = config();
    let mut deny = rule("deny", Protocol::Tcp, &[(5000, 6000)], &["198.51.100.0/24"]);
    deny.drop = true;
    config.firewall.rules = vec![
        deny,
        rule("all", Protocol::Tcp, &[(5500, 65_535)], &[]),
        rule("ping", Protocol::Icmp, &[], &[]),
        rule("gre", Protocol::Other(47), &[], &[]),
    ];
    let set = compile(&config).unwrap();
    for (port, names) in [
        (4999, &[][..]),
        (5000, &["deny"][..]),
        (5061, &["deny", "access"]),
        (5500, &["deny", "all"]),
        (6000, &["deny", "all"]),
        (6001, &["all"]),
        (65_535, &["all"]),
    ] {
        assert_eq!(look_up(&set, abi::ZONE_EXTERNAL, false, port).1, names, "port {port}");
    }
    assert_eq!(set.protocol_words.len(), 2);
    assert!(set.rules.iter().any(|rule| rule.action == abi::ACTION_DROP));
}

#[test]
fn a_prefix_is_in_the_sets_of_every_prefix_around_it() {
    let mut config = config();
    config.firewall.rules = vec![
        rule("wide", Protocol::Udp, &[(1, 1)], &["192.0.0.0/8", "2001:db8::/32"]),
        rule("narrow", Protocol::Udp, &[(2, 2)], &["192.0.2.0/24", "2001:db8:1::/48"]),
        rule("other", Protocol::Udp, &[(3, 3)], &["203.0.113.0/24"]),
        rule("same", Protocol::Udp, &[(4, 4)], &["2001:db8::/32", "192.0.0.0/8"]),
        rule("any", Protocol::Udp, &[(5, 5)], &["0.0.0.0/0", "::/0"]),
    ];
    let set = compile(&config).unwrap();
    let of = |name: &str| {
        let id = set.rows.iter().find(|row| row.name == name).unwrap().id;
        set.rules.iter().find(|rule| Some(rule.id) == id).unwrap().source_set
    };
    let (wide, narrow) = (1 << of("wide"), 1 << of("narrow"));
    assert_eq!(of("same"), of("wide"), "equal lists share a set");
    assert_eq!(of("any"), SET_ANY);
    assert_eq!(sets_of(&set, "192.0.0.0/8"), wide);
    assert_eq!(sets_of(&set, "192.0.2.0/24"), wide | narrow);
    assert_eq!(sets_of(&set, "192.0.2.0/28"), wide | narrow | 1);
    assert_eq!(sets_of(&set, "2001:db8:1::/48"), wide | narrow);
    assert_eq!(sets_of(&set, "203.0.113.0/24"), 1 << of("other"));
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let port = |number: u16| [(number, number)];
    let cases: Vec<(&str, Vec<FirewallRule>)> = vec![
        ("unique", vec![rule("access", Protocol::Tcp, &port(1), &[])]),
        (
            "unique",
            vec![rule("a", Protocol::Tcp, &port(1), &[]), rule("a", Protocol::Tcp, &port(2), &[])],
        ),
        ("need ports", vec![rule("a", Protocol::Tcp, &[], &[])]),
        ("need ports", vec![rule("a", Protocol::Icmp, &port(1), &[])]),
        ("instead of the number", vec![rule("a", Protocol::Other(6), &port(1), &[])]),
        ("lower end", vec![rule("a", Protocol::Udp, &[(2, 1)], &[])]),
        (
            "tcp port 7",
            (0..33)
                .map(|n| {
                    rule(
                        &format!("r{n}"),
                        Protocol::Tcp,
                        &port(7),
                        &[&format!("10.0.{}.0/24", n % 20)],
                    )
                })
                .collect(),
        ),
        (
            "different sets of sources",
            (0..64)
                .map(|n| {
                    rule(&format!("r{n}"), Protocol::Tcp, &port(n), &[&format!("10.0.{n}.0/24")])
                })
                .collect(),
        ),
        (
            "more than 4096 rules",
            (0..4096).map(|n| rule(&format!("r{n}"), Protocol::Tcp, &port(n), &[])).collect(),
        ),
    ];
    for (text, rules) in cases {
        let mut config = config();
        config.firewall.rules = rules;
        let fault = compile(&config).unwrap_err().to_string();
        assert!(fault.contains(text), "{text}: {fault}");
    }
    let mut config = config();
    config.firewall.blocks = vec!["192.0.0.0/16".parse().unwrap()];
    assert!(compile(&config).unwrap_err().to_string().contains("management prefix"));
}

#[test]
fn a_rules_id_follows_its_name() {
    let mut ids = RuleIds::default();
    ids.assign(&["a", "b"]).unwrap();
    let before = ids.clone();
    ids.assign(&["b", "c"]).unwrap();
    assert_eq!(ids.get("b"), before.get("b"));
    assert_eq!(ids.get("a"), before.get("a"), "a name that may come back keeps its id");
    assert_eq!(ids.changed_since(&before), [ids.get("c").unwrap()]);
    // When all are taken, names that are not wanted make room.
    let many: Vec<String> = (0..4095).map(|n| format!("n{n}")).collect();
    let mut wanted: Vec<&str> = many.iter().map(String::as_str).collect();
    wanted.push("b");
    ids.assign(&wanted).unwrap();
    assert_eq!((ids.get("a"), ids.get("b")), (None, before.get("b")));
    wanted.push("one too many");
    assert!(ids.assign(&wanted).is_err());
}

#[test]
fn a_rule_names_addresses_of_its_own_set_only() {
    let mut config = config();
    config.firewall.rules = vec![FirewallRule {
        to: vec!["203.0.113.99".parse().unwrap(), "203.0.113.98".parse().unwrap()],
        ..rule("two", Protocol::Tcp, &[(7000, 7000)], &[])
    }];
    let set = compile(&config).unwrap();
    let mut both = 0;
    for rule in &set.rules {
        let kernel = set.kernel_rule(rule);
        assert_eq!((kernel.id, kernel.action), (rule.id, rule.action));
        let members: Vec<IpAddr> = set
            .destinations
            .iter()
            .filter(|(_, mask)| rule.destination_set < 64 && mask >> rule.destination_set & 1 == 1)
            .map(|(address, _)| *address)
            .collect();
        let four = kernel.flags & abi::RULE_DESTINATION4 != 0;
        let six = kernel.flags & abi::RULE_DESTINATION6 != 0;
        assert_eq!(four, members.iter().any(IpAddr::is_ipv4), "{rule:?}");
        assert_eq!(six, members.iter().any(IpAddr::is_ipv6), "{rule:?}");
        let holds = |address: IpAddr| members.contains(&address);
        assert!(!four || holds(kernel.destination4.to_ne_bytes().into()), "{rule:?}");
        let words = kernel.destination6.map(u64::to_ne_bytes).concat();
        assert!(!six || holds(<[u8; 16]>::try_from(words).unwrap().into()), "{rule:?}");
        both += usize::from(four && six);
    }
    assert!(both > 0, "the access service listens on both families");
}

#[test]
fn a_word_says_open_only_when_one_rule_passes_everything() {
    let udp = |name, port, from: &[&str]| rule(name, Protocol::Udp, &[(port, port)], from);
    let mut config = config();
    config.firewall.rules = vec![
        udp("all", 1, &[]),
        udp("whole", 2, &["0.0.0.0/0", "::/0"]),
        udp("some", 3, &["203.0.113.0/24"]),
        udp("four", 4, &["0.0.0.0/0"]),
        FirewallRule { to: vec!["203.0.113.10".parse().unwrap()], ..udp("one", 5, &[]) },
        FirewallRule { drop: true, ..udp("closed", 6, &[]) },
        udp("first", 7, &["203.0.113.0/24"]),
        udp("then", 7, &[]),
        // What comes after a rule that takes all is never asked.
        udp("all-first", 8, &[]),
        udp("never", 8, &["203.0.113.0/24"]),
    ];
    let set = compile(&config).unwrap();
    for (port, open) in [
        (1, true),
        (2, true),
        (3, false),
        (4, false),
        (5, false),
        (6, false),
        (7, false),
        (8, true),
    ] {
        let (word, _) = look_up(&set, abi::ZONE_EXTERNAL, true, port);
        assert_eq!(abi::word_open_rule(word).is_some(), open, "port {port}");
    }
    assert_eq!(look_up(&set, abi::ZONE_EXTERNAL, true, 8).1, ["all-first"]);
}

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
fn own_addresses_are_those_of_services_outside_management() {
    let mut config = config();
    let own = |config: &Config| -> Vec<String> {
        compile(config).unwrap().own_addresses.iter().map(ToString::to_string).collect()
    };
    assert_eq!(own(&config), ["10.0.0.10", "203.0.113.10", "2001:db8::10"]);
    config.management.from.push("203.0.113.0/28".parse().unwrap());
    assert_eq!(own(&config), ["10.0.0.10", "2001:db8::10"]);
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
