//! How streams end: by a fault, in good order, by the other end, and what hung on them.

use std::time::Instant;

use super::{
    Fault, Streams,
    rules::turned,
    stream::{Phase, Role, Sent},
    timers::Timer,
    words, write,
};
use crate::xmpp::{
    io::{Pair, StreamId, XmppEvent, XmppOutput, XmppRefusal, XmppSide},
    xml::Element,
};

impl Streams {
    /// The other end closed its stream in good order.
    pub(super) fn stream_closed(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let text = format!("the other end closed {}", stream.describe());
        let fault = (!stream.is_proved() && !stream.served).then(|| self.peer_words(id));
        if let Some(words) = fault {
            self.refused(id, XmppRefusal::PeerError, words);
        }
        self.end(now, id, None, &text, "remote-server-timeout");
    }

    /// What is known when the other end closes before anything is proved.
    pub(super) fn peer_words(&self, id: StreamId) -> String {
        let Some(stream) = self.streams.get(&id) else {
            return String::new();
        };
        format!("{}: the other end closed it before anything was proved", stream.describe())
    }

    /// Ends a stream by a fault: the other end is told, and the operator.
    pub(super) fn fail(&mut self, now: Instant, id: StreamId, fault: Fault) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let text = words::whole(fault.reason, Some(stream), &fault.text);
        self.refused(id, fault.reason, text.clone());
        let condition = match fault.reason {
            XmppRefusal::DomainBlocked | XmppRefusal::Disabled => "forbidden",
            _ => "remote-server-timeout",
        };
        if let Some(stream_condition) = fault.condition {
            self.write_error(id, stream_condition, &fault.text);
        }
        self.finish(now, id, &text, condition);
    }

    /// Ends a stream: with an error, or only with its end.
    pub(super) fn end(
        &mut self,
        now: Instant,
        id: StreamId,
        stream_error: Option<&'static str>,
        text: &str,
        condition: &'static str,
    ) {
        match stream_error {
            Some(error) => self.write_error(id, error, text),
            None => self.write_end(id),
        }
        self.finish(now, id, text, condition);
    }

    pub(super) fn write_error(&mut self, id: StreamId, condition: &'static str, text: &str) {
        if self.streams.get(&id).is_some_and(|stream| stream.phase == Phase::Closing) {
            return;
        }
        self.write_header_once(id);
        if self.may_write(id) {
            write::stream_error(self.buffer(id), condition, text);
        }
    }

    pub(super) fn write_end(&mut self, id: StreamId) {
        let closing = self.streams.get(&id).is_some_and(|s| s.phase == Phase::Closing);
        let begun = self.streams.get(&id).is_some_and(|s| s.header_sent);
        if begun && !closing && self.may_write(id) {
            self.write_ack(id);
            write::end(self.buffer(id));
        }
    }

    /// Nothing may be written while the shell does the handshake.
    pub(super) fn may_write(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|s| s.phase != Phase::Handshake)
    }

    /// An error needs a header before it (RFC 6120 section 4.9.1.1).
    pub(super) fn write_header_once(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.header_sent || stream.phase == Phase::Handshake {
            return;
        }
        stream.header_sent = true;
        let (local, remote) = (stream.local.clone(), stream.remote.clone());
        let xml_id = (stream.role == Role::Receiving).then(|| stream.xml_id.clone());
        let modern = stream.modern || stream.role == Role::Initiating;
        let buffer = self.buffer(id);
        write::header(buffer, (local.as_ref(), remote.as_ref()), xml_id.as_deref(), modern);
    }

    pub(super) fn closed(&mut self, now: Instant, id: StreamId, fault: Option<String>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let why = fault.unwrap_or_else(|| "the connection was closed".to_owned());
        let text = format!("{}: {why}", stream.describe());
        let reason = match stream.phase {
            Phase::Handshake => Some(XmppRefusal::TlsFailed),
            _ if !stream.is_proved() && !stream.served => Some(XmppRefusal::PeerError),
            _ => None,
        };
        if let Some(reason) = reason {
            self.refused(id, reason, text.clone());
        }
        self.forget(now, id, &text, "remote-server-timeout");
    }

    /// Closes the connection and forgets the stream.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        id: StreamId,
        text: &str,
        condition: &'static str,
    ) {
        if self.streams.contains_key(&id) {
            self.push(XmppOutput::Close { stream: id });
            self.forget(now, id, text, condition);
        }
    }

    /// A stream is gone: what hung on it finds another way, or is told.
    pub(super) fn forget(
        &mut self,
        now: Instant,
        id: StreamId,
        text: &str,
        condition: &'static str,
    ) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        if let Some(due) = stream.due {
            self.due.remove(&(due, Timer::Stream(id)));
        }
        self.event(XmppEvent::Ended { stream: id, text: text.to_owned() });
        self.pings.retain(|_, on| *on != id);
        let side = stream.side;
        for Sent { pair, stanza, .. } in stream.management.unacknowledged {
            if let Some(stanza) = stanza {
                self.undelivered(now, side, &pair, stanza, condition, text);
            }
        }
        for unverified in self.verifications.gone(id) {
            self.not_verified(now, &unverified, text);
        }
        self.let_go(now, id);
        self.lost(now, id, text);
    }

    /// A stanza was not sent. One that a partner or an inside server gave us goes back to it.
    pub(super) fn undelivered(
        &mut self,
        now: Instant,
        side: XmppSide,
        pair: &Pair,
        stanza: Element,
        condition: &'static str,
        text: &str,
    ) {
        if let Some((back, back_pair)) = self.relayed_from(side, pair) {
            // What is known of the inside is not for outsiders.
            let text = if back == XmppSide::Partner { "" } else { text };
            if let Some(error) = write::stanza_error(&stanza, condition, text) {
                self.send(now, back, back_pair, error);
            }
            return;
        }
        let pair = turned(side, pair.clone());
        self.push(XmppOutput::Undelivered { pair, stanza, condition, text: text.to_owned() });
    }
}
