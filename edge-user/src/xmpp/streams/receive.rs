//! Streams that others open: header, STARTTLS, SASL EXTERNAL, dialback, bidi.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    Fault, Streams,
    methods::Certificate,
    proof::How,
    rules::{Terms, turned},
    stream::{Phase, Role, RouteKey, Stream},
    words,
    write::{self, Offer},
};
use crate::{
    domain::Domain,
    xmpp::{
        io::{Pair, StreamId, TlsPeer, XmppEvent, XmppOutput, XmppRefusal, XmppSide},
        ns,
        settings::Negotiation,
        xml::{Element, StreamHeader},
    },
};

/// Streams of one source that have proved nothing, at one time.
const UNPROVED_OF_A_SOURCE: usize = 20;
/// Whoever says that it closes sooner is not written to more often than this asks for.
const SHORTEST_IDLE: u64 = 60;
/// A day.
const LONGEST_IDLE: u64 = 86_400;
/// Tries of SASL on one stream (RFC 6120 section 6.4.5).
const SASL_TRIES: u8 = 3;

impl Streams {
    pub(super) fn accepted(
        &mut self,
        now: Instant,
        id: StreamId,
        (side, address): (XmppSide, SocketAddr),
        tls: Option<TlsPeer>,
    ) {
        if let Some(text) = self.no_room(now, address) {
            let text = format!("a stream from {address}, step accept: {text}");
            let text = words::whole(XmppRefusal::Limit, None, &text);
            self.event(XmppEvent::Refused {
                reason: XmppRefusal::Limit,
                remote: Some(address),
                domain: None,
                claimed: None,
                text,
            });
            return self.push(XmppOutput::Close { stream: id });
        }
        self.make_room(now);
        let mut stream = Stream::new(now, id, Role::Receiving, (side, address), self.reader());
        stream.direct_tls = tls.is_some();
        stream.tls = tls;
        stream.xml_id = self.random_id();
        self.streams.insert(id, stream);
        self.set_expiry(id);
        self.arm(id);
    }

    fn no_room(&mut self, now: Instant, address: SocketAddr) -> Option<String> {
        let of_it = |s: &&Stream| {
            s.role == Role::Receiving && !s.is_proved() && same_source(s.address, address)
        };
        if self.streams.values().filter(of_it).count() >= UNPROVED_OF_A_SOURCE {
            return Some("this source has many streams that prove nothing; to mend: who opens them must prove \
                         a domain".to_owned());
        }
        (!self.has_room(now)).then(|| "as many streams as are allowed are open".to_owned())
    }

