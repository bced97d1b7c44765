//! Which addresses a destination stands for, in which order, and what became of them: what failed
//! is tried last until it answers again (RFC 3263 section 4.3).

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    ConnectionId, Event, Output, Peer, Question, ResolveError, ResolvedHost, Side, Target,
    exchange::Exchange, lookups::Known, proxy::Proxy, route::Destination,
};
use crate::{
    config::{Host, NextHop, Transport},
    domain::Domain,
    federation::{Cause, Failure, Lookup, TargetKey},
    sip::{HeaderName, Message},
};

/// Addresses that are tried for one destination.
pub(super) const MAX_TARGETS: usize = 16;

/// What a target failed by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blame {
    pub key: TargetKey,
    pub cause: Cause,
    /// How long it asked to be left alone.
    pub retry_after: Option<Duration>,
}

/// An address of a partner or a next hop, as `status` shows it.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    /// The host that was looked up; none for an address from the configuration.
    pub host: Option<Domain>,
    /// Where it is.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub transport: Transport,
    /// What is known of it, if it is dead.
    pub failure: Option<Failure>,
}

/// The addresses of one destination, as `status` shows them.
#[derive(Clone, Debug)]
pub struct DestinationStatus {
    /// What DNS said last, and until when it holds; the configuration's address holds for ever.
    pub targets: Result<Vec<TargetStatus>, ResolveError>,
    /// Until when.
    pub valid_until: Option<Instant>,
}

impl Proxy {
    /// What DNS must say first.
    pub(super) fn question(&self, destination: &Destination) -> (Option<Question>, Lookup) {
        match destination {
            Destination::Partner(key, _) => match self.policy.by_key(key) {
                Some(entry) => (Some(entry.question()), entry.lookup()),
                None => (None, Lookup::default()),
            },
            Destination::NextHop(index) => match self.config.next_hops.get(*index) {
                Some(hop) if !matches!(hop.host, Host::Address(_)) => {
                    (Some(Question::NextHop(hop.clone())), Lookup::default())
                }
                _ => (None, Lookup::default()),
            },
            Destination::InsideUdp(_) | Destination::InsideTcp(_) | Destination::Flow(_) => {
                (None, Lookup::default())
            }
        }
    }

    /// The one target of what DNS is not asked for.
    pub(super) fn fixed_target(&self, destination: &Destination) -> Option<Target> {
        let (transport, address) = match destination {
            Destination::NextHop(index) => fixed(self.config.next_hops.get(*index)?)?,
            Destination::InsideUdp(address) => (Transport::Udp, *address),
            Destination::InsideTcp(address) => (Transport::Tcp, *address),
            Destination::Partner(..) | Destination::Flow(_) => return None,
        };
        Some(Target { side: Side::Inside, transport, address, server_name: None, own: 0 })
    }

    /// The targets that an answer gives, in the order in which to try them.
    pub(super) fn targets(&self, destination: &Destination, known: &Known) -> VecDeque<Target> {
        let (side, transport) = match destination {
            Destination::NextHop(index) => {
                let hop = self.config.next_hops.get(*index);
                (Side::Inside, hop.map_or(Transport::Tls, |hop| hop.transport))
            }
            _ => (Side::Partner, Transport::Tls),
        };
        let (entry, own) = match destination {
            Destination::Partner(key, own) => (self.policy.by_key(key), *own),
            _ => (None, 0),
        };
        // With providers about, DNS was asked for targets anywhere: only the partner's own count.
        let counts = |host: &&ResolvedHost| {
            entry.as_ref().is_none_or(|e| e.pinned().is_some() || e.accepts_target(&host.host))
        };
        let mut targets = VecDeque::new();
        for host in known.resolved.hosts.iter().filter(counts) {
            targets.extend(interleaved(&host.addresses).map(|address| Target {
                side,
                transport,
                address: SocketAddr::new(address, host.port),
                server_name: Some(host.host.clone()),
                own,
            }));
        }
        targets.truncate(MAX_TARGETS);
        targets
    }

    /// The targets of a destination as far as they are known; `None` before DNS was asked.
    pub(super) fn known_targets(
        &self,
        now: Instant,
        destination: &Destination,
    ) -> Option<Result<Vec<Target>, ResolveError>> {
        let (question, lookup) = self.question(destination);
        match question {
            None => self.fixed_target(destination).map(|target| Ok(vec![target])),
            Some(question) => Some(
                self.lookups
                    .known(now, &question, lookup.secure)?
                    .map(|known| self.targets(destination, &known).into()),
            ),
        }
    }

    /// The target of a destination that has this address.
    fn target_at(&self, now: Instant, destination: &Destination, key: TargetKey) -> Target {
        let known = self.known_targets(now, destination).and_then(Result::ok);
        let found = known.into_iter().flatten().find(|target| TargetKey::from(target) == key);
        let side = match destination {
            Destination::Partner(..) => Side::Partner,
            _ => Side::Inside,
        };
        found.unwrap_or(Target {
            side,
            transport: key.transport,
            address: key.address,
            server_name: None,
            own: 0,
        })
    }

    /// A target of this destination failed.
    pub(super) fn blame(
        &mut self,
        now: Instant,
        destination: &Destination,
        blame: Blame,
        out: &mut Vec<Output>,
    ) {
        // A remote user is no server that is asked whether it lives.
        // Nor is it known of a server that is spoken to by UDP whether it takes TCP.
        if matches!(destination, Destination::Flow(_) | Destination::InsideTcp(_)) {
            return;
        }
        let target = self.target_at(now, destination, blame.key);
        let owner = destination.partner().cloned();
        self.target_failed(now, &target, owner, blame.cause, blame.retry_after, out);
    }

