//! Whether targets that failed live again, and whether next hops live at all: OPTIONS, in a client
//! transaction that no server transaction waits for (RFC 3261 sections 11.1 and 17.1.2). Any final
//! response but 503 is a sign of life.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    AttemptId, ConnectError, ConnectionId, Output, Side, Target,
    exchange::{T1, T2},
    lookups::{Asked, Waiter},
    proxy::Proxy,
    route::Destination,
    settings::Branch,
    target::retry_after,
};
use crate::{
    config::Transport,
    domain::Domain,
    federation::{Cause, TargetKey},
    sip::{Message, Method},
};

/// Targets that are asked at one time.
const MAX_PROBES: usize = 256;
/// Who has not answered by then is silent. Shorter than timer F: nobody waits for the answer, but
/// requests wait for better knowledge.
const PATIENCE: Duration = Duration::from_secs(8);
/// A connection is made or has failed by then.
const CONNECTING: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Probe {
    target: Target,
    owner: Option<Domain>,
    stage: Stage,
    /// When it is looked at: it is over, or sent again.
    at: Instant,
}

#[derive(Debug)]
enum Stage {
    Connecting,
    Sent {
        connection: ConnectionId,
        over: Instant,
        /// Over UDP: what is sent again, and how long after the last time.
        again: Option<(Bytes, Duration)>,
    },
}

/// Every probe under way.
#[derive(Debug, Default)]
pub(super) struct Probes {
    all: HashMap<u64, Probe>,
    by_attempt: HashMap<AttemptId, u64>,
    asked: HashSet<(Option<Domain>, TargetKey)>,
    due: BTreeSet<(Instant, u64)>,
    /// When the next hops are asked.
    round: Option<Instant>,
}

impl Probes {
    pub(super) fn new(round: Option<Instant>) -> Self {
        Self { round, ..Self::default() }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at).into_iter().chain(self.round).min()
    }

    /// The next hops are asked from then on, or not at all.
    pub(super) fn set_round(&mut self, round: Option<Instant>) {
        self.round = round;
    }

    fn set(&mut self, id: u64, stage: Stage, at: Instant) {
        if let Some(probe) = self.all.get_mut(&id) {
            self.due.remove(&(probe.at, id));
            (probe.stage, probe.at) = (stage, at);
            self.due.insert((at, id));
        }
    }

    fn remove(&mut self, id: u64) -> Option<Probe> {
        let probe = self.all.remove(&id)?;
        self.due.remove(&(probe.at, id));
        self.asked.remove(&(probe.owner.clone(), TargetKey::from(&probe.target)));
        Some(probe)
    }
}

