use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose as Eku, KeyPair, SanType, string::Ia5String,
};
use rustls::pki_types::CertificateDer;

use super::*;
use crate::{
    config::PeerOptions,
    federation::{PartnerKind, Route},
};

fn domain(text: &str) -> Domain {
    text.parse().unwrap()
}

fn certificate(sans: &[SanType], common_name: &str) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = sans.to_vec();
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(name).unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(Ia5String::try_from(name).unwrap())
}

fn names(sans: &[SanType]) -> CertificateNames {
    CertificateNames::from_der(&certificate(sans, "x")).unwrap()
}

/// The trust rules, section 2, row by row. The domain is always `fabrikam.com`.
#[test]
fn what_a_certificate_proves() {
    struct Row {
        why: &'static str,
        sans: Vec<SanType>,
        pinned: Option<&'static str>,
        srv: &'static [&'static str],
        relax: bool,
        expected: Option<Proof>,
    }
    let row = |why, sans: &[SanType], pinned, srv, relax, expected| Row {
        why,
        sans: sans.to_vec(),
        pinned,
        srv,
        relax,
        expected,
    };
    const SRV: &[&str] = &["sip.fabrikam.com"];
    const FOREIGN: &[&str] = &["edge.hoster.example"];
    let rows = [
        // (a) the domain itself
        row(
            "DNS name is the domain",
            &[dns("fabrikam.com")],
            None,
            &[],
            false,
            Some(Proof::Domain),
        ),
        row(
            "URI name is the domain",
            &[uri("sip:fabrikam.com")],
            None,
            &[],
            false,
            Some(Proof::Domain),
        ),
        row("case does not matter", &[dns("FABRIKAM.com")], None, &[], false, Some(Proof::Domain)),
        row(
            "one of many names",
            &[dns("a.example"), dns("fabrikam.com")],
            None,
            &[],
            false,
            Some(Proof::Domain),
        ),
        row(
            "URI names win over DNS names (RFC 5922)",
            &[uri("sip:other.example"), dns("fabrikam.com")],
            None,
            &[],
            false,
            None,
        ),
        row("a user's URI is no domain", &[uri("sip:alice@fabrikam.com")], None, &[], false, None),
        row(
            "a user's URI does not hide the DNS name",
            &[uri("sip:alice@fabrikam.com"), dns("fabrikam.com")],
            None,
            &[],
            false,
            Some(Proof::Domain),
        ),
        // (b) the pinned host
        row(
            "pinned host, elsewhere",
            &[dns("edge.hoster.example")],
            Some("edge.hoster.example"),
            &[],
            false,
            Some(Proof::PinnedHost),
        ),
        row(
            "pinned host beside a URI name",
            &[uri("sip:other.example"), dns("edge.hoster.example")],
            Some("edge.hoster.example"),
            &[],
            false,
            Some(Proof::PinnedHost),
        ),
        row(
            "neighbour of the pinned host",
            &[dns("edge2.hoster.example")],
            Some("edge.hoster.example"),
            &[],
            false,
            None,
        ),
        row(
            "name below the pinned host",
            &[dns("x.edge.hoster.example")],
            Some("edge.hoster.example"),
            &[],
            false,
            None,
        ),
        // (c) an SRV target
        row(
            "host-only certificate",
            &[dns("sip.fabrikam.com")],
            None,
            SRV,
            false,
            Some(Proof::SrvTarget),
        ),
        row("host without an SRV record", &[dns("sip.fabrikam.com")], None, &[], false, None),
        row("another host of the domain", &[dns("www.fabrikam.com")], None, SRV, false, None),
        row(
            "the target as a prefix",
            &[dns("sip.fabrikam.com.evil.example")],
            None,
            SRV,
            false,
            None,
        ),
        row("the domain as a prefix", &[dns("fabrikam.com.evil.example")], None, SRV, false, None),
        row("the domain as a suffix", &[dns("xfabrikam.com")], None, SRV, false, None),
        row("the target as a suffix", &[dns("xsip.fabrikam.com")], None, SRV, false, None),
        row("the domain above", &[dns("com.example")], None, SRV, false, None),
        row("foreign target", &[dns("edge.hoster.example")], None, FOREIGN, false, None),
        row(
            "foreign target, relaxed",
            &[dns("edge.hoster.example")],
            None,
            FOREIGN,
            true,
            Some(Proof::SrvTarget),
        ),
        row(
            "relaxed, but another host of the hoster",
            &[dns("www.hoster.example")],
            None,
            FOREIGN,
            true,
            None,
        ),
        row(
            "a target in a domain that only ends alike",
            &[dns("sip.xfabrikam.com")],
            None,
            &["sip.xfabrikam.com"],
            false,
            None,
        ),
        // what never counts
        row("wildcard", &[dns("*.fabrikam.com")], None, SRV, false, None),
        row(
            "wildcard, pinned",
            &[dns("*.hoster.example")],
            Some("edge.hoster.example"),
            &[],
            false,
            None,
        ),
        row("address", &[SanType::IpAddress("192.0.2.1".parse().unwrap())], None, SRV, true, None),
        row("no alternative name", &[], Some("edge.hoster.example"), SRV, true, None),
    ];
    for row in rows {
        let names = names(&row.sans);
        let pinned = row.pinned.map(domain);
        let srv: Vec<_> = row.srv.iter().map(|host| domain(host)).collect();
        let got = proves(&names, &domain("fabrikam.com"), pinned.as_ref(), &srv, row.relax);
        assert_eq!(got, row.expected, "{}", row.why);
    }
}

