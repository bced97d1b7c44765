//! Calls: what each side said in SDP, which ports of ours it was told, and the flows that are open
//! for it. No sockets, no clock: messages on their way come in, changed bodies and changes of flows
//! come out.
//!
//! | part | what it does |
//! | --- | --- |
//! | `settings` | our addresses, ports and bounds |
//! | `names` | what a call is known by |
//! | `said` | what a text says of each m-line, and whether that makes sense |
//! | `transports` | which m-lines share a transport, and which ports of ours each has |
//! | `ports` | ports of ours, and names of flows |
//! | `call` | a session, and what is open for it |
//! | `wanted`, `limits` | the flows that follow from a session |
//! | `negotiate` | offers and answers (RFC 3264, RFC 6337), forks, what fails |
//! | `text` | what a text becomes on its way |
//! | `turns` | two calls that a server inside joins |
//! | `ends` | BYE, timers, silence, policy |
//! | `adopt` | calls that are found in the kernel after a restart |
//!
//! What this module must never do: open a flow to an address that only a packet named, keep one
//! after its call has ended, or let the address of one side be seen on the other in relay mode.

mod adopt;
mod call;
mod ends;
mod limits;
mod names;
mod negotiate;
mod ports;
mod said;
mod settings;
mod status;
#[cfg(test)]
mod tests;
mod text;
mod transports;
mod turns;
mod wanted;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::Instant,
};

use self::{
    call::{Call, Pools},
    ends::Over,
    names::NameKeys,
    ports::{FlowIds, Held, Ports},
    settings::SIDES,
};
pub use self::{
    ends::EndCause,
    names::CallNames,
    settings::{CallSettings, OwnAddress, OwnAddresses, Sides},
    status::{CallState, CallStatus, LineStatus},
};
use super::{
    flow::{CallId, MediaChange, MediaSide},
    sdp::SdpError,
};
use crate::{config::MediaMode, domain::Domain, proxy::ConnectionId};

/// Why a message with SDP does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediaFault {
    /// Nothing is left of an offer: what it asks for is not allowed.
    #[error("no modality of it is allowed")]
    Forbidden,
    /// Nothing is left of an offer: what it asks for cannot be forwarded.
    #[error(
        "nothing of it can be relayed: TCP, several ports for one m-line, or an address family \
         that this edge lacks"
    )]
    Unsupported,
    /// An address that nobody outside can have, or one of ours, or a name.
    #[error("m-line {}: its address is no place to send media to", line + 1)]
    Address {
        /// From 0.
        line: usize,
    },
    /// It begins a call that somebody else began, or that is up.
    #[error("its Call-ID and tag are those of another call")]
    Another,
    /// It was ended for good.
    #[error("an administrator ended its media, or it lasted as long as any may")]
    Over,
    /// Ports or flows are used up.
    #[error("no port is left")]
    NoPorts,
    /// It cannot be changed.
    #[error("{0}")]
    Sdp(#[from] SdpError),
}

/// The method of a request that carries offers and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallMethod {
    /// INVITE.
    Invite,
    /// UPDATE (RFC 3311).
    Update,
    /// PRACK (RFC 3262).
    Prack,
    /// ACK of a 2xx.
    Ack,
}

/// A message with SDP on its way, or a response that may decide about an offer.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a> {
    /// Its dialog, as the request says it.
    pub names: CallNames<'a>,
    /// The transaction.
    pub exchange: u64,
    /// CSeq's number.
    pub cseq: u32,
    /// CSeq's method.
    pub method: CallMethod,
    /// Where this message comes from.
    pub from: MediaSide,
    /// The far ends of the signalling.
    pub peers: Peers,
    /// What is outside is behind NAT, by its entry.
    pub behind_nat: bool,
    /// m-lines that nobody may have, as bits.
    pub forbidden: u32,
    /// From's and To's URI.
    pub parties: (&'a str, &'a str),
    /// The remote user's connection; `None`: a partner is outside, or it is not known.
    pub connection: Option<ConnectionId>,
}

/// The far ends of the signalling.
#[derive(Clone, Copy, Debug)]
pub struct Peers {
    /// Outside.
    pub outside: IpAddr,
    /// Inside.
    pub inside: IpAddr,
}

impl Peers {
    fn of(&self, side: MediaSide) -> IpAddr {
        match side {
            MediaSide::Outside => self.outside,
            MediaSide::Inside => self.inside,
        }
    }
}

/// What a response says beside its SDP.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// Status.
    pub status: u16,
    /// To's tag.
    pub tag: &'a str,
    /// It is acknowledged by PRACK.
    pub reliable: bool,
    /// The request brought an offer.
    pub offered: bool,
    /// It has been here before (RFC 6026), or it is another than the first 2xx.
    pub again: bool,
    /// The session timer that a 2xx sets (RFC 4028).
    pub session: Option<std::time::Duration>,
}

/// A call began or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallEvent {
    /// Which.
    pub call: CallId,
    /// The partner that is outside; `None`: a remote user, or not known.
    pub partner: Option<Domain>,
    /// Why it ended; `None`: its first flows are open.
    pub ended: Option<EndCause>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Effects {
    /// For the firewall, in order.
    pub changes: Vec<MediaChange>,
    /// For people.
    pub events: Vec<CallEvent>,
}

/// Every call that has media.
#[derive(Debug)]
pub struct Calls {
    settings: CallSettings,
    keys: NameKeys,
    all: HashMap<CallId, Box<Call>>,
    pools: Pools,
    timers: BTreeSet<(Instant, CallId)>,
    /// Whose flow it is, by the flow's number.
    owners: HashMap<u32, CallId>,
    /// Calls whose media is relayed.
    relayed: usize,
    over: Over,
}