impl Proxy {
    /// Does what is due for targets.
    pub(super) fn targets_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        let room = MAX_PROBES.saturating_sub(self.probes.all.len());
        let room = self.config.probe.map(|_| room);
        for (target, owner) in self.targets.due(now, room) {
            self.probe(now, target, owner, out);
        }
        while let Some((_, id)) = self.probes.due.first().copied().filter(|(at, _)| *at <= now) {
            self.probe_due(now, id, out);
        }
        if self.probes.round.is_some_and(|at| at <= now) {
            self.probes.round = self.config.probe.map(|time| now + time);
            for index in 0..self.config.next_hops.len() {
                self.probe_next_hop(now, index, out);
            }
        }
    }

    /// Asks each address of a next hop; DNS first, where it must be asked.
    pub(super) fn probe_next_hop(&mut self, now: Instant, index: usize, out: &mut Vec<Output>) {
        let destination = Destination::NextHop(index);
        let (question, lookup) = self.question(&destination);
        if let Some(question) = question {
            let waiter = Waiter::Probe(index);
            match self.lookups.ask(now, &question, lookup, waiter, usize::MAX, None, out) {
                Asked::Known => {}
                Asked::Waits | Asked::Full => return,
            }
        }
        for target in self.known_targets(now, &destination).and_then(Result::ok).unwrap_or_default()
        {
            // A dead one is asked when its pause is over.
            if !self.targets.is_dead(now, None, (&target).into()) {
                self.probe(now, target, None, out);
            }
        }
    }

    /// Asks one target, over the connection that is there or a new one.
    fn probe(
        &mut self,
        now: Instant,
        target: Target,
        owner: Option<Domain>,
        out: &mut Vec<Output>,
    ) {
        let key = TargetKey::from(&target);
        let known = match &owner {
            Some(owner) => self.policy.by_key(owner).is_some() && target.server_name.is_some(),
            None => target.side == Side::Inside,
        };
        if !known {
            return self.targets.forget(owner.as_ref(), key);
        }
        if self.probes.all.len() >= MAX_PROBES || !self.probes.asked.insert((owner.clone(), key)) {
            return;
        }
        let open = match &owner {
            Some(owner) => self
                .connections
                .for_domain(now, owner)
                .find(|(_, c)| c.peer.remote == key.address && c.peer.own == target.own)
                .map(|(id, _)| id),
            None => self.connections.inside_at(key.transport, key.address),
        };
        let id = self.exchanges.number();
        let at = now + CONNECTING;
        let probe = Probe { target: target.clone(), owner, stage: Stage::Connecting, at };
        self.probes.all.insert(id, probe);
        self.probes.due.insert((at, id));
        match open {
            Some(connection) => self.send_probe(now, id, connection, out),
            None => {
                let attempt = self.dials.attempt();
                self.probes.by_attempt.insert(attempt, id);
                out.push(Output::Connect { attempt, target });
            }
        }
    }

    fn send_probe(
        &mut self,
        now: Instant,
        id: u64,
        connection: ConnectionId,
        out: &mut Vec<Output>,
    ) {
        let Some(peer) = self.connections.get(connection).map(|c| c.peer.clone()) else { return };
        let Some(probe) = self.probes.all.get(&id) else { return };
        let host = match &probe.target.server_name {
            Some(name) => name.to_string(),
            None => peer.remote.to_string(),
        };
        let via = self.config.via(&peer, Branch { exchange: id, attempt: 0, hash: 0 });
        let fqdn = &self.config.fqdn;
        let bytes = Bytes::from(format!(
            "OPTIONS sip:{host} SIP/2.0\r\nVia: {via}\r\nMax-Forwards: 0\r\n\
             From: <sip:{fqdn}>;tag=p{id:x}\r\nTo: <sip:{host}>\r\nCall-ID: {id:x}@{fqdn}\r\n\
             CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        ));
        out.push(Output::Send { connection, bytes: bytes.clone() });
        let over = now + PATIENCE;
        let again = (peer.transport == Transport::Udp).then_some((bytes, T1));
        let at = again.as_ref().map_or(over, |_| now + T1);
        self.probes.set(id, Stage::Sent { connection, over, again }, at);
    }

    fn probe_due(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(probe) = self.probes.all.get(&id) else { return };
        match &probe.stage {
            Stage::Sent { connection, over, again: Some((bytes, pause)) } if now < *over => {
                let (connection, over, pause) = (*connection, *over, (*pause * 2).min(T2));
                out.push(Output::Send { connection, bytes: bytes.clone() });
                let again = Some((bytes.clone(), pause));
                let at = over.min(now + pause);
                self.probes.set(id, Stage::Sent { connection, over, again }, at);
            }
            Stage::Sent { .. } => self.probe_failed(now, id, Cause::Silent, None, out),
            Stage::Connecting => self.probe_failed(now, id, Cause::Connect, None, out),
        }
    }

    fn probe_failed(
        &mut self,
        now: Instant,
        id: u64,
        cause: Cause,
        retry_after: Option<Duration>,
        out: &mut Vec<Output>,
    ) {
        if let Some(probe) = self.probes.remove(id) {
            self.target_failed(now, &probe.target, probe.owner, cause, retry_after, out);
        }
    }

    /// The next hop that an attempt of a probe goes to.
    pub(super) fn probed_hop(&self, now: Instant, attempt: AttemptId) -> Option<usize> {
        let probe = self.probes.all.get(self.probes.by_attempt.get(&attempt)?)?;
        (0..self.config.next_hops.len()).find(|index| {
            let known = self.known_targets(now, &Destination::NextHop(*index));
            known.and_then(Result::ok).is_some_and(|targets| targets.contains(&probe.target))
        })
    }

    /// A connection stands. True when it was opened to ask somebody.
    pub(super) fn probe_opened(
        &mut self,
        now: Instant,
        attempt: AttemptId,
        connection: ConnectionId,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(id) = self.probes.by_attempt.remove(&attempt) else { return false };
        let Some(probe) = self.probes.all.get(&id) else { return true };
        match probe.owner.clone() {
            Some(owner) if let Err(reason) = self.proves_now(now, connection, &owner, out) => {
                self.probe_failed(now, id, Cause::Identity, None, out);
                self.close(now, connection, reason, out);
            }
            _ => self.send_probe(now, id, connection, out),
        }
        true
    }

    /// No connection. True when it was to ask somebody.
    pub(super) fn probe_not_opened(
        &mut self,
        now: Instant,
        attempt: AttemptId,
        error: &ConnectError,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(id) = self.probes.by_attempt.remove(&attempt) else { return false };
        match cause(error) {
            Some(cause) => self.probe_failed(now, id, cause, None, out),
            None => {
                if let Some(probe) = self.probes.remove(id) {
                    self.targets.forget(probe.owner.as_ref(), (&probe.target).into());
                }
            }
        }
        true
    }

    /// A connection is gone; who was asked over it gave no sign of life.
    pub(super) fn probes_lost(&mut self, now: Instant, gone: ConnectionId, out: &mut Vec<Output>) {
        let over = |(id, probe): (&u64, &Probe)| match probe.stage {
            Stage::Sent { connection, .. } if connection == gone => Some(*id),
            _ => None,
        };
        let lost: Vec<u64> = self.probes.all.iter().filter_map(over).collect();
        for id in lost {
            self.probe_failed(now, id, Cause::Lost, None, out);
        }
    }

    /// Takes a response to a probe. True when it was one.
    pub(super) fn probe_answered(
        &mut self,
        now: Instant,
        branch: Branch,
        connection: ConnectionId,
        response: &Message,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(probe) = self.probes.all.get(&branch.exchange) else { return false };
        let asked_here =
            matches!(probe.stage, Stage::Sent { connection: asked, .. } if asked == connection);
        let options = response.cseq().is_ok_and(|cseq| cseq.method == Method::Options);
        if !asked_here || !options {
            return false;
        }
        let status = response.status().unwrap_or_default();
        match status {
            ..200 => {}
            503 => {
                let time = retry_after(response);
                self.probe_failed(now, branch.exchange, Cause::Unavailable, time, out);
            }
            _ => {
                if let Some(probe) = self.probes.remove(branch.exchange) {
                    let key = TargetKey::from(&probe.target);
                    self.target_alive(now, probe.owner, key, out);
                }
            }
        }
        true
    }
}

/// What a connection failed by; nothing when it is our own doing.
pub(super) fn cause(error: &ConnectError) -> Option<Cause> {
    match error {
        ConnectError::Tls(_) => Some(Cause::Tls),
        ConnectError::Tcp(_) => Some(Cause::Connect),
        ConnectError::Limit => None,
    }
}
