//! Who is speaking: From by situation (trust rules, sections 2 and 3), and what its user, or ours,
//! may do. Decides, changes nothing but the note of what a connection has proved.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ConnectionId, Event, Output, Question, Refusal, Repute, ResolveError, Side, proxy::Proxy,
    respond::Answer, token::Token, trust_headers,
};
use crate::{
    config::Verification,
    domain::Domain,
    federation::{
        CertificateNames, Direction, Lookup, Partner, PartnerKind, Policy, UserName,
        may_be_srv_target, media as bodies, proves_partner,
    },
    media::policy::{Modalities, modality_of_message},
    sip::{HeaderName, Host, Message, Method, NameAddr, Uri},
};

/// RFC 3323 section 4.1.1.3.
const ANONYMOUS: &str = "anonymous.invalid";

/// The outcome.
#[derive(Debug)]
pub(super) enum Judgement {
    /// Spoken for this partner.
    Admitted(Arc<Partner>),
    /// Ask DNS, then judge again.
    Ask { question: Question, lookup: Lookup },
    /// Refused, and about which domain.
    Refused(Refusal, Option<Domain>),
}

/// Whether a connection proves a partner.
#[derive(Debug)]
enum Standing {
    Proved {
        until: Option<Instant>,
    },
    Ask(Question),
    NotProved(Refusal),
    /// DNS did not answer, so nothing is known.
    Unknown,
}

