//! Calls that were accepted and that the caller is not told of: what the callee offers in its 2xx is
//! forbidden or cannot be read, or the INVITE was answered by us meanwhile. The callee has an ACK
//! from us, with an answer that takes nothing of an offer, and, of a call that begins, a BYE (RFC 3261
//! sections 13.2.2.4 and 15): else it would be in a call that nobody hears until it gives up.
//!
//! Both go where the INVITE went. ACK is sent again with each 2xx that comes again, BYE over UDP
//! until it is answered or timer F fires.

use std::{
    collections::BTreeSet,
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

/// A call that was hung up.
#[derive(Debug)]
struct HangUp {
    connection: ConnectionId,
    /// The BYE's number in its branch; 0: none was sent.
    number: u64,
    ack: Bytes,
    /// What is sent again after this pause.
    again: Option<(Bytes, Duration)>,
    /// When something is due.
    at: Instant,
    /// When nothing more comes of it.
    over: Instant,
}

/// All of them, by the exchange of their INVITE.
#[derive(Debug, Default)]
pub(super) struct HangUps {
    all: IdMap<u64, HangUp>,
    /// The exchange, by the number of the BYE.
    by_number: IdMap<u64, u64>,
    due: BTreeSet<(Instant, u64)>,
}

impl HangUps {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn insert(&mut self, id: u64, call: HangUp) {
        self.due.insert((call.at, id));
        if call.number != 0 {
            self.by_number.insert(call.number, id);
        }
        self.all.insert(id, call);
    }

    fn remove(&mut self, id: u64) {
        if let Some(call) = self.all.remove(&id) {
            self.due.remove(&(call.at, id));
            self.by_number.remove(&call.number);
        }
    }
}

impl Proxy {
    /// Takes a 2xx to this INVITE, as it was sent on this connection, that goes no further.
    pub(super) fn hang_up(
        &mut self,
        now: Instant,
        id: u64,
        (connection, invite): (ConnectionId, Bytes),
        response: &Message,
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
        let begins = invite.to().is_ok_and(|to| to.tag().is_none());
        let bye = InDialog { method: "BYE", next: true, via: &to_bye, sdp: None };
        let bye = begins.then(|| build::in_dialog(&invite, response, &bye).ok()).flatten();
        if let Some(bytes) = bye.clone() {
            out.push(Output::Send { connection, bytes });
        }
        if self.hang_ups.all.len() >= MAX_HANG_UPS || self.hang_ups.all.contains_key(&id) {
            return;
        }
        let over = now + TRANSACTION;
        let number = if bye.is_some() { numbers[1] } else { 0 };
        let again = bye.filter(|_| peer.transport == Transport::Udp).map(|bytes| (bytes, T1));
        let at = if again.is_some() { now + T1 } else { over };
        self.hang_ups.insert(id, HangUp { connection, number, ack, again, at, over });
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
        let number = branch.exchange;
        let id = self.hang_ups.by_number.get(&number).copied().unwrap_or(number);
        let Some(call) = self.hang_ups.all.get_mut(&id) else { return false };
        let (status, method) = (response.status(), response.cseq().map(|cseq| cseq.method));
        if call.connection != connection {
            return false;
        }
        match (method, status) {
            (Ok(Method::Bye), Some(status)) if number == call.number => {
                if status >= 200 {
                    call.again = None;
                }
                true
            }
            (Ok(Method::Invite), Some(200..300)) if number == id => {
                out.push(Output::Send { connection, bytes: call.ack.clone() });
                true
            }
            _ => false,
        }
    }

    /// Sends again, or forgets, what is due.
    pub(super) fn hang_ups_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        while let Some((_, id)) = self.hang_ups.due.first().copied().filter(|(at, _)| *at <= now) {
            let Some(call) = self.hang_ups.all.get_mut(&id).filter(|call| call.over > now) else {
                self.hang_ups.due.pop_first();
                self.hang_ups.remove(id);
                continue;
            };
            self.hang_ups.due.pop_first();
            call.at = call.over;
            if let Some((bytes, pause)) = &mut call.again {
                out.push(Output::Send { connection: call.connection, bytes: bytes.clone() });
                *pause = (*pause * 2).min(T2);
                call.at = (now + *pause).min(call.over);
            }
            self.hang_ups.due.insert((call.at, id));
        }
    }
}

/// The answer that takes nothing of what a response offers; `None` when there is no offer that can be
/// read.
fn rejection(response: &Message) -> Option<Bytes> {
    let offered = read(response, Modalities::ALL, false).ok()?;
    offered.texts.first().map(|sdp| sdp.rejection())
}
