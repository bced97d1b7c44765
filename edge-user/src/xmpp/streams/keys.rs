//! Keys that others show us, and questions about our own (XEP-0220).

use std::time::{Duration, Instant};

use super::{
    Fault, Streams,
    dialback::{Unverified, Verified},
    proof::How,
    receive::read_domain,
    rules::Terms,
    stream::{RouteKey, Stream},
    write,
};
use crate::xmpp::{
    io::{Pair, StreamId, XmppRefusal},
    settings::Negotiation,
    xml::Element,
};

/// The other end's server answers a question of dialback by then.
const VERIFY: Duration = Duration::from_secs(30);

impl Streams {
    /// Somebody shows a key for a pair (XEP-0220 section 2.1): its domain's server is asked.
    pub(super) fn db_result(
        &mut self,
        now: Instant,
        id: StreamId,
        element: &Element,
    ) -> Result<(), Fault> {
        let pair = dialback_pair(element)?;
        let Some(stream) = self.streams.get(&id) else {
            return Ok(());
        };
        let (side, over_tls) = (stream.side, stream.tls.is_some());
        let known = stream.proofs.has_inbound(&pair);
        let terms = match self.rules.terms(side, &pair) {
            Ok(terms) => terms,
            Err(denied) => {
                let fault = Fault::from(denied);
                return self.db_refuse(id, &pair, "item-not-found", fault);
            }
        };
        let entry_is_other = stream.entry.as_ref().is_some_and(|entry| *entry != terms.entry);
        if entry_is_other {
            let fault = Fault::new(
                "policy-violation",
                XmppRefusal::Dialback,
                "a key for a domain of another partner than the one whose stream it is; to mend: one \
                 entry [[xmpp.partner]] names both, or its server opens another stream",
            );
            return self.db_refuse(id, &pair, "not-allowed", fault);
        }
        if terms.inside {
            return self.inside_result(now, id, &pair, &terms);
        }
        if !terms.methods.dialback(over_tls) {
            let fault = not_by_dialback(stream, &terms, &pair);
            return self.db_refuse(id, &pair, "policy-violation", fault);
        }
        if known {
            self.write(
                id,
                &write::dialback("result", &pair.local, &pair.remote).with("type", "valid"),
            );
            return Ok(());
        }
        self.count_in(id, &terms)?;
        let xml_id = self.streams.get(&id).map(|s| s.xml_id.clone()).unwrap_or_default();
        let shown = (xml_id, element.text().trim().to_owned());
        if !self.verifications.begin(id, side, pair.clone(), shown, now + VERIFY) {
            let text = "step dialback: this pair is being verified already, or too many are; to mend: its \
                        server waits for the answer";
            let fault = Fault::new("resource-constraint", XmppRefusal::Dialback, text);
            return self.db_refuse(id, &pair, "resource-constraint", fault);
        }
        self.verify(now, &RouteKey { side, pair });
        Ok(())
    }

    /// An inside server's key is not verified: its certificate must name the domain.
    pub(super) fn inside_result(
        &mut self,
        now: Instant,
        id: StreamId,
        pair: &Pair,
        terms: &Terms,
    ) -> Result<(), Fault> {
        let (epoch, seconds) = (self.rules.epoch, self.unix_seconds(now));
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let tls = stream.tls.as_ref();
        let certified = super::certify::certify(tls, &pair.remote, terms.also(), seconds);
        let granted = match certified {
            Ok(certified) => stream.proofs.grant_certified(&certified, pair, epoch),
            Err(text) => {
                let fault = Fault::new("not-authorized", XmppRefusal::Certificate, text);
                return self.db_refuse(id, pair, "not-authorized", fault);
            }
        };
        if granted {
            let answer = write::dialback("result", &pair.local, &pair.remote).with("type", "valid");
            self.write(id, &answer);
            self.proved(now, id, pair, How::External);
        }
        Ok(())
    }

    /// No to a key. A stream that has proved something goes on.
    pub(super) fn db_refuse(
        &mut self,
        id: StreamId,
        pair: &Pair,
        condition: &'static str,
        fault: Fault,
    ) -> Result<(), Fault> {
        let answer = write::dialback_error("result", (&pair.local, &pair.remote), condition);
        self.write(id, &answer);
        if self.streams.get(&id).is_some_and(Stream::is_proved) {
            self.refused(id, fault.reason, fault.text);
            return Ok(());
        }
        Err(fault)
    }

