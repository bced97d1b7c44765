use edge_ebpf::abi::{self, SET_ANY, WORD_FEDERATION, WORD_MANAGEMENT};
use ipnet::IpNet;

use super::*;
use crate::config::{
    AccessService, Dns, Federation, Firewall, FirewallRule, Inside, InsideServer, Interface,
    Limits, Line, Log, Management, Paths, Protocol, Rates, Services, Sources, TlsFiles, Transport,
};

pub(super) fn config() -> Config {
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
            routing: Default::default(),
            rates: Rates::default(),
            line: Line::default(),
        },
        services: Services::default(),
        media: Default::default(),
        xmpp: crate::config::Xmpp::default(),
        revocation: Default::default(),
        pool: Default::default(),
        federation: Federation {
            enabled: true,
            allowed_domains: Vec::new(),
            blocked_domains: Vec::new(),
            ..Federation::default()
        },
        firewall: Firewall::default(),
        dns: Dns { servers: Vec::new(), timeout: second, trust_anchor: None },
        limits: Limits {
            connections: 1,
            connections_per_source: 1,
            handshakes: 1,
            handshakes_per_second: 200,
            handshakes_per_second_per_source: 10,
            first_request_bytes: 65536,
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

pub(super) fn rule(
    name: &str,
    protocol: Protocol,
    ports: &[(u16, u16)],
    from: &[&str],
) -> FirewallRule {
    FirewallRule {
        ports: ports.to_vec(),
        from: Sources::prefixes(from.iter().map(|text| text.parse().unwrap()).collect()),
        ..FirewallRule::new(name, Zone::External, protocol)
    }
}

/// The word of a port, and the names of the rules it leads to.
pub(super) fn look_up(set: &RuleSet, zone: u8, udp: bool, port: u16) -> (u32, Vec<String>) {
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

pub(super) fn sets_of(set: &RuleSet, prefix: &str) -> u64 {
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
