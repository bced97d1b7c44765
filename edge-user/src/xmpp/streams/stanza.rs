//! Stanzas: what is judged of each (RFC 6120 section 8.1), where it goes, acks and pings.

use std::time::Instant;

use super::{
    Fault, Streams,
    address::address,
    proof::Leave,
    rules::{Rules, turned},
    stream::{Management, Phase, Role, Sent, Stream},
    write,
};
use crate::xmpp::{
    io::{Pair, StreamId, XmppOutput, XmppRefusal, XmppSide},
    ns,
    xml::{Element, XmlFault},
};

/// For the gateway, that a message of its own is on its way. Who relays has nothing to learn of it.
fn passed(rules: &Rules, pair: &Pair, stanza: &Element, acknowledged: bool) -> Option<XmppOutput> {
    let id = stanza.attribute("id").filter(|_| stanza.name() == "message")?;
    let (pair, stanza) = (pair.clone(), id.to_owned());
    (!rules.is_inside(&pair.local)).then_some(XmppOutput::Passed { pair, stanza, acknowledged })
}

impl Streams {
    /// A child of a stream.
    pub(super) fn element(
        &mut self,
        now: Instant,
        id: StreamId,
        element: Element,
    ) -> Result<(), Fault> {
        let Some(stream) = self.streams.get(&id) else {
            return Ok(());
        };
        match (element.ns(), element.name()) {
            (ns::SERVER, "message" | "presence" | "iq") => self.stanza(now, id, element),
            (ns::SM, _) => self.managed(now, id, &element),
            (ns::STREAMS, "error") => {
                self.peer_error(now, id, &element);
                Ok(())
            }
            // The other end may still send what it must after our end.
            _ if stream.phase == Phase::Closing => Ok(()),
            (ns::SERVER, other) => Err(Fault::new(
                "unsupported-stanza-type",
                XmppRefusal::Protocol,
                format!("'{other}' is no stanza"),
            )),
            _ if stream.role == Role::Receiving => self.element_of_initiator(now, id, &element),
            _ => self.element_of_receiver(now, id, &element),
        }
    }