    /// Whether there may be one stream more. What proves nothing keeps nobody out.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        self.streams.len() < self.rules.limits().connections || self.end_oldest_unproved(now)
    }

    /// Streams that prove nothing fill half of the places at most: the oldest of them goes, so that
    /// many sources together cannot keep partners out.
    fn make_room(&mut self, now: Instant) {
        let idle = |s: &&Stream| s.role == Role::Receiving && !s.is_proved();
        let most = (self.rules.limits().connections / 2).max(1);
        if self.streams.values().filter(idle).count() < most {
            return;
        }
        self.end_oldest_unproved(now);
    }

    /// `false`: there is none.
    fn end_oldest_unproved(&mut self, now: Instant) -> bool {
        let idle = |s: &&Stream| s.role == Role::Receiving && !s.is_proved();
        let oldest = self.streams.values().filter(idle).min_by_key(|s| (s.opened, s.id));
        let Some(id) = oldest.map(|stream| stream.id) else {
            return false;
        };
        let text = "it proved nothing, and others wait";
        self.fail(now, id, Fault::new("resource-constraint", XmppRefusal::Limit, text));
        true
    }

    /// The header of whoever opened the stream, at first and after TLS and SASL.
    pub(super) fn header_of_initiator(
        &mut self,
        now: Instant,
        id: StreamId,
        header: &StreamHeader,
    ) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        stream.modern = is_modern(header);
        if header.default_ns.as_str() != ns::SERVER {
            let text = "streams between servers have the namespace jabber:server";
            return Err(Fault::new("invalid-namespace", XmppRefusal::Protocol, text));
        }
        let named = |name: &str| header.attribute(name).map(read_domain);
        let to = named("to").flatten().ok_or_else(|| {
            let text = "the header names none of the domains served here in 'to'";
            Fault::new("host-unknown", XmppRefusal::UnknownDomain, text)
        })?;
        let from = match named("from") {
            Some(None) => {
                let text = "the header's 'from' is no domain";
                return Err(Fault::new("invalid-from", XmppRefusal::InvalidFrom, text));
            }
            from => from.flatten(),
        };
        let before = (stream.local.take(), stream.remote.take());
        let changed = before.0.is_some_and(|local| local != to)
            || before.1.is_some_and(|remote| Some(remote) != from);
        let proved = stream.is_proved();
        stream.local = Some(to);
        stream.remote = from;
        if proved && changed {
            let text = "the header after SASL names another pair than was proved";
            return Err(Fault::new("invalid-from", XmppRefusal::InvalidFrom, text));
        }
        let terms = self.admit(id)?;
        self.certify(now, id);
        self.has_a_way(id, terms.as_ref())?;
        self.open_to_initiator(now, id, terms.as_ref());
        Ok(())
    }

    /// Whether the pair of the header may speak, as far as it is named, and has room.
    fn admit(&mut self, id: StreamId) -> Result<Option<Terms>, Fault> {
        let Some(stream) = self.streams.get(&id) else {
            return Ok(None);
        };
        let Some(local) = stream.local.clone() else {
            return Ok(None);
        };
        self.rules.serves(stream.side, &local)?;
        let Some(pair) = stream.pair() else {
            return Ok(None);
        };
        let terms = self.rules.terms(stream.side, &pair)?;
        self.count_in(id, &terms)?;
        Ok(Some(terms))
    }

    /// Where nothing is left to prove the other end with, it is told why, and so is the operator.
    fn has_a_way(&self, id: StreamId, terms: Option<&Terms>) -> Result<(), Fault> {
        let (Some(stream), Some(terms)) = (self.streams.get(&id), terms) else {
            return Ok(());
        };
        let dialback = terms.methods.dialback_over_tls && !terms.inside;
        match &stream.certified {
            Err(why) if stream.tls.is_some() && !dialback => {
                Err(Fault::new("not-authorized", XmppRefusal::Certificate, why.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Our header, and what is offered.
    fn open_to_initiator(&mut self, now: Instant, id: StreamId, terms: Option<&Terms>) {
        self.write_header_once(id);
        let limits = self.rules.limits().clone();
        let local = self.streams.get(&id).and_then(|stream| stream.local.as_ref());
        let own_certificate = local.is_some_and(|local| self.own_of(local) != Certificate::Missing);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.phase = Phase::Open;
        stream.offer = offer(stream, terms, own_certificate);
        if stream.modern {
            let features = write::features(stream.offer, &limits);
            self.write(id, &features);
        }
        self.take_bidi_into_use(now, id);
        self.arm(id);
    }

    /// After SASL and the new header, the other end takes stanzas of ours on its stream.
    fn take_bidi_into_use(&mut self, now: Instant, id: StreamId) {
        let epoch = self.rules.epoch;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let (Some(pair), true, true) = (stream.pair(), stream.bidi, stream.is_proved()) else {
            return;
        };
        stream.proofs.grant_accepted(&pair, How::External, epoch);
        let key = RouteKey { side: stream.side, pair };
        self.ready(now, &key, id);
    }

    /// A child of a stream that the other end opened, other than a stanza.
    pub(super) fn element_of_initiator(
        &mut self,
        now: Instant,
        id: StreamId,
        element: &Element,
    ) -> Result<(), Fault> {
        match (element.ns(), element.name()) {
            (ns::TLS, "starttls") => self.starttls(id),
            (ns::SASL, "auth") => self.auth(now, id, element),
            (ns::SASL, "abort") => Ok(()),
            (ns::BIDI, "bidi") => self.bidi(id, element),
            (ns::DIALBACK, "result") => self.db_result(now, id, element),
            (ns::DIALBACK, "verify") => self.db_verify(id, element),
            _ => Err(Fault::new(
                "unsupported-stanza-type",
                XmppRefusal::Protocol,
                format!("'{}' has no place here", element.name()),
            )),
        }
    }

    fn starttls(&mut self, id: StreamId) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let pair = stream.pair().or_else(|| {
            // It did not say who it is: the name is for our certificate alone.
            let local = stream.local.clone()?;
            Some(Pair { remote: local.clone(), local })
        });
        // What was proved without TLS would not count with it.
        let may = stream.offer.starttls && !stream.is_proved();
        let (true, Some(pair)) = (may, pair) else {
            self.write(id, &Element::new(ns::TLS, "failure"));
            let text = "it asked for TLS, which was not offered";
            return Err(Fault { condition: None, reason: XmppRefusal::NoTls, text: text.into() });
        };
        let pair = turned(stream.side, pair);
        self.write(id, &Element::new(ns::TLS, "proceed"));
        self.verifications.forget(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.phase = Phase::Handshake;
        }
        self.push(XmppOutput::StartTls { stream: id, accepting: true, pair });
        Ok(())
    }

    /// Both ways on one connection: only where a certificate proves the other end.
    fn bidi(&mut self, id: StreamId, element: &Element) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if !stream.offer.bidi || stream.is_proved() {
            let text = "bidi was not offered";
            return Err(Fault::new("policy-violation", XmppRefusal::Protocol, text));
        }
        stream.bidi = true;
        stream.max_bytes = limit_of(element);
        stream.idle_limit = idle_of(element);
        Ok(())
    }

    /// SASL EXTERNAL (XEP-0178): the certificate is judged already, else it would not be offered.
    fn auth(&mut self, now: Instant, id: StreamId, element: &Element) -> Result<(), Fault> {
        let epoch = self.rules.epoch;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let pair = stream.pair();
        let external = element.attribute("mechanism") == Some("EXTERNAL");
        let (true, true, Some(pair), Ok(certified)) =
            (stream.offer.external, external, pair, stream.certified.clone())
        else {
            return self.sasl_failure(id, "invalid-mechanism", "EXTERNAL was not offered");
        };
        // Policy may have changed since it was offered.
        let terms = self.rules.terms(stream.side, &pair)?;
        if !terms.methods.external {
            return self.sasl_failure(id, "not-authorized", "its entry does without SASL");
        }
        let authzid = element.text();
        let names_itself = matches!(authzid.trim(), "" | "=")
            || authzid.trim() == write::base64(pair.remote.as_str().as_bytes());
        if !names_itself {
            let text = "it asked to act for another domain than its header names";
            return self.sasl_failure(id, "invalid-authzid", text);
        }
        self.count_in(id, &terms)?;
        let granted = self
            .streams
            .get_mut(&id)
            .is_some_and(|stream| stream.proofs.grant_certified(&certified, &pair, epoch));
        if !granted {
            return self.sasl_failure(id, "not-authorized", "its certificate names another domain");
        }
        self.write(id, &Element::new(ns::SASL, "success"));
        self.proved(now, id, &pair, How::External);
        self.remember_certificate(id);
        self.restart(id);
        Ok(())
    }

    fn sasl_failure(
        &mut self,
        id: StreamId,
        condition: &'static str,
        text: &str,
    ) -> Result<(), Fault> {
        let failure =
            Element::new(ns::SASL, "failure").with_child(Element::new(ns::SASL, condition));
        self.write(id, &failure);
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        stream.sasl_failures += 1;
        let why = stream.certified.as_ref().err().map_or(text, String::as_str).to_owned();
        let text = format!("{}: SASL EXTERNAL failed: {why}", stream.describe());
        if stream.sasl_failures >= SASL_TRIES {
            return Err(Fault::new("policy-violation", XmppRefusal::Certificate, text));
        }
        self.refused(id, XmppRefusal::Certificate, text);
        Ok(())
    }

    /// A pair is proved for what the other end sends.
    pub(super) fn proved(&mut self, now: Instant, id: StreamId, pair: &Pair, how: How) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.reader.lift();
        stream.last_stanza = now;
        let (side, remote) = (stream.side, stream.address);
        let names = stream.tls.as_ref().and_then(TlsPeer::names);
        self.backoffs.remove(&(side, pair.remote.clone()));
        let pair = turned(side, pair.clone());
        self.event(XmppEvent::Proved { stream: id, pair, how: how.name(), side, remote, names });
        self.arm(id);
    }

    /// A stream belongs to the entry that its header, or its first key, names. Asked again when that
    /// is proved: only then it takes one of the partner's places.
    pub(super) fn count_in(&mut self, id: StreamId, terms: &Terms) -> Result<(), Fault> {
        let counts = self.streams.get(&id).is_some_and(Stream::is_proved);
        if !counts && self.count(&terms.entry) >= terms.connections {
            let text = "as many streams of this partner as are allowed are open";
            return Err(Fault::new("resource-constraint", XmppRefusal::Limit, text));
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.entry = Some(terms.entry.clone());
        }
        Ok(())
    }
}

/// Version 1.0 or later: there are features (RFC 6120 section 4.7.5).
pub(super) fn is_modern(header: &StreamHeader) -> bool {
    let major = header.attribute("version").and_then(|version| version.split('.').next());
    major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 1)
}