impl Proxy {
    /// Judges a request from a partner's connection. `dialog`: the partner that its verified
    /// token names, and what that allows.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        message: &Message,
        (dialog, bound): (Option<&Domain>, Modalities),
        out: &mut Vec<Output>,
    ) -> Judgement {
        let judgement = self.judge_speaker(now, connection, message, dialog, out);
        let Judgement::Admitted(entry) = &judgement else { return judgement };
        let refused = |reason| Judgement::Refused(reason, Some(entry.domain.clone()));
        if dialog.is_none() && lacks_source_verification(entry, message) {
            return refused(Refusal::UnverifiedSource);
        }
        let checked =
            self.user_check(Direction::In, message, dialog.is_some(), entry).and_then(|()| {
                self.message_check(Direction::In, message, (dialog.is_some(), bound), entry)
            });
        match checked {
            Ok(()) => judgement,
            Err(reason) => refused(reason),
        }
    }

    fn judge_speaker(
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
        if self.policy.is_ours(&from) && !self.shares_our_space(now, connection, &from) {
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

    /// Whether this connection is the provider's that hosts users of our own domains.
    fn shares_our_space(&self, now: Instant, connection: ConnectionId, ours: &Domain) -> bool {
        let entry = self.policy.partner(ours);
        entry.is_ok_and(|entry| {
            matches!(self.standing(now, connection, &entry), Standing::Proved { .. })
        })
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
            if self.policy.is_ours(&domain) && speaker.as_ref() != Some(&domain) {
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
        let refused = |reason| Judgement::Refused(reason, Some(domain.clone()));
        let entry = match policy.partner(domain) {
            Ok(entry) => entry,
            Err(Refusal::ProviderDisabled) if self.speaks_as_another(connection, None) => {
                return refused(Refusal::BoundElsewhere);
            }
            Err(reason) => return refused(reason),
        };
        match self.standing(now, connection, &entry) {
            Standing::Proved { until } => {
                self.note_proof(now, connection, entry.key(), until, out);
                Judgement::Admitted(entry)
            }
            Standing::Ask(question) => Judgement::Ask { question, lookup: entry.lookup() },
            Standing::NotProved(Refusal::IdentityNotProved) => {
                self.judge_carried(now, connection, &entry, unproved, out)
            }
            Standing::NotProved(reason) => refused(reason),
            Standing::Unknown => refused(Refusal::Unreachable),
        }
    }

    /// The connection does not prove the domain itself: whether it is a provider's that may speak
    /// for it, as DNS says.
    #[cold]
    fn judge_carried(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        entry: &Arc<Partner>,
        unproved: Refusal,
        out: &mut Vec<Output>,
    ) -> Judgement {
        let policy = self.policy.clone();
        let refused = |reason| {
            // In a dialog there is one word for all of these.
            let reason = if unproved == Refusal::WrongDialogPeer { unproved } else { reason };
            Judgement::Refused(reason, Some(entry.domain.clone()))
        };
        if entry.pinned().is_some() {
            return match self.speaks_as_another(connection, Some(entry.key())) {
                true => refused(Refusal::BoundElsewhere),
                false => refused(unproved),
            };
        }
        let Some(names) = self.names(connection) else { return refused(unproved) };
        let Some(carrier) = policy.carrier(&names) else { return refused(unproved) };
        if !carrier.enabled {
            return refused(Refusal::ProviderDisabled);
        }
        let peer = Arc::new(carrier.peer.speaking_for(&entry.domain));
        // What the peer could never carry, DNS is not asked about.
        if !policy.carries(&peer, entry, std::slice::from_ref(peer.key())) {
            return refused(Refusal::NotCarried);
        }
        let question = Question::Federation(entry.domain.clone());
        match self.lookups.known(now, &question, entry.options.dnssec) {
            None => return Judgement::Ask { question, lookup: entry.lookup() },
            Some(Err(ResolveError::Unavailable)) => return refused(Refusal::Unreachable),
            Some(Ok(known)) if policy.carries(&peer, entry, &known.hosts) => {}
            Some(_) => return refused(Refusal::NotCarried),
        }
        match self.standing(now, connection, &peer) {
            Standing::Proved { until } => {
                self.note_proof(now, connection, peer.key(), until, out);
                Judgement::Admitted(peer)
            }
            Standing::NotProved(reason) if reason != Refusal::IdentityNotProved => refused(reason),
            _ => refused(unproved),
        }
    }

    /// Whether a certificate names a provider's host other than this one.
    fn speaks_as_another(&self, connection: ConnectionId, but: Option<&Domain>) -> bool {
        let Some(names) = self.names(connection) else { return false };
        let carrier = self.policy.carrier(&names).filter(|carrier| carrier.enabled);
        carrier.is_some_and(|carrier| Some(carrier.peer.key()) != but)
    }

    /// Who brought a name that no entry of the policy has: the sender's number.
    pub(super) fn brought_by(&self, connection: ConnectionId, question: &Question) -> Option<u64> {
        let Question::Federation(domain) = question else { return None };
        let named = self
            .policy
            .partner(domain)
            .is_ok_and(|entry| entry.kind != PartnerKind::DiscoveredDomain);
        if named { None } else { self.connections.get(connection).map(|found| found.scope) }
    }

    fn names(&self, connection: ConnectionId) -> Option<Arc<CertificateNames>> {
        self.connections.get(connection).map(|connection| connection.peer.names.clone())
    }

    /// Nobody is named: only a partner whose entry allows that, proved by its connection.
    #[cold]
    fn judge_anonymous(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        out: &mut Vec<Output>,
    ) -> Judgement {
        let mut ask = None;
        let names = self.names(connection).unwrap_or_default();
        for entry in self.policy.anonymous(&names) {
            match self.standing(now, connection, &entry) {
                Standing::Proved { until } => {
                    self.note_proof(now, connection, entry.key(), until, out);
                    return Judgement::Admitted(entry);
                }
                Standing::Ask(question) => {
                    ask = Some(Judgement::Ask { question, lookup: entry.lookup() });
                }
                Standing::NotProved(_) | Standing::Unknown => {}
            }
        }
        ask.unwrap_or(Judgement::Refused(Refusal::Anonymous, None))
    }

    /// What the connection's certificate says about a partner, with what DNS has said so far.
    fn standing(&self, now: Instant, connection: ConnectionId, entry: &Partner) -> Standing {
        if self.connections.has_proved(now, connection, entry.key()) {
            return Standing::Proved { until: None };
        }
        let Some(found) = self.connections.get(connection) else {
            return Standing::NotProved(Refusal::IdentityNotProved);
        };
        // The gateway is every XMPP partner, and nobody else; and nobody else is one.
        match (found.peer.side == Side::Gateway, entry.kind == PartnerKind::Xmpp) {
            (true, true) => return Standing::Proved { until: None },
            (false, false) => {}
            _ => return Standing::NotProved(Refusal::IdentityNotProved),
        }
        let (names, dialled) = (&found.peer.names, found.dialled);
        let left = names.expires_at.map(|at| at.saturating_sub(self.keys.unix(now)));
        if left == Some(0) {
            return Standing::NotProved(Refusal::IdentityNotProved);
        }
        // A certificate proves nothing beyond its own time.
        let expires = left.and_then(|left| now.checked_add(Duration::from_secs(left)));
        match proves_partner(names, entry, &[], dialled) {
            Ok(_) => return Standing::Proved { until: expires },
            Err(Refusal::IdentityNotProved) => {}
            Err(reason) => return Standing::NotProved(reason),
        }
        // A pinned host is that and no other; and DNS is asked only when its answer could make
        // one of the certificate's names a proof.
        if !may_be_srv_target(names, entry) {
            return Standing::NotProved(Refusal::IdentityNotProved);
        }
        let question = Question::Federation(entry.domain.clone());
        match self.lookups.known(now, &question, entry.options.dnssec) {
            None => Standing::Ask(question),
            Some(Err(ResolveError::Unavailable)) => Standing::Unknown,
            Some(Err(ResolveError::NotSecure)) => Standing::NotProved(Refusal::DnsNotSecure),
            Some(Err(_)) => Standing::NotProved(Refusal::IdentityNotProved),
            Some(Ok(known)) => match proves_partner(names, entry, &known.hosts, dialled) {
                Ok(_) => {
                    let record = known.resolved.valid_until;
                    Standing::Proved { until: Some(expires.map_or(record, |at| at.min(record))) }
                }
                Err(reason) => Standing::NotProved(reason),
            },
        }
    }

    /// Whether it is known by now that the other end is this partner.
    pub(super) fn proves(&self, now: Instant, connection: ConnectionId, entry: &Partner) -> bool {
        matches!(self.standing(now, connection, entry), Standing::Proved { .. })
    }

    /// Whether a connection of ours may carry requests to the partner that is known by this key;
    /// noted if so.
    pub(super) fn proves_now(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        key: &Domain,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let entry = self.policy.by_key(key).ok_or(Refusal::IdentityNotProved)?;
        match self.standing(now, connection, &entry) {
            Standing::Proved { until } => {
                self.note_proof(now, connection, key, until, out);
                Ok(())
            }
            Standing::NotProved(reason) => Err(reason),
            Standing::Ask(_) | Standing::Unknown => Err(Refusal::IdentityNotProved),
        }
    }

    fn note_proof(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        key: &Domain,
        until: Option<Instant>,
        out: &mut Vec<Output>,
    ) {
        // The gateway's address is no partner's, and what it proves is as long as the policy says.
        let gateway = self.connections.gateway() == Some(connection);
        if gateway || self.connections.has_proved(now, connection, key) {
            return;
        }
        if self.connections.note_proof(now, connection, key, until)
            && let Some(remote) = self.connections.get(connection).map(|c| c.peer.remote)
        {
            let discovered = |entry: Arc<Partner>| entry.kind == PartnerKind::DiscoveredDomain;
            let repute = match self.policy.by_key(key).is_none_or(discovered) {
                true => Repute::Discovered,
                false => Repute::Known,
            };
            let domain = key.clone();
            out.push(Output::Event(Event::Proved { connection, domain, remote, repute }));
        }
    }

    /// A dialog does not outlive that its user's domain is ours; to end it is always possible.
    pub(super) fn judge_parties(
        &self,
        message: &Message,
        token: &Token,
        side: Side,
    ) -> Result<(), Refusal> {
        // Mostly none has left.
        if self.left.is_empty()
            || matches!(message.method(), Some(Method::Ack | Method::Bye | Method::Cancel))
        {
            return Ok(());
        }
        let has_left = |party: NameAddr<'_>| {
            // One that left may be a partner's now.
            sip_domain(&party.uri).is_some_and(|d| self.left.contains(&d) && d != token.partner)
        };
        let reason = if side == Side::Inside { Refusal::NotOurUser } else { Refusal::Transit };
        let parties = [message.from(), message.to()];
        if parties.into_iter().flatten().any(has_left) { Err(reason) } else { Ok(()) }
    }

    /// Judges a stand-alone request from inside: From, or behind an anonymous From the asserted
    /// identity, is one of ours.
    pub(super) fn judge_inside(&self, message: &Message) -> Result<(), Refusal> {
        match our_speaker(&self.policy, message) {
            Some(_) => Ok(()),
            None => Err(Refusal::NotOurUser),
        }
    }

    /// Judges a request from inside by what its user may do.
    pub(super) fn judge_user_outside(
        &self,
        message: &Message,
        (in_dialog, bound): (bool, Modalities),
        entry: &Partner,
    ) -> Result<(), (Answer, Option<Domain>)> {
        self.user_check(Direction::Out, message, in_dialog, entry)
            .and_then(|()| self.message_check(Direction::Out, message, (in_dialog, bound), entry))
            .map_err(|reason| (reason.into(), Some(entry.domain.clone())))
    }

    /// What a user of ours may not do: who speaks when it goes out, who is spoken to when it
    /// comes in. In a dialog the parties are those that its token covers.
    fn user_check(
        &self,
        direction: Direction,
        message: &Message,
        in_dialog: bool,
        entry: &Partner,
    ) -> Result<(), Refusal> {
        let by_default = !entry.is_public() && entry.kind != PartnerKind::Xmpp;
        if by_default && self.policy.users().is_empty() {
            return Ok(());
        }
        let check = |uri: &Uri<'_>| match sip_domain(uri) {
            Some(domain) => {
                let user = UserName::new(uri.user(), &domain);
                self.policy.user(&user, entry, || bodies::asks(message))
            }
            // No user of ours is named.
            None => Ok(()),
        };
        self.our_user(direction, message, in_dialog).map_or(Ok(()), |uri| check(&uri))
    }

    /// Which of our users a message is from or for. `None`: an anonymous caller's dialog, which was
    /// judged when it began.
    fn our_user<'m>(
        &self,
        direction: Direction,
        message: &'m Message,
        in_dialog: bool,
    ) -> Option<Uri<'m>> {
        match direction {
            Direction::Out => our_speaker(&self.policy, message).map(|speaker| speaker.uri),
            Direction::In => {
                let called = message.request_uri().and_then(Result::ok);
                called
                    .filter(|uri| !in_dialog && uri.user().is_some())
                    .or_else(|| message.to().ok().map(|to| to.uri))
            }
        }
    }

    /// What a partner and a user of ours may do with one another.
    pub(super) fn modalities_between(
        &self,
        direction: Direction,
        message: &Message,
        in_dialog: bool,
        entry: &Partner,
    ) -> Modalities {
        let unbound = entry.options.modalities.is_all() && !entry.kind.is_shared();
        if unbound && self.policy.users().is_empty() {
            return Modalities::ALL;
        }
        let user = self.our_user(direction, message, in_dialog);
        match user.as_ref().and_then(|uri| Some((uri, sip_domain(uri)?))) {
            Some((uri, domain)) => {
                self.policy.modalities(entry, &UserName::new(uri.user(), &domain))
            }
            None => entry.options.modalities,
        }
    }

    /// The same where it is no more than its dialog's token allows: To names whom the caller likes.
    pub(super) fn modalities_of_dialog(
        &self,
        direction: Direction,
        message: &Message,
        in_dialog: bool,
        bound: Modalities,
        entry: &Partner,
    ) -> Modalities {
        self.modalities_between(direction, message, in_dialog, entry).intersection(bound)
    }

    /// Whether a message that is for something by itself is for something that is allowed. What a
    /// session description asks for is judged where it passes.
    fn message_check(
        &self,
        direction: Direction,
        message: &Message,
        (in_dialog, bound): (bool, Modalities),
        entry: &Partner,
    ) -> Result<(), Refusal> {
        let modality = match modality_of_message(message) {
            Ok(None) => return Ok(()),
            Ok(modality) => modality,
            // Whatever it is for: everything must be allowed.
            Err(_) => None,
        };
        let allowed = self.modalities_of_dialog(direction, message, in_dialog, bound, entry);
        if allowed.allows(modality) { Ok(()) } else { Err(Refusal::ModalityForbidden) }
    }
}

