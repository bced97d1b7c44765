//! What TLS is worth, and whether a stream may still be what it is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Fault, Streams, certify,
    proof::How,
    rules::{Rules, Terms},
    stream::{Phase, Role, Stream},
};
use crate::xmpp::io::{
    Chain, PeerCertificate, StreamId, TlsPeer, XmppOutput, XmppRefusal, XmppSide,
};

/// The key with which a domain proved itself last, and the certificate before it, if another.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    key: Option<[u8; 32]>,
    certificate: String,
    pub(super) before: Option<String>,
}

impl Streams {
    /// Remembers by which certificate a domain proved itself: a change is shown (RFC 7590
    /// section 3.6).
    pub(super) fn remember_certificate(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let names = match (&stream.tls.as_ref().map(|tls| &tls.certificate), &stream.remote) {
            (Some(PeerCertificate::Valid(names)), Some(remote)) => Some((names, remote)),
            _ => None,
        };
        let Some((names, remote)) = names else {
            return;
        };
        let (key, certificate) = (names.certificate.spki, names.certificate.description.clone());
        let domain = (stream.side, remote.clone());
        let seen = self.seen.get(&domain);
        let before = match seen {
            Some(seen) if seen.key != key => Some(seen.certificate.clone()),
            Some(seen) => seen.before.clone(),
            None => None,
        };
        self.seen.insert(domain, Seen { key, certificate, before });
    }

    pub(super) fn tls_done(&mut self, now: Instant, id: StreamId, tls: TlsPeer) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.phase != Phase::Handshake {
            return;
        }
        stream.tls = Some(tls);
        let role = stream.role;
        self.restart(id);
        self.set_expiry(id);
        self.certify(now, id);
        if role == Role::Initiating {
            self.write_header_once(id);
        }
        self.arm(id);
    }

    /// A new stream begins on the connection, with an id of its own (RFC 6120 section 4.7.3).
    /// Keys that were shown on the former one are forgotten.
    pub(super) fn restart(&mut self, id: StreamId) {
        self.verifications.forget(id);
        let xml_id = self.random_id();
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.restart();
            stream.xml_id = xml_id;
        }
    }

    /// What the other end's certificate proves of the domain in its header.
    pub(super) fn certify(&mut self, now: Instant, id: StreamId) {
        let unix_seconds = self.unix_seconds(now);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(remote) = &stream.remote else {
            stream.certified = Err("it did not say which domain it is".to_owned());
            return;
        };
        let terms = self.rules.terms_with(stream.side, remote).ok();
        let also = terms.as_ref().map(Terms::also).unwrap_or_default();
        stream.certified = certify::certify(stream.tls.as_ref(), remote, also, unix_seconds);
    }

    /// Every chain of certificates that was found good, to be judged anew.
    pub fn chains(&self) -> Vec<(StreamId, XmppSide, Chain)> {
        let of = |stream: &Stream| {
            let chain = stream.tls.as_ref().map(|tls| &tls.chain);
            let chain = chain.filter(|chain| !chain.is_empty())?;
            Some((stream.id, stream.side, Arc::clone(chain)))
        };
        self.streams.values().filter_map(of).collect()
    }

    /// These chains are good no longer, and why: their streams end (RFC 6120 section 13.7.2.3). Who
    /// may prove itself by something else does so anew.
    pub fn no_longer_good(
        &mut self,
        now: Instant,
        mut bad: Vec<(StreamId, String)>,
        out: &mut Vec<XmppOutput>,
    ) {
        bad.sort_unstable();
        for (id, why) in bad {
            let subject = self.subject(id);
            let text = format!(
                "the certificate ({subject}) or an authority that it hangs on is no longer good: \
                 {why}; to mend: its server needs another one"
            );
            self.fail(now, id, Fault::new("reset", XmppRefusal::Certificate, text));
        }
        self.hand_out(out);
    }

    /// A proof by a certificate ends with it.
    pub(super) fn set_expiry(&mut self, id: StreamId) {
        let (then, seconds) = self.clock;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.expires = match stream.tls.as_ref().map(|tls| &tls.certificate) {
            Some(PeerCertificate::Valid(names)) => names
                .ends_at()
                .and_then(|end| then.checked_add(Duration::from_secs(end.saturating_sub(seconds)))),
            _ => None,
        };
    }

    /// Whether the policy still allows what this stream is and has proved.
    pub(super) fn judge_anew(
        &mut self,
        now: Instant,
        id: StreamId,
        before: &Rules,
    ) -> Result<(), Fault> {
        let (epoch, seconds) = (self.rules.epoch, self.unix_seconds(now));
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let over_tls = stream.tls.is_some();
        let pairs: Vec<_> = stream.proofs.iter().map(|p| (p.pair.clone(), p.how)).collect();
        let asked = stream.pair().map(|pair| (pair, None));
        let all = pairs.into_iter().map(|(pair, how)| (pair, Some(how))).chain(asked);
        for (pair, how) in all {
            let terms = self
                .rules
                .terms(stream.side, &pair)
                .map_err(|denied| Fault { condition: Some("reset"), ..Fault::from(denied) })?;
            let allowed = match how {
                None => true,
                Some(How::External) => terms.methods.external,
                Some(How::Dialback) => terms.methods.dialback(over_tls),
            };
            if !allowed {
                let text = "its entry no longer allows how it was proved; to mend: it proves itself anew, or \
                            tls, sasl and dialback of its entry allow it";
                return Err(Fault::new("reset", XmppRefusal::Certificate, text));
            }
            // The host that an entry pins may speak for its domains as long as it is pinned.
            if how == Some(How::External)
                && let Err(text) =
                    certify::certify(stream.tls.as_ref(), &pair.remote, terms.also(), seconds)
            {
                return Err(Fault::new("reset", XmppRefusal::Certificate, text));
            }
            let pinned = before.terms(stream.side, &pair).map(|terms| terms.pinned);
            if how == Some(How::Dialback) && pinned.is_ok_and(|pinned| pinned != terms.pinned) {
                let text = "its entry names another server; to mend: it connects anew";
                return Err(Fault::new("reset", XmppRefusal::Dialback, text));
            }
            if stream.entry.is_some() {
                stream.entry = Some(terms.entry);
            }
        }
        stream.proofs.set_epoch(epoch);
        Ok(())
    }
}
