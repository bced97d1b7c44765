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

mod users {
    use super::*;
    use crate::{
        config::{Group, Rights, UserPattern, UserPolicy},
        federation::UserName,
    };

    fn policy(users: &[UserPattern], federation: bool) -> UserPolicy {
        UserPolicy { users: users.to_vec(), rights: Rights { federation, ..Rights::default() } }
    }

    fn user(name: &str) -> UserPattern {
        UserPattern::User(name.to_owned(), domain("contoso.example"))
    }

    #[test]
    fn the_nearest_policy_holds_and_within_a_rank_the_first() {
        let group = UserPattern::Group("sales".to_owned());
        let here = UserPattern::Domain(domain("contoso.example"));
        // Each pair says yes first, then no, so that the second would be seen.
        let policies = [
            policy(&[UserPattern::Everyone], true),
            policy(&[UserPattern::Everyone], false),
            policy(std::slice::from_ref(&here), false),
            policy(&[here], true),
            policy(std::slice::from_ref(&group), true),
            policy(&[group], false),
            policy(&[user("ann")], false),
            policy(&[user("ANN")], true),
        ];
        let of = |name: &str| (name.to_owned(), domain("contoso.example"));
        let groups = [Group { name: "sales".to_owned(), users: vec![of("ann"), of("Bob")] }];
        let users = Users::new(&policies, &groups);
        for (name, at, expected) in [
            (Some("ann"), "contoso.example", false),
            (Some("bob"), "contoso.example", true),
            (Some("carol"), "contoso.example", false),
            (Some("carol"), "other.example", true),
            (Some("ann"), "other.example", true),
            (None, "contoso.example", false),
            (None, "other.example", true),
        ] {
            let at = domain(at);
            let rights = users.rights(&UserName::new(name, &at));
            assert_eq!(rights.federation, expected, "{name:?} {at}");
        }
    }

    #[test]
    fn who_may_no_longer_be_outside_makes_a_policy_narrower() {
        let rule = |pattern: UserPattern, outside| UserPolicy {
            users: vec![pattern],
            rights: Rights { outside, ..Rights::default() },
        };
        let ann = |outside| rule(user("ann"), outside);
        let group = |outside| rule(UserPattern::Group("sales".to_owned()), outside);
        let at = |outside| rule(UserPattern::Domain(domain("contoso.example")), outside);
        let all = |outside| rule(UserPattern::Everyone, outside);
        let of = |name: &str| (name.to_owned(), domain("contoso.example"));
        let groups = [Group { name: "sales".to_owned(), users: vec![of("bob")] }];
        for (then, now, narrower) in [
            (vec![], vec![], false),
            (vec![ann(true)], vec![ann(true)], false),
            (vec![ann(false)], vec![ann(true)], false),
            (vec![ann(true)], vec![ann(false)], true),
            (vec![ann(true)], vec![], true),
            (vec![group(true)], vec![group(false)], true),
            (vec![at(true)], vec![at(false)], true),
            (vec![at(true)], vec![ann(false), at(true)], true),
            (vec![at(true)], vec![], true),
            (vec![all(true)], vec![all(false)], true),
            (vec![all(true)], vec![at(false), all(true)], true),
            (vec![at(true)], vec![all(true)], false),
            (vec![ann(true)], vec![at(true)], false),
        ] {
            let users = |policies: &[UserPolicy]| Users::new(policies, &groups);
            assert_eq!(users(&now).fewer_outside(&users(&then)), narrower, "{then:?} {now:?}");
            let policy = |users: Vec<UserPolicy>| {
                let federation =
                    Federation { users, groups: groups.to_vec(), ..Federation::default() };
                Policy::new(&[domain("contoso.example")], &federation)
            };
            assert_eq!(policy(now).is_narrower_than(&policy(then)), narrower);
        }
    }