/// Which of our users speaks: From, or behind an anonymous From the asserted identity, where
/// every one is ours.
fn our_speaker<'m>(policy: &Policy, message: &'m Message) -> Option<NameAddr<'m>> {
    let from = message.from().ok()?;
    let domain = sip_domain(&from.uri)?;
    if policy.is_ours(&domain) {
        return Some(from);
    }
    if domain.as_str() != ANONYMOUS {
        return None;
    }
    let mut first = None;
    for value in message.list(HeaderName::PAssertedIdentity) {
        let Ok(asserted) = NameAddr::parse(value.value) else { continue };
        if !asserted.uri.is_sip() {
            continue;
        }
        if !sip_domain(&asserted.uri).is_some_and(|domain| policy.is_ours(&domain)) {
            return None;
        }
        first.get_or_insert(asserted);
    }
    first
}

/// The partner must say whether its user is verified, and does not.
fn lacks_source_verification(entry: &Partner, message: &Message) -> bool {
    let lenient = matches!(entry.kind, PartnerKind::DiscoveredDomain | PartnerKind::DefaultRoute);
    entry.verification() == Verification::UseSource
        && !lenient
        && trust_headers::asserted_level(message).is_none()
}

/// Whether a message's sender is nobody in particular.
pub(super) fn is_anonymous(message: &Message) -> bool {
    message.from().is_ok_and(|from| match from.uri.host() {
        Some(Host::Name(name)) => {
            name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case(ANONYMOUS)
        }
        _ => false,
    })
}

/// The domain of a `sip:` or `sips:` URI; an address is none.
pub(super) fn sip_domain(uri: &Uri<'_>) -> Option<Domain> {
    if uri.is_sip() { uri.host()?.domain() } else { None }
}
