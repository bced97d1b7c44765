//! The state machine: blocked domains, who must not be hit, and what follows.

mod presence;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::Instant,
};

use super::{
    DomainReport, Input, MAX_ADDRESSES, Offense, Output, Refused, START_WAIT, WatchReport, Why,
    guessers::Guessers,
    lingering::Lingering,
    offenders::Offenders,
    partners::{self, PartnerSet},
    protected::{Protected, Protection, Setting},
    watch::{Role, Watch, Watches},
};
use crate::{
    config::{AllowedDomain, BlockedDomain},
    domain::Domain,
    federation::usable,
    firewall::{BlockOwner, BlockRequest, Intent},
    proxy::{ConnectionId, Question, ResolveError, Resolved},
};

/// A blocked domain.
#[derive(Debug)]
struct Blocked {
    entry: BlockedDomain,
    /// Names looked up: itself first, then those below it that were seen.
    names: Vec<Domain>,
    /// Addresses its certificate was seen from, the latest last, and until when they count.
    seen: Vec<(IpAddr, Instant)>,
    candidates: Vec<IpAddr>,
    blocked: Vec<IpAddr>,
    refused: Vec<Refused>,
    /// What the firewall was last told.
    told: Option<Vec<IpAddr>>,
}

/// Turns blocked domains into blocks of addresses.
#[derive(Debug, Default)]
pub struct DomainBlocks {
    setting: Option<Setting>,
    allowed: BTreeMap<Domain, AllowedDomain>,
    blocked: BTreeMap<Domain, Blocked>,
    watches: Watches,
    protected: Protected,
    live: BTreeMap<ConnectionId, Vec<(Domain, IpAddr)>>,
    /// The last connections that went: what they proved may be told after that.
    gone: VecDeque<ConnectionId>,
    /// Connections of our own servers and users.
    ours: HashMap<ConnectionId, (IpAddr, Protection)>,
    /// Partners that were connected lately.
    lingering: Lingering,
    /// Addresses of the hosts of revocation lists, by distribution point.
    crl_hosts: HashMap<Box<str>, Vec<IpAddr>>,
    /// At start: nothing is told before this time, unless all that is protected is known.
    wait_until: Option<Instant>,
    partners: PartnerSet,
    offenders: Offenders,
    guessers: Guessers,
    outputs: VecDeque<Output>,
}