/// What this stream is offered now.
fn offer(stream: &Stream, terms: Option<&Terms>, own_certificate: bool) -> Offer {
    let over_tls = stream.tls.is_some();
    let Some(terms) = terms else {
        // Nobody we know yet: TLS, and dialback, which names who it is.
        return Offer {
            starttls: !over_tls && own_certificate,
            dialback: true,
            ..Offer::default()
        };
    };
    if !over_tls {
        let starttls = own_certificate && terms.tls != Negotiation::NotSupported;
        let required = terms.tls == Negotiation::Required;
        return Offer {
            starttls,
            starttls_required: starttls && required,
            dialback: terms.methods.dialback_in_plain,
            management: !required && terms.methods.dialback_in_plain,
            ..Offer::default()
        };
    }
    let external = !stream.is_proved()
        && terms.methods.external
        && stream.certified.is_ok()
        && stream.sasl_failures == 0;
    Offer {
        external,
        bidi: external,
        dialback: terms.methods.dialback_over_tls,
        management: true,
        ..Offer::default()
    }
}

/// A domain in an attribute: an address without local part and resource.
pub(super) fn read_domain(text: &str) -> Option<Domain> {
    let address = super::address::address(text)?;
    (address.bare_domain && address.valid).then(|| address.domain.parse().ok())?
}