#[test]
fn a_common_name_proves_nothing() {
    for common_name in ["fabrikam.com", "sip.fabrikam.com", "edge.hoster.example"] {
        let names = CertificateNames::from_der(&certificate(&[], common_name)).unwrap();
        let srv = [domain("sip.fabrikam.com")];
        let pinned = domain("edge.hoster.example");
        assert_eq!(
            proves(&names, &domain("fabrikam.com"), Some(&pinned), &srv, true),
            None,
            "{common_name}"
        );
    }
}

fn partner(kind: PartnerKind, options: PeerOptions) -> Partner {
    let route = match kind {
        PartnerKind::AllowedDomain | PartnerKind::DiscoveredDomain => Route::Srv,
        _ => Route::Host { fqdn: domain("edge.hoster.example"), port: 5061 },
    };
    Partner {
        kind,
        domain: domain("fabrikam.com"),
        route,
        name: "fabrikam.com".into(),
        relax_srv_domain: false,
        allow_anonymous: false,
        may_be_carried: false,
        public_im: false,
        options,
    }
}

fn with_usages(sans: &[SanType], usages: &[Eku]) -> CertificateNames {
    let mut params = CertificateParams::default();
    params.subject_alt_names = sans.to_vec();
    params.extended_key_usages = usages.to_vec();
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    CertificateNames::from_der(certificate.der()).unwrap()
}

