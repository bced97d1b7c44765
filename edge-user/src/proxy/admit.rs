//! Who is speaking: From by situation (trust rules, sections 2 and 3). Decides, changes nothing
//! but the note of what a connection has proved.

use std::time::{Duration, Instant};

use super::{ConnectionId, Event, Output, Question, Refusal, ResolveError, proxy::Proxy};
use crate::{
    config::AllowedDomain,
    domain::Domain,
    federation::proves,
    sip::{HeaderName, Message, NameAddr, Uri},
};

/// RFC 3323 section 4.1.1.3.
const ANONYMOUS: &str = "anonymous.invalid";

/// The outcome.
#[derive(Debug)]
pub(super) enum Judgement {
    /// Spoken for this partner.
    Admitted(Domain),
    /// Ask DNS, then judge again.
    Ask { question: Question, relax: bool },
    /// Refused, and about which domain.
    Refused(Refusal, Option<Domain>),
}

/// Whether a connection proves a domain.
#[derive(Debug)]
enum Standing {
    Proved {
        until: Option<Instant>,
    },
    Ask(Question),
    NotProved,
    /// DNS did not answer, so nothing is known.
    Unknown,
}

impl Proxy {
    /// Judges a request from a partner's connection. `dialog`: the partner that its verified
    /// token names.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        message: &Message,
        dialog: Option<&Domain>,
        out: &mut Vec<Output>,
    ) -> Judgement {
        if let Some(partner) = dialog {
            // From and To are covered by the token, an asserted identity is not.
            let mut speaker = Some(partner.clone());
            if let Err(refused) = self.asserted(message, &mut speaker) {
                return refused;
            }
            return self.judge_domain(now, connection, partner, Refusal::WrongDialogPeer, out);
        }
        let Some(from) = message.from().ok().and_then(|from| sip_domain(&from.uri)) else {
            return Judgement::Refused(Refusal::IdentityNotProved, None);
        };
        if self.policy.is_ours(&from) {
            return Judgement::Refused(Refusal::Spoofed, Some(from));
        }
        let anonymous = from.as_str() == ANONYMOUS;
        let mut speaker = (!anonymous).then_some(from);
        if let Err(refused) = self.asserted(message, &mut speaker) {
            return refused;
        }
        match speaker {
            Some(domain) => {
                self.judge_domain(now, connection, &domain, Refusal::IdentityNotProved, out)
            }
            None => self.judge_anonymous(now, connection, out),
        }
    }

    /// An asserted identity is one more From: it must be proved too, and be the same; behind an
    /// anonymous From it is the speaker.
    fn asserted(&self, message: &Message, speaker: &mut Option<Domain>) -> Result<(), Judgement> {
        for asserted in message.list(HeaderName::PAssertedIdentity) {
            let Ok(asserted) = NameAddr::parse(asserted.value) else {
                return Err(Judgement::Refused(Refusal::Malformed, speaker.clone()));
            };
            if !asserted.uri.is_sip() {
                continue;
            }
            let Some(domain) = sip_domain(&asserted.uri) else {
                return Err(Judgement::Refused(Refusal::IdentityNotProved, speaker.clone()));
            };
            if self.policy.is_ours(&domain) {
                return Err(Judgement::Refused(Refusal::Spoofed, Some(domain)));
            }
            if speaker.as_ref().is_some_and(|speaker| *speaker != domain) {
                return Err(Judgement::Refused(Refusal::IdentityNotProved, Some(domain)));
            }
            *speaker = Some(domain);
        }
        Ok(())
    }

    fn judge_domain(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        domain: &Domain,
        unproved: Refusal,
        out: &mut Vec<Output>,
    ) -> Judgement {
        let policy = self.policy.clone();
        let entry = match policy.admit(domain) {
            Ok(entry) => entry,
            Err(reason) => return Judgement::Refused(reason, Some(domain.clone())),
        };
        match self.standing(now, connection, entry) {
            Standing::Proved { until } => {
                self.note_proof(now, connection, domain, until, out);
                Judgement::Admitted(domain.clone())
            }
            Standing::Ask(question) => Judgement::Ask { question, relax: entry.relax_srv_domain },
            Standing::NotProved => Judgement::Refused(unproved, Some(domain.clone())),
            Standing::Unknown => Judgement::Refused(Refusal::Unreachable, Some(domain.clone())),
        }
    }

    /// Nobody is named: only a partner whose entry allows that, proved by its connection.
    fn judge_anonymous(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        out: &mut Vec<Output>,
    ) -> Judgement {
        let policy = self.policy.clone();
        let mut ask = None;
        for entry in policy.allowed().filter(|entry| entry.allow_anonymous) {
            if policy.admit(&entry.domain).is_err() {
                continue;
            }
            match self.standing(now, connection, entry) {
                Standing::Proved { until } => {
                    self.note_proof(now, connection, &entry.domain, until, out);
                    return Judgement::Admitted(entry.domain.clone());
                }
                Standing::Ask(question) => {
                    ask = Some(Judgement::Ask { question, relax: entry.relax_srv_domain });
                }
                Standing::NotProved | Standing::Unknown => {}
            }
        }
        ask.unwrap_or(Judgement::Refused(Refusal::Anonymous, None))
    }

    /// What the connection's certificate says about an entry, with what DNS has said so far.
    fn standing(&self, now: Instant, connection: ConnectionId, entry: &AllowedDomain) -> Standing {
        if self.connections.has_proved(now, connection, &entry.domain) {
            return Standing::Proved { until: None };
        }
        let Some(names) = self.connections.get(connection).map(|c| c.peer.names.clone()) else {
            return Standing::NotProved;
        };
        let left = names.expires_at.map(|at| at.saturating_sub(self.keys.unix(now)));
        if left == Some(0) {
            return Standing::NotProved;
        }
        // A certificate proves nothing beyond its own time.
        let expires = left.and_then(|left| now.checked_add(Duration::from_secs(left)));
        let pinned = entry.proxy_fqdn.as_ref();
        if proves(&names, &entry.domain, pinned, &[], false).is_some() {
            return Standing::Proved { until: expires };
        }
        // An allowed server is the pinned host and no other; and DNS is asked only when its
        // answer could make one of the certificate's names a proof.
        let relax = entry.relax_srv_domain;
        let useful = |name: &Domain| relax || name.is_within(&entry.domain);
        if pinned.is_some() || !names.dns.iter().chain(&names.sip_uris).any(useful) {
            return Standing::NotProved;
        }
        let question = Question::Federation(entry.domain.clone());
        match self.lookups.known(now, &question) {
            None => Standing::Ask(question),
            Some(Err(ResolveError::Unavailable)) => Standing::Unknown,
            Some(Err(_)) => Standing::NotProved,
            Some(Ok(known)) => match proves(&names, &entry.domain, None, &known.hosts, relax) {
                Some(_) => {
                    let record = known.resolved.valid_until;
                    Standing::Proved { until: Some(expires.map_or(record, |at| at.min(record))) }
                }
                None => Standing::NotProved,
            },
        }
    }

    /// Whether a connection of ours to a partner may carry its domain's requests; noted if so.
    pub(super) fn proves_now(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        domain: &Domain,
        out: &mut Vec<Output>,
    ) -> bool {
        let verdict = self.judge_domain(now, connection, domain, Refusal::IdentityNotProved, out);
        matches!(verdict, Judgement::Admitted(_))
    }

    fn note_proof(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        domain: &Domain,
        until: Option<Instant>,
        out: &mut Vec<Output>,
    ) {
        if self.connections.has_proved(now, connection, domain) {
            return;
        }
        if self.connections.note_proof(now, connection, domain, until)
            && let Some(remote) = self.connections.get(connection).map(|c| c.peer.remote)
        {
            let domain = domain.clone();
            out.push(Output::Event(Event::Proved { connection, domain, remote }));
        }
    }

    /// Judges a stand-alone request from inside: From, or behind an anonymous From the asserted
    /// identity, is one of ours.
    pub(super) fn judge_inside(&self, message: &Message) -> Result<(), Refusal> {
        let from = message.from().ok().and_then(|from| sip_domain(&from.uri));
        let ours = |domain: &Option<Domain>| {
            domain.as_ref().is_some_and(|domain| self.policy.is_ours(domain))
        };
        if ours(&from) {
            return Ok(());
        }
        if from.is_some_and(|from| from.as_str() == ANONYMOUS) {
            let mut asserted = message
                .list(HeaderName::PAssertedIdentity)
                .filter_map(|value| NameAddr::parse(value.value).ok())
                .filter(|value| value.uri.is_sip())
                .map(|value| sip_domain(&value.uri))
                .peekable();
            if asserted.peek().is_some() && asserted.all(|domain| ours(&domain)) {
                return Ok(());
            }
        }
        Err(Refusal::NotOurUser)
    }
}

/// The domain of a `sip:` or `sips:` URI; an address is none.
pub(super) fn sip_domain(uri: &Uri<'_>) -> Option<Domain> {
    if uri.is_sip() { uri.host()?.domain() } else { None }
}