    pub(super) fn target_failed(
        &mut self,
        now: Instant,
        target: &Target,
        owner: Option<Domain>,
        cause: Cause,
        retry_after: Option<Duration>,
        out: &mut Vec<Output>,
    ) {
        if self.targets.failed(now, target, owner.as_ref(), cause, retry_after) {
            let (address, transport) = (target.address, target.transport);
            let cause = Some(cause);
            out.push(Output::Event(Event::Health { address, transport, partner: owner, cause }));
        }
    }

    /// Something came from the far end of a connection: a sign of life of whoever was proved there.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        status: u16,
        out: &mut Vec<Output>,
    ) {
        if self.targets.is_empty() || status == 503 {
            return;
        }
        let Some(peer) = self.connections.get(connection).map(|c| &c.peer) else { return };
        let key = TargetKey { address: peer.remote, transport: peer.transport };
        if peer.side == Side::Inside {
            return self.target_alive(now, None, key, out);
        }
        let proved: Vec<Domain> = self.connections.proved(connection).cloned().collect();
        for owner in proved {
            self.target_alive(now, Some(owner), key, out);
        }
    }

    pub(super) fn target_alive(
        &mut self,
        now: Instant,
        owner: Option<Domain>,
        key: TargetKey,
        out: &mut Vec<Output>,
    ) {
        if self.targets.alive(now, owner.as_ref(), key) {
            let TargetKey { address, transport } = key;
            let event = Event::Health { address, transport, partner: owner, cause: None };
            out.push(Output::Event(event));
        }
    }

    /// Whether the far end of a connection is to be used last, for this destination.
    pub(super) fn is_dead(&self, now: Instant, destination: &Destination, peer: &Peer) -> bool {
        let key = TargetKey { address: peer.remote, transport: peer.transport };
        !self.targets.is_empty() && self.targets.is_dead(now, destination.partner(), key)
    }

    /// Puts next hops of which every address is dead, or whose name leads nowhere, last.
    pub(super) fn order_hops(&self, now: Instant, ways: &mut [Destination]) {
        ways.sort_by_cached_key(|way| match way {
            Destination::NextHop(_) => match self.known_targets(now, way) {
                Some(Ok(targets)) => {
                    targets.iter().all(|target| self.targets.is_dead(now, None, target.into()))
                }
                Some(Err(_)) => true,
                None => false,
            },
            _ => false,
        });
    }

    /// Whether a request has somewhere else to go when where it is now stays silent.
    pub(super) fn has_elsewhere(&self, now: Instant, exchange: &Exchange) -> bool {
        // After TCP to a server comes UDP to the same one, for when there is no connection.
        let tcp = matches!(exchange.destinations.front(), Some(Destination::InsideTcp(_)));
        if exchange.destinations.len() > 1 + usize::from(tcp) {
            return true;
        }
        let Some(way @ (Destination::NextHop(_) | Destination::Partner(..))) =
            exchange.destinations.front()
        else {
            return false;
        };
        let now_at = exchange.client().map(|client| client.remote);
        let known = self.known_targets(now, way).and_then(Result::ok);
        known.into_iter().flatten().any(|target| {
            Some(target.address) != now_at && !exchange.tried.contains(&target.address)
        })
    }

    /// The targets of a partner, by the key of its connections, or `None` when no policy has it.
    pub fn partner_targets(&self, now: Instant, key: &Domain) -> Option<DestinationStatus> {
        self.policy.by_key(key)?;
        Some(self.destination_status(now, &Destination::Partner(key.clone(), 0)))
    }

    /// The next hops with their targets.
    pub fn next_hop_targets(&self, now: Instant) -> Vec<(NextHop, DestinationStatus)> {
        let status = |(index, hop): (usize, &NextHop)| {
            (hop.clone(), self.destination_status(now, &Destination::NextHop(index)))
        };
        self.config.next_hops.iter().enumerate().map(status).collect()
    }

    fn destination_status(&self, now: Instant, destination: &Destination) -> DestinationStatus {
        let (question, lookup) = self.question(destination);
        let known = question.and_then(|question| self.lookups.known(now, &question, lookup.secure));
        let valid_until = known.and_then(Result::ok).map(|known| known.resolved.valid_until);
        let targets = self.known_targets(now, destination).unwrap_or(Ok(Vec::new()));
        let status = |target: Target| TargetStatus {
            failure: self.targets.failure(now, destination.partner(), (&target).into()),
            host: target.server_name,
            address: target.address,
            transport: target.transport,
        };
        let targets = targets.map(|targets| targets.into_iter().map(status).collect());
        DestinationStatus { targets, valid_until }
    }
}

fn fixed(hop: &NextHop) -> Option<(Transport, SocketAddr)> {
    let Host::Address(ip) = hop.host else { return None };
    Some((hop.transport, SocketAddr::new(ip, hop.port)))
}

/// The addresses with the families in turn, beginning with the first's (RFC 8305 section 4).
fn interleaved(addresses: &[std::net::IpAddr]) -> impl Iterator<Item = std::net::IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(std::net::IpAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv4() == first_is_v4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turn = false;
    std::iter::from_fn(move || {
        turn = !turn;
        if turn {
            first.next().or_else(|| second.next())
        } else {
            second.next().or_else(|| first.next())
        }
    })
}

/// What a 503 says about when to come again, in seconds (RFC 3261 section 20.33).
pub(super) fn retry_after(response: &Message) -> Option<Duration> {
    let text = response.text(HeaderName::RetryAfter)?.trim_start();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let seconds: u32 = text.get(..digits)?.parse().ok()?;
    Some(Duration::from_secs(seconds.into()))
}
