//! What the configuration says of XMPP, as the cores use it.

use std::{sync::Arc, time::Duration};

use crate::domain::Domain;

/// Whether something is demanded, taken when offered, or never done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Negotiation {
    /// Without it there is no stream.
    Required,
    /// With it when the other end can.
    Optional,
    /// Never.
    NotSupported,
}

/// What an XMPP partner's users may begin (Lync's partner types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XmppPartnerKind {
    /// A company: anything.
    Federated,
    /// A public service whose users are who they say: either side may begin.
    PublicVerified,
    /// A public service: a user of ours must have begun.
    PublicUnverified,
}

/// What becomes of a chat message of an XMPP user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Chats {
    /// A message without a session, and a session only where that is refused or too long.
    #[default]
    Messages,
    /// It begins a session: for inside servers that know no messages but those (Lync).
    Sessions,
}

/// An entry `[[xmpp.partner]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XmppPartner {
    /// Its first domain: its name.
    pub domain: Domain,
    /// Further domains of it.
    pub additional: Vec<Domain>,
    /// What its users may begin.
    pub kind: XmppPartnerKind,
    /// TLS.
    pub tls: Negotiation,
    /// SASL EXTERNAL (XEP-0178).
    pub sasl: Negotiation,
    /// Dialback (XEP-0220).
    pub dialback: bool,
    /// Streams are kept alive.
    pub keep_alive: bool,
    /// Streams of this partner at one time, when not the common bound.
    pub connections: Option<usize>,
    /// Its server, when it is not to be found by DNS.
    pub proxy: Option<(Domain, u16)>,
    /// A wildcard in a certificate counts.
    pub wildcard: bool,
    /// Line of the file.
    pub line: u32,
}

impl XmppPartner {
    /// As an entry that says no more than its domain.
    pub const fn new(domain: Domain) -> Self {
        Self {
            domain,
            additional: Vec::new(),
            kind: XmppPartnerKind::PublicUnverified,
            tls: Negotiation::Required,
            sasl: Negotiation::Required,
            dialback: true,
            keep_alive: true,
            connections: None,
            proxy: None,
            wildcard: false,
            line: 1,
        }
    }

    /// Every domain of it, its name first.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        std::iter::once(&self.domain).chain(&self.additional)
    }

    /// Whether this is a domain of it.
    pub fn is_of(&self, domain: &Domain) -> bool {
        self.domains().any(|own| own == domain)
    }
}

/// `[xmpp]` and `[service.xmpp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XmppSettings {
    /// The organisation's switch for XMPP.
    pub enabled: bool,
    /// Domains served here: those of the gateway and of inside servers.
    pub domains: Vec<Domain>,
    /// Domains of inside XMPP servers, and where those are; every other domain is the gateway's.
    pub inside: Vec<(Vec<Domain>, (Domain, u16))>,
    /// What becomes of chat messages for SIP users.
    pub chats: Chats,
    /// Partners. Everybody else is refused.
    pub partners: Vec<Arc<XmppPartner>>,
    /// Bounds.
    pub limits: XmppLimits,
}

/// Bounds of XMPP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XmppLimits {
    /// Streams at one time.
    pub connections: usize,
    /// Of them, of one partner.
    pub partner_connections: usize,
    /// Silence after which a stream is asked whether it lives.
    pub keep_alive: Duration,
    /// A stream is proved by then.
    pub setup: Duration,
    /// A stream without stanzas is closed then.
    pub idle: Duration,
    /// Bytes of a stanza; at least 10,000 (RFC 6120 section 13.12).
    pub stanza_bytes: usize,
    /// Bytes before anything is proved.
    pub first_bytes: usize,
    /// Elements within elements.
    pub depth: usize,
    /// Attributes of one element.
    pub attributes: usize,
    /// Namespace declarations in force at one time within one stanza.
    pub namespaces: usize,
    /// Bytes that wait for one pair while there is no stream.
    pub queue_bytes: usize,
    /// Bytes a second from one stream; what is more waits.
    pub bytes_per_second: usize,
    /// A subscription of presence is refreshed after so long.
    pub refresh: Duration,
}

impl Default for XmppLimits {
    fn default() -> Self {
        Self {
            connections: 1000,
            partner_connections: 20,
            keep_alive: Duration::from_secs(300),
            setup: Duration::from_secs(60),
            idle: Duration::from_secs(600),
            stanza_bytes: 256 << 10,
            first_bytes: 16 << 10,
            depth: 32,
            attributes: 64,
            namespaces: 32,
            queue_bytes: 64 << 10,
            bytes_per_second: 64 << 10,
            refresh: Duration::from_secs(28_800),
        }
    }
}

/// Who may, as the federation's policy knows it: asked for each stanza and each stream, so that a
/// change is in force at once.
#[derive(Clone, Debug)]
pub struct XmppPolicy {
    /// What the configuration says.
    pub settings: Arc<XmppSettings>,
    /// The federation's policy: switch, blocked domains, users' rights.
    pub federation: Arc<crate::federation::Policy>,
}

impl XmppPolicy {
    /// The partner that this domain belongs to; `None`: nobody we know, or it is blocked, or XMPP
    /// is off.
    pub fn partner(&self, domain: &Domain) -> Option<&Arc<XmppPartner>> {
        let settings = &self.settings;
        let open = settings.enabled && self.federation.enabled();
        let known = settings.partners.iter().find(|partner| partner.is_of(domain));
        known.filter(|_| open && self.federation.blocked_by(domain).is_none())
    }
}
