//! What the firewall could not do is told until it is done, as it stands then.

use std::time::{Duration, Instant, SystemTime};

use super::{
    offender_tests::{net, offender, world},
    outbox::RETELL,
    tests::{World, name},
    *,
};
use crate::firewall::{BlockOwner, BlockRequest};

/// What the firewall holds, which fails when it is told to.
#[derive(Default)]
struct Firewall {
    outbox: Outbox,
    held: Vec<(BlockOwner, Vec<IpNet>)>,
    partners: Vec<IpNet>,
    told: usize,
}

impl Firewall {
    fn take(&mut self, now: Instant, well: bool) {
        for intent in self.outbox.take(now) {
            self.told += 1;
            match intent {
                _ if !well => {}
                Intent::SetOwnerBlocks { owner, blocks } => {
                    self.held.retain(|(of, _)| *of != owner);
                    let prefixes: Vec<IpNet> = blocks.iter().map(|b| b.prefix).collect();
                    if !prefixes.is_empty() {
                        self.held.push((owner, prefixes));
                    }
                }
                Intent::SetPartners(partners) => self.partners = partners,
                other => panic!("{other:?}"),
            }
        }
        self.outbox.done(now, well);
    }

    fn tell(&mut self, world: &mut World, well: bool) {
        for output in std::mem::take(&mut world.outputs) {
            if let Output::Apply(intent) = output {
                self.outbox.put(intent);
            }
        }
        self.take(world.now, well);
    }
}

fn watch(domain: &str) -> BlockOwner {
    BlockOwner::Watch(name(domain))
}

fn set(owner: BlockOwner, prefix: &str) -> Intent {
    let prefix = net(prefix);
    let request = BlockRequest { prefix, owner: owner.clone(), comment: None, expires_at: None };
    Intent::SetOwnerBlocks { owner, blocks: vec![request] }
}

#[test]
fn a_release_that_failed_is_told_again_until_it_is_done() {
    let ends: [fn(&mut World); 3] = [
        |world| world.put(Input::Forgiven { domain: name("bad.example"), source: None }),
        |world| world.put(Input::Offenders(vec![])),
        |world| world.pass(Duration::from_secs(600)),
    ];
    for end in ends {
        let (mut world, mut firewall) = (world(), Firewall::default());
        offender(&mut world, "bad.example", "8.8.4.1", 600);
        firewall.tell(&mut world, true);
        assert_eq!(firewall.held, [(watch("bad.example"), vec![net("8.8.4.1/32")])]);
        end(&mut world);
        assert!(world.blocks.watch_report().is_empty());
        firewall.tell(&mut world, false);
        // Other news that goes well does not hide it.
        offender(&mut world, "worse.example", "8.8.5.1", 600);
        firewall.tell(&mut world, true);
        assert_eq!(firewall.held.len(), 2);
        for _ in 0..3 {
            let at = firewall.outbox.next_timeout().unwrap();
            assert_eq!(at, world.now + RETELL);
            firewall.take(at - Duration::from_millis(1), true);
            assert_eq!(firewall.held.len(), 2, "not before its time");
            world.pass(RETELL);
            firewall.take(world.now, false);
        }
        world.pass(RETELL);
        firewall.take(world.now, true);
        assert_eq!(firewall.held, [(watch("worse.example"), vec![net("8.8.5.1/32")])]);
        assert_eq!(firewall.outbox.next_timeout(), None);
    }
}

#[test]
fn an_unblocked_domain_is_released_too() {
    let (mut world, mut firewall) = (World::new(&["blocked.example"], &[]), Firewall::default());
    world.answer(Question::Federation(name("blocked.example")), &["8.8.4.1"], 300);
    firewall.tell(&mut world, true);
    assert_eq!(firewall.held.len(), 1);
    world.set(|setting| setting.federation.blocked_domains.clear());
    firewall.tell(&mut world, false);
    world.pass(RETELL);
    firewall.take(world.now, true);
    assert_eq!(firewall.held, []);
}

#[test]
fn of_one_block_the_newer_word_stands() {
    let owner = BlockOwner::WrongPasswords;
    let block = |prefix: &str, ends: u64| {
        let expires_at = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(ends));
        let (prefix, owner) = (net(prefix), owner.clone());
        Intent::Block(BlockRequest { prefix, owner, comment: None, expires_at })
    };
    let unblock = |prefix: &str| Intent::Unblock { prefix: net(prefix), owner: owner.clone() };
    let (mut outbox, now) = (Outbox::default(), Instant::now());
    for intent in [block("8.8.4.1/32", 1), block("8.8.4.2/32", 1), block("8.8.4.3/32", 1)] {
        outbox.put(intent);
    }
    outbox.take(now);
    outbox.done(now, false);
    outbox.put(block("8.8.4.2/32", 2));
    outbox.put(unblock("8.8.4.3/32"));
    let told = outbox.take(now + RETELL);
    let said: Vec<(IpNet, bool)> = told
        .iter()
        .map(|intent| match intent {
            Intent::Block(block) => (block.prefix, true),
            Intent::Unblock { prefix, .. } => (*prefix, false),
            _ => panic!("{intent:?}"),
        })
        .collect();
    let each = [("8.8.4.1/32", true), ("8.8.4.2/32", true), ("8.8.4.3/32", false)];
    assert_eq!(said, each.map(|(prefix, blocks)| (net(prefix), blocks)));
}

#[test]
fn what_is_newer_about_the_same_stands_for_what_failed() {
    let (now, mut firewall) = (Instant::now(), Firewall::default());
    let domain = BlockOwner::Domain(name("bad.example"));
    firewall.outbox.put(set(watch("bad.example"), "8.8.4.1/32"));
    firewall.outbox.put(set(domain.clone(), "8.8.4.2/32"));
    firewall.outbox.put(Intent::SetPartners(vec![net("8.8.4.3/32")]));
    firewall.take(now, false);
    firewall.outbox.put(set(watch("bad.example"), "8.8.5.1/32"));
    firewall.outbox.put(Intent::SetPartners(vec![net("8.8.5.3/32")]));
    firewall.take(now, true);
    firewall.take(now + RETELL, true);
    let held = [(watch("bad.example"), vec![net("8.8.5.1/32")]), (domain, vec![net("8.8.4.2/32")])];
    assert_eq!(firewall.held, held);
    assert_eq!(firewall.partners, [net("8.8.5.3/32")]);
    assert_eq!(firewall.told, 6, "nothing twice");
}
