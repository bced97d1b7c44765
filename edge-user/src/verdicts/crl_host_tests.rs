//! Where revocation lists are fetched from, nobody is blocked.

use super::{
    offender_tests::offender,
    tests::{A, B, BAD, World, ask, block, ip},
    *,
};

#[test]
fn where_revocation_lists_are_fetched_from_nothing_is_blocked() {
    let mut w = World::new(&[BAD], &[]);
    w.answer(ask(BAD), &[A, B], 300);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A), ip(B)])]);
    let hosts = |w: &mut World, point: &str, addresses: &[&str]| {
        let addresses = addresses.iter().map(|a| ip(a)).collect();
        w.put(Input::CrlHost { point: point.into(), addresses });
    };
    hosts(&mut w, "http://crl.example/a", &[A, B]);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![])]);
    let why = [
        format!("{A} also a host of revocation lists"),
        format!("{B} also a host of revocation lists"),
    ];
    assert_eq!(w.refused(BAD), why);
    // The watch list heeds it too.
    w.set(|s| s.federation.discovery = true);
    offender(&mut w, "worse.example", B, 600);
    let report = &w.blocks.watch_report()[0];
    assert_eq!(report.refused[0].why, Why::Shared(Protection::CrlHost));
    // Two lists of one host; then it moves.
    hosts(&mut w, "http://crl.example/b", &[A]);
    hosts(&mut w, "http://crl.example/a", &[B]);
    assert_eq!(w.told(), []);
    hosts(&mut w, "http://crl.example/b", &[]);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A)])]);
    hosts(&mut w, "http://crl.example/a", &[]);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A), ip(B)])]);
    // Places, and addresses of each, are bounded.
    let many: Vec<String> = (0..=MAX_CRL_ADDRESSES).map(|n| format!("9.9.9.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for n in 0..MAX_CRL_POINTS {
        hosts(&mut w, &format!("http://crl.example/{n}"), &many);
    }
    hosts(&mut w, "http://crl.example/more", &[A]);
    assert_eq!(w.told(), []);
    w.answer(ask("other.example"), &[], 300);
    w.set(|s| s.federation.blocked_domains.push(block("other.example", true)));
    w.answer(ask("other.example"), &many, 300);
    assert_eq!(w.blocked("other.example"), [ip(many[MAX_CRL_ADDRESSES])]);
    // Its own place is not one more.
    hosts(&mut w, "http://crl.example/0", &[A]);
    assert_eq!(w.blocked(BAD), [ip(B)]);
}
