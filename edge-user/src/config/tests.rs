//! The example file is valid, and every error is found at its place.

use std::path::Path;

use proptest::prelude::*;

use super::{
    federation_cases::{FEDERATION_ERRORS, FEDERATION_WARNINGS},
    firewall_cases::FIREWALL_ERRORS,
    media_cases::{MEDIA_ERRORS, MEDIA_WARNINGS},
    routing_cases::ROUTING_ERRORS,
    test_cases::{Case, ERRORS, WARNINGS},
    tests_support::{Folder, example, good_files, with_every_setting},
    xmpp_cases::{XMPP_ERRORS, XMPP_SILENT, XMPP_WARNINGS},
    *,
};
use crate::{
    domain::Domain,
    xmpp::settings::{Chats, XmppLimits},
};

#[test]
fn the_example_file_is_valid_and_without_warning() {
    let folder = good_files();
    let text = example();
    let checked = check_text(&text, &folder.0.join("edge.toml"), SystemTime::now());
    assert_eq!(checked.findings.render(true), "");
    let config = checked.config.unwrap();
    assert_eq!(config.access.tls.key, folder.0.join("edge.key"));
    assert_eq!(config.inside.tls, Some(config.access.tls.clone()));
    assert_eq!(config.inside.listen, [(Transport::Tls, "10.0.0.10:5061".parse().unwrap())]);
    assert_eq!(config.federation.allowed_domains.len(), 2);
    assert_eq!(config.firewall.rules[0].ports, [(80, 80), (8000, 8009)]);
    assert_eq!(config.management.ports, [22]);
    let web = &config.firewall.rules[0];
    assert_eq!(web.from.sets, ["branches"]);
    assert_eq!((web.from.prefixes.len(), web.from.partners), (3, false));
    assert_eq!((web.rates.new_per_source, web.rates.burst.as_secs()), (10, 2));
    assert_eq!(config.firewall.rules[1].content, Content::Sip);
    assert_eq!(config.firewall.rules[1].to, ["10.0.0.10".parse::<IpAddr>().unwrap()]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[web.line.0 - 1], "name = \"web\"");
    assert_eq!(lines[config.access.line.0 - 1], "[service.access]");
}

#[test]
fn every_setting_that_the_example_only_shows_can_be_taken_in() {
    let folder = good_files();
    let text = with_every_setting(&example());
    let checked = check_text(&text, &folder.0.join("edge.toml"), SystemTime::now());
    let config = checked.config.unwrap_or_else(|| panic!("{}", checked.findings.render(true)));
    let rates = config.access.rates;
    assert_eq!((rates.new_per_source, rates.bytes_total), (50, 1_000_000_000));
    assert_eq!(config.federation.allowed_domains[1].from_addresses.len(), 1);
    assert!(config.access.partners_only);
    let warned: Vec<&str> =
        checked.findings.warnings.iter().map(|w| w.message.split(' ').next().unwrap()).collect();
    assert_eq!(warned, ["XMPP", "XMPP", "web-conferencing", "STUN", "admin"]);
    let xmpp = config.xmpp_settings().unwrap();
    assert_eq!(xmpp.limits, XmppLimits::default());
    assert_eq!(xmpp.chats, Chats::Messages);
    let lync = text.replace("chats = \"messages\"", "chats = \"sessions\"");
    let lync = check_text(&lync, &folder.0.join("edge.toml"), SystemTime::now()).config.unwrap();
    assert_eq!(lync.xmpp_settings().unwrap().chats, Chats::Sessions);
    assert_eq!(xmpp.partners[0].connections, Some(xmpp.limits.partner_connections));
    let domains: Vec<&str> = xmpp.domains.iter().map(Domain::as_str).collect();
    assert_eq!(domains, ["contoso.example", "chat.contoso.example"]);
    assert_eq!(xmpp.inside[0].1, ("xmpp.contoso.example".parse().unwrap(), 5269));
    // What the example shows of the other services is what holds without it.
    let shown = (config.services.clone(), config.media.clone());
    assert_eq!(shown.1.mode, MediaMode::Relay);
    let mut short = text;
    for line in [
        "inside = [\"10.0.0.10",
        "stun_port",
        "tcp_port",
        "authentication",
        "media_ports",
        "legacy_partners",
        "connections",
        "mode = \"relay\"",
        "silence",
        "longest_call",
        "body_bytes = 131072",
        "ban_",
        "never_ban",
        "from = [\"192.0.2.0/28\"]            # prefixes and sets",
    ] {
        assert!(short.contains(line), "{line}");
        short =
            short.lines().filter(|l| !l.starts_with(line)).collect::<Vec<_>>().join("\n") + "\n";
    }
    let short = parse(&short, &folder.0.join("edge.toml")).unwrap();
    assert_eq!((short.services, short.media), shown);
}

