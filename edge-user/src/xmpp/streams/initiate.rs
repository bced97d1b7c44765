//! Streams that we open: TLS, SASL EXTERNAL, dialback, verifying keys, bidi, acks.

use std::time::Instant;

use super::{
    Fault, Streams,
    keys::dialback_pair,
    methods::Certificate,
    proof::How,
    receive::{idle_of, is_modern, limit_of},
    rules::{Terms, turned},
    stream::{Phase, RouteKey, Stream},
    write::{self, Offer},
};
use crate::xmpp::{
    io::{Pair, StreamId, TlsPeer, XmppEvent, XmppOutput, XmppRefusal},
    ns,
    settings::Negotiation,
    xml::{Element, StreamHeader},
};

impl Streams {
    /// The answer to our header.
    pub(super) fn header_of_receiver(
        &mut self,
        id: StreamId,
        header: &StreamHeader,
    ) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if header.default_ns.as_str() != ns::SERVER {
            let text = "streams between servers have the namespace jabber:server";
            return Err(Fault::new("invalid-namespace", XmppRefusal::Protocol, text));
        }
        stream.xml_id = header.attribute("id").unwrap_or_default().to_owned();
        stream.modern = is_modern(header);
        stream.phase = Phase::Features;
        if stream.modern {
            return Ok(());
        }
        // Before RFC 3920 there were no features: dialback alone.
        let Some((pair, terms)) = self.home_terms(id)? else {
            return Ok(());
        };
        self.without_tls_further(id, &pair, &terms)
    }

    /// For whom a stream was opened, and whether that is still allowed.
    fn home_terms(&self, id: StreamId) -> Result<Option<(Pair, Terms)>, Fault> {
        let key = self.streams.get(&id).and_then(|stream| stream.home.as_ref());
        let Some(RouteKey { side, pair }) = key else {
            return Ok(None);
        };
        Ok(Some((pair.clone(), self.rules.terms(*side, pair)?)))
    }

    /// A child of a stream that we opened, other than a stanza.
    pub(super) fn element_of_receiver(
        &mut self,
        now: Instant,
        id: StreamId,
        element: &Element,
    ) -> Result<(), Fault> {
        let Some(phase) = self.streams.get(&id).map(|stream| stream.phase) else {
            return Ok(());
        };
        match (element.ns(), element.name(), phase) {
            (ns::STREAMS, "features", Phase::Features) => self.features(now, id, element),
            (ns::TLS, "proceed", Phase::AskedForTls) => self.proceed(id),
            (ns::TLS, "failure", Phase::AskedForTls) => Err(Fault {
                condition: None,
                reason: XmppRefusal::NoTls,
                text: "the other end refused STARTTLS".to_owned(),
            }),
            (ns::SASL, "success", Phase::Sasl) => self.success(id),
            (ns::SASL, "failure", Phase::Sasl) => self.sasl_refused(id, element),
            (ns::DIALBACK, "result", _) => self.result_answered(now, id, element),
            (ns::DIALBACK, "verify", _) => self.verify_answered(now, id, element),
            _ => Err(Fault::new(
                "unsupported-stanza-type",
                XmppRefusal::Protocol,
                format!("'{}' has no place here", element.name()),
            )),
        }
    }

    fn features(&mut self, now: Instant, id: StreamId, features: &Element) -> Result<(), Fault> {
        let Some((pair, terms)) = self.home_terms(id)? else {
            return Ok(());
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let starttls = features.child(ns::TLS, "starttls");
        let mechanisms = features.child(ns::SASL, "mechanisms");
        stream.offered = Offer {
            starttls: starttls.is_some(),
            starttls_required: starttls.is_some_and(|s| s.child(ns::TLS, "required").is_some()),
            external: mechanisms
                .is_some_and(|all| all.children().any(|m| m.text().trim() == "EXTERNAL")),
            bidi: features.child(ns::BIDI_FEATURE, "bidi").is_some(),
            dialback: features.child(ns::DIALBACK_FEATURE, "dialback").is_some(),
            management: features.child(ns::SM, "sm").is_some(),
        };
        stream.max_bytes = limit_of(features).or(stream.max_bytes);
        stream.idle_limit = idle_of(features).or(stream.idle_limit);
        stream.phase = Phase::Open;
        if stream.is_proved() {
            self.may_verify(id);
            self.established(now, id, &pair, How::External);
            return Ok(());
        }
        if stream.tls.is_some() {
            return self.over_tls_further(id, &pair, &terms);
        }
        // RFC 7590 section 3.1: what is demanded is tried, also when the offer was taken out.
        let offered = stream.offered.starttls;
        let wanted =
            terms.tls == Negotiation::Required || (terms.tls == Negotiation::Optional && offered);
        if wanted {
            stream.phase = Phase::AskedForTls;
            self.write(id, &Element::new(ns::TLS, "starttls"));
            return Ok(());
        }
        if stream.offered.starttls_required {
            return Err(Fault {
                condition: None,
                reason: XmppRefusal::NoTls,
                text: "the other end demands TLS, and its entry here says that it has \
                       none; to mend: write tls = \"optional\" in its entry"
                    .to_owned(),
            });
        }
        self.without_tls_further(id, &pair, &terms)
    }

    fn without_tls_further(
        &mut self,
        id: StreamId,
        pair: &Pair,
        terms: &Terms,
    ) -> Result<(), Fault> {
        let over_tls = self.streams.get(&id).is_some_and(|stream| stream.tls.is_some());
        if over_tls {
            return self.over_tls_further(id, pair, terms);
        }
        if !terms.methods.dialback_in_plain {
            return Err(Fault {
                condition: None,
                reason: XmppRefusal::NoTls,
                text: "the other end offers no TLS, and its entry allows nothing without it"
                    .to_owned(),
            });
        }
        self.show_key(id, pair)
    }

    /// TLS is there: certificates where both are good, else dialback where that is allowed.
    fn over_tls_further(&mut self, id: StreamId, pair: &Pair, terms: &Terms) -> Result<(), Fault> {
        let limits = self.rules.limits().clone();
        let own = self.own_of(&pair.local);
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let (good, offered) = (stream.certified.is_ok(), stream.offered.external);
        if terms.methods.external && good && offered && stream.sasl_failures == 0 {
            stream.phase = Phase::Sasl;
            let route = stream.home.as_ref().and_then(|key| self.routes.get(key));
            stream.bidi = stream.offered.bidi && !route.is_some_and(|route| route.without_bidi);
            if stream.bidi {
                let bidi = Element::new(ns::BIDI, "bidi").with_child(write::stream_limits(&limits));
                self.write(id, &bidi);
            }
            let auth = Element::new(ns::SASL, "auth")
                .with("mechanism", "EXTERNAL")
                .with_text(write::base64(pair.local.as_str().as_bytes()));
            self.write(id, &auth);
            return Ok(());
        }
        if terms.methods.dialback_over_tls && (good || !terms.inside) {
            return self.show_key(id, pair);
        }
        let text = match &stream.certified {
            Err(why) => format!("{why}; or allow dialback in its entry"),
            _ if own == Certificate::Invalid => format!(
                "it takes no SASL EXTERNAL of ours: our certificate does not name {}, or its time is \
                 over; to mend: have one issued that does and name it in [service.xmpp], or allow \
                 dialback on both sides",
                pair.local
            ),
            Ok(_) if stream.sasl_failures > 0 => format!(
                "it refused SASL EXTERNAL with our certificate for {}; to mend: its operator can say why, \
                 or dialback can be allowed on both sides",
                pair.local
            ),
            Ok(_) => format!(
                "it offers no SASL EXTERNAL: it does not take our certificate for {}; to mend: its operator \
                 can say why (chain, name, expiry), or dialback can be allowed on both sides",
                pair.local
            ),
        };
        Err(Fault::new("not-authorized", XmppRefusal::Certificate, text))
    }

    /// Dialback: we show our key for this pair (XEP-0220 section 2.1).
    fn show_key(&mut self, id: StreamId, pair: &Pair) -> Result<(), Fault> {
        self.may_verify(id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        stream.phase = Phase::Open;
        if stream.xml_id.is_empty() {
            let text = "the other end gave the stream no id: dialback cannot be done";
            return Err(Fault::new("invalid-id", XmppRefusal::Protocol, text));
        }
        stream.asked_for.push(pair.clone());
        let key = self.keys.key(&pair.remote, &pair.local, &stream.xml_id);
        let result = write::dialback("result", &pair.local, &pair.remote).with_text(key);
        self.write(id, &result);
        self.arm(id);
        Ok(())
    }

    /// Another pair is to be proved on a stream that is there.
    pub(super) fn piggyback(&mut self, now: Instant, id: StreamId, pair: &Pair) {
        if let Err(fault) = self.show_key(id, pair) {
            self.fail(now, id, fault);
        }
    }

    /// From here on the stream is good for verifying keys of its pair.
    fn may_verify(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.may_verify = true;
        if let Some(key) = stream.home.clone() {
            self.verify_on(id, &key);
        }
    }

    /// Asks about every key of this pair that waits.
    pub(super) fn verify_on(&mut self, id: StreamId, RouteKey { side, pair }: &RouteKey) {
        for (xml_id, key) in self.verifications.ask_on(id, *side, pair) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.served = true;
            }
            let verify = write::dialback("verify", &pair.local, &pair.remote)
                .with("id", xml_id)
                .with_text(key);
            self.write(id, &verify);
        }
    }

    fn proceed(&mut self, id: StreamId) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let Some(pair) = stream.pair() else {
            return Ok(());
        };
        stream.phase = Phase::Handshake;
        let pair = turned(stream.side, pair);
        self.push(XmppOutput::StartTls { stream: id, accepting: false, pair });
        Ok(())
    }

    fn success(&mut self, id: StreamId) -> Result<(), Fault> {
        let Some((pair, _)) = self.home_terms(id)? else {
            return Ok(());
        };
        let epoch = self.rules.epoch;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        // The entry may be another than when it was asked.
        let certified = match stream.certified.clone() {
            Ok(certified) => certified,
            Err(why) => return Err(Fault::new("reset", XmppRefusal::Certificate, why)),
        };
        stream.proofs.grant_accepted(&pair, How::External, epoch);
        if stream.bidi {
            stream.proofs.grant_certified(&certified, &pair, epoch);
        }
        stream.reader.lift();
        self.remember_certificate(id);
        self.restart(id);
        self.write_header_once(id);
        self.arm(id);
        Ok(())
    }

    /// XEP-0178 as it is done now: after a failure, dialback, where it is allowed.
    fn sasl_refused(&mut self, id: StreamId, failure: &Element) -> Result<(), Fault> {
        let why = failure.children().next().map_or("no reason", Element::name).to_owned();
        let Some((pair, terms)) = self.home_terms(id)? else {
            return Ok(());
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        stream.sasl_failures += 1;
        let bidi = std::mem::take(&mut stream.bidi);
        stream.phase = Phase::Open;
        let text = format!("{}: it refused SASL EXTERNAL ({why})", stream.describe());
        self.refused(id, XmppRefusal::Certificate, text);
        // There is no way to take it back, and dialback proves one direction alone.
        if bidi && terms.methods.dialback_over_tls && self.again_without_bidi(id) {
            let text = "both ways were asked for: it is dialled again for one".to_owned();
            return Err(Fault { condition: None, reason: XmppRefusal::Certificate, text });
        }
        self.over_tls_further(id, &pair, &terms)
    }

    /// The other end says whether our key is good.
    fn result_answered(
        &mut self,
        now: Instant,
        id: StreamId,
        element: &Element,
    ) -> Result<(), Fault> {
        let pair = dialback_pair(element)?;
        let epoch = self.rules.epoch;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let Some(at) = stream.asked_for.iter().position(|asked| *asked == pair) else {
            let text = "a dialback result that nobody asked for";
            return Err(Fault::new("policy-violation", XmppRefusal::Dialback, text));
        };
        stream.asked_for.swap_remove(at);
        let key = RouteKey { side: stream.side, pair: pair.clone() };
        if element.attribute("type") == Some("valid") {
            stream.reader.lift();
            if !stream.proofs.grant_accepted(&pair, How::Dialback, epoch) {
                self.piggyback_failed(now, &key);
                return Ok(());
            }
            self.established(now, id, &pair, How::Dialback);
            return Ok(());
        }
        let said = element
            .child(ns::SERVER, "error")
            .and_then(|error| error.children().next())
            .map_or("it is not valid", Element::name);
        let text = format!(
            "the other end refused dialback for {}: {said}; to mend: it could not reach a server of that \
             domain that knows the key, or does not allow dialback",
            pair.local
        );
        let proved = self.streams.get(&id).is_some_and(Stream::is_proved);
        if proved {
            self.refused(id, XmppRefusal::Dialback, text);
            self.piggyback_failed(now, &key);
            return Ok(());
        }
        Err(Fault { condition: None, reason: XmppRefusal::Dialback, text })
    }

    /// The domain's own server says whether a key that was shown to us is its own.
    fn verify_answered(
        &mut self,
        now: Instant,
        id: StreamId,
        element: &Element,
    ) -> Result<(), Fault> {
        let pair = dialback_pair(element)?;
        let xml_id = element.attribute("id").unwrap_or_default();
        let valid = element.attribute("type") == Some("valid");
        match self.verifications.answer(id, &pair, xml_id, valid) {
            None => {
                // Who showed the key may be gone, or have been told that it took too long. That is
                // no fault of the end that answers: all that matters is that nothing is believed.
                let text = "an answer about a dialback key that nobody waits for: ignored";
                self.refused(id, XmppRefusal::Dialback, text.to_owned());
                Ok(())
            }
            Some(Ok(verified)) => {
                self.verified(now, &verified);
                Ok(())
            }
            Some(Err(unverified)) => {
                self.not_valid(now, unverified.shown_on, &unverified.pair);
                Ok(())
            }
        }
    }

    /// We may send for this pair.
    fn established(&mut self, now: Instant, id: StreamId, pair: &Pair, how: How) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.last_stanza = now;
        let (side, remote) = (stream.side, stream.address);
        let names = stream.tls.as_ref().and_then(TlsPeer::names);
        if stream.offered.management && !stream.management.sending {
            stream.management.sending = true;
            self.write(id, &Element::new(ns::SM, "enable"));
        }
        self.backoffs.remove(&(side, pair.remote.clone()));
        let outer = turned(side, pair.clone());
        let how = how.name();
        self.event(XmppEvent::Proved { stream: id, pair: outer, how, side, remote, names });
        self.arm(id);
        self.ready(now, &RouteKey { side, pair: pair.clone() }, id);
    }
}