/// Usages in the certificate, then which policies accept it when the partner dials us and when we
/// dial it.
#[test]
fn the_key_usage_is_as_the_entry_demands() {
    use UsagePolicy as P;
    let sip_domain = || Eku::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 20]);
    let other = || Eku::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 21]);
    const ALL: [P; 5] = [P::Any, P::Standard, P::Server, P::Client, P::SipDomain];
    type Row = (Vec<Eku>, &'static [P], &'static [P]);
    let rows: [Row; 8] = [
        (vec![], &[P::Any, P::Standard], &[P::Any, P::Standard]),
        (vec![Eku::ServerAuth], &[P::Any, P::Server], &[P::Any, P::Standard, P::Server]),
        (vec![Eku::ClientAuth], &[P::Any, P::Standard, P::Client], &[P::Any, P::Client]),
        (
            vec![Eku::ServerAuth, Eku::ClientAuth],
            &[P::Any, P::Standard, P::Server, P::Client],
            &[P::Any, P::Standard, P::Server, P::Client],
        ),
        (vec![sip_domain()], &[P::Any, P::SipDomain], &[P::Any, P::SipDomain]),
        (
            vec![Eku::ServerAuth, sip_domain()],
            &[P::Any, P::Server, P::SipDomain],
            &[P::Any, P::Standard, P::Server, P::SipDomain],
        ),
        (vec![other()], &[], &[]),
        (vec![Eku::Any, Eku::CodeSigning], &[], &[]),
    ];
    for (usages, inbound, outbound) in rows {
        let names = with_usages(&[dns("fabrikam.com")], &usages);
        for usage in ALL {
            let options = PeerOptions { usage, ..PeerOptions::default() };
            let partner = partner(PartnerKind::AllowedDomain, options);
            for (dialled, good) in [(false, inbound), (true, outbound)] {
                let expected = if good.contains(&usage) {
                    Ok(Proof::Domain)
                } else {
                    Err(Refusal::WrongUsage)
                };
                let got = proves_partner(&names, &partner, &[], dialled);
                assert_eq!(got, expected, "{usages:?} {usage:?} dialled {dialled}");
            }
        }
        // What does not name the partner is not told about its usage.
        let options = PeerOptions { usage: P::SipDomain, ..PeerOptions::default() };
        let stranger =
            Partner { domain: domain("b.com"), ..partner(PartnerKind::AllowedDomain, options) };
        assert_eq!(
            proves_partner(&names, &stranger, &[], true),
            Err(Refusal::IdentityNotProved),
            "{usages:?}"
        );
    }
}

/// (pins of the entry, the key is the pinned one, no authority) -> proved.
#[test]
fn a_pin_is_asked_first_and_replaces_the_authority() {
    let good = names(&[dns("fabrikam.com")]);
    let other = names(&[dns("fabrikam.com")]);
    let stranger = names(&[dns("other.example")]);
    let key = Pin(good.spki.unwrap());
    assert_ne!(good.spki, other.spki);
    for (certificate, pins, unchained, proved) in [
        (&good, vec![], false, true),
        (&good, vec![key], false, true),
        (&good, vec![Pin([0; 32]), key], false, true),
        (&good, vec![key], true, true),
        (&good, vec![], true, false),
        (&good, vec![Pin([0; 32])], false, false),
        (&good, vec![Pin([0; 32])], true, false),
        (&other, vec![key], false, false),
        (&other, vec![key], true, false),
        // A pin does not replace the name.
        (&stranger, vec![Pin(stranger.spki.unwrap())], false, false),
        (&stranger, vec![Pin(stranger.spki.unwrap())], true, false),
    ] {
        let names = CertificateNames { unchained, ..certificate.clone() };
        let options = PeerOptions { pins: pins.clone(), ..PeerOptions::default() };
        let partner = partner(PartnerKind::AllowedDomain, options);
        let got = proves_partner(&names, &partner, &[], false).is_ok();
        assert_eq!(got, proved, "{pins:?} unchained {unchained}");
    }
    // A certificate whose key could not be read has none of the pinned ones.
    let names = CertificateNames { spki: None, ..good };
    let options = PeerOptions { pins: vec![key], ..PeerOptions::default() };
    assert!(
        proves_partner(&names, &partner(PartnerKind::AllowedDomain, options), &[], false).is_err()
    );
}

