use super::*;
use crate::config::tests_support::with_services;

fn arguments(words: &[&str]) -> PortsArguments {
    use clap::Parser as _;
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: PortsArguments,
    }
    Line::parse_from(std::iter::once(&"edge").chain(words)).arguments
}

fn report(words: &[&str]) -> Report {
    ports(&with_services(), &arguments(words), None).unwrap()
}

/// Rows of the outer table: zone, direction, protocol, from ports, to ports, kinds of partners.
fn outer(words: &[&str], service: &str) -> Vec<[String; 6]> {
    let json = report(words).json;
    let rows = json["outer"].as_array().unwrap().iter().filter(|row| row["service"] == service);
    let ports = |end: &serde_json::Value| {
        let ranges = end["ports"].as_array().unwrap().iter();
        ranges.map(|r| format!("{}-{}", r[0], r[1])).collect::<Vec<_>>().join(" ")
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let row = |row: &serde_json::Value| {
        [
            text(&row["zone"]),
            text(&row["direction"]),
            text(&row["protocol"]),
            ports(&row["from"]),
            ports(&row["to"]),
            text(&row["partner_kinds"]),
        ]
    };
    rows.map(row).collect()
}

#[test]
fn outgoing_rows_are_those_of_the_port_tables() {
    let access = outer(&[], "access");
    let of = |way: &str| -> Vec<[&str; 2]> {
        let rows = access.iter().filter(|row| row[1] == way);
        rows.map(|row| [row[2].as_str(), row[4].as_str()]).collect()
    };
    assert_eq!(of("in"), [["tcp", "5061-5061"]]);
    let out = [["tcp", "5061-5061"], ["udp", "53-53"], ["tcp", "53-53"], ["tcp", "80-80"]];
    assert_eq!(of("out"), out);
    let xmpp = outer(&[], "xmpp");
    let way = |zone: &str, way: &str| -> Vec<&str> {
        let rows = xmpp.iter().filter(|row| row[0] == zone && row[1] == way);
        rows.map(|row| row[4].as_str()).collect()
    };
    assert_eq!(way("external", "in"), ["5269-5269"]);
    assert_eq!(way("external", "out"), ["5269-5269 5270-5270"]);
    assert_eq!(way("internal", "in"), ["23456-23456"]);
    assert_eq!(way("internal", "out"), ["5269-5269"], "to the XMPP server inside");
    let inside = outer(&[], "inside");
    assert!(inside.iter().any(|row| row[0] == "internal" && row[1] == "out"), "{inside:?}");
    for (service, count) in [("web-conferencing", 2), ("remote", 1), ("admin", 2)] {
        let rows = outer(&[], service);
        assert_eq!(rows.len(), count, "{service}: {rows:?}");
        assert!(rows.iter().all(|row| row[1] == "in"), "{service}: nothing goes out");
    }
}

#[test]
fn questions_go_to_resolvers_outside_or_inside_and_from_one_on_this_machine_to_any() {
    let rows = |servers: &[&str], outside: Option<&str>| -> Vec<[String; 3]> {
        let mut config = with_services();
        config.dns.servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        if let Some(outside) = outside {
            config.access.listen = vec![outside.parse().unwrap()];
        }
        let json = ports(&config, &arguments(&[]), None).unwrap().json;
        let of = |row: &&serde_json::Value| {
            row["protocol"] == "udp" && row["why"].as_str().unwrap().starts_with("DNS")
        };
        let all = json["outer"].as_array().unwrap().iter().filter(of);
        let row = |row: &serde_json::Value| {
            let to = row["to"]["prefixes"].as_array().unwrap().iter();
            let to: Vec<&str> = to.map(|prefix| prefix.as_str().unwrap()).collect();
            let zone = row["zone"].as_str().unwrap().to_owned();
            let from = row["from"]["prefixes"][0].as_str().unwrap().to_owned();
            [zone, from, format!("{} {}", to.join(" "), row["to"]["ports"])]
        };
        all.map(row).collect()
    };
    const OUTSIDE: &str = "203.0.113.10/32";
    const INSIDE: &str = "10.0.0.10/32";
    type Case = (&'static [&'static str], Option<&'static str>, &'static [[&'static str; 3]]);
    let table: [Case; 6] = [
        (&["192.0.2.53:53"], None, &[["external", OUTSIDE, "192.0.2.53/32 [[53,53]]"]]),
        (&["10.0.0.53:53"], None, &[["internal", INSIDE, "10.0.0.53/32 [[53,53]]"]]),
        (&["[fd00::53]:53"], None, &[["internal", INSIDE, "fd00::53/128 [[53,53]]"]]),
        // Behind NAT: which side it is on is not known.
        (
            &["10.0.0.53:53"],
            Some("172.16.0.9:5061"),
            &[["external", "172.16.0.9/32", "10.0.0.53/32 [[53,53]]"]],
        ),
        (
            &["127.0.0.53:53", "192.0.2.53:5353", "10.0.0.53:53"],
            None,
            &[
                ["external", OUTSIDE, "192.0.2.53/32 [[5353,5353]]"],
                ["external", OUTSIDE, " [[53,53]]"],
                ["internal", INSIDE, "10.0.0.53/32 [[53,53]]"],
            ],
        ),
        (&["[::1]:5300"], None, &[["external", OUTSIDE, " [[53,53]]"]]),
    ];
    for (servers, listen, expected) in table {
        assert_eq!(rows(servers, listen), expected, "{servers:?}");
    }
}

#[test]
fn what_providers_the_default_route_and_lists_of_certificates_need_goes_out() {
    use crate::config::{DefaultRoute, HostingProvider, PeerOptions, PublicImProvider};
    let mut config = with_services();
    let federation = &mut config.federation;
    let options = PeerOptions::default;
    let hosting = |name: &str, port, enabled| HostingProvider {
        name: name.to_owned(),
        proxy_fqdn: format!("{name}.example").parse().unwrap(),
        port,
        enabled,
        shared_address_space: false,
        domains: Vec::new(),
        options: options(),
    };
    federation.hosting_providers = vec![hosting("a", 5091, true), hosting("off", 5099, false)];
    federation.public_im_providers = vec![PublicImProvider {
        name: "im".to_owned(),
        proxy_fqdn: "im.example".parse().unwrap(),
        port: 5092,
        enabled: true,
        domains: Vec::new(),
        options: options(),
    }];
    federation.default_route = Some(DefaultRoute {
        proxy_fqdn: "clearing.example".parse().unwrap(),
        port: 5093,
        public_im: false,
        options: options(),
    });
    let out = |config: &Config, protocol: &str| -> Vec<String> {
        let json = ports(config, &arguments(&[]), None).unwrap().json;
        let rows = json["outer"].as_array().unwrap().iter();
        let of = |row: &&serde_json::Value| {
            row["service"] == "access" && row["direction"] == "out" && row["protocol"] == protocol
        };
        rows.filter(of).map(|row| row["to"]["ports"].to_string()).collect()
    };
    let sip = "[[5061,5061],[5091,5091],[5092,5092],[5093,5093]]";
    config.revocation.points = true;
    assert_eq!(out(&config, "tcp"), [sip, "[[53,53]]", "[[80,80]]"]);
    config.revocation.points = false;
    assert_eq!(out(&config, "tcp"), [sip, "[[53,53]]"]);
}

#[test]
fn audio_and_video_differ_by_kind_of_partner_and_are_written_in_two_styles() {
    let legacy = "50000-59999";
    let rows = |style: &str| -> Vec<[String; 5]> {
        let rows = outer(&["--av-style", style], "av").into_iter();
        rows.filter(|row| row[0] == "external").map(|[_, a, b, c, d, e]| [a, b, c, d, e]).collect()
    };
    let (destination, both) = (rows("destination"), rows("source-and-destination"));
    let has = |rows: &[[String; 5]], wanted: [&str; 4], only_legacy: bool| {
        let found = rows.iter().find(|row| row[..4] == wanted);
        assert!(found.is_some(), "{wanted:?} in {rows:?}");
        assert_eq!(found.unwrap()[4] == "ocs-2007", only_legacy, "{wanted:?}");
    };
    for rows in [&destination, &both] {
        has(rows, ["in", "udp", "", "3478-3478"], false);
        has(rows, ["in", "tcp", "", "443-443"], false);
        has(rows, ["in", "udp", "", legacy], true);
        has(rows, ["in", "tcp", "", legacy], true);
    }
    has(&destination, ["out", "tcp", "", "443-443"], false);
    has(&destination, ["out", "udp", "", "3478-3478"], false);
    has(&destination, ["out", "udp", "", legacy], true);
    has(&both, ["out", "tcp", legacy, "443-443"], false);
    has(&both, ["out", "udp", "3478-3478", "3478-3478"], false);
    has(&both, ["out", "tcp", legacy, legacy], true);
}

#[test]
fn each_table_can_be_had_alone_and_every_row_says_what_made_it() {
    assert!(report(&["--for", "appliance"]).json["outer"].is_null());
    assert!(report(&["--for", "outer"]).json["appliance"].is_null());
    let both = report(&[]);
    for heading in ["ZONE", "PROTOCOL", "PORTS", "LIMITS", "WHY", "MADE BY", "FROM PORTS"] {
        assert!(both.text.contains(heading), "{heading}: {}", both.text);
    }
    for words in ["[service.av] (line ", "[[firewall.rule]] (line ", "[management] (line "] {
        assert!(both.text.contains(words), "{words}: {}", both.text);
    }
    assert!(both.text.contains("50 new/s a source"), "{}", both.text);
    let json: serde_json::Value =
        serde_json::from_str(&report(&["--format", "json"]).text).unwrap();
    assert_eq!(json, both.json);
    for row in json["appliance"].as_array().unwrap().iter().chain(json["outer"].as_array().unwrap())
    {
        assert!(row["line"].as_u64().is_some_and(|line| line > 0), "{row}");
        assert!(!row["why"].as_str().unwrap().is_empty(), "{row}");
    }
}

#[test]
fn csv_has_as_many_cells_in_each_line_as_its_heading() {
    let text = report(&["--format", "csv"]).text;
    let mut cells = 0;
    let mut tables = 0;
    for line in text.lines() {
        // A cell with a comma is in quotes.
        let mut quoted = false;
        let count = 1 + line
            .chars()
            .filter(|c| {
                quoted ^= *c == '"';
                *c == ',' && !quoted
            })
            .count();
        if line.starts_with("table,") {
            (cells, tables) = (count, tables + 1);
        }
        assert_eq!(count, cells, "{line}");
    }
    assert_eq!(tables, 2);
    assert_eq!(csv_cell("a \"b\", c"), "\"a \"\"b\"\", c\"");
}

#[test]
fn nftables_rules_name_each_family_apart_and_partners_as_a_set() {
    let text = report(&["--format", "nftables"]).text;
    for line in [
        "iifname { \"eth0\" } ip saddr @partners4 ip daddr { 203.0.113.10 } tcp dport { 5061 } accept comment \"access\"",
        "ip saddr { 203.0.113.12 } udp dport { 3478 } accept",
        "elements = { 198.51.100.32/28 }",
        "chain outer_internal {",
        "# inside out: partners' SIP to our next hop; [inside] (line ",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    // No rule names both families.
    assert!(text.lines().all(|line| !(line.contains("ip6 ") && line.contains(" ip "))), "{text}");
}

#[test]
fn the_sets_of_partners_hold_what_is_known_and_say_what_that_is() {
    let mut config = with_services();
    let mut entry = crate::config::AllowedDomain::new("far.example".parse().unwrap());
    entry.from_addresses = vec!["198.51.100.32/28".parse().unwrap()];
    config.federation.allowed_domains = vec![entry];
    let arguments = arguments(&["--format", "nftables"]);
    let text = |known: Option<&[IpNet]>| ports(&config, &arguments, known).unwrap().text;
    let file = text(None);
    assert!(file.contains("elements = { 198.51.100.32/28 }"), "{file}");
    assert!(file.contains("no daemon that follows them runs"), "{file}");
    let known: [IpNet; 2] = ["192.0.2.7/32".parse().unwrap(), "2001:db8::7/128".parse().unwrap()];
    let live = text(Some(&known));
    assert!(live.contains("elements = { 192.0.2.7, 198.51.100.32/28 }"), "{live}");
    assert!(live.contains("elements = { 2001:db8::7 }"), "{live}");
    assert!(live.contains("as the daemon knows them now"), "{live}");
}