    #[test]
    fn no_spelling_of_a_user_slips_through() {
        let users = Users::new(&[policy(&[user("Ann.Lee")], false)], &[]);
        let at = domain("contoso.example");
        for (name, refused) in [
            ("ann.lee", true),
            ("ANN.LEE", true),
            ("%61nn.lee", true),
            ("%61%4E%6e%2elee", true),
            ("ann.lee;ext=5", true),
            ("ann.lee%", false),
            ("ann.lee%2", false),
            ("ann.lee%zz", false),
            ("ann", false),
            ("ann.leex", false),
        ] {
            let rights = users.rights(&UserName::new(Some(name), &at));
            assert_eq!(!rights.federation, refused, "{name}");
        }
    }

    #[test]
    fn without_a_policy_a_user_federates_and_no_more() {
        let at = domain("contoso.example");
        let rights = Users::new(&[], &[]).rights(&UserName::new(Some("ann"), &at));
        let expected = Rights {
            federation: true,
            public_im: false,
            public_av: false,
            xmpp: false,
            outside: false,
            modalities: Modalities::ALL,
        };
        assert_eq!(rights, expected);
    }
}

mod modalities {
    use super::*;
    use crate::{
        config::{
            DefaultRoute, HostingProvider, PeerOptions, PublicImProvider, Rights, UserPattern,
            UserPolicy,
        },
        federation::UserName,
        media::policy::Modality,
    };

    fn only(modalities: &[Modality]) -> PeerOptions {
        PeerOptions { modalities: modalities.iter().copied().collect(), ..PeerOptions::default() }
    }

    fn lists() -> Federation {
        use Modality::*;
        let mut lists = federation(true);
        lists.discovery = true;
        lists.discovered = only(&[Im]);
        lists.allowed_domains[0].options = only(&[Im, Presence, Audio]);
        lists.hosting_providers = vec![HostingProvider {
            name: "cloud".to_owned(),
            proxy_fqdn: domain("sipfed.cloud.example"),
            port: 5061,
            enabled: true,
            shared_address_space: false,
            domains: vec![domain("tailspin.example")],
            options: only(&[Im, Audio, Video]),
        }];
        lists.public_im_providers = vec![PublicImProvider {
            name: "pic".to_owned(),
            proxy_fqdn: domain("fed.pic.example"),
            port: 5061,
            enabled: true,
            domains: vec![domain("pic.example")],
            options: only(&[Im, Presence]),
        }];
        lists.users = vec![UserPolicy {
            users: vec![UserPattern::User("ann".to_owned(), domain("contoso.example"))],
            rights: Rights {
                modalities: [Presence, Audio, FileTransfer].into_iter().collect(),
                ..Rights::default()
            },
        }];
        lists
    }

    fn of(policy: &Policy, partner: &Partner, user: &str) -> String {
        let at = domain("contoso.example");
        policy.modalities(partner, &UserName::new(Some(user), &at)).to_string()
    }

    #[test]
    fn what_the_partner_and_the_user_may_both_is_allowed() {
        let policy = Policy::new(&[domain("contoso.example")], &lists());
        let everything = "im, presence, audio, video, web-conferencing, file-transfer";
        for (name, bob, ann) in [
            ("fabrikam.example", "im, presence, audio", "presence, audio"),
            ("anybody.example", "im", ""),
            ("tailspin.example", "im, audio, video", "audio"),
            ("pic.example", "im, presence", "presence"),
        ] {
            let mut lists = lists();
            lists.allowed_domains.push(allow("tailspin.example"));
            let policy = Policy::new(&[domain("contoso.example")], &lists);
            let partner = policy.partner(&domain(name)).unwrap();
            assert_eq!(of(&policy, &partner, "bob"), bob, "{name}");
            assert_eq!(of(&policy, &partner, "ANN"), ann, "{name}");
        }
        let good = Partner::of_allowed(&allow("northwind.example"));
        assert_eq!(of(&policy, &good, "bob"), everything);
        let open = Policy::new(&[], &federation(true));
        assert_eq!(of(&open, &good, "ann"), everything, "without a policy");
        let mut lists = federation(true);
        lists.default_route = Some(DefaultRoute {
            proxy_fqdn: domain("clearing.example"),
            port: 5061,
            public_im: false,
            options: only(&[Modality::Presence]),
        });
        let policy = Policy::new(&[], &lists);
        let partner = policy.partner(&domain("anybody.example")).unwrap();
        assert_eq!(of(&policy, &partner, "bob"), "presence");
    }

