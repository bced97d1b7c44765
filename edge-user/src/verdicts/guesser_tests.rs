//! Who guesses passwords: what becomes a block at the ports of remote users.

use std::time::SystemTime;

use ipnet::IpNet;

use super::{
    tests::{World, ip, seconds},
    *,
};
use crate::firewall::BlockOwner;

fn guesser(source: &str, ends: u64) -> Guesser {
    Guesser { source: ip(source), expires_at: SystemTime::UNIX_EPOCH + seconds(ends) }
}

/// What the firewall is told when exactly these are shut out: blocked, with their ends, and released.
fn told(world: &mut World, guessers: &[Guesser]) -> (Vec<(IpNet, u64)>, Vec<IpNet>) {
    world.outputs.clear();
    world.put(Input::Guessers(guessers.to_vec()));
    let (mut blocked, mut released) = (Vec::new(), Vec::new());
    for output in std::mem::take(&mut world.outputs) {
        match output {
            Output::Apply(Intent::Block(block)) => {
                assert_eq!(block.owner, BlockOwner::WrongPasswords);
                let ends = block.expires_at.unwrap();
                let ends = ends.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
                blocked.push((block.prefix, ends));
            }
            Output::Apply(Intent::Unblock { prefix, owner: BlockOwner::WrongPasswords }) => {
                released.push(prefix);
            }
            other => panic!("{other:?}"),
        }
    }
    (blocked, released)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn sources_are_blocked_by_address_or_64_and_released() {
    let mut world = World::new(&[], &[]);
    let (one, two) = (guesser("8.8.4.1", 600), guesser("2a00:1450:4001:81b::7", 900));
    let both = vec![(net("8.8.4.1/32"), 600), (net("2a00:1450:4001:81b::/64"), 900)];
    assert_eq!(told(&mut world, &[one, two]), (both, vec![]));
    // The same again is nothing new; a longer ban is.
    assert_eq!(told(&mut world, &[one, two]), (vec![], vec![]));
    let seen_again = guesser("8.8.4.1", 601);
    assert_eq!(told(&mut world, &[seen_again, two]), (vec![], vec![]));
    let longer = guesser("8.8.4.1", 3600);
    assert_eq!(told(&mut world, &[longer, two]), (vec![(net("8.8.4.1/32"), 3600)], vec![]));
    // Forgiven, or over.
    assert_eq!(told(&mut world, &[two]), (vec![], vec![net("8.8.4.1/32")]));
    assert_eq!(told(&mut world, &[]), (vec![], vec![net("2a00:1450:4001:81b::/64")]));
}

/// Behind an address that the lists for partners would not take there are users, too.
#[test]
fn private_addresses_are_sources_like_any_other() {
    let mut world = World::new(&[], &[]);
    let blocked = vec![(net("10.9.9.9/32"), 600)];
    assert_eq!(told(&mut world, &[guesser("10.9.9.9", 600)]), (blocked, vec![]));
}

#[test]
fn what_the_configuration_names_is_not_blocked() {
    let mut world = World::new(&[], &[]);
    let named = guesser("8.8.4.1", 600);
    assert_eq!(told(&mut world, &[named]).0.len(), 1);
    world.set(|setting| {
        setting.fixed.push(("8.8.4.0/24".parse().unwrap(), Protection::Management));
        setting.own.push(ip("2a00:1450:4001:81b::1"));
    });
    let ours = guesser("2a00:1450:4001:81b::7", 900);
    assert_eq!(told(&mut world, &[named, ours]), (vec![], vec![net("8.8.4.1/32")]));
}