    fn stanza(&mut self, now: Instant, id: StreamId, mut stanza: Element) -> Result<(), Fault> {
        let epoch = self.rules.epoch;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if !stream.proofs.any_inbound() {
            let text = "a stanza came before anything was proved";
            return Err(Fault::new("not-authorized", XmppRefusal::NotAuthorized, text));
        }
        let named = |name: &'static str| {
            let text = stanza.attribute(name).unwrap_or_default();
            address(text).ok_or_else(|| {
                let text = format!("a stanza's '{name}' is missing or no address");
                Fault::new("improper-addressing", XmppRefusal::InvalidFrom, text)
            })
        };
        let (from, to) = (named("from")?, named("to")?);
        let ping = to.bare_domain.then(|| Ping::of(&stanza)).flatten();
        let (side, rules) = (stream.side, &self.rules);
        let judge = |pair: &Pair| rules.terms(side, pair).map(|_| ());
        let addresses = (&*to.domain, &*from.domain);
        let Some(leave) = stream.proofs.leave(side, addresses, epoch, judge)? else {
            let text =
                format!("a stanza from {} to {}: this pair was not proved", from.domain, to.domain);
            return Err(Fault::new("invalid-from", XmppRefusal::InvalidFrom, text));
        };
        stream.traffic.stanzas_in += 1;
        stream.last_stanza = now;
        if let Some(received) = &mut stream.management.received {
            *received = received.wrapping_add(1);
        }
        if !(from.valid && to.valid) {
            let answer = from.valid.then(|| jid_malformed(&stanza, &leave)).flatten();
            self.malformed(now, id, leave, answer);
            return Ok(());
        }
        let folded = [("from", from.folded), ("to", to.folded)];
        for (name, folded) in folded {
            if let Some(folded) = folded {
                stanza.set(name, folded);
            }
        }
        // A ping is also sent for inside servers' domains; its answer is for nobody but us.
        if matches!(ping, Some(Ping::Answered)) && self.is_answer_of_ours(now, &stanza) {
            return Ok(());
        }
        let inside = self.rules.is_inside(&leave.pair().local);
        let leave = match leave.onward(inside) {
            Ok(onward) => {
                self.relay(now, id, onward, stanza);
                return Ok(());
            }
            Err(leave) => leave,
        };
        match ping {
            Some(Ping::Asked) => self.answer_ping(now, side, leave.pair().clone(), &stanza),
            _ => self.out.push(leave.deliver(stanza)),
        }
        Ok(())
    }

    /// A stanza past a bound: its sender is told, who may be any user of the other end.
    pub(super) fn passed_over(
        &mut self,
        now: Instant,
        id: StreamId,
        head: &Element,
        fault: XmlFault,
    ) -> Result<(), Fault> {
        let is_stanza =
            head.ns() == ns::SERVER && matches!(head.name(), "message" | "presence" | "iq");
        let read = |name| head.attribute(name).and_then(address).filter(|a| a.valid);
        let epoch = self.rules.epoch;
        let (Some(stream), true, Some(from), Some(to)) =
            (self.streams.get_mut(&id), is_stanza, read("from"), read("to"))
        else {
            return Err(fault.into());
        };
        let (side, rules) = (stream.side, &self.rules);
        let judge = |pair: &Pair| rules.terms(side, pair).map(|_| ());
        let addresses = (&*to.domain, &*from.domain);
        let Some(leave) = stream.proofs.leave(side, addresses, epoch, judge)? else {
            return Err(fault.into());
        };
        stream.traffic.stanzas_in += 1;
        if let Some(received) = &mut stream.management.received {
            *received = received.wrapping_add(1);
        }
        let pair = leave.pair().clone();
        let text = format!("a stanza of {}: {}", pair.remote, fault.text);
        self.refused(id, fault.reason, text);
        if let Some(error) = write::stanza_error(head, "policy-violation", &fault.text) {
            self.send(now, side, pair, error);
        }
        Ok(())
    }

    /// A user's address is none: that user is told, and no stream of all users ends by it.
    fn malformed(&mut self, now: Instant, id: StreamId, leave: Leave, answer: Option<Element>) {
        let pair = leave.pair().clone();
        let text = format!("a stanza of {} with an address that is none", pair.remote);
        self.refused(id, XmppRefusal::InvalidFrom, text);
        let side = self.streams.get(&id).map(|stream| stream.side);
        if let (Some(side), Some(answer)) = (side, answer) {
            self.send(now, side, pair, answer);
        }
    }

    fn answer_ping(&mut self, now: Instant, side: XmppSide, pair: Pair, ping: &Element) {
        let pong = Element::new(ns::SERVER, "iq")
            .with("type", "result")
            .with_some("from", ping.attribute("to"))
            .with_some("to", ping.attribute("from"))
            .with_some("id", ping.attribute("id"));
        self.send(now, side, pair, pong);
    }

    /// Whether it answers a ping of ours; the stream on which that went lives, then.
    fn is_answer_of_ours(&mut self, now: Instant, stanza: &Element) -> bool {
        let Some(asked) = stanza.attribute("id").and_then(|id| self.pings.remove(id)) else {
            return false;
        };
        if let Some(stream) = self.streams.get_mut(&asked) {
            stream.asked_at = None;
            stream.last_in = now;
        }
        self.arm(asked);
        true
    }

    /// Where a stanza that was not delivered came from, when not from the gateway.
    pub(super) fn relayed_from(&self, side: XmppSide, pair: &Pair) -> Option<(XmppSide, Pair)> {
        let back = match side {
            XmppSide::Partner => XmppSide::Inside,
            XmppSide::Inside => XmppSide::Partner,
        };
        let outer = turned(side, pair.clone());
        self.rules.is_inside(&outer.local).then(|| (back, turned(back, outer)))
    }

    /// Writes a stanza to a stream that may carry it.
    pub(super) fn send_on(&mut self, now: Instant, id: StreamId, pair: &Pair, stanza: Element) {
        let (before, length) = {
            let buffer = self.buffer(id);
            let before = buffer.len();
            stanza.write(buffer);
            (before, buffer.len() - before)
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let side = stream.side;
        if stream.max_bytes.is_some_and(|most| length > most) {
            self.buffer(id).truncate(before);
            let text = format!("{} takes no stanza of {length} bytes", pair.remote);
            return self.undelivered(now, side, pair, stanza, "policy-violation", &text);
        }
        debug_assert!(stream.proofs.outbound(pair));
        stream.traffic.stanzas_out += 1;
        stream.traffic.bytes_out += length as u64;
        stream.last_stanza = now;
        if stream.management.sending {
            self.remember(now, id, pair, (stanza, length));
        } else if side == XmppSide::Partner {
            self.out.extend(passed(&self.rules, pair, &stanza, false));
        }
    }

    fn remember(
        &mut self,
        now: Instant,
        id: StreamId,
        pair: &Pair,
        (stanza, bytes): (Element, usize),
    ) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let management = &mut stream.management;
        management.sent(pair, stanza, bytes);
        if management.unacknowledged.len() > Management::MOST {
            let text = "it acknowledges nothing";
            return self.fail(now, id, Fault::new("connection-timeout", XmppRefusal::Slow, text));
        }
        if !management.asked {
            management.asked = true;
            stream.asked_at = Some(now);
            self.arm(id);
            // After the stanzas that come with it.
            self.ask_acks.push(id);
        }
    }

    /// Acks (XEP-0198).
    fn managed(&mut self, now: Instant, id: StreamId, element: &Element) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if !stream.is_proved() {
            let text = "acks before anything was proved";
            return Err(Fault::new("not-authorized", XmppRefusal::NotAuthorized, text));
        }
        match element.name() {
            "enable" if stream.role == Role::Receiving && stream.management.received.is_none() => {
                stream.management.received = Some(0);
                stream.management.sending = stream.bidi;
                self.write(id, &Element::new(ns::SM, "enabled"));
            }
            "enabled" if stream.role == Role::Initiating => {
                stream.management.received.get_or_insert(0);
            }
            "failed" if stream.role == Role::Initiating => {
                stream.management = Management::default();
                stream.asked_at = None;
                self.arm(id);
            }
            "r" => self.write_ack(id),
            "a" => return self.acknowledged(now, id, element),
            other => {
                let text = format!("'{other}' of stream management has no place here");
                return Err(Fault::new("unsupported-stanza-type", XmppRefusal::Protocol, text));
            }
        }
        Ok(())
    }

    /// How many stanzas of the other end were handled, if it wants to know.
    pub(super) fn write_ack(&mut self, id: StreamId) {
        let received = self.streams.get(&id).and_then(|stream| stream.management.received);
        if let Some(count) = received {
            self.write(id, &Element::new(ns::SM, "a").with("h", count.to_string()));
        }
    }

    fn acknowledged(&mut self, now: Instant, id: StreamId, element: &Element) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let management = &mut stream.management;
        let handled = element.attribute("h").and_then(|h| h.parse::<u32>().ok());
        // The gateway waits for what becomes of its messages; who relays has nothing to learn.
        let (side, rules, out) = (stream.side, &self.rules, &mut self.out);
        let each = |Sent { pair, stanza, .. }: Sent| {
            if let Some(stanza) = stanza.filter(|_| side == XmppSide::Partner) {
                out.extend(passed(rules, &pair, &stanza, true));
            }
        };
        if !handled.is_some_and(|handled| management.acknowledge(handled, each)) {
            let text = "it acknowledges more than was sent";
            return Err(Fault::new("undefined-condition", XmppRefusal::Protocol, text));
        }
        management.asked = !management.unacknowledged.is_empty();
        let again = management.asked;
        stream.asked_at = again.then_some(now);
        if again {
            self.write(id, &Element::new(ns::SM, "r"));
        }
        self.arm(id);
        Ok(())
    }

    fn peer_error(&mut self, now: Instant, id: StreamId, element: &Element) {
        let of_it = |e: &&Element| e.ns() == ns::STREAM_ERRORS && e.name() != "text";
        let condition = element.children().find(of_it).map_or("no condition", Element::name);
        let said = element.child(ns::STREAM_ERRORS, "text").map(|t| printable(&t.text()));
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let text = format!(
            "{}: the other end ended it: {condition}{}",
            stream.describe(),
            said.map(|said| format!(" ({said})")).unwrap_or_default()
        );
        let quiet = stream.is_proved()
            && matches!(condition, "reset" | "connection-timeout" | "system-shutdown");
        if !quiet {
            self.refused(id, XmppRefusal::PeerError, text.clone());
        }
        self.end(now, id, None, &text, "remote-server-timeout");
    }

    /// Asks whether the other end lives: for an ack, by a ping, or with a blank.
    pub(super) fn ask(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.asked_at = Some(now);
        let asks_acks = stream.management.received.is_some() || stream.management.sending;
        let ping = ping_pair(stream);
        match ping {
            _ if asks_acks => {
                stream.management.asked = true;
                self.write(id, &Element::new(ns::SM, "r"));
            }
            Some(pair) => {
                let ping_id = self.random_id();
                let ping = Element::new(ns::SERVER, "iq")
                    .with("type", "get")
                    .with("from", pair.local.as_str())
                    .with("to", pair.remote.as_str())
                    .with("id", ping_id.as_str())
                    .with_child(Element::new(ns::PING, "ping"));
                self.pings.retain(|_, on| *on != id);
                self.pings.insert(ping_id, id);
                self.write(id, &ping);
            }
            None => {
                // We may send nothing on it: a blank keeps it open on the way, TCP does the rest.
                stream.asked_at = None;
                stream.last_in = now;
                self.buffer(id).push(b' ');
            }
        }
    }
}

/// The pair under which a stream may be pinged. None towards an inside server: in the name of a
/// partner nothing is asked.
fn ping_pair(stream: &Stream) -> Option<Pair> {
    (stream.side == XmppSide::Partner).then(|| stream.proofs.outbound_pairs().next().cloned())?
}

/// The error for a stanza to an address that is none; it comes from the domain.
fn jid_malformed(stanza: &Element, leave: &Leave) -> Option<Element> {
    let mut error = write::stanza_error(stanza, "jid-malformed", "the address is none")?;
    error.set("from", leave.pair().local.as_str());
    Some(error)
}

/// XEP-0199.
#[derive(Clone, Copy)]
enum Ping {
    Asked,
    Answered,
}

impl Ping {
    fn of(stanza: &Element) -> Option<Self> {
        if stanza.name() != "iq" {
            return None;
        }
        match stanza.attribute("type") {
            Some("get") => stanza.child(ns::PING, "ping").map(|_| Ping::Asked),
            Some("result" | "error") => Some(Ping::Answered),
            _ => None,
        }
    }
}

/// Words of the other end for the log: short, and without anything that is no letter.
fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