impl Calls {
    /// Without calls. `secret` and `former`: as for Record-Route.
    pub fn new(settings: CallSettings, secret: &[u8; 32], former: Option<&[u8; 32]>) -> Self {
        // Without media nothing is kept for it.
        let used = if settings.mode == MediaMode::Relay { settings.ports } else { (0, 0) };
        Self {
            keys: NameKeys::new(secret, former),
            all: HashMap::new(),
            pools: Pools {
                ports: Ports::new(used, &[]),
                held: Held::default(),
                pinholes: Held::default(),
                ids: FlowIds::new(&[]),
            },
            timers: BTreeSet::new(),
            owners: HashMap::new(),
            relayed: 0,
            over: Over::default(),
            settings,
        }
    }

    /// Takes other settings. They are for calls that begin from now on, and for what another offer
    /// asks for more: what is done with a call's media, and the ports that it has, stay to its end.
    pub fn set(&mut self, settings: CallSettings, secret: &[u8; 32], former: Option<&[u8; 32]>) {
        self.keys = NameKeys::new(secret, former);
        self.settings = settings;
        let range = match self.settings.mode {
            MediaMode::Relay => self.settings.ports,
            _ => (0, 0),
        };
        if self.pools.ports.range() != range {
            self.pools.ports = Ports::new(range, &self.used_ports());
        }
    }

    /// Every port of ours that a call has.
    fn used_ports(&self) -> Vec<(MediaSide, bool, u16)> {
        let mut used = Vec::new();
        for call in self.all.values() {
            for side in SIDES {
                let Some(leg) = call.legs.of(side) else { continue };
                let ports = call.lines.iter().map(|line| *line.ports.of(side));
                let six = leg.local.is_ipv6();
                used.extend(ports.filter(|port| *port != 0).map(|port| (side, six, port)));
            }
        }
        used
    }

    /// Nothing is done with media, nor for a call from before.
    pub fn is_off(&self) -> bool {
        self.settings.mode == MediaMode::Off && self.all.is_empty()
    }

    /// Nobody's address may be seen on the other side, or not of a call from before.
    pub fn relays(&self) -> bool {
        self.settings.mode == MediaMode::Relay || self.relayed > 0
    }

    /// What is done with the media of a message's call.
    fn mode_of(&self, names: &CallNames<'_>) -> MediaMode {
        let mode = self.settings.mode;
        let alike = match mode {
            MediaMode::Relay => self.relayed == self.all.len(),
            MediaMode::Pinhole => self.relayed == 0,
            MediaMode::Off => self.all.is_empty(),
        };
        // Nearly always so: names cost more.
        if alike {
            return mode;
        }
        let known = self.find(names).and_then(|id| self.all.get(&id));
        known.map_or(mode, |call| call.mode)
    }

    /// A call more.
    fn begin(&mut self, call: Call) {
        self.relayed += usize::from(call.mode == MediaMode::Relay);
        self.all.insert(call.id, Box::new(call));
    }

    /// How many calls there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many flows are open.
    pub fn flows(&self) -> usize {
        self.owners.len()
    }

    /// When [`Calls::on_timeout`] is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Every call.
    pub fn status(&self) -> Vec<CallStatus> {
        let mut all: Vec<CallStatus> = self.all.values().map(|call| status::of(call)).collect();
        all.sort_by_key(|call| (call.since, call.id));
        all
    }

    fn find(&self, names: &CallNames<'_>) -> Option<CallId> {
        if self.all.is_empty() {
            return None;
        }
        self.keys.candidates(names).find(|id| self.all.contains_key(id))
    }

    /// Puts a call back that was changed, and keeps what is known beside it in step with it; unless
    /// nothing is left of it.
    fn keep(&mut self, mut call: Box<Call>, had: &[u32], effects: &mut Effects) {
        for flow in had {
            self.owners.remove(flow);
        }
        if call.is_over() {
            let cause = if call.up.is_some() { EndCause::NoMedia } else { EndCause::Failed };
            return self.finish(call, cause, effects);
        }
        for flow in &call.flows {
            self.owners.insert(flow.id.0, call.id);
        }
        if !call.told && !call.flows.is_empty() {
            call.told = true;
            let partner = call.parties.partner.clone();
            effects.events.push(CallEvent { call: call.id, partner, ended: None });
        }
        let at = call.deadline();
        if call.timer != Some(at) {
            if let Some(old) = call.timer.replace(at) {
                self.timers.remove(&(old, call.id));
            }
            self.timers.insert((at, call.id));
        }
        self.all.insert(call.id, call);
    }

    /// A call that was taken out ends.
    fn finish(&mut self, mut call: Box<Call>, cause: EndCause, effects: &mut Effects) {
        for flow in names_of(&call) {
            self.owners.remove(&flow);
        }
        if let Some(at) = call.timer {
            self.timers.remove(&(at, call.id));
        }
        call.close(&mut self.pools, effects);
        for other in std::mem::take(&mut call.joined) {
            self.part(other, call.id, effects);
        }
        self.relayed -= usize::from(call.mode == MediaMode::Relay);
        if call.told {
            let partner = call.parties.partner.clone();
            effects.events.push(CallEvent { call: call.id, partner, ended: Some(cause) });
        }
    }
}

/// The names of a call's flows.
fn names_of(call: &Call) -> Vec<u32> {
    call.flows.iter().map(|flow| flow.id.0).collect()
}

/// One and the same for every tag but the empty one.
fn tag_code(tag: &str) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(tag.as_bytes());
    hasher.finish().max(1)
}
