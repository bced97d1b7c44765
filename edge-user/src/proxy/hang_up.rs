//! Calls that were accepted and that the caller is not told of: what the callee offers in its 2xx is
//! forbidden or cannot be read, or the INVITE was answered by us meanwhile. The callee has an ACK
//! from us, with an answer that takes nothing of an offer, and a BYE (RFC 3261 sections 13.2.2.4 and
//! 15): else it would be in a call that nobody hears until it gives up. A call that is up ends too
//! when what the callee agreed to cannot pass: the two would not agree on its session any more. One
//! whose re-INVITE we answered ourselves goes on without the change.
//!
//! Both go where the INVITE went. ACK is sent again with each 2xx that comes again, BYE over UDP
//! until it is answered or timer F fires.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    ConnectionId, Output,
    descriptions::read,
    exchange::{T1, T2, TRANSACTION},
    proxy::Proxy,
    send::own_limits,
    settings::Branch,
};
use crate::{
    config::Transport,
    ids::IdMap,
    media::policy::Modalities,
    sip::{
        Message, Method,
        build::{self, InDialog},
    },
};

/// Beyond these ACK and BYE are sent once, and what comes again is a stray.
const MAX_HANG_UPS: usize = 1000;

/// Which call: the exchange of its INVITE, and the callee's tag. Of a call that forks each who accepts
/// has a dialog of its own.
type Accepted = (u64, Box<str>);

/// A call that was hung up.
#[derive(Debug)]
struct HangUp {
    call: Accepted,
    connection: ConnectionId,
    ack: Bytes,
    /// What is sent again after this pause.
    again: Option<(Bytes, Duration)>,
    /// When something is due.
    at: Instant,
    /// When nothing more comes of it.
    over: Instant,
}

/// All of them, by the number in their BYE's branch.
#[derive(Debug, Default)]
pub(super) struct HangUps {
    all: IdMap<u64, HangUp>,
    by_call: BTreeMap<Accepted, u64>,
    due: BTreeSet<(Instant, u64)>,
}

impl HangUps {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether a callee of this exchange was hung up.
    pub(super) fn is_of(&self, exchange: u64) -> bool {
        let first = self.by_call.range((exchange, Box::default())..).next();
        first.is_some_and(|((of, _), _)| *of == exchange)
    }

    fn insert(&mut self, number: u64, hang_up: HangUp) {
        self.due.insert((hang_up.at, number));
        self.by_call.insert(hang_up.call.clone(), number);
        self.all.insert(number, hang_up);
    }

    fn remove(&mut self, number: u64) {
        if let Some(hang_up) = self.all.remove(&number) {
            self.due.remove(&(hang_up.at, number));
            self.by_call.remove(&hang_up.call);
        }
    }
}

impl Proxy {
    /// Takes a 2xx to this INVITE, as it was sent on this connection, that goes no further, and
    /// whether that is since it cannot pass.
    pub(super) fn hang_up(
        &mut self,
        now: Instant,
        id: u64,
        (connection, invite): (ConnectionId, Bytes),
        (response, refused): (&Message, bool),
        out: &mut Vec<Output>,
    ) {
        let Some(peer) = self.connections.get(connection).map(|used| used.peer.clone()) else {
            return;
        };
        let Ok(invite) = Message::parse_datagram(invite, &own_limits()) else { return };
        // Where the INVITE brought no offer the 2xx did, and its answer is due in the ACK.
        let answer = invite.body().is_empty().then(|| rejection(response)).flatten();
        let numbers = [self.exchanges.number(), self.exchanges.number()];
        let of = |number| self.config.via(&peer, Branch { exchange: number, attempt: 0, hash: 0 });
        let [to_ack, to_bye] = numbers.map(of);
        let ack = InDialog { method: "ACK", next: false, via: &to_ack, sdp: answer.as_deref() };
        let Ok(ack) = build::in_dialog(&invite, response, &ack) else { return };
        out.push(Output::Send { connection, bytes: ack.clone() });
        let ends = refused || invite.to().is_ok_and(|to| to.tag().is_none());
        let bye = InDialog { method: "BYE", next: true, via: &to_bye, sdp: None };
        let bye = ends.then(|| build::in_dialog(&invite, response, &bye).ok()).flatten();
        if let Some(bytes) = bye.clone() {
            out.push(Output::Send { connection, bytes });
        }
        if self.hang_ups.all.len() >= MAX_HANG_UPS {
            return;
        }
        let (call, over) = ((id, tag_of(response).into()), now + TRANSACTION);
        let again = bye.filter(|_| peer.transport == Transport::Udp).map(|bytes| (bytes, T1));
        let at = if again.is_some() { now + T1 } else { over };
        self.hang_ups.insert(numbers[1], HangUp { call, connection, ack, again, at, over });
    }

    /// Takes a response about a call that was hung up. True when it was one.
    pub(super) fn hung_up(
        &mut self,
        branch: Branch,
        connection: ConnectionId,
        response: &Message,
        out: &mut Vec<Output>,
    ) -> bool {
        if self.hang_ups.all.is_empty() {
            return false;
        }
        let (status, method) = (response.status(), response.cseq().map(|cseq| cseq.method));
        let number = match (method, status) {
            (Ok(Method::Bye), Some(_)) => Some(branch.exchange),
            (Ok(Method::Invite), Some(200..300)) => {
                self.hang_ups.by_call.get(&(branch.exchange, tag_of(response).into())).copied()
            }
            _ => None,
        };
        let Some(hang_up) = number.and_then(|number| self.hang_ups.all.get_mut(&number)) else {
            return false;
        };
        if hang_up.connection != connection {
            return false;
        }
        if method == Ok(Method::Invite) {
            out.push(Output::Send { connection, bytes: hang_up.ack.clone() });
        } else if status >= Some(200) {
            hang_up.again = None;
        }
        true
    }

    /// Sends again, or forgets, what is due.
    pub(super) fn hang_ups_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        while let Some((at, number)) = self.hang_ups.due.first().copied() {
            if at > now {
                break;
            }
            self.hang_ups.due.pop_first();
            let Some(hang_up) = self.hang_ups.all.get_mut(&number) else { continue };
            if hang_up.over <= now {
                self.hang_ups.remove(number);
                continue;
            }
            hang_up.at = hang_up.over;
            if let Some((bytes, pause)) = &mut hang_up.again {
                out.push(Output::Send { connection: hang_up.connection, bytes: bytes.clone() });
                *pause = (*pause * 2).min(T2);
                hang_up.at = (now + *pause).min(hang_up.over);
            }
            self.hang_ups.due.insert((hang_up.at, number));
        }
    }
}

fn tag_of(response: &Message) -> &str {
    response.to().ok().and_then(|to| to.tag()).unwrap_or_default()
}

/// The answer that takes nothing of what a response offers; `None` when there is no offer that can be
/// read.
fn rejection(response: &Message) -> Option<Bytes> {
    let offered = read(response, Modalities::ALL, false).ok()?;
    offered.texts.first().map(|sdp| sdp.rejection())
}
