//! Any text as each of the values that routing and trust rest on: a reading, or a fault, and the
//! reading is one that its own text gives again.

use edge_user::sip::{CSeq, Host, NameAddr, Scheme, Uri, Via};

/// Whatever comes, what must hold does: else it panics.
pub fn run(data: &[u8]) {
    let Some((choice, value)) = data.split_first() else { return };
    match choice % 4 {
        0 => {
            if let Ok(text) = std::str::from_utf8(value) {
                uri(text);
            }
        }
        1 => {
            if let Ok(address) = NameAddr::parse(value) {
                uri(address.uri.as_str());
                assert!(!address.uri.as_str().contains(['<', '>', '"', ' ']));
                let tags = address.params.iter().filter(|(n, _)| n.eq_ignore_ascii_case("tag"));
                assert!(tags.count() <= 1, "one tag, or two dialogs");
                let _ = address.display.map(<[u8]>::len);
                assert!(NameAddr::parse_bracketed(value).is_ok() == value.contains(&b'<'));
            }
        }
        2 => {
            if let Ok(via) = Via::parse(value) {
                assert!(!via.transport.is_empty());
                assert_eq!(Host::parse(&via.host.to_string()), Some(via.host));
                assert!(via.unique_branch().is_none_or(|unique| !unique.is_empty()));
                for (name, _) in via.params.iter() {
                    let alike = |(other, _): &(&str, _)| other.eq_ignore_ascii_case(name);
                    assert_eq!(via.params.iter().filter(alike).count(), 1);
                }
            }
        }
        _ => {
            if let Ok(cseq) = CSeq::parse(value) {
                assert!(cseq.number < 1 << 31);
                let text = format!("{} {}", cseq.number, cseq.method);
                assert_eq!(CSeq::parse(text.as_bytes()), Ok(cseq));
            }
        }
    }
}
fn uri(text: &str) {
    let Ok(uri) = Uri::parse(text) else { return };
    assert_eq!(uri.as_str(), text);
    assert!(text.bytes().all(|b| b.is_ascii_graphic()));
    assert_eq!(uri.is_sip(), uri.host().is_some(), "only SIP addresses have a host");
    if let Some(host) = uri.host() {
        assert_eq!(Host::parse(&host.to_string()), Some(host), "the host is one");
        assert!(host.domain().is_none_or(|domain| host.is(&domain)));
        // What a trust decision rests on is what stands behind the only `@`.
        let behind_scheme = text.split_once(':').expect("a scheme").1;
        let rest = behind_scheme.split_once('@').map_or(behind_scheme, |(_, rest)| rest);
        assert!(!rest.contains('@'), "a second @");
        if let Host::Name(name) = host {
            assert!(rest.starts_with(name), "{text}: {name}");
        }
    }
    if uri.scheme() == Scheme::Tel {
        assert!(uri.user().is_some_and(|number| !number.is_empty()));
    }
}
