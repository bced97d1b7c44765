//! Whose certificate is let in: lists, pins, and names of servers.

use rustls::{client::danger::ServerCertVerifier as _, server::danger::ClientCertVerifier as _};

use super::*;
use crate::{
    config::{Federation, PeerOptions, Pin, tests_support::Folder},
    net::testing::{Authority, Issued, Leaf, write_files},
};

const NAME: &str = "sip.fabrikam.example";
/// Years of lists that are good now, and that were.
const GOOD: (i32, i32) = (2024, 2044);
const OLD: (i32, i32) = (2020, 2021);

struct Lab {
    folder: Folder,
    partners: Authority,
    files: TlsFiles,
}

impl Lab {
    fn new() -> Self {
        let folder = Folder::new();
        let partners = Authority::new("partners' root");
        let own = Authority::new("our root").dns(&["edge.contoso.example"]);
        let files = write_files(&folder, "edge", &own, &partners.pem);
        Self { folder, partners, files }
    }

    fn store(&self, lists: &[Vec<u8>], hard: bool, points: bool) -> TlsStore {
        let mut revocation = Revocation { hard, points, ..Revocation::default() };
        for (index, list) in lists.iter().enumerate() {
            let name = format!("list{index}.crl");
            self.folder.write(&name, list, 0o644);
            revocation.files.push(self.folder.0.join(name));
        }
        TlsStore::with(Source::new(&self.files, &[], None, (None, None), &revocation)).unwrap()
    }
}

fn allow(store: &TlsStore, options: PeerOptions) {
    let federation = Federation { discovered: options, ..Federation::default() };
    store.set_exceptions(Exceptions::of(&federation));
}

fn pins(certificates: &[&Issued]) -> PeerOptions {
    let pins = certificates.iter().map(|own| Pin(own.names().spki.unwrap())).collect();
    PeerOptions { pins, ..PeerOptions::default() }
}

/// The fault of a client's certificate, if any.
fn fault(store: &TlsStore, own: &Issued) -> Option<HandshakeFault> {
    let chain = own.chain();
    let verified = store.current().verifier.verify_client_cert(&chain[0], &[], UnixTime::now());
    verified.err().map(|error| HandshakeError::from(std::io::Error::other(error)).fault)
}