    /// The domain's server has said yes.
    pub(super) fn verified(&mut self, now: Instant, verified: &Verified) {
        let (id, pair) = (verified.shown_on(), verified.pair().clone());
        let epoch = self.rules.epoch;
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        // Policy may have changed while the question was on its way.
        let terms = self
            .rules
            .terms(stream.side, &pair)
            .ok()
            .filter(|terms| terms.methods.dialback(stream.tls.is_some()));
        if let Some(Err(fault)) = terms.as_ref().map(|terms| self.count_in(id, terms)) {
            return self.fail(now, id, fault);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if terms.is_none() || !stream.proofs.grant_verified(id, verified, epoch) {
            let text = "too many pairs on one stream, or no longer allowed";
            let fault = Fault::new("policy-violation", XmppRefusal::Dialback, text);
            return self.fail(now, id, fault);
        }
        if stream.pair().is_none() {
            // Its header named nobody.
            stream.local = Some(pair.local.clone());
            stream.remote = Some(pair.remote.clone());
        }
        let answer = write::dialback("result", &pair.local, &pair.remote).with("type", "valid");
        self.write(id, &answer);
        self.proved(now, id, &pair, How::Dialback);
    }

    /// The domain's server has said no.
    pub(super) fn not_valid(&mut self, now: Instant, id: StreamId, pair: &Pair) {
        let answer = write::dialback("result", &pair.local, &pair.remote).with("type", "invalid");
        self.write(id, &answer);
        let text = format!("the server of {} does not know the dialback key", pair.remote);
        if self.streams.get(&id).is_some_and(Stream::is_proved) {
            self.refused(id, XmppRefusal::Dialback, text);
        } else {
            let fault = Fault { condition: None, reason: XmppRefusal::Dialback, text };
            self.fail(now, id, fault);
        }
    }

    /// We are asked whether a key is ours (XEP-0220 section 2.3): the pair's `local` domain showed
    /// it to `remote`.
    pub(super) fn db_verify(&mut self, id: StreamId, element: &Element) -> Result<(), Fault> {
        let pair = dialback_pair(element)?;
        let Some(stream) = self.streams.get(&id) else {
            return Ok(());
        };
        let (side, over_tls) = (stream.side, stream.tls.is_some());
        let xml_id = element.attribute("id").unwrap_or_default().to_owned();
        let proved = stream.is_proved();
        let terms = match self.rules.terms(side, &pair) {
            Ok(terms) => terms,
            Err(denied) if proved => {
                let domains = (&pair.local, &pair.remote);
                let answer = write::dialback_error("verify", domains, "item-not-found");
                self.write(id, &answer.with("id", xml_id));
                self.refused(id, denied.reason, denied.text);
                return Ok(());
            }
            Err(denied) => return Err(denied.into()),
        };
        if terms.tls == Negotiation::Required && !over_tls {
            let text = "step dialback: its entry demands TLS, also to verify keys";
            return Err(Fault::new("policy-violation", XmppRefusal::NoTls, text));
        }
        let shows_keys = terms.methods.dialback_over_tls || terms.methods.dialback_in_plain;
        let valid = shows_keys && self.keys.is(&element.text(), &pair.remote, &pair.local, &xml_id);
        let answer = write::dialback("verify", &pair.local, &pair.remote)
            .with("id", xml_id)
            .with("type", if valid { "valid" } else { "invalid" });
        self.write(id, &answer);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.served = true;
        }
        if !valid {
            let text = format!("{} asked about a dialback key that is not ours", pair.remote);
            self.refused(id, XmppRefusal::Dialback, text);
        }
        Ok(())
    }

    /// A key was not verified: the end that showed it is told.
    pub(super) fn not_verified(&mut self, now: Instant, unverified: &Unverified, why: &str) {
        let Unverified { shown_on: id, pair } = unverified;
        if !self.streams.contains_key(id) {
            return;
        }
        let answer =
            write::dialback_error("result", (&pair.local, &pair.remote), "remote-server-timeout");
        self.write(*id, &answer);
        let text = format!("dialback of {} could not be verified: {why}", pair.remote);
        let proved = self.streams.get(id).is_some_and(Stream::is_proved);
        if proved {
            self.refused(*id, XmppRefusal::Dialback, text);
        } else {
            let fault = Fault { condition: None, reason: XmppRefusal::Dialback, text };
            self.fail(now, *id, fault);
        }
    }
}

/// Why a key counts for nothing on this stream: what stands behind it, and what mends it.
fn not_by_dialback(stream: &Stream, terms: &Terms, pair: &Pair) -> Fault {
    let (local, remote) = (&pair.local, &pair.remote);
    let (reason, text) = match (&stream.tls, &stream.certified) {
        (None, _) if terms.tls == Negotiation::Required && stream.offer.starttls => {
            let text = format!(
                "its entry demands TLS, and it showed a key without; to mend: its server must take the \
                 STARTTLS that is offered; or write tls = \"optional\" in the entry of {remote}"
            );
            (XmppRefusal::NoTls, text)
        }
        (None, _) if terms.tls == Negotiation::Required => {
            let text = format!(
                "its entry demands TLS, and none was offered, as there is no certificate for \
                 {local}; to mend: have one issued and name it in [service.xmpp]"
            );
            (XmppRefusal::NoTls, text)
        }
        (None, _) => {
            let text = "its entry allows no dialback, and there is no TLS; to mend: its server must take \
                        STARTTLS and show a certificate; or write dialback = true";
            (XmppRefusal::NoTls, text.to_owned())
        }
        (Some(_), Err(why)) => {
            let text = format!(
                "its entry allows no dialback, and its certificate does not prove it: {why}; or write dialback = true in the entry of {remote}"
            );
            (XmppRefusal::Certificate, text)
        }
        (Some(_), Ok(_)) => {
            let text = format!(
                "its entry allows no dialback; to mend: its certificate is good, so that its server may use \
                 SASL EXTERNAL; or write dialback = true in the entry of {remote}"
            );
            (XmppRefusal::Dialback, text)
        }
    };
    Fault::new("policy-violation", reason, format!("step dialback: {text}"))
}

/// `from` and `to` of a dialback element: `to` is ours.
pub(super) fn dialback_pair(element: &Element) -> Result<Pair, Fault> {
    let named = |name: &str| element.attribute(name).and_then(read_domain);
    match (named("to"), named("from")) {
        (Some(local), Some(remote)) => Ok(Pair { local, remote }),
        _ => Err(Fault::new(
            "improper-addressing",
            XmppRefusal::Protocol,
            "dialback needs domains in 'from' and 'to'",
        )),
    }
}