    #[test]
    fn a_provider_does_not_widen_what_a_domain_s_own_entry_says() {
        let policy = Policy::new(&[domain("contoso.example")], &lists());
        let provider = policy.by_key(&domain("sipfed.cloud.example")).unwrap();
        let carried = provider.speaking_for(&domain("fabrikam.example"));
        assert_eq!(of(&policy, &carried, "bob"), "im, audio");
    }
}

mod media {
    use crate::{
        federation::media::asks,
        sip::{Limits, Message},
    };

    const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\nc=IN IP4 192.0.2.1\r\n\
                       m=audio 5000 RTP/AVP 0\r\n";

    fn multipart(head: &str, part: &str) -> String {
        format!("preamble\r\n--b1\r\n{head}\r\n\r\n{part}\r\n--b1--\r\n")
    }

    #[test]
    fn audio_and_video_are_found_wherever_a_session_description_may_stand() {
        let sdp = "Content-Type: application/sdp";
        let mixed = "Content-Type: multipart/mixed;boundary=\"b1\"";
        let zero = SDP.replace("5000", "0");
        let nested = multipart(
            "Content-Type: multipart/alternative; boundary=b2",
            &format!("--b2\r\n{sdp}\r\n\r\n{SDP}\r\n--b2--"),
        );
        let rows: &[(&str, &str, String, bool)] = &[
            ("audio", sdp, SDP.into(), true),
            ("video", sdp, SDP.replace("audio", "video"), true),
            ("compact, in capitals", "c: APPLICATION/SDP;x=1", SDP.into(), true),
            ("line feeds alone", sdp, SDP.replace("\r\n", "\n"), true),
            ("rejected", sdp, zero.clone(), false),
            ("zero in another spelling", sdp, SDP.replace("5000", "00"), true),
            ("in capitals", sdp, SDP.replace("audio", "AUDIO"), true),
            ("in a bundle only", sdp, format!("{zero}a=bundle-only\r\n"), true),
            ("ports in a row", sdp, SDP.replace("5000", "5000/2"), true),
            ("one of two", sdp, format!("{zero}m=video 6000 RTP/AVP 34\r\n"), true),
            ("another medium", sdp, SDP.replace("audio", "message"), false),
            ("not a line of its own", sdp, format!("{zero}a=x m=audio 5000\r\n"), false),
            ("no session description", sdp, "m=message 5060 sip null\r\n".into(), true),
            ("audio as part of a word", sdp, SDP.replace("audio", "audiox"), false),
            ("text about it", "Content-Type: text/plain", SDP.into(), false),
            ("of no type", "Subject: x", SDP.into(), true),
            ("nothing", sdp, String::new(), false),
            ("a part", mixed, multipart(sdp, SDP), true),
            ("a part, rejected", mixed, multipart(sdp, &zero), false),
            ("a part of text", mixed, multipart("Content-Type: text/plain", SDP), false),
            ("a part within a part", mixed, nested, true),
            (
                "a part that hides",
                mixed,
                multipart(&format!("{sdp}\r\nContent-Transfer-Encoding: base64"), "bT1h"),
                true,
            ),
            ("an encoded body", "Content-Encoding: gzip\r\nc: application/sdp", "x".into(), true),
            ("no boundary", "Content-Type: multipart/mixed", multipart(sdp, SDP), true),
        ];
        for (why, head, body, expected) in rows {
            let text = format!(
                "INVITE sip:a@b.example SIP/2.0\r\nVia: SIP/2.0/TLS h.example;branch=z9hG4bK1\r\n\
                 From: <sip:a@b.example>;tag=1\r\nTo: <sip:a@b.example>\r\nCall-ID: 1\r\n\
                 CSeq: 1 INVITE\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let message = Message::parse_datagram(text.into(), &Limits::default()).unwrap();
            assert_eq!(asks(&message), *expected, "{why}");
        }
    }
}
