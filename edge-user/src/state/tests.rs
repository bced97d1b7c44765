//! What holds after which change; and what becomes of a store that is not whole.

use std::{os::unix::fs::PermissionsExt, time::UNIX_EPOCH};

use super::*;
use crate::{
    config::{
        HostingProvider, PeerOptions,
        tests_support::{Folder, config},
    },
    media::policy::{Modalities, Modality},
};

fn name(text: &str) -> Domain {
    text.parse().unwrap()
}

fn allow(text: &str) -> AllowedDomain {
    AllowedDomain::new(name(text))
}

fn block(text: &str, subdomains: bool) -> BlockedDomain {
    BlockedDomain { domain: name(text), subdomains }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn admin() -> Author {
    Author::new("root\n", at(1000))
}

/// We serve contoso.example; the file allows fabrikam.example and blocks bad.example (with
/// subdomains) and worse.example (without).
fn file() -> Config {
    let mut config = config();
    config.federation.allowed_domains = vec![allow("fabrikam.example")];
    config.federation.blocked_domains =
        vec![block("bad.example", true), block("worse.example", false)];
    config.federation.hosting_providers = vec![HostingProvider {
        name: "cloud".to_owned(),
        proxy_fqdn: name("sipfed.cloud.example"),
        port: 5061,
        enabled: true,
        shared_address_space: false,
        domains: vec![name("hosted.example")],
        options: PeerOptions::default(),
    }];
    config
}

/// Allowed and blocked names, and differences as text, in order.
fn holds(config: &Config, store: &Store) -> (Vec<String>, Vec<String>, Vec<String>) {
    let Effective { federation, differences, .. } = effective(config, store, at(2000));
    let mut allowed: Vec<_> =
        federation.allowed_domains.iter().map(|a| a.domain.to_string()).collect();
    let mut blocked: Vec<_> =
        federation.blocked_domains.iter().map(|b| b.domain.to_string()).collect();
    allowed.sort();
    blocked.sort();
    (allowed, blocked, differences.iter().map(|d| format!("{:?} {}", d.kind, d.domain)).collect())
}

#[test]
fn an_allowance_at_runtime_does_not_widen_what_the_file_says_of_media() {
    let mut config = file();
    let options = &mut config.federation.allowed_domains[0].options;
    options.modalities = Modalities::NONE.with(Modality::Im);
    options.behind_nat = true;
    let folder = Folder::new();
    let mut store = Store::open(&folder.0).0;
    let server = Some(name("sip.fabrikam.example"));
    let entry = AllowedDomain { proxy_fqdn: server.clone(), ..allow("fabrikam.example") };
    store.domain_allow(&config, entry, &admin()).unwrap();
    let holds = effective(&config, &store, at(2000)).federation.allowed_domains.remove(0);
    assert_eq!(holds.proxy_fqdn, server);
    assert_eq!(holds.options, config.federation.allowed_domains[0].options);
    // Of a partner that the file does not name, nothing is said.
    store.domain_allow(&config, allow("a.example"), &admin()).unwrap();
    let holds = effective(&config, &store, at(2000)).federation.allowed_domains;
    let other = holds.iter().find(|entry| entry.domain == name("a.example")).unwrap();
    assert!(other.options.modalities.is_all());
}

/// What it is about, the changes, and then: allowed, blocked, differences.
type Case<'a> = (&'a str, &'a [Step], &'a [&'a str], &'a [&'a str], &'a [&'a str]);
type Step = fn(&mut Store, &Config) -> Result<(), StoreError>;

#[test]
fn a_runtime_change_holds_over_the_file_and_the_later_over_the_earlier() {
    let cases: &[Case] = &[
        ("nothing", &[], &["fabrikam.example"], &["bad.example", "worse.example"], &[]),
        (
            "allow another",
            &[|s, c| s.domain_allow(c, allow("a.example"), &admin())],
            &["a.example", "fabrikam.example"],
            &["bad.example", "worse.example"],
            &["Allowed a.example"],
        ),
        (
            "block what the file allows",
            &[|s, c| s.domain_block(c, block("fabrikam.example", true), &admin())],
            &[],
            &["bad.example", "fabrikam.example", "worse.example"],
            &[
                "Blocked fabrikam.example",
                "HiddenByBlock(Domain(\"fabrikam.example\")) fabrikam.example",
            ],
        ),
        (
            "block, then unblock: as before",
            &[
                |s, c| s.domain_block(c, block("fabrikam.example", true), &admin()),
                |s, c| s.domain_unblock(c, &name("fabrikam.example"), &admin()),
            ],
            &["fabrikam.example"],
            &["bad.example", "worse.example"],
            &[],
        ),
        (
            "remove, block, unblock: still removed",
            &[
                |s, c| s.domain_remove(c, &name("fabrikam.example"), &admin()),
                |s, c| s.domain_block(c, block("fabrikam.example", true), &admin()),
                |s, c| s.domain_unblock(c, &name("fabrikam.example"), &admin()),
            ],
            &[],
            &["bad.example", "worse.example"],
            &["Removed fabrikam.example"],
        ),
        (
            "unblock what the file blocks",
            &[|s, c| s.domain_unblock(c, &name("bad.example"), &admin())],
            &["fabrikam.example"],
            &["worse.example"],
            &["Unblocked bad.example"],
        ),
        (
            "allow what the file blocks: the later change holds",
            &[|s, c| s.domain_allow(c, allow("worse.example"), &admin())],
            &["fabrikam.example", "worse.example"],
            &["bad.example"],
            &["Unblocked worse.example", "Allowed worse.example"],
        ),
        (
            "allow, then block, then allow",
            &[
                |s, c| s.domain_allow(c, allow("a.example"), &admin()),
                |s, c| s.domain_block(c, block("a.example", false), &admin()),
                |s, c| s.domain_allow(c, allow("a.example"), &admin()),
            ],
            &["a.example", "fabrikam.example"],
            &["bad.example", "worse.example"],
            &["Allowed a.example"],
        ),
        (
            "a block with subdomains hides what is allowed below it",
            &[
                |s, c| s.domain_allow(c, allow("x.a.example"), &admin()),
                |s, c| s.domain_block(c, block("a.example", true), &admin()),
            ],
            &["fabrikam.example"],
            &["a.example", "bad.example", "worse.example"],
            &[
                "Blocked a.example",
                "HiddenByBlock(Domain(\"a.example\")) x.a.example",
                "Allowed x.a.example",
            ],
        ),
        (
            "other details than the file",
            &[|s, c| s.domain_block(c, block("worse.example", true), &admin())],
            &["fabrikam.example"],
            &["bad.example", "worse.example"],
            &["BlockedOtherwise worse.example"],
        ),
    ];
    for (what, steps, allowed, blocked, differences) in cases {
        let folder = Folder::new();
        let (config, (mut store, alarms)) = (file(), Store::open(&folder.0));
        assert!(alarms.is_empty());
        for step in *steps {
            step(&mut store, &config).unwrap();
        }
        let text = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let expected = (text(allowed), text(blocked), text(differences));
        assert_eq!(holds(&config, &store), expected, "{what}");
        let (again, alarms) = Store::open(&folder.0);
        assert_eq!((holds(&config, &again), alarms), (expected, vec![]), "{what}, read again");
    }
}

#[test]
fn changes_that_make_no_sense_are_refused_and_change_nothing() {
    let cases: &[(&str, Step)] = &[
        ("one of our own", |s, c| s.domain_allow(c, allow("contoso.example"), &admin())),
        ("one of our own", |s, c| s.domain_block(c, block("contoso.example", false), &admin())),
        ("would cover our own", |s, c| s.domain_block(c, block("sub.example", true), &admin())),
        ("covered by the block of bad.example", |s, c| {
            s.domain_allow(c, allow("x.bad.example"), &admin())
        }),
        ("covered by the block of bad.example", |s, c| {
            s.domain_unblock(c, &name("x.bad.example"), &admin())
        }),
        ("x.worse.example is not blocked", |s, c| {
            s.domain_unblock(c, &name("x.worse.example"), &admin())
        }),
        ("is not allowed", |s, c| s.domain_remove(c, &name("a.example"), &admin())),
        ("this appliance itself", |s, c| {
            let proxy_fqdn = Some(c.fqdn.clone());
            s.domain_allow(c, AllowedDomain { proxy_fqdn, ..allow("a.example") }, &admin())
        }),
        ("is the host of a provider", |s, c| {
            let proxy_fqdn = Some(name("sipfed.cloud.example"));
            s.domain_allow(c, AllowedDomain { proxy_fqdn, ..allow("a.example") }, &admin())
        }),
        ("belongs to the provider cloud", |s, c| {
            let proxy_fqdn = Some(name("sip.a.example"));
            s.domain_allow(c, AllowedDomain { proxy_fqdn, ..allow("hosted.example") }, &admin())
        }),
        ("not blocked by an administrator", |s, c| {
            s.block_remove(c, "198.51.100.1/32".parse().unwrap())
        }),
        ("blocked by the configuration file", |s, c| {
            s.block_remove(c, "198.51.100.66/32".parse().unwrap())
        }),
        ("would block everybody", |s, _| {
            s.block_add("::/0".parse().unwrap(), None, None, &admin())
        }),
    ];
    let folder = Folder::new();
    let (mut store, _) = Store::open(&folder.0);
    let mut config = file();
    config.domains.push(name("deep.sub.example"));
    let before = holds(&config, &store);
    for (expected, step) in cases {
        let error = step(&mut store, &config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} is not about {expected:?}");
    }
    assert_eq!(holds(&config, &store), before);
    assert!(!folder.0.join(CHANGES).exists(), "a refused change must not write");
}

#[test]
fn blocks_end_by_the_wall_clock_and_are_tidied_away() {
    let folder = Folder::new();
    let (mut store, _) = Store::open(&folder.0);
    let config = file();
    let (a, b) = ("198.51.100.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap());
    store.block_add(a, Some("scans\u{1b}[31m"), Some(at(100)), &admin()).unwrap();
    store.block_add(b, None, None, &admin()).unwrap();
    let (mut store, _) = Store::open(&folder.0);
    let requests = store.block_requests(at(99));
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].comment.as_deref(), Some("scans[31m"));
    assert_eq!(requests[0].expires_at, Some(at(100)));
    assert_eq!(store.block_requests(at(100)).len(), 1);
    assert!(store.tidy(&config, at(100)).unwrap());
    assert!(!store.tidy(&config, at(100)).unwrap());
    assert_eq!(store.blocks().count(), 1);
    store.block_remove(&config, b).unwrap();
    assert_eq!(Store::open(&folder.0).0.blocks().count(), 0);
}

#[test]
fn a_hidden_block_that_comes_back_to_the_file_holds_again() {
    let folder = Folder::new();
    let (mut store, _) = Store::open(&folder.0);
    let with = file();
    let mut without = file();
    without.federation.blocked_domains.clear();
    store.domain_unblock(&with, &name("bad.example"), &admin()).unwrap();
    store.tidy(&with, at(0)).unwrap();
    assert_eq!(holds(&with, &store).1, ["worse.example"]);
    store.tidy(&without, at(0)).unwrap();
    assert_eq!(holds(&with, &store).1, ["bad.example", "worse.example"]);
}

#[test]
fn what_became_ours_in_the_file_is_neither_allowed_nor_blocked() {
    let folder = Folder::new();
    let (mut store, _) = Store::open(&folder.0);
    let mut config = file();
    store.domain_allow(&config, allow("a.example"), &admin()).unwrap();
    store.domain_block(&config, block("b.example", true), &admin()).unwrap();
    store.domain_block(&config, block("c.example", true), &admin()).unwrap();
    for ours in ["a.example", "b.example", "x.c.example"] {
        config.domains.push(name(ours));
    }
    let (allowed, blocked, differences) = holds(&config, &store);
    assert_eq!(allowed, ["fabrikam.example"]);
    assert_eq!(blocked, ["bad.example", "c.example", "worse.example"]);
    assert_eq!(
        differences,
        [
            "Ours a.example",
            "Ours b.example",
            "Blocked c.example",
            "CoversOurs(Domain(\"x.c.example\")) c.example"
        ]
    );
    let federation = effective(&config, &store, at(0)).federation;
    let c = federation.blocked_domains.iter().find(|b| b.domain == name("c.example"));
    assert!(!c.unwrap().subdomains);
}

#[test]
fn a_store_that_is_not_whole_is_set_aside_and_never_half_read() {
    let folder = Folder::new();
    let path = folder.0.join(CHANGES);
    let (mut store, _) = Store::open(&folder.0);
    let config = file();
    store.domain_allow(&config, allow("a.example"), &admin()).unwrap();
    let good = std::fs::read(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = String::from_utf8(good.clone()).unwrap();
    let other_schema = text.replacen("\"schema\":1", "\"schema\":2", 1).into_bytes();
    let changed = text.replace("a.example", "b.example").into_bytes();
    let mut damaged = vec![Vec::new(), b"\n".to_vec(), vec![0; 5000], other_schema, changed];
    damaged.extend([1, 20, good.len() / 2, good.len() - 1].map(|n| good[..n].to_vec()));
    damaged.push([good.as_slice(), b" "].concat());
    for bytes in damaged {
        std::fs::write(&path, &bytes).unwrap();
        let (mut store, alarms) = Store::open(&folder.0);
        let [Alarm::Corrupt { set_aside, .. }] = alarms.as_slice() else {
            panic!("no alarm for {bytes:?}: {alarms:?}")
        };
        assert_eq!(std::fs::read(set_aside).unwrap(), bytes);
        assert_eq!(holds(&config, &store).0, ["fabrikam.example"]);
        store.domain_allow(&config, allow("c.example"), &admin()).unwrap();
    }
    std::fs::write(&path, &good).unwrap();
    let (store, alarms) = Store::open(&folder.0);
    assert_eq!((holds(&config, &store).0.len(), alarms), (2, vec![]));
}

#[test]
fn a_store_that_cannot_be_read_is_never_overwritten() {
    let folder = Folder::new();
    std::fs::create_dir(folder.0.join(CHANGES)).unwrap();
    let (mut store, alarms) = Store::open(&folder.0);
    assert!(matches!(alarms.as_slice(), [Alarm::Unreadable { .. }]), "{alarms:?}");
    let refused = store.domain_allow(&file(), allow("a.example"), &admin());
    assert!(matches!(refused, Err(StoreError::ReadOnly(_))));
    assert!(folder.0.join(CHANGES).is_dir());
    let link = Folder::new();
    std::os::unix::fs::symlink("/etc/passwd", link.0.join(CHANGES)).unwrap();
    assert!(matches!(Store::open(&link.0).1.as_slice(), [Alarm::Unreadable { .. }]));
}

#[test]
fn a_change_that_cannot_be_written_is_not_made() {
    let folder = Folder::new();
    let (mut store, _) = Store::open(&folder.0.join("below"));
    std::fs::remove_dir_all(folder.0.join("below")).unwrap();
    let error = store.domain_allow(&file(), allow("a.example"), &admin()).unwrap_err();
    assert!(matches!(error, StoreError::Write { .. }));
    assert_eq!(holds(&file(), &store).0, ["fabrikam.example"]);
}

#[test]
fn last_good_addresses_are_kept_bounded_and_forgotten_with_their_domain() {
    let folder = Folder::new();
    let (mut store, _) = Store::open(&folder.0);
    let many: Vec<IpAddr> = (0..200u8).map(|n| IpAddr::from([198, 51, 100, n])).collect();
    store.set_last_good(&name("bad.example"), &many, at(5)).unwrap();
    store.set_last_good(&name("worse.example"), &many[..1], at(6)).unwrap();
    let (mut store, _) = Store::open(&folder.0);
    let bad = store.last_good().get(&name("bad.example")).unwrap();
    assert_eq!((bad.addresses.as_slice(), bad.at), (&many[..MAX_ADDRESSES], 5));
    store.keep_last_good(|domain| domain.as_str() == "worse.example").unwrap();
    assert_eq!(Store::open(&folder.0).0.last_good().len(), 1);
}