impl DomainBlocks {
    /// Knows nothing yet; wants a [`Input::Setting`] first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Setting(setting) => self.set(now, *setting),
            Input::LastGood { domain, addresses } => self.remember(now, &domain, addresses),
            Input::Resolved { question, result } => self.resolved(now, &question, result),
            Input::Proved { connection, domain, remote } => {
                self.proved(now, connection, domain, remote.to_canonical());
            }
            Input::InsideOpened { connection, remote } => {
                self.protect_ours(connection, remote, Protection::Inside);
            }
            Input::SignedIn { connection, remote } => {
                // Told late: the connection may be gone by now.
                if !self.gone.contains(&connection) {
                    self.protect_ours(connection, remote, Protection::RemoteUser);
                }
            }
            Input::Offender(offense) => {
                if self.is_watched(now, &offense) && self.offenders.add(&offense) {
                    self.offender_changed(&offense.domain);
                }
            }
            Input::Offenders(mut offenses) => {
                offenses.retain(|offense| self.is_watched(now, offense));
                for domain in self.offenders.replace(&offenses) {
                    self.offender_changed(&domain);
                }
            }
            Input::Forgiven { domain, source } => {
                self.offenders.forgive(&domain, source.as_ref());
                self.offender_changed(&domain);
            }
            Input::Guessers(guessers) => {
                if let Some(setting) = &self.setting {
                    let told = self.guessers.replace(&guessers, setting);
                    self.outputs.extend(told.into_iter().map(Output::Apply));
                }
            }
            Input::Closed { connection } => self.closed(now, connection),
            Input::CrlHost { point, addresses } => self.crl_host(point, addresses),
        }
        self.settle(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let over = |b: &Blocked| b.seen.iter().any(|(_, until)| *until <= now);
        let affected: Vec<Domain> =
            self.blocked.iter().filter(|(_, b)| over(b)).map(|(d, _)| d.clone()).collect();
        for domain in affected {
            if let Some(blocked) = self.blocked.get_mut(&domain) {
                blocked.seen.retain(|(_, until)| *until > now);
            }
            self.judge(&domain);
        }
        for domain in self.offenders.end(now) {
            self.offender_changed(&domain);
        }
        self.lingering.end(now);
        self.settle(now);
    }

    /// What must be done, one at a time.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let seen = self.blocked.values().flat_map(|b| b.seen.iter().map(|(_, until)| *until)).min();
        let partners = self.partners.next_timeout();
        let offenders = self.offenders.next_timeout();
        let lingering = self.lingering.next_timeout();
        [self.watches.next_timeout(), seen, self.wait_until, partners, offenders, lingering]
            .into_iter()
            .flatten()
            .min()
    }

    /// Allowed domains of which DNS says that they are at this address.
    pub fn partners_at(&self, address: IpAddr) -> Vec<Domain> {
        let there = |entry: &AllowedDomain| {
            let watch = self.watches.get(&partners::question(entry));
            watch.is_some_and(|watch| watch.addresses.contains(&address))
        };
        self.allowed.values().filter(|e| there(e)).map(|e| e.domain.clone()).collect()
    }

    /// How every blocked domain stands, in the order of their names.
    pub fn report(&self) -> Vec<DomainReport> {
        let error = |domain: &Domain| {
            let watch = self.watches.get(&Question::Federation(domain.clone()))?;
            watch.error.map(|error| error.to_string())
        };
        let one = |(domain, blocked): (&Domain, &Blocked)| DomainReport {
            domain: blocked.entry.clone(),
            blocked: blocked.blocked.clone(),
            refused: blocked.refused.clone(),
            names: blocked.names.clone(),
            dns_error: error(domain),
        };
        self.blocked.iter().map(one).collect()
    }

    /// How the watch list stands in the kernel, in the order of names.
    pub fn watch_report(&self) -> Vec<WatchReport> {
        self.offenders.report()
    }

    fn set(&mut self, now: Instant, setting: Setting) {
        if self.setting.is_none() {
            self.wait_until = Some(now + START_WAIT);
        }
        self.allowed = setting
            .federation
            .known_partners()
            .into_iter()
            .map(|entry| (entry.domain.clone(), entry))
            .collect();
        self.protected.fixed.clone_from(&setting.fixed);
        self.set_blocked(&setting.federation.blocked_domains);
        self.setting = Some(setting);
        self.partners.set(&self.allowed);
        self.watch();
        for domain in self.allowed.keys().cloned().collect::<Vec<_>>() {
            self.partner(now, &domain, false);
        }
        // Who is connected may have become blocked, or allowed.
        let live = std::mem::take(&mut self.live);
        for (domain, remote) in live.values().flatten() {
            self.protected.remove(*remote, &Protection::LivePartner(domain.clone()));
        }
        for (connection, proved) in live {
            for (domain, remote) in proved {
                self.proved(now, connection, domain, remote);
            }
        }
        for domain in self.offenders.domains() {
            if self.allowed.contains_key(&domain) {
                self.offenders.forgive(&domain, None);
            }
        }
        self.judge_all();
    }

    fn set_blocked(&mut self, entries: &[BlockedDomain]) {
        let wanted: HashMap<&Domain, &BlockedDomain> =
            entries.iter().map(|entry| (&entry.domain, entry)).collect();
        let keep =
            |domain: &Domain, b: &Blocked| wanted.get(domain).is_some_and(|w| **w == b.entry);
        let gone: Vec<Domain> =
            self.blocked.iter().filter(|(d, b)| !keep(d, b)).map(|(d, _)| d.clone()).collect();
        let mut told = HashMap::new();
        for domain in gone {
            let Some(former) = self.blocked.remove(&domain) else { continue };
            if wanted.contains_key(&domain) {
                told.insert(domain, former.told);
            } else {
                self.tell(&domain, &[]);
            }
        }
        for entry in entries {
            let told = told.remove(&entry.domain).flatten();
            self.blocked.entry(entry.domain.clone()).or_insert_with(|| Blocked {
                entry: entry.clone(),
                names: vec![entry.domain.clone()],
                seen: Vec::new(),
                candidates: Vec::new(),
                blocked: Vec::new(),
                refused: Vec::new(),
                told,
            });
        }
    }

    /// Watches exactly the names that matter.
    fn watch(&mut self) {
        let mut wanted: Vec<(Question, Role, bool)> = Vec::new();
        for hop in self.setting.iter().flat_map(|s| &s.next_hops) {
            let role = Role::Protected(Protection::NextHop);
            wanted.push((Question::NextHop(hop.clone()), role, false));
        }
        for (domain, entry) in &self.allowed {
            let role = Role::Protected(Protection::Partner(domain.clone()));
            wanted.push((partners::question(entry), role, entry.relax_srv_domain));
        }
        let xmpp = self.setting.as_ref().and_then(|setting| setting.xmpp.as_ref());
        for partner in xmpp.into_iter().flatten() {
            // One that is blocked is not protected from its own block.
            for domain in partner.domains().filter(|domain| self.covering(domain).is_none()) {
                let role = Role::Protected(Protection::XmppPartner(domain.clone()));
                let question = match &partner.proxy {
                    Some((host, port)) => Question::Host(host.clone(), *port),
                    None => Question::Xmpp(domain.clone()),
                };
                wanted.push((question, role, true));
            }
        }
        for (domain, blocked) in &self.blocked {
            let role = Role::Blocked(domain.clone());
            for name in &blocked.names {
                wanted.push((Question::Federation(name.clone()), role.clone(), false));
                if xmpp.is_some() {
                    wanted.push((Question::Xmpp(name.clone()), role.clone(), false));
                }
            }
        }
        let questions: HashSet<Question> = wanted.iter().map(|(q, ..)| q.clone()).collect();
        for watch in self.watches.keep(&questions) {
            self.unprotect(&watch.role, &watch.addresses);
        }
        let mut taken = HashSet::new();
        for (question, role, relax) in wanted {
            // One host may be pinned for several partners; the first stands for all.
            if !taken.insert(question.clone()) {
                continue;
            }
            let Some((former, before)) = self.watches.add(question.clone(), role.clone(), relax)
            else {
                continue;
            };
            let now = self.watches.get(&question).map(|w| w.addresses.clone());
            self.protect(&role, &now.unwrap_or_default());
            self.unprotect(&former, &before);
        }
    }

    fn protect(&mut self, role: &Role, addresses: &[IpAddr]) {
        if let Role::Protected(protection) = role {
            addresses.iter().for_each(|a| self.protected.add(*a, protection.clone()));
        }
    }

    fn unprotect(&mut self, role: &Role, addresses: &[IpAddr]) {
        if let Role::Protected(protection) = role {
            addresses.iter().for_each(|a| self.protected.remove(*a, protection));
        }
    }

    fn resolved(
        &mut self,
        now: Instant,
        question: &Question,
        result: Result<Resolved, ResolveError>,
    ) {
        let Some(before) = self.watches.answer(now, question, result) else { return };
        let Some(watch) = self.watches.get(question) else { return };
        let (role, addresses) = (watch.role.clone(), watch.addresses.clone());
        self.protect(&role, &addresses);
        self.unprotect(&role, &before);
        if let Role::Blocked(domain) = role {
            if addresses != before {
                let addresses = self.dns_addresses(&domain).collect();
                self.outputs.push_back(Output::Persist { domain: domain.clone(), addresses });
            }
            self.judge(&domain);
        }
        for domain in self.partners.asked_by(question) {
            self.partner(now, &domain, true);
        }
    }

    /// The last good addresses of a blocked domain or a partner.
    fn remember(&mut self, now: Instant, domain: &Domain, addresses: Vec<IpAddr>) {
        let Some(question) = self.allowed.get(domain).map(partners::question) else {
            self.watches.remember(&Question::Federation(domain.clone()), addresses);
            self.judge(domain);
            return;
        };
        let of = |watch: &Watch| (watch.role.clone(), watch.addresses.clone());
        let Some((role, before)) = self.watches.get(&question).map(of) else { return };
        self.watches.remember(&question, addresses);
        let after = self.watches.get(&question).map(of).map_or_else(Vec::new, |(_, now)| now);
        self.protect(&role, &after);
        self.unprotect(&role, &before);
        self.partner(now, domain, false);
    }

    /// Takes over what is known of a partner's addresses.
    fn partner(&mut self, now: Instant, domain: &Domain, persist: bool) {
        let Some(entry) = self.allowed.get(domain) else { return };
        let Some(watch) = self.watches.get(&partners::question(entry)) else { return };
        let addresses = watch.addresses.clone();
        let wanted = self.setting.as_ref().is_some_and(|setting| setting.partners);
        if self.partners.addresses(now, domain, &addresses) && persist && wanted {
            self.outputs.push_back(Output::Persist { domain: domain.clone(), addresses });
        }
    }

    /// Tells the firewall of the partners, once those are known that can be at the start: until
    /// then it holds the last good ones.
    fn tell_partners(&mut self, now: Instant) {
        let Some(setting) = self.setting.as_ref().filter(|setting| setting.partners) else {
            return;
        };
        if self.wait_until.is_some() {
            return;
        }
        let Some(members) = self.partners.due(now, setting) else { return };
        if members.left_out > 0 {
            self.outputs.push_back(Output::PartnersLeftOut(members.left_out));
        }
        self.outputs.push_back(Output::Apply(Intent::SetPartners(members.prefixes)));
    }

    /// The block that covers a domain.
    fn covering(&self, domain: &Domain) -> Option<Domain> {
        if self.blocked.contains_key(domain) {
            return Some(domain.clone());
        }
        let mut name = domain.as_str();
        while let Some((_, above)) = name.split_once('.') {
            if let Some((wider, blocked)) = self.blocked.get_key_value(above)
                && blocked.entry.subdomains
            {
                return Some(wider.clone());
            }
            name = above;
        }
        None
    }

    /// After every input: the start's wait, who is touched, and what is due.
    fn settle(&mut self, now: Instant) {
        if let Some(until) = self.wait_until {
            let protective = |role: &Role| matches!(role, Role::Protected(_));
            if now >= until || self.watches.iter().all(|w| w.tried || !protective(&w.role)) {
                self.wait_until = None;
                self.protected.take_touched();
                self.lingering.take_touched();
                self.judge_all();
            }
        }
        let mut touched = self.protected.take_touched();
        touched.extend(self.lingering.take_touched());
        if !touched.is_empty() {
            let hit = |b: &Blocked| b.candidates.iter().any(|a| touched.contains(a));
            let affected: Vec<Domain> =
                self.blocked.iter().filter(|(_, b)| hit(b)).map(|(d, _)| d.clone()).collect();
            affected.iter().for_each(|domain| self.judge(domain));
            let affected = self.offenders.touched_by(&touched);
            affected.iter().for_each(|domain| self.judge_offender(domain));
        }
        self.tell_partners(now);
        for (question, relax_srv_domain) in self.watches.due(now) {
            self.outputs.push_back(Output::Query { question, relax_srv_domain });
        }
    }

    fn judge_all(&mut self) {
        let domains: Vec<Domain> = self.blocked.keys().cloned().collect();
        domains.iter().for_each(|domain| self.judge(domain));
        self.offenders.domains().iter().for_each(|domain| self.judge_offender(domain));
    }

    fn judge_offender(&mut self, domain: &Domain) {
        let Some(setting) = &self.setting else { return };
        let quiet = self.wait_until.is_some();
        let recent = self.recent(domain);
        let told = self.offenders.judge(domain, setting, &self.protected, &recent, quiet);
        self.outputs.extend(told.map(Output::Apply));
    }

    /// A partner with an entry is not watched.
    fn is_watched(&self, now: Instant, offense: &Offense) -> bool {
        offense.until > now && !self.allowed.contains_key(&offense.domain)
    }

    /// Something is held against a domain, or not any more: that is news for those too who were
    /// where it was.
    fn offender_changed(&mut self, domain: &Domain) {
        self.judge_offender(domain);
        self.lingering.touch(domain);
    }

    /// What DNS says (or said last) about a blocked domain and the names seen below it.
    fn dns_addresses(&self, domain: &Domain) -> impl Iterator<Item = IpAddr> {
        let names = self.blocked.get(domain).into_iter().flat_map(|b| &b.names);
        names
            .flat_map(|name| [Question::Federation(name.clone()), Question::Xmpp(name.clone())])
            .filter_map(|question| self.watches.get(&question))
            .flat_map(|watch| watch.addresses.iter().copied())
    }

    /// Decides about every address of a blocked domain, and tells what is new.
    fn judge(&mut self, domain: &Domain) {
        let (Some(setting), Some(entry)) = (&self.setting, self.blocked.get(domain)) else {
            return;
        };
        // What a certificate was seen from is better evidence than what DNS claims: it is first.
        let seen = entry.seen.iter().rev().map(|(address, _)| *address);
        let mut once = HashSet::new();
        let candidates: Vec<IpAddr> =
            seen.chain(self.dns_addresses(domain)).filter(|a| once.insert(*a)).collect();
        let (mut blocked, mut refused) = (Vec::new(), Vec::new());
        for address in &candidates {
            let allow = &setting.federation.allow_addresses;
            let why = if let Err(fault) = usable(*address, &setting.own, allow) {
                Why::Fault(fault)
            } else if let Some(protection) = self.protected.find(*address) {
                Why::Shared(protection.clone())
            } else if blocked.len() >= MAX_ADDRESSES {
                Why::Limit
            } else {
                blocked.push(*address);
                continue;
            };
            refused.push(Refused { address: *address, why });
        }
        let questions = [Question::Federation(domain.clone()), Question::Xmpp(domain.clone())];
        let known = |question| self.watches.get(question).is_some_and(|watch| watch.known);
        let known = questions.iter().any(known);
        let waiting = self.wait_until.is_some();
        let Some(entry) = self.blocked.get_mut(domain) else { return };
        let new = refused.iter().filter(|r| !entry.refused.contains(r));
        self.outputs.extend(new.map(|Refused { address, why }| Output::NotBlocked {
            domain: domain.clone(),
            address: *address,
            why: why.clone(),
        }));
        let same: bool = entry.told.as_ref().is_some_and(|told| same_set(told, &blocked));
        // Nothing is told before something is known: pins of a former run stay until then.
        let tell = !waiting && !same && (known || entry.told.is_some() || !blocked.is_empty());
        (entry.candidates, entry.refused) = (candidates, refused);
        entry.blocked.clone_from(&blocked);
        if tell {
            entry.told = Some(blocked.clone());
            self.tell(domain, &blocked);
        }
    }

    fn tell(&mut self, domain: &Domain, addresses: &[IpAddr]) {
        let owner = BlockOwner::Domain(domain.clone());
        let request = |address: &IpAddr| BlockRequest {
            prefix: (*address).into(),
            owner: owner.clone(),
            comment: None,
            expires_at: None,
        };
        let blocks = addresses.iter().map(request).collect();
        self.outputs.push_back(Output::Apply(Intent::SetOwnerBlocks { owner, blocks }));
    }
}

fn same_set(a: &[IpAddr], b: &[IpAddr]) -> bool {
    a.len() == b.len() && a.iter().collect::<HashSet<_>>() == b.iter().collect::<HashSet<_>>()
}