/// For each certificate and each kind of entry: what it proves strictly, with `wildcard`, with
/// `common_name`, with both. The SRV record names `sip.fabrikam.com`; the pinned host is
/// `edge.hoster.example`.
#[test]
fn wildcards_and_common_names_count_only_where_the_entry_says_so() {
    use PartnerKind as K;
    use Proof::{Domain as D, PinnedHost as H, SrvTarget as S};
    let san = |names: &[&str]| {
        let sans: Vec<_> = names.iter().map(|name| dns(name)).collect();
        certificate(&sans, "fabrikam.com")
    };
    let cn = |name: &str| certificate(&[], name);
    let uri_only = certificate(&[uri("sip:other.example")], "fabrikam.com");
    let address_only =
        certificate(&[SanType::IpAddress("192.0.2.1".parse().unwrap())], "fabrikam.com");
    type Proofs = [Option<Proof>; 4];
    const NO: Proofs = [None; 4];
    let all = |proof| [Some(proof); 4];
    let wild = |proof| [None, Some(proof), None, Some(proof)];
    let common = |proof| [None, None, Some(proof), Some(proof)];
    let rows: Vec<(&str, CertificateDer<'static>, [Proofs; 3])> = vec![
        // (what, certificate, [allowed domain, allowed server, provider])
        ("domain", san(&["fabrikam.com"]), [all(D), all(D), NO]),
        ("SRV host", san(&["sip.fabrikam.com"]), [all(S), NO, NO]),
        ("pinned host", san(&["edge.hoster.example"]), [NO, all(H), all(H)]),
        ("wildcard of the domain", san(&["*.fabrikam.com"]), [wild(S), NO, NO]),
        ("wildcard of the host's domain", san(&["*.hoster.example"]), [NO, NO, wild(H)]),
        ("wildcard above", san(&["*.com.example"]), [NO; 3]),
        ("two labels", san(&["*.sip.fabrikam.com"]), [NO; 3]),
        ("look-alike wildcard", san(&["*.xfabrikam.com"]), [NO; 3]),
        ("common name is the domain", cn("fabrikam.com"), [common(D), common(D), NO]),
        ("common name is the SRV host", cn("SIP.fabrikam.com"), [common(S), NO, NO]),
        ("common name is the pinned host", cn("edge.hoster.example"), [NO, common(H), common(H)]),
        ("common name with a dot", cn("fabrikam.com."), [NO; 3]),
        ("common name is a wildcard", cn("*.fabrikam.com"), [NO; 3]),
        ("common name of a neighbour", cn("sip.fabrikam.com.evil.example"), [NO; 3]),
        ("common name beside a DNS name", san(&["other.example"]), [NO; 3]),
        ("common name beside a wildcard", san(&["*.other.example"]), [NO; 3]),
        ("common name beside a URI", uri_only, [NO; 3]),
        ("common name beside an address", address_only, [common(D), common(D), NO]),
    ];
    let srv = [domain("sip.fabrikam.com")];
    for (what, der, kinds) in rows {
        let names = CertificateNames::from_der(&der).unwrap();
        let entries = [K::AllowedDomain, K::AllowedServer, K::HostingProvider];
        for (kind, proofs) in entries.into_iter().zip(kinds) {
            for (index, expected) in proofs.into_iter().enumerate() {
                let options = PeerOptions {
                    wildcard: index & 1 != 0,
                    common_name: index & 2 != 0,
                    ..PeerOptions::default()
                };
                let partner = partner(kind, options.clone());
                let got = proves_partner(&names, &partner, &srv, false).ok();
                assert_eq!(got, expected, "{what}: {kind:?} {options:?}");
                // DNS is asked whenever its answer could be the proof.
                if got == Some(S) {
                    assert!(may_be_srv_target(&names, &partner), "{what}: {kind:?} {options:?}");
                }
                if got == Some(S) || kind != K::AllowedDomain {
                    let without = proves_partner(&names, &partner, &[], false).ok();
                    assert_ne!(without, Some(S), "{what}");
                }
            }
        }
    }
}

#[test]
fn dns_is_not_asked_about_strangers() {
    let options = PeerOptions { wildcard: true, common_name: true, ..PeerOptions::default() };
    let entry = partner(PartnerKind::AllowedDomain, options);
    for (der, asked) in [
        (certificate(&[dns("other.example"), dns("*.other.example")], "fabrikam.com"), false),
        (certificate(&[dns("x.fabrikam.com")], "x"), true),
        (certificate(&[dns("*.fabrikam.com")], "x"), true),
        (certificate(&[], "x.fabrikam.com"), true),
    ] {
        let names = CertificateNames::from_der(&der).unwrap();
        assert_eq!(may_be_srv_target(&names, &entry), asked, "{names:?}");
        assert!(!may_be_srv_target(
            &names,
            &partner(PartnerKind::AllowedServer, entry.options.clone())
        ));
        let relaxed = Partner { relax_srv_domain: true, ..entry.clone() };
        assert!(may_be_srv_target(&names, &relaxed));
    }
}