#[test]
fn one_address_for_all_services_works_with_ports_of_their_own() {
    let folder = good_files();
    let services = "[service.web_conferencing]\nlisten = \"203.0.113.10:444\"\n\
                    [service.av]\nlisten = \"203.0.113.10\"\nlegacy_partners = true\n\
                    [service.xmpp]\nlisten = \"203.0.113.10\"\ninside = []\n\
                    [service.remote]\nlisten = \"203.0.113.10:5063\"\n[inside]\n";
    let text = example().replace("[inside]\n", services);
    let config = parse(&text, &folder.0.join("edge.toml")).unwrap();
    let av = config.services.av.unwrap();
    assert_eq!((av.tcp_port, av.media_ports, av.inside.len()), (443, (50_000, 59_999), 1));
    assert_eq!(config.services.xmpp.unwrap().inside, []);
}

#[test]
fn the_example_s_limits_and_settings_are_the_defaults() {
    let folder = good_files();
    let path = folder.0.join("edge.toml");
    let text = example();
    let full = parse(&text, &path).unwrap();
    let mut short = text.clone();
    for section in ["[paths]", "[firewall]", "[limits]", "[log]"] {
        short = without(&short, section);
    }
    let mut short = parse(&short, &path).unwrap();
    short.firewall.sets.clone_from(&full.firewall.sets);
    short.firewall.rules.clone_from(&full.firewall.rules);
    short.firewall.blocks.clone_from(&full.firewall.blocks);
    assert_eq!(short, full);
}

/// The text without a section and its subsections.
fn without(text: &str, header: &str) -> String {
    let name = header.trim_matches(['[', ']']);
    let mut keep = true;
    let mut lines = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.trim().strip_prefix('[') {
            let of = rest.trim_start_matches('[').split(']').next().unwrap_or("");
            keep = of != name && !of.starts_with(&format!("{name}."));
        }
        if keep {
            lines.push(line);
        }
    }
    lines.join("\n") + "\n"
}

/// Line and column of the `n`th occurrence of `needle`.
fn place(text: &str, needle: &str, n: usize) -> (usize, usize) {
    let (at, _) = text.match_indices(needle).nth(n).unwrap_or_else(|| panic!("no {needle:?}"));
    let line = text[..at].matches('\n').count() + 1;
    let column = text[..at].rsplit('\n').next().unwrap().chars().count() + 1;
    (line, column)
}

/// The example with one edit.
fn edited(find: &str, replace: &str) -> String {
    let example = example();
    assert!(example.contains(find), "the example has no {find:?}");
    example.replacen(find, replace, 1)
}

