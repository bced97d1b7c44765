//! Discovered partners on the watch list: the prefixes they sent from become blocks that end by
//! themselves. Only what a completed handshake proved comes here, so nobody can have another's
//! address blocked; what others use too, or the configuration names, is refused by the proxy alone.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::{Instant, SystemTime},
};

use ipnet::IpNet;

use super::{
    MAX_ADDRESSES, MAX_WATCHED, Offense, RefusedPrefix, WatchReport, Why,
    protected::{Protected, Protection, Setting},
};
use crate::{
    domain::Domain,
    federation::{AddressFault, source_prefix, usable},
    firewall::{BlockOwner, BlockRequest, Intent},
};

/// Prefixes remembered of one domain, blocked or not.
const MAX_REMEMBERED: usize = 2 * MAX_ADDRESSES;

/// Where an offender sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct From {
    address: IpAddr,
    prefix: IpNet,
    until: Instant,
    expires_at: SystemTime,
}

/// One domain.
#[derive(Debug, Default)]
struct Offender {
    from: Vec<From>,
    blocked: Vec<IpNet>,
    refused: Vec<RefusedPrefix>,
    /// What the firewall was last told.
    told: Option<Vec<(IpNet, SystemTime)>>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Offenders {
    domains: BTreeMap<Domain, Offender>,
}

impl Offenders {
    /// One sent from here. Says whether that is new.
    pub fn add(&mut self, offense: &Offense) -> bool {
        let Offense { domain, source, until, expires_at } = offense;
        let (until, expires_at) = (*until, *expires_at);
        let address = source.to_canonical();
        let prefix = source_prefix(address);
        let all: usize = self.domains.values().map(|offender| offender.from.len()).sum();
        if all >= 2 * MAX_WATCHED && !self.domains.contains_key(domain) {
            return false;
        }
        let offender = self.domains.entry(domain.clone()).or_default();
        let from = From { address, prefix, until, expires_at };
        let room = offender.from.len() < MAX_REMEMBERED && all < 2 * MAX_WATCHED;
        match offender.from.iter_mut().find(|known| known.prefix == prefix) {
            Some(known) => {
                let new = known.until != until;
                if new {
                    *known = from;
                }
                new
            }
            None => {
                if room {
                    offender.from.push(from);
                }
                room
            }
        }
    }

    /// Exactly these sent, and nobody else. Says of whom something is new or went.
    pub fn replace(&mut self, offenses: &[Offense]) -> HashSet<Domain> {
        let mut there: HashMap<&Domain, HashSet<IpNet>> = HashMap::new();
        for offense in offenses {
            let prefix = source_prefix(offense.source.to_canonical());
            there.entry(&offense.domain).or_default().insert(prefix);
        }
        let mut changed = HashSet::new();
        for (domain, offender) in &mut self.domains {
            let listed = there.get(domain);
            let before = offender.from.len();
            offender.from.retain(|from| listed.is_some_and(|l| l.contains(&from.prefix)));
            if offender.from.len() != before {
                changed.insert(domain.clone());
            }
        }
        for offense in offenses {
            if self.add(offense) {
                changed.insert(offense.domain.clone());
            }
        }
        changed
    }

    /// Nothing is held against a domain, or against what came from this prefix.
    pub fn forgive(&mut self, domain: &Domain, source: Option<&IpNet>) {
        if let Some(offender) = self.domains.get_mut(domain) {
            let there = |prefix: &IpNet| {
                source.is_none_or(|net| net.contains(prefix) || prefix.contains(net))
            };
            offender.from.retain(|from| !there(&from.prefix));
        }
    }

    /// What has ended goes. Says of whom something went.
    pub fn end(&mut self, now: Instant) -> Vec<Domain> {
        let mut changed = Vec::new();
        for (domain, offender) in &mut self.domains {
            let before = offender.from.len();
            offender.from.retain(|from| from.until > now);
            if offender.from.len() != before {
                changed.push(domain.clone());
            }
        }
        changed
    }

    /// When the next one ends.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.domains.values().flat_map(|offender| offender.from.iter().map(|f| f.until)).min()
    }

    pub fn domains(&self) -> Vec<Domain> {
        self.domains.keys().cloned().collect()
    }

    /// Those of whom one of these addresses matters.
    pub fn touched_by(&self, touched: &HashSet<IpAddr>) -> Vec<Domain> {
        let hit =
            |offender: &Offender| offender.from.iter().any(|from| holds_any(&from.prefix, touched));
        self.domains.iter().filter(|(_, o)| hit(o)).map(|(domain, _)| domain.clone()).collect()
    }

