//! Lists, providers and users' rights.

use super::*;
use crate::config::{AllowedDomain, BlockedDomain};

fn domain(text: &str) -> Domain {
    text.parse().unwrap()
}

fn allow(name: &str) -> AllowedDomain {
    AllowedDomain::new(domain(name))
}

fn federation(enabled: bool) -> Federation {
    Federation {
        enabled,
        allowed_domains: vec![
            allow("fabrikam.example"),
            allow("bad.example"),
            allow("good.below.example"),
            allow("contoso.example"),
        ],
        blocked_domains: vec![
            BlockedDomain { domain: domain("bad.example"), subdomains: false },
            BlockedDomain { domain: domain("below.example"), subdomains: true },
        ],
        ..Federation::default()
    }
}

#[test]
fn blocked_wins_then_only_what_is_allowed_passes() {
    let policy = Policy::new(&[domain("contoso.example")], &federation(true));
    let cases: &[(&str, Result<(), Refusal>)] = &[
        ("fabrikam.example", Ok(())),
        ("sub.fabrikam.example", Err(Refusal::DomainNotAllowed)),
        ("xfabrikam.example", Err(Refusal::DomainNotAllowed)),
        ("bad.example", Err(Refusal::DomainBlocked)),
        ("sub.bad.example", Err(Refusal::DomainNotAllowed)),
        ("below.example", Err(Refusal::DomainBlocked)),
        ("good.below.example", Err(Refusal::DomainBlocked)),
        ("a.b.below.example", Err(Refusal::DomainBlocked)),
        ("xbelow.example", Err(Refusal::DomainNotAllowed)),
        ("contoso.example", Err(Refusal::Transit)),
    ];
    for (name, expected) in cases {
        assert_eq!(policy.partner(&domain(name)).map(|_| ()), *expected, "{name}");
    }
}

#[test]
fn nobody_federates_when_the_switch_is_off() {
    let policy = Policy::new(&[domain("contoso.example")], &federation(false));
    assert_eq!(
        policy.partner(&domain("fabrikam.example")).map(|_| ()),
        Err(Refusal::FederationDisabled)
    );
    assert_eq!(policy.partner(&domain("bad.example")).map(|_| ()), Err(Refusal::DomainBlocked));
}

#[test]
fn of_two_blocks_for_one_name_the_wider_holds() {
    let mut lists = federation(true);
    for subdomains in [true, false] {
        lists.blocked_domains.push(BlockedDomain { domain: domain("twice.example"), subdomains });
    }
    let policy = Policy::new(&[], &lists);
    assert_eq!(
        policy.blocked_by(&domain("a.twice.example")).map(Domain::as_str),
        Some("twice.example")
    );
}