#[test]
fn every_error_is_found_at_its_place_with_its_mend() {
    let folder = good_files();
    let faults: Vec<String> = ERRORS
        .iter()
        .chain(FEDERATION_ERRORS)
        .chain(ROUTING_ERRORS)
        .chain(FIREWALL_ERRORS)
        .chain(MEDIA_ERRORS)
        .chain(XMPP_ERRORS)
        .filter_map(|case| fault(&folder, case, "error").err())
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn warnings_are_told_apart_and_leave_the_file_valid() {
    let folder = good_files();
    let faults: Vec<String> = WARNINGS
        .iter()
        .chain(FEDERATION_WARNINGS)
        .chain(MEDIA_WARNINGS)
        .chain(XMPP_WARNINGS)
        .filter_map(|case| fault(&folder, case, "warning").err())
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Where TLS is required nothing is weak, whatever proves the partner.
#[test]
fn xmpp_terms_that_prove_enough_are_not_warned_of() {
    let folder = good_files();
    for terms in XMPP_SILENT {
        let text = edited("# The firewall.", terms);
        let checked = check_text(&text, &folder.0.join("edge.toml"), SystemTime::now());
        assert!(checked.config.is_some(), "{terms}");
        let said = checked.findings.warnings.iter().map(|w| w.message.as_str());
        let said: Vec<&str> = said.filter(|words| words.contains("j.example")).collect();
        assert!(said.is_empty(), "{terms}: {said:?}");
    }
}

/// What is not as the case says.
fn fault(folder: &Folder, case: &Case, kind: &str) -> Result<(), String> {
    let (find, replace, (needle, nth), words) = case;
    let text = edited(find, replace);
    let checked = check_text(&text, &folder.0.join("edge.toml"), SystemTime::now());
    let rendered = checked.findings.render(false);
    if checked.config.is_some() != (kind == "warning") {
        return Err(format!("{replace:?} gives no {kind}: {rendered}"));
    }
    let (line, column) = place(&text, needle, *nth);
    let expected = format!("edge.toml:{line}:{column}: {kind}: ");
    if !rendered.lines().any(|l| l.contains(&expected) && l.contains(words)) {
        return Err(format!("{replace:?}: no {words:?} at {line}:{column} in\n{rendered}"));
    }
    let errors = &checked.findings.errors;
    if errors.len() > 2 || errors.iter().any(|e| e.mend.is_empty() || e.message.is_empty()) {
        return Err(format!("{replace:?} gives too many errors, or one without mend: {rendered}"));
    }
    Ok(())
}

#[test]
fn rules_that_do_not_fit_the_kernel_s_tables_are_an_error() {
    let folder = good_files();
    let rule = |n: u8| {
        format!(
            "[[firewall.rule]]\nname = \"r{n}\"\nzone = \"external\"\nprotocol = \"tcp\"\n\
             ports = [443]\nfrom = [\"198.51.{n}.0/24\"]\n"
        )
    };
    let text = example() + &(0..40).map(rule).collect::<String>();
    let errors = parse(&text, &folder.0.join("edge.toml")).unwrap_err();
    let (line, column) = place(&text, "[firewall]", 0);
    let [error] = errors.errors.as_slice() else { panic!("{errors}") };
    assert_eq!((error.line, error.column), (line, column + 1));
    assert!(error.message.contains("port 443"), "{errors}");
    assert_eq!(error.mend, "merge their sources");
}

#[test]
fn every_missing_section_is_told_and_all_errors_at_once() {
    let folder = good_files();
    let errors = parse("", &folder.0.join("edge.toml")).unwrap_err();
    for section in ["[edge]", "[[interface]]", "[management]", "[service.access]", "[inside]"] {
        let told = errors.errors.iter().any(|e| e.message == format!("{section} is missing"));
        assert!(told, "{section}: {errors}");
    }
    assert_eq!(errors.errors.len(), 5, "{errors}");
}

#[test]
fn a_finding_shows_line_column_mend_and_a_caret() {
    let text = "\n[edge]\n\tfqdn = \"é\u{1b}[2J\"\n".replace('\u{1b}', "\\u001b");
    let errors = parse(&text, Path::new("/nowhere/edge.toml")).unwrap_err();
    let rendered = errors.render(true);
    let expected = "/nowhere/edge.toml:3:9: error: \"é\u{fffd}[2J\" is no domain name: a domain name \
                    holds letters, digits, hyphens and dots only; mend: write a full name such as \
                    \"contoso.example\"\n  3 |  fqdn = \"é\\u001b[2J\"\n    |         ^^^^^^^^^^^^\n";
    assert!(rendered.contains(expected), "{rendered}");
    assert!(!errors.to_string().contains('^'));
}

#[test]
fn next_hops_are_read_in_every_form() {
    let host = |text: &str| Host::Name(text.parse().unwrap());
    let address = |text: &str| Host::Address(text.parse().unwrap());
    let srv = |service: &str| Host::Srv {
        service: service.into(),
        domain: "p.contoso.example".parse().unwrap(),
    };
    let cases: &[(&str, Host, u16, Transport)] = &[
        ("sip:d.contoso.example", host("d.contoso.example"), 5061, Transport::Tls),
        ("sip:d.contoso.example;transport=tcp", host("d.contoso.example"), 5060, Transport::Tcp),
        ("sip:10.0.0.9;transport=udp", address("10.0.0.9"), 5060, Transport::Udp),
        ("sip:10.0.0.9:5080;transport=tls", address("10.0.0.9"), 5080, Transport::Tls),
        ("sip:[fd00::9];transport=tcp", address("fd00::9"), 5060, Transport::Tcp),
        ("sip:[fd00::9]:5081;transport=tls", address("fd00::9"), 5081, Transport::Tls),
        ("srv:_sips._tcp.p.contoso.example", srv("_sips._tcp"), 5061, Transport::Tls),
        (
            "srv:_sipinternaltls._tcp.p.contoso.example",
            srv("_sipinternaltls._tcp"),
            5061,
            Transport::Tls,
        ),
        ("srv:_sip._tcp.p.contoso.example", srv("_sip._tcp"), 5060, Transport::Tcp),
        ("srv:_sip._udp.p.contoso.example", srv("_sip._udp"), 5060, Transport::Udp),
    ];
    for (text, host, port, transport) in cases {
        let expected = NextHop { host: host.clone(), port: *port, transport: *transport };
        assert_eq!(values::next_hop(text), Ok(expected), "{text}");
    }
}

#[test]
fn files_that_cannot_be_read_are_errors_and_paths_fall_back_to_their_defaults() {
    let path = Path::new("/nonexistent/edge.toml");
    let errors = load(path).unwrap_err();
    assert!(errors.to_string().starts_with("/nonexistent/edge.toml:1:1: error: the file cannot"));
    assert_eq!(paths_only(path).run, Path::new("/run/edge"));
    let folder = Folder::new();
    let errors = load(&folder.0).unwrap_err().to_string();
    assert!(errors.contains("this is no file"), "{errors}");
    folder.write("edge.toml", b"[edge]\n# \xc3\xa9 \xff\n", 0o644);
    let errors = load(&folder.0.join("edge.toml")).unwrap_err().to_string();
    assert!(errors.contains(":2:5: error: this is no UTF-8 text"), "{errors}");
    folder.write("edge.toml", "[paths]\nrun = \"below\"\npins = 7\n[broken\n", 0o644);
    let paths = paths_only(&folder.0.join("edge.toml"));
    assert_eq!(paths.run, folder.0.join("below"));
    assert_eq!(paths.pins, Path::new("/sys/fs/bpf/edge"));
}

#[test]
fn resolvers_of_the_system_are_read() {
    let text = "# x\nnameserver 192.0.2.53\nsearch a\nnameserver ::1 # y\nnameserver nonsense\n";
    let expected = ["192.0.2.53:53", "[::1]:53"].map(|a| a.parse::<SocketAddr>().unwrap());
    assert_eq!(resolvers(text), expected);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*", wild in any::<String>()) {
        let path = Path::new("/nonexistent/edge.toml");
        prop_assert!(parse(&text, path).is_err());
        prop_assert!(parse(&wild, path).is_err());
    }

    #[test]
    fn no_change_of_the_example_makes_it_panic(
        cuts in proptest::collection::vec((0usize..5000, 0usize..40, "[\\[\\]\"=.,:;{}\\\\a-z0-9/ \n\u{e9}\u{0}-]{0,12}"), 1..6),
    ) {
        let mut text = example();
        for (at, length, put) in cuts {
            let floor = |n: usize| (0..=n.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            let (from, to) = (floor(at), floor(at + length));
            text.replace_range(from..to.max(from), &put);
        }
        let checked = check_text(&text, Path::new("/nonexistent/edge.toml"), SystemTime::UNIX_EPOCH);
        prop_assert!(checked.config.is_none());
        let _ = checked.findings.render(true);
    }
}
