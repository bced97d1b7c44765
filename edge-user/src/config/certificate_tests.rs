//! Files of a TLS identity: each fault is found, and at the key that names the file.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType, date_time_ymd,
};

use super::{
    tests_support::{Folder, example, good_files},
    *,
};

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

/// The folder with another certificate and its key.
fn with(params: CertificateParams) -> Folder {
    let folder = good_files();
    let key = KeyPair::generate().unwrap();
    folder.write("edge.pem", params.self_signed(&key).unwrap().pem(), 0o644);
    folder.write("edge.key", key.serialize_pem(), 0o600);
    folder
}

fn findings(folder: &Folder, text: &str) -> ConfigErrors {
    check_text(text, &folder.0.join("edge.toml"), SystemTime::now()).findings
}

/// Expects one finding, at the line and column of `key`'s value in `[service.access]`.
fn expect(folder: &Folder, key: &str, error: bool, words: &str) {
    let text = example();
    let (number, line) =
        text.lines().enumerate().find(|(_, line)| line.starts_with(&format!("{key} = "))).unwrap();
    let column = line.find('"').unwrap() + 1;
    let ConfigErrors { errors, warnings, .. } = findings(folder, &text);
    let (list, other) = if error { (errors, warnings) } else { (warnings, errors) };
    assert!(other.is_empty() && list.len() == 1, "{words}: {list:?} {other:?}");
    assert_eq!((list[0].line, list[0].column), (number + 1, column), "{list:?}");
    assert!(list[0].message.contains(words), "no {words:?} in {:?}", list[0].message);
}

#[test]
fn missing_unreadable_and_wrong_files_are_errors() {
    for (file, key) in [("edge.pem", "certificate"), ("edge.key", "key"), ("partners.pem", "trust")]
    {
        let folder = good_files();
        std::fs::remove_file(folder.0.join(file)).unwrap();
        expect(&folder, key, true, "cannot be read");
        std::fs::create_dir(folder.0.join(file)).unwrap();
        expect(&folder, key, true, "is no file");
        std::fs::remove_dir(folder.0.join(file)).unwrap();
        folder.write(file, "nothing in PEM\n", 0o600);
        expect(&folder, key, true, "in PEM");
        let damaged = "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n";
        folder.write(file, damaged, 0o600);
        expect(&folder, key, true, "PEM");
    }
}

#[test]
fn a_certificate_that_is_none_and_a_store_without_roots_are_errors() {
    let folder = good_files();
    let junk = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    folder.write("partners.pem", junk, 0o644);
    expect(&folder, "trust", true, "no usable certificate");
    let good = std::fs::read_to_string(folder.0.join("edge.pem")).unwrap();
    folder.write("partners.pem", format!("{good}{junk}"), 0o644);
    expect(&folder, "trust", false, "1 of 2 certificates in the trust store");
    let folder = good_files();
    folder.write("edge.pem", format!("{good}{junk}"), 0o644);
    let text = findings(&folder, &example()).to_string();
    assert!(text.contains("certificate 2 in the file is not readable"), "{text}");
}

#[test]
fn a_key_that_others_can_read_is_an_error_and_never_shown() {
    let folder = good_files();
    let pem = std::fs::read_to_string(folder.0.join("edge.key")).unwrap();
    for (mode, open) in [
        (0o600, false),
        (0o640, false),
        (0o400, false),
        (0o644, true),
        (0o604, true),
        (0o660, true),
    ] {
        folder.write("edge.key", &pem, mode);
        if open {
            expect(&folder, "key", true, &format!("open to others (mode {mode:04o})"));
        } else {
            assert_eq!(findings(&folder, &example()).to_string(), "", "{mode:o}");
        }
    }
    folder.write("edge.key", pem.replace("PRIVATE KEY", "SECRET KEY"), 0o600);
    let text = findings(&folder, &example()).render(true);
    assert!(pem.lines().all(|line| line.starts_with('-') || !text.contains(line)));
}

#[test]
fn a_key_of_another_certificate_is_an_error() {
    let folder = good_files();
    folder.write("edge.key", KeyPair::generate().unwrap().serialize_pem(), 0o600);
    expect(&folder, "key", true, "does not belong to the first certificate");
}

#[test]
fn the_certificate_must_hold_the_fqdn_as_a_dns_name() {
    let cases: &[(&[&str], &str)] = &[
        (&["other.example"], "does not hold edge.contoso.example, but other.example"),
        (&["*.contoso.example"], "by a wildcard only"),
        (&["192.0.2.1"], "holds no DNS name at all"),
        (&[], "holds no DNS name at all"),
        (&["xedge.contoso.example"], "does not hold"),
    ];
    for (names, words) in cases {
        let mut params = params(names);
        // A common name proves nothing.
        params.distinguished_name.push(DnType::CommonName, "edge.contoso.example");
        expect(&with(params), "certificate", true, words);
    }
    assert_eq!(
        findings(&with(params(&["a.example", "Edge.Contoso.Example"])), &example()).to_string(),
        ""
    );
}