#[test]
fn what_the_lists_say_soft_and_hard() {
    use HandshakeFault::{RevocationUnknown as U, Revoked as R};
    let lab = Lab::new();
    let own = lab.partners.dns(&[NAME]);
    let other = lab.partners.dns(&[NAME]);
    // The same name with another key: whoever serves a list over HTTP could be that.
    let forger = Authority::new("partners' root");
    let stranger = Authority::new("nobody's root");
    let pem = |der: &[u8]| {
        let coded = pem_of(der);
        format!("-----BEGIN X509 CRL-----\n{coded}-----END X509 CRL-----\n").into_bytes()
    };
    let good = lab.partners.crl(&[&other], GOOD);
    let naming = lab.partners.crl(&[&other, &own], GOOD);
    let old = lab.partners.crl(&[&other], OLD);
    let old_naming = lab.partners.crl(&[&own], OLD);
    type Row = (&'static str, Vec<Vec<u8>>, Option<HandshakeFault>, Option<HandshakeFault>);
    let rows: Vec<Row> = vec![
        ("no list", vec![], None, Some(U)),
        ("a list without it", vec![good.clone()], None, None),
        ("the same in PEM", vec![pem(&good)], None, None),
        ("a list with it", vec![naming.clone()], Some(R), Some(R)),
        ("the same in PEM", vec![pem(&naming)], Some(R), Some(R)),
        ("an old list without it", vec![old.clone()], None, Some(U)),
        ("an old list with it", vec![old_naming.clone()], Some(R), Some(U)),
        ("an old and a new one", vec![old, good.clone()], None, None),
        ("the newer counts", vec![old_naming, good.clone()], None, None),
        ("another issuer's", vec![stranger.crl(&[&own], GOOD)], None, Some(U)),
        ("a forged one without it", vec![forger.crl(&[], GOOD)], None, Some(U)),
        ("a forged one with it", vec![forger.crl(&[&own], GOOD)], None, Some(U)),
        ("beside another issuer's", vec![stranger.crl(&[], GOOD), naming], Some(R), Some(R)),
    ];
    for (why, lists, soft, hard) in rows {
        assert_eq!(fault(&lab.store(&lists, false, false), &own), soft, "{why}, soft");
        assert_eq!(fault(&lab.store(&lists, true, false), &own), hard, "{why}, hard");
    }
    // A fault of the chain is told first.
    let expired = Leaf { dns: &[NAME], expired: true, ..Leaf::default() };
    for hard in [false, true] {
        for lists in [vec![], vec![good.clone()]] {
            let store = lab.store(&lists, hard, false);
            let stranger = stranger.dns(&[NAME]);
            assert_eq!(fault(&store, &stranger), Some(HandshakeFault::UnknownAuthority));
            assert_eq!(fault(&store, &lab.partners.issue(&expired)), Some(HandshakeFault::Expired));
        }
    }
}

fn pem_of(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (index, three) in der.chunks(3).enumerate() {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
        if index % 16 == 15 {
            text.push('\n');
        }
    }
    text + "\n"
}

#[test]
fn a_pin_lets_a_key_in_without_authority_and_marks_it() {
    let lab = Lab::new();
    let alone = Issued::by_itself(&[NAME]);
    let stranger = Authority::new("nobody's root").dns(&[NAME]);
    let chained = lab.partners.dns(&[NAME]);
    let old = Leaf { dns: &[NAME], expired: true, ..Leaf::default() };
    let expired = Authority::new("nobody's root").issue(&old);
    let store = lab.store(&[], false, false);
    for own in [&alone, &stranger] {
        assert_eq!(fault(&store, own), Some(HandshakeFault::UnknownAuthority));
    }
    allow(&store, pins(&[&alone, &stranger, &expired, &chained]));
    for own in [&alone, &stranger] {
        assert_eq!(fault(&store, own), None);
        let names = store.peer_names(Side::Partner, Some(&own.chain())).unwrap();
        assert!(names.unchained);
        // The mark is the certificate's own, and stays when the pin goes.
        assert!(!store.peer_names(Side::Partner, Some(&chained.chain())).unwrap().unchained);
    }
    assert_eq!(fault(&store, &chained), None);
    assert!(!store.peer_names(Side::Partner, Some(&chained.chain())).unwrap().unchained);
    assert_eq!(fault(&store, &expired), Some(HandshakeFault::Expired), "in its time all the same");
    allow(&store, PeerOptions::default());
    assert_eq!(fault(&store, &alone), Some(HandshakeFault::UnknownAuthority));
    assert!(store.peer_names(Side::Partner, Some(&alone.chain())).unwrap().unchained);
}

#[test]
fn a_pin_is_stronger_than_a_missing_list_and_weaker_than_a_list() {
    let lab = Lab::new();
    let own = lab.partners.dns(&[NAME]);
    let hard = lab.store(&[], true, false);
    allow(&hard, pins(&[&own]));
    assert_eq!(fault(&hard, &own), None);
    // What let it in was the pin.
    assert!(hard.peer_names(Side::Partner, Some(&own.chain())).unwrap().unchained);
    let naming = lab.store(&[lab.partners.crl(&[&own], GOOD)], false, false);
    allow(&naming, pins(&[&own]));
    assert_eq!(fault(&naming, &own), Some(HandshakeFault::Revoked));
}

#[test]
fn a_servers_name_may_be_a_wildcard_or_common_name_where_an_entry_says_so() {
    let lab = Lab::new();
    let store = lab.store(&[], false, false);
    let wildcard = lab.partners.dns(&["*.fabrikam.example"]);
    let exact = lab.partners.dns(&[NAME]);
    let other = lab.partners.dns(&["www.fabrikam.example"]);
    let deep = lab.partners.dns(&["*.example"]);
    let common = lab.partners.common_name(NAME);
    let take =
        |wildcard, common_name| PeerOptions { wildcard, common_name, ..PeerOptions::default() };
    for (options, expected) in [
        (take(false, false), [false, true, false, false, false]),
        (take(true, false), [true, true, false, false, false]),
        (take(false, true), [false, true, false, false, true]),
        (take(true, true), [true, true, false, false, true]),
    ] {
        allow(&store, options.clone());
        let name = server_name(Some(&NAME.parse().unwrap()), [192, 0, 2, 1].into());
        for (own, expected) in [&wildcard, &exact, &other, &deep, &common].into_iter().zip(expected)
        {
            let chain = own.chain();
            let verifier = Arc::clone(&store.current().verifier);
            let verified = verifier.verify_server_cert(&chain[0], &[], &name, &[], UnixTime::now());
            assert_eq!(verified.is_ok(), expected, "{:?} {options:?}", own.names());
        }
    }
}

#[test]
fn lists_are_watched_and_name_who_is_connected() {
    let lab = Lab::new();
    let own = lab.partners.dns(&[NAME]);
    let store = lab.store(&[lab.partners.crl(&[], GOOD)], false, false);
    let mut changes = store.changed_lists();
    assert!(!store.is_revoked(&own.names()));
    lab.folder.write("list0.crl", lab.partners.crl(&[&own], (2025, 2044)), 0o644);
    store.reload_if_changed().unwrap().unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert!(store.is_revoked(&own.names()) && !store.is_revoked(&CertificateNames::default()));
    let refused = store.peer_names(Side::Partner, Some(&own.chain())).unwrap_err();
    assert_eq!(refused.fault, HandshakeFault::Revoked);
    // A damaged list changes nothing.
    lab.folder.write("list0.crl", "garbage", 0o644);
    let error = store.reload_if_changed().unwrap().unwrap_err().to_string();
    assert!(error.contains("list0.crl"), "{error}");
    assert!(store.is_revoked(&own.names()));
}

#[test]
fn a_fetched_list_is_taken_only_when_it_is_the_issuers_and_newer() {
    let lab = Lab::new();
    let own = lab.partners.dns(&[NAME]);
    let chain = own.chain();
    let point = || Some("http://crl.fabrikam.example/1.crl".into());
    let store = lab.store(&[], false, true);
    let forger = Authority::new("partners' root");
    let stranger = Authority::new("nobody's root");
    for (why, list, words) in [
        ("old", lab.partners.crl(&[], OLD), "time is over"),
        ("forged", forger.crl(&[], GOOD), "does not speak"),
        ("another issuer's", stranger.crl(&[], GOOD), "does not speak"),
    ] {
        let list = RevocationList::read(&list, point()).unwrap();
        let refused = store.check_list(&chain, &list).unwrap_err().to_string();
        assert!(refused.contains(words), "{why}: {refused}");
    }
    let mut huge = vec![0x30];
    huge.resize(MAX_LIST + 1, 0);
    assert_eq!(RevocationList::read(&huge, point()).unwrap_err(), ListFault::TooLarge);
    for garbage in [&b""[..], b"garbage", b"\x30\x03\x02\x01\x01", &chain[0]] {
        assert!(matches!(RevocationList::read(garbage, point()), Err(ListFault::Unreadable(_))));
    }
    let take = |revoked: &[&Issued], year| {
        let list = lab.partners.crl(revoked, (year, 2044));
        let list = RevocationList::read(&list, point()).unwrap();
        store.check_list(&chain, &list).unwrap();
        store.rules().add_fetched(list)
    };
    assert!(take(&[], 2023) && !store.is_revoked(&own.names()));
    assert!(take(&[&own], 2024) && store.is_revoked(&own.names()));
    assert!(!take(&[], 2023) && store.is_revoked(&own.names()), "an old one is played back");
    assert!(take(&[], 2025) && !store.is_revoked(&own.names()));
    store.rules().forget("http://crl.fabrikam.example/1.crl");
    assert_eq!(store.rules().used_at("http://crl.fabrikam.example/1.crl"), None);
}

#[test]
fn lists_are_asked_for_once_and_only_for_good_chains() {
    let lab = Lab::new();
    let point = "http://crl.fabrikam.example/1.crl";
    let leaf = Leaf { dns: &[NAME], crl_points: &[point], ..Leaf::default() };
    let own = lab.partners.issue(&leaf);
    let stranger = Authority::new("nobody's root").issue(&leaf);
    for hard in [false, true] {
        let store = lab.store(&[], hard, true);
        let mut wants = store.rules().take_wants().unwrap();
        assert!(store.rules().take_wants().is_none());
        fault(&store, &stranger);
        assert!(wants.try_recv().is_err(), "nobody's certificate has us connect anywhere");
        assert_eq!(fault(&store, &own), hard.then_some(HandshakeFault::RevocationUnknown));
        let wanted = wants.try_recv().unwrap();
        assert_eq!((&*wanted.point, wanted.chain.len()), (point, 1));
        // The peer comes again when the list is there.
        let list = lab.partners.crl(&[], GOOD);
        let list = RevocationList::read(&list, Some(wanted.point)).unwrap();
        store.check_list(&wanted.chain, &list).unwrap();
        assert!(store.rules().add_fetched(list));
        assert_eq!(fault(&store, &own), None);
        assert!(wants.try_recv().is_err(), "it is there");
    }
    let off = lab.store(&[], false, false);
    assert_eq!(fault(&off, &own), None);
    assert!(off.rules().take_wants().unwrap().try_recv().is_err());
}

/// The fault of a client's certificate that comes with an authority of its own, if any.
fn fault_of(store: &TlsStore, own: &Issued, sent: &[&Authority]) -> Option<HandshakeFault> {
    let chain = own.chain();
    let sent: Vec<_> = sent.iter().map(|authority| authority.der.clone()).collect();
    let verified = store.current().verifier.verify_client_cert(&chain[0], &sent, UnixTime::now());
    verified.err().map(|error| HandshakeError::from(std::io::Error::other(error)).fault)
}

#[test]
fn an_authority_that_its_issuer_revoked_vouches_for_nobody() {
    let lab = Lab::new();
    let between = lab.partners.authority("between", &[]);
    let other = lab.partners.authority("other", &[]);
    let own = between.dns(&[NAME]);
    let of_leaf = between.crl(&[], GOOD);
    let gone = between.as_issued();
    let forger = Authority::new("partners' root");
    let revoked = Some(HandshakeFault::Revoked);
    for (why, list, expected) in [
        ("revoked", lab.partners.crl(&[&gone], GOOD), revoked),
        ("an old list names it all the same", lab.partners.crl(&[&gone], OLD), revoked),
        ("another one", lab.partners.crl(&[&other.as_issued()], GOOD), None),
        ("nobody", lab.partners.crl(&[], GOOD), None),
        ("forged", forger.crl(&[&gone], GOOD), None),
    ] {
        for hard in [false, true] {
            let lists = [of_leaf.clone(), list.clone()];
            let store = lab.store(&lists, hard, false);
            assert_eq!(fault_of(&store, &own, &[&between]), expected, "{why}, hard {hard}");
            // What else is sent makes no difference.
            let sent = [&other, &between, &forger];
            assert_eq!(fault_of(&store, &own, &sent), expected, "{why}, hard {hard}");
        }
    }
    // A forged list takes nothing from a good one.
    let lists = [of_leaf, forger.crl(&[], GOOD), lab.partners.crl(&[&gone], (2025, 2044))];
    let store = lab.store(&lists, false, false);
    assert_eq!(fault_of(&store, &own, &[&between]), Some(HandshakeFault::Revoked));
}

#[test]
fn lists_that_authorities_of_a_good_chain_name_are_asked_for_and_taken() {
    let lab = Lab::new();
    let point = "http://crl.fabrikam.example/root.crl";
    let between = lab.partners.authority("between", &[point]);
    let stray = lab.partners.authority("stray", &["http://crl.victim.example/1.crl"]);
    let own = between.dns(&[NAME]);
    let store = lab.store(&[], false, true);
    let mut wants = store.rules().take_wants().unwrap();
    assert_eq!(fault_of(&store, &own, &[&stray, &between]), None);
    let wanted = wants.try_recv().unwrap();
    assert_eq!(&*wanted.point, point);
    assert!(wants.try_recv().is_err(), "what is sent beside the chain has us connect nowhere");
    let read = |list: Vec<u8>| RevocationList::read(&list, Some(point.into())).unwrap();
    for (why, list, words) in [
        ("old", lab.partners.crl(&[], OLD), "time is over"),
        ("forged", Authority::new("partners' root").crl(&[], GOOD), "does not speak"),
        ("another issuer's", stray.crl(&[], GOOD), "does not speak"),
    ] {
        let refused = store.check_list(&wanted.chain, &read(list)).unwrap_err().to_string();
        assert!(refused.contains(words), "{why}: {refused}");
    }
    let list = read(lab.partners.crl(&[&between.as_issued()], GOOD));
    store.check_list(&wanted.chain, &list).unwrap();
    assert!(store.rules().add_fetched(list));
    assert_eq!(fault_of(&store, &own, &[&between]), Some(HandshakeFault::Revoked));
}