    /// Whether something is held against a domain.
    pub fn is_listed(&self, domain: &Domain) -> bool {
        self.domains.get(domain).is_some_and(|offender| !offender.from.is_empty())
    }

    /// Where a domain sent from.
    pub fn prefixes(&self, domain: &Domain) -> impl Iterator<Item = IpNet> {
        self.domains.get(domain).into_iter().flat_map(|o| o.from.iter().map(|from| from.prefix))
    }

    pub fn report(&self) -> Vec<WatchReport> {
        let one = |(domain, offender): (&Domain, &Offender)| WatchReport {
            domain: domain.clone(),
            blocked: offender.blocked.clone(),
            refused: offender.refused.clone(),
        };
        self.domains.iter().map(one).collect()
    }

    /// Decides about every prefix of a domain; gives what the firewall must be told, if anything.
    /// `recent`: who was connected from there lately. `quiet`: it is too early to tell.
    pub fn judge(
        &mut self,
        domain: &Domain,
        setting: &Setting,
        protected: &Protected,
        recent: &HashMap<IpNet, Protection>,
        quiet: bool,
    ) -> Option<Intent> {
        let others: usize = self
            .domains
            .iter()
            .filter(|(other, _)| *other != domain)
            .map(|(_, offender)| offender.blocked.len())
            .sum();
        let offender = self.domains.get_mut(domain)?;
        let (mut blocked, mut refused) = (Vec::new(), Vec::new());
        for from in &offender.from {
            let why = if let Err(fault) = may_be_blocked(from, setting) {
                Why::Fault(fault)
            } else if let Some(protection) = shared(domain, &from.prefix, setting, protected)
                .or_else(|| recent.get(&from.prefix).cloned())
            {
                Why::Shared(protection)
            } else if blocked.len() >= MAX_ADDRESSES {
                Why::Limit
            } else if others + blocked.len() >= MAX_WATCHED {
                Why::Full
            } else {
                blocked.push((from.prefix, from.expires_at));
                continue;
            };
            refused.push(RefusedPrefix { prefix: from.prefix, why });
        }
        offender.refused = refused;
        offender.blocked = blocked.iter().map(|(prefix, _)| *prefix).collect();
        let new = offender.told.as_deref().unwrap_or_default() != blocked;
        let gone = offender.from.is_empty();
        if gone {
            self.domains.remove(domain);
        } else if !quiet {
            self.domains.get_mut(domain)?.told = Some(blocked.clone());
        }
        (new && !quiet).then(|| tell(domain, &blocked))
    }
}

fn tell(domain: &Domain, blocked: &[(IpNet, SystemTime)]) -> Intent {
    let owner = BlockOwner::Watch(domain.clone());
    let request = |(prefix, expires_at): &(IpNet, SystemTime)| BlockRequest {
        prefix: *prefix,
        owner: owner.clone(),
        comment: Some(format!("{domain} is on the watch list")),
        expires_at: Some(*expires_at),
    };
    let blocks = blocked.iter().map(request).collect();
    Intent::SetOwnerBlocks { owner, blocks }
}

fn may_be_blocked(from: &From, setting: &Setting) -> Result<(), AddressFault> {
    if setting.own.iter().any(|own| from.prefix.contains(&own.to_canonical())) {
        return Err(AddressFault::Ours);
    }
    usable(from.address, &setting.own, &setting.federation.allow_addresses)
}

/// Who else is in the prefix. The offender's own connections protect nothing.
fn shared(
    domain: &Domain,
    prefix: &IpNet,
    setting: &Setting,
    protected: &Protected,
) -> Option<Protection> {
    // Providers and the default route name no addresses.
    let listed = setting.federation.allowed_domains.iter().find(|entry| {
        let meets = |net: &IpNet| net.contains(prefix) || prefix.contains(net);
        entry.from_addresses.iter().any(meets)
    });
    listed
        .map(|entry| Protection::Partner(entry.domain.clone()))
        .or_else(|| protected.find_in(prefix, domain))
}

fn holds_any(prefix: &IpNet, addresses: &HashSet<IpAddr>) -> bool {
    match prefix.prefix_len() == prefix.max_prefix_len() {
        true => addresses.contains(&prefix.addr()),
        false => addresses.iter().any(|address| prefix.contains(address)),
    }
}