#[test]
fn a_served_domain_is_provable_by_its_own_name_or_a_host_inside_it() {
    let uri = SanType::URI("sip:other.example".try_into().unwrap());
    let mut with_uri = params(&["edge.contoso.example"]);
    with_uri.subject_alt_names.push(uri);
    let cases = [
        (params(&["edge.contoso.example"]), false),
        (params(&["edge.contoso.example", "other.example"]), true),
        (params(&["edge.contoso.example", "sip.other.example"]), false),
        (with_uri, true),
    ];
    let text =
        example().replace("[\"contoso.example\"]", "[\"contoso.example\", \"other.example\"]");
    for (params, provable) in cases {
        let ConfigErrors { errors, warnings, .. } = findings(&with(params), &text);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(warnings.is_empty(), provable, "{warnings:?}");
    }
}

#[test]
fn validity_is_judged_now() {
    let mut expired = params(&["edge.contoso.example"]);
    expired.not_after = date_time_ymd(2020, 1, 1);
    expect(&with(expired), "certificate", false, "certificate 1 expired on");
    let mut early = params(&["edge.contoso.example"]);
    early.not_before = date_time_ymd(3000, 1, 1);
    expect(&with(early), "certificate", false, "is not valid before");
    let mut short = params(&["edge.contoso.example"]);
    short.not_after = date_time_ymd(2200, 1, 10);
    let folder = with(short);
    let at = |days: u64| {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs((84_006 + days) * 86_400);
        check_text(&example(), &folder.0.join("edge.toml"), now).findings
    };
    // 84,006 days after 1970 is 1 January 2200.
    let warns = |days, words| at(days).warnings.iter().any(|w| w.message.contains(words));
    assert!(warns(8, "certificate 1 expires on") && warns(10, "certificate 1 expired on"));
    assert!(at(8).errors.is_empty() && at(10).errors.is_empty());
}

#[test]
fn one_certificate_serves_both_ways() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    let cases: &[(&[ExtendedKeyUsagePurpose], Option<&str>)] = &[
        (&[ServerAuth], Some("TLS clients")),
        (&[ClientAuth], Some("TLS servers")),
        (&[ServerAuth, ClientAuth], None),
        (&[Any], None),
        (&[], None),
    ];
    for (usages, expected) in cases {
        let mut params = params(&["edge.contoso.example"]);
        params.extended_key_usages = usages.to_vec();
        let folder = with(params);
        match expected {
            Some(words) => expect(&folder, "certificate", false, words),
            None => assert_eq!(findings(&folder, &example()).to_string(), "", "{usages:?}"),
        }
    }
    let mut ca = params(&["edge.contoso.example"]);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    expect(&with(ca), "certificate", false, "the certificate is a CA's");
}

#[test]
fn a_partner_may_want_a_certificate_for_clients() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let text = example().replacen(
        "domain = \"fabrikam.example\"\n",
        "domain = \"fabrikam.example\"\nneeds_client_usage = true\n",
        1,
    );
    assert_ne!(text, example());
    for (usages, error) in
        [(vec![ServerAuth], true), (vec![ServerAuth, ClientAuth], false), (vec![], false)]
    {
        let mut params = params(&["edge.contoso.example"]);
        params.extended_key_usages = usages;
        let found = findings(&with(params), &text).to_string();
        let words = "(clientAuth), and fabrikam.example accepts no other (needs_client_usage)";
        assert_eq!(found.contains(words), error, "{found}");
    }
}

#[test]
fn the_chain_is_in_order_leaf_first() {
    let root_key = KeyPair::generate().unwrap();
    let mut root = params(&[]);
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name = DistinguishedName::new();
    root.distinguished_name.push(DnType::CommonName, "Root");
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(root, &root_key);
    let leaf = params(&["edge.contoso.example"]).signed_by(&key, &issuer).unwrap().pem();
    let folder = good_files();
    folder.write("edge.key", key.serialize_pem(), 0o600);
    folder.write("edge.pem", format!("{leaf}{root_pem}"), 0o644);
    assert_eq!(findings(&folder, &example()).to_string(), "");
    folder.write("edge.pem", format!("{root_pem}{leaf}"), 0o644);
    let text = findings(&folder, &example()).to_string();
    assert!(text.contains("certificate 1 of the chain was not issued by certificate 2"), "{text}");
    assert!(text.contains("does not belong to the first certificate"), "{text}");
}

#[test]
fn files_for_inside_are_checked_when_they_are_its_own() {
    let folder = good_files();
    let text = example()
        .replace("# certificate = \"inside.pem\"", "certificate = \"inside.pem\"")
        .replace("# key = \"inside.key\"", "key = \"inside.key\"");
    let errors = findings(&folder, &text);
    assert_eq!(errors.errors.len(), 2, "{errors}");
    let key = KeyPair::generate().unwrap();
    let inside = params(&["inside.contoso.example"]).self_signed(&key).unwrap();
    folder.write("inside.pem", inside.pem(), 0o644);
    folder.write("inside.key", key.serialize_pem(), 0o600);
    let config = parse(&text, &folder.0.join("edge.toml")).unwrap();
    let tls = config.inside.tls.unwrap();
    assert_eq!(tls.certificate, folder.0.join("inside.pem"));
    assert_eq!(tls.trust, config.access.tls.trust);
    let plain = text
        .replace("\"tls:10.0.0.10:5061\"", "\"tcp:10.0.0.10:5060\"")
        .replace("transport=tls", "transport=tcp");
    assert_eq!(parse(&plain, &folder.0.join("edge.toml")).unwrap().inside.tls, None);
}
