//! What holds after which change; and what becomes of a store that is not whole.

use std::{net::IpAddr, os::unix::fs::PermissionsExt};

use super::{grace::GRACE, *};
use crate::{
    config::{
        HostingProvider, PeerOptions, Pin, Verification,
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
fn an_allowance_at_runtime_takes_nothing_away_that_it_does_not_speak_of() {
    let mut config = file();
    let in_file = &mut config.federation.allowed_domains[0];
    in_file.proxy_fqdn = Some(name("edge.fabrikam.example"));
    in_file.port = 5081;
    in_file.from_addresses = vec!["198.51.100.0/28".parse().unwrap()];
    in_file.options = PeerOptions {
        modalities: Modalities::NONE.with(Modality::Im),
        behind_nat: true,
        dnssec: true,
        pins: vec![Pin([7; 32])],
        verification: Some(Verification::AlwaysUnverifiable),
        ..PeerOptions::default()
    };
    let in_file = in_file.clone();
    let folder = Folder::new();
    let mut store = Store::open(&folder.0).0;
    let holds =
        |store: &Store| effective(&config, store, at(2000)).federation.allowed_domains.remove(0);
    store.domain_allow(&config, allow("fabrikam.example"), &admin()).unwrap();
    assert_eq!(holds(&store), in_file);
    // What it speaks of: addresses are added, also by a second command.
    let from = |text: &str| vec![text.parse().unwrap()];
    for more in ["198.51.100.16/28", "2001:db8::/64"] {
        let from_addresses = from(more);
        let entry = AllowedDomain { from_addresses, ..allow("fabrikam.example") };
        store.domain_allow(&config, entry, &admin()).unwrap();
    }
    let mut expected = in_file.clone();
    expected.from_addresses.extend(from("198.51.100.16/28"));
    expected.from_addresses.extend(from("2001:db8::/64"));
    assert_eq!(holds(&store), expected);
    // A server, with its port; an earlier command's holds too.
    let server = Some(name("sip.fabrikam.example"));
    let entry = AllowedDomain { proxy_fqdn: server.clone(), ..allow("fabrikam.example") };
    store.domain_allow(&config, entry, &admin()).unwrap();
    (expected.proxy_fqdn, expected.port) = (server, 5061);
    assert_eq!(holds(&store), expected);
    let options = PeerOptions {
        verification: Some(Verification::AlwaysVerifiable),
        ..PeerOptions::default()
    };
    let entry = AllowedDomain { options, ..allow("fabrikam.example") };
    store.domain_allow(&config, entry, &admin()).unwrap();
    expected.options.verification = Some(Verification::AlwaysVerifiable);
    assert_eq!(holds(&store), expected);
    // Taken away first, it begins with the file's again.
    store.domain_remove(&config, &name("fabrikam.example"), &admin()).unwrap();
    store.domain_allow(&config, allow("fabrikam.example"), &admin()).unwrap();
    assert_eq!(holds(&store), in_file);
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
    // A clock that is wrong for a moment takes nothing away for good.
    let clock = Instant::now();
    assert!(!store.tidy(&config, at(1_000_000_000), clock).unwrap());
    assert_eq!(store.block_requests(at(99)).len(), 2);
    assert!(!store.tidy(&config, at(99), clock + GRACE).unwrap());
    assert!(!store.tidy(&config, at(100), clock + GRACE).unwrap());
    assert!(store.tidy(&config, at(100), clock + 2 * GRACE).unwrap());
    assert!(!store.tidy(&config, at(100), clock + 2 * GRACE).unwrap());
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
    let clock = Instant::now();
    store.tidy(&with, at(0), clock).unwrap();
    assert_eq!(holds(&with, &store).1, ["worse.example"]);
    store.tidy(&without, at(0), clock).unwrap();
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
fn what_the_file_says_later_and_an_allowance_at_runtime_prove_no_two_partners() {
    let folder = Folder::new();
    let (mut store, _) = Store::open(&folder.0);
    let mut config = file();
    let server = |host: &str| Some(name(host));
    let provider = config.federation.hosting_providers.pop().unwrap();
    for (domain, host) in
        [("a.example", "sipfed.cloud.example"), ("hosted.example", "sip.hosted.example")]
    {
        let entry = AllowedDomain { proxy_fqdn: server(host), ..allow(domain) };
        store.domain_allow(&config, entry, &admin()).unwrap();
    }
    // A command to which the file's own entry is preferred when it cannot stand.
    let entry = AllowedDomain { proxy_fqdn: server("x.example"), ..allow("fabrikam.example") };
    store.domain_allow(&config, entry, &admin()).unwrap();
    assert_eq!(holds(&config, &store).0, ["a.example", "fabrikam.example", "hosted.example"]);
    let mut other = provider.clone();
    other.proxy_fqdn = name("x.example");
    config.federation.hosting_providers = vec![provider, other];
    let (allowed, _, differences) = holds(&config, &store);
    assert_eq!(allowed, ["fabrikam.example"]);
    assert_eq!(differences.len(), 3);
    assert!(differences.iter().all(|text| text.starts_with("Conflicts(")), "{differences:?}");
    let in_force = effective(&config, &store, at(2000)).federation.allowed_domains;
    assert_eq!(in_force, config.federation.allowed_domains);
}

#[test]
fn a_block_never_becomes_narrower_by_another_block() {
    let folder = Folder::new();
    let (mut store, _) = Store::open(&folder.0);
    let config = file();
    let covers = |store: &Store, domain: &str| {
        let blocked = effective(&config, store, at(0)).federation.blocked_domains;
        blocked.into_iter().find(|block| block.domain == name(domain)).map(|b| b.subdomains)
    };
    // The file's, and an earlier command's.
    store.domain_block(&config, block("bad.example", false), &admin()).unwrap();
    assert_eq!(covers(&store, "bad.example"), Some(true));
    for subdomains in [false, true, false] {
        store.domain_block(&config, block("b.example", subdomains), &admin()).unwrap();
    }
    assert_eq!(covers(&store, "b.example"), Some(true));
    assert!(store.widened(&config, block("b.example", false)).subdomains);
    // Unblocked first, it is what the command says.
    for domain in ["bad.example", "b.example"] {
        store.domain_unblock(&config, &name(domain), &admin()).unwrap();
        store.domain_block(&config, block(domain, false), &admin()).unwrap();
        assert_eq!(covers(&store, domain), Some(false));
    }
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
    let mut damaged = vec![Vec::new(), b"\n".to_vec(), vec![0; 5000], changed];
    damaged.extend([1, 20, good.len() / 2, good.len() - 1].map(|n| good[..n].to_vec()));
    damaged.push([good.as_slice(), b" "].concat());
    let copy = disk::copy(&path);
    for bytes in damaged {
        // Its copy takes its place.
        std::fs::write(&path, &bytes).unwrap();
        let (mut store, alarms) = Store::open(&folder.0);
        let [Alarm::Restored { set_aside, .. }] = alarms.as_slice() else {
            panic!("no alarm for {bytes:?}: {alarms:?}")
        };
        assert!(!alarms[0].is_a_loss() && !store.is_lost());
        assert_eq!(std::fs::read(set_aside).unwrap(), bytes);
        assert_eq!(std::fs::read(&path).unwrap(), good);
        assert_eq!(holds(&config, &store).0, ["a.example", "fabrikam.example"]);
        store.domain_allow(&config, allow("c.example"), &admin()).unwrap();
        store.domain_remove(&config, &name("c.example"), &admin()).unwrap();
        assert_eq!(Store::open(&folder.0).1, []);
        // A corrupt copy is nobody's concern while the file is whole.
        std::fs::write(&copy, &bytes).unwrap();
        let (store, alarms) = Store::open(&folder.0);
        assert_eq!((holds(&config, &store).0.len(), alarms), (2, vec![]));
        // Both: lost, now and at every start, until somebody says so.
        std::fs::write(&path, &bytes).unwrap();
        for _ in 0..2 {
            let (store, alarms) = Store::open(&folder.0);
            assert!(matches!(alarms.as_slice(), [Alarm::Lost { .. }]), "{alarms:?}");
            assert!(alarms[0].is_a_loss() && store.is_lost());
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        std::fs::remove_file(&path).unwrap();
        assert!(Store::open(&folder.0).0.is_lost(), "its copy may have said something");
        std::fs::write(&copy, &good).unwrap();
        let (store, alarms) = Store::open(&folder.0);
        assert_eq!((holds(&config, &store).0.len(), alarms), (2, vec![]));
        std::fs::write(&path, &good).unwrap();
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&copy).unwrap();
    let (store, alarms) = Store::open(&folder.0);
    assert_eq!((holds(&config, &store).0.len(), store.is_lost(), alarms), (1, false, vec![]));
    // What a newer version wrote stays for that version.
    std::fs::write(&path, &other_schema).unwrap();
    let (mut store, alarms) = Store::open(&folder.0);
    assert!(matches!(alarms.as_slice(), [Alarm::Lost { .. }]), "{alarms:?}");
    store.domain_block(&config, block("b.example", true), &admin()).unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), other_schema);
}

#[test]
fn nobody_is_discovered_while_it_is_not_known_whom_an_administrator_blocked() {
    let folder = Folder::new();
    let mut config = file();
    config.federation.discovery = true;
    let discovers = |store: &Store| effective(&config, store, at(0)).federation.discovery;
    assert!(discovers(&Store::open(&folder.0).0));
    std::fs::write(folder.0.join(CHANGES), "gone").unwrap();
    assert!(!discovers(&Store::open(&folder.0).0));
}

#[test]
fn a_store_that_cannot_be_read_is_never_overwritten() {
    let folder = Folder::new();
    let config = file();
    let (mut store, _) = Store::open(&folder.0);
    store.domain_block(&config, block("b.example", true), &admin()).unwrap();
    std::fs::remove_file(folder.0.join(CHANGES)).unwrap();
    std::fs::create_dir(folder.0.join(CHANGES)).unwrap();
    // Its copy says what holds.
    let (mut store, alarms) = Store::open(&folder.0);
    assert!(matches!(alarms.as_slice(), [Alarm::Copy { .. }]), "{alarms:?}");
    assert_eq!(holds(&config, &store).1, ["b.example", "bad.example", "worse.example"]);
    let refused = store.domain_allow(&config, allow("a.example"), &admin()).unwrap_err();
    let StoreError::NotKept(why) = refused else { panic!("{refused}") };
    assert!(matches!(*why, StoreError::ReadOnly(_)));
    assert!(folder.0.join(CHANGES).is_dir());
    let link = Folder::new();
    std::os::unix::fs::symlink("/etc/passwd", link.0.join(CHANGES)).unwrap();
    let (store, alarms) = Store::open(&link.0);
    assert!(matches!(alarms.as_slice(), [Alarm::Lost { .. }]) && store.is_lost());
}

#[test]
fn a_change_that_cannot_be_written_holds_and_is_written_later() {
    let folder = Folder::new();
    let (below, config) = (folder.0.join("below"), file());
    let (mut store, _) = Store::open(&below);
    std::fs::remove_dir_all(&below).unwrap();
    let prefix = "198.51.100.7/32".parse().unwrap();
    let told = [
        store.domain_block(&config, block("b.example", true), &admin()).unwrap_err(),
        store.block_add(prefix, None, None, &admin()).unwrap_err(),
    ];
    for error in told {
        assert!(error.is_in_force() && error.to_string().contains("in force, but not kept"));
    }
    let everything = |store: &Store| (holds(&config, store), store.block_requests(at(0)));
    let before = everything(&store);
    assert_eq!(before.0.1, ["b.example", "bad.example", "worse.example"]);
    assert_eq!(before.1.len(), 1);
    assert!(store.unkept().is_some_and(|why| why.contains("changes.json")));
    // What is refused changes nothing of that.
    store.domain_unblock(&config, &name("c.example"), &admin()).unwrap_err();
    let clock = Instant::now();
    assert!(store.tidy(&config, at(0), clock).unwrap_err().is_in_force());
    // The disk is there again.
    std::fs::create_dir_all(&below).unwrap();
    store.tidy(&config, at(0), clock).unwrap();
    assert_eq!(store.unkept(), None);
    assert_eq!(everything(&Store::open(&below).0), before);
}

#[test]
fn last_good_addresses_are_kept_bounded_and_forgotten_with_their_domain() {
    let folder = Folder::new();
    let (mut store, _) = Store::open(&folder.0);
    let many: Vec<IpAddr> = (0..200u8).map(|n| IpAddr::from([198, 51, 100, n])).collect();
    assert!(store.set_last_good(&name("bad.example"), &many, at(5)).unwrap());
    store.set_last_good(&name("worse.example"), &many[..1], at(6)).unwrap();
    store.unwritten().unwrap().unwrap().write().unwrap();
    assert!(store.unwritten().unwrap().is_none());
    let (mut store, _) = Store::open(&folder.0);
    let bad = store.last_good().get(&name("bad.example")).unwrap();
    assert_eq!((bad.addresses.as_slice(), bad.at), (&many[..MAX_ADDRESSES], 5));
    // The same in another order is nothing new.
    let mut turned = many[..MAX_ADDRESSES].to_vec();
    turned.reverse();
    assert!(!store.set_last_good(&name("bad.example"), &turned, at(7)).unwrap());
    assert!(store.unwritten().unwrap().is_none());
    // Which of them are blocked is kept beside them.
    store.set_blocked_at(&name("bad.example"), &[many[3], many[1]]).unwrap();
    store.unwritten().unwrap().unwrap().write().unwrap();
    store.set_blocked_at(&name("bad.example"), &[many[1], many[3]]).unwrap();
    assert!(store.unwritten().unwrap().is_none());
    let peeked = Store::peek(&folder.0).0;
    let blocks = peeked.domain_blocks(&[block("bad.example", false), block("b.example", true)]);
    let owner = BlockOwner::Domain(name("bad.example"));
    assert!(blocks.iter().all(|block| block.owner == owner));
    let prefixes: Vec<IpNet> = blocks.iter().map(|block| block.prefix).collect();
    assert_eq!(prefixes, [IpNet::from(many[1]), IpNet::from(many[3])]);
    assert!(peeked.domain_blocks(&[]).is_empty());
    // Whoever takes a change back within a day finds them.
    let wanted = |domain: &Domain| domain.as_str() == "worse.example";
    let (clock, second) = (Instant::now(), Duration::from_secs(1));
    store.keep_last_good(wanted, clock);
    store.keep_last_good(wanted, clock + GRACE - second);
    assert_eq!(store.last_good().len(), 2);
    store.keep_last_good(|_| true, clock + GRACE - second);
    store.keep_last_good(wanted, clock + GRACE);
    assert!(store.unwritten().unwrap().is_none());
    store.keep_last_good(wanted, clock + 2 * GRACE);
    store.unwritten().unwrap().unwrap().write().unwrap();
    assert_eq!(Store::open(&folder.0).0.last_good().len(), 1);
    // What the disk did not take is tried again.
    store.set_last_good(&name("worse.example"), &many[..2], at(8)).unwrap();
    let unwritten = store.unwritten().unwrap().unwrap();
    std::fs::remove_dir_all(&folder.0).unwrap();
    unwritten.write().unwrap_err();
    store.last_good_not_written();
    std::fs::create_dir_all(&folder.0).unwrap();
    store.unwritten().unwrap().unwrap().write().unwrap();
}
