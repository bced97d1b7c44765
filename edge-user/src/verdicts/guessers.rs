//! Who guesses passwords of remote users: the sources that the proxy shuts out are dropped at the
//! ports of remote users, until their bans end. A ban follows answers to requests over TCP, so nobody
//! can have another's address dropped; where somebody of ours is still connected, the proxy does not
//! name the source. What the configuration names is refused by the proxy alone.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;

use super::protected::Setting;
use crate::{
    federation::source_prefix,
    firewall::{BlockOwner, BlockRequest, Intent},
};

/// A source that is shut out, of which nothing is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guesser {
    /// The address; of IPv6 any of the /64.
    pub source: IpAddr,
    /// Until when, by the wall clock.
    pub expires_at: SystemTime,
}

/// All of them. As many as the proxy remembers, at most.
#[derive(Debug, Default)]
pub(super) struct Guessers {
    /// What the firewall was told.
    told: BTreeMap<IpNet, SystemTime>,
}

impl Guessers {
    /// Exactly these are shut out: what the firewall must be told.
    pub fn replace(&mut self, guessers: &[Guesser], setting: &Setting) -> Vec<Intent> {
        let owner = BlockOwner::WrongPasswords;
        let mut wanted = BTreeMap::new();
        for guesser in guessers {
            let prefix = source_prefix(guesser.source.to_canonical());
            if may_be_dropped(&prefix, setting) {
                let before = self.told.get(&prefix).filter(|told| same(**told, guesser.expires_at));
                wanted.insert(prefix, *before.unwrap_or(&guesser.expires_at));
            }
        }
        let gone = self.told.keys().filter(|prefix| !wanted.contains_key(prefix));
        let unblock = |prefix: &IpNet| Intent::Unblock { prefix: *prefix, owner: owner.clone() };
        let mut intents: Vec<Intent> = gone.map(unblock).collect();
        let new = wanted.iter().filter(|(prefix, ends)| self.told.get(prefix) != Some(ends));
        intents.extend(new.map(|(prefix, ends)| {
            Intent::Block(BlockRequest {
                prefix: *prefix,
                owner: owner.clone(),
                comment: Some("wrong passwords of remote users".to_owned()),
                expires_at: Some(*ends),
            })
        }));
        self.told = wanted;
        intents
    }
}

/// Two looks at one ban differ by what the clocks do.
fn same(one: SystemTime, two: SystemTime) -> bool {
    let apart = one.duration_since(two).or_else(|_| two.duration_since(one));
    apart.is_ok_and(|apart| apart <= Duration::from_secs(1))
}

fn may_be_dropped(prefix: &IpNet, setting: &Setting) -> bool {
    let meets = |net: &IpNet| net.contains(prefix) || prefix.contains(net);
    !setting.own.iter().any(|own| prefix.contains(&own.to_canonical()))
        && !setting.fixed.iter().any(|(net, _)| meets(net))
}