/// `max-bytes` of the limits inside an element (XEP-0478).
pub(super) fn limit_of(element: &Element) -> Option<usize> {
    let limits = element.child(ns::STREAM_LIMITS, "limits")?;
    let most = limits.child(ns::STREAM_LIMITS, "max-bytes")?.text().trim().parse().ok()?;
    // RFC 6120 section 13.12: nobody may take less.
    Some(usize::max(most, 10_000))
}

/// `idle-seconds` of the limits inside an element: after so long without a byte, it closes.
pub(super) fn idle_of(element: &Element) -> Option<Duration> {
    let limits = element.child(ns::STREAM_LIMITS, "limits")?;
    let seconds = limits.child(ns::STREAM_LIMITS, "idle-seconds")?.text().trim().parse().ok()?;
    Some(Duration::from_secs(u64::clamp(seconds, SHORTEST_IDLE, LONGEST_IDLE)))
}

/// The same host, or the same network of 64 bits.
fn same_source(one: SocketAddr, other: SocketAddr) -> bool {
    use std::net::IpAddr::{V4, V6};
    match (one.ip(), other.ip()) {
        (V4(one), V4(other)) => one == other,
        (V6(one), V6(other)) => one.segments()[..4] == other.segments()[..4],
        _ => false,
    }
}
