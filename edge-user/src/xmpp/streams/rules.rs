//! Who may speak to whom, and on which terms.
//!
//! Within the streams a pair is seen from the stream: `local` is the domain that we speak for on it,
//! `remote` is the other end's. Towards an inside server that is the other way round than in the
//! contract, where `local` is always the organisation's: [`turned`] changes one into the other.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use super::{certify::Also, methods::Methods};
use crate::{
    domain::Domain,
    federation::UserName,
    xmpp::{
        io::{Pair, XmppQuestion, XmppRefusal, XmppSide},
        settings::{Negotiation, XmppPartner, XmppPartnerKind, XmppPolicy},
    },
};

/// A JID's local part, as [`UserName`] reads one: in a JID these two are letters as any other.
pub(super) fn as_user(local: &str) -> Cow<'_, str> {
    match local.contains(['%', ';']) {
        true => Cow::Owned(local.replace('%', "%25").replace(';', "%3b")),
        false => Cow::Borrowed(local),
    }
}

/// From the contract's order to a stream's, or back.
pub(super) fn turned(side: XmppSide, pair: Pair) -> Pair {
    match side {
        XmppSide::Partner => pair,
        XmppSide::Inside => Pair { local: pair.remote, remote: pair.local },
    }
}

/// Why a pair may not speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) reason: XmppRefusal,
    pub(super) text: String,
}

impl Denied {
    fn new(reason: XmppRefusal, text: String) -> Self {
        Self { reason, text }
    }

    /// The stream error for it.
    pub(super) fn condition(&self) -> &'static str {
        match self.reason {
            XmppRefusal::Disabled => "undefined-condition",
            XmppRefusal::UnknownDomain => "host-unknown",
            _ => "policy-violation",
        }
    }
}

/// On what terms we speak with another end.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) tls: Negotiation,
    pub(super) methods: Methods,
    pub(super) keep_alive: bool,
    /// Streams at one time.
    pub(super) connections: usize,
    /// The host that the entry pins: its certificate does too.
    pub(super) pinned: Option<(Domain, u16)>,
    /// A wildcard in its certificate counts.
    wildcard: bool,
    /// For counting: the entry's first domain.
    pub(super) entry: Domain,
    /// A certificate is needed whatever else is shown: an inside server.
    pub(super) inside: bool,
}

/// The policy, with its look-ups made quick.
pub(super) struct Rules {
    policy: XmppPolicy,
    partners: HashMap<Domain, Arc<XmppPartner>>,
    /// Counts changes, from 1.
    pub(super) epoch: u64,
}

impl Rules {
    pub(super) fn new(policy: XmppPolicy, epoch: u64) -> Self {
        let settings = &policy.settings;
        let named = |p: &Arc<XmppPartner>| {
            let all = std::iter::once(&p.domain).chain(&p.additional);
            all.map(|domain| (domain.clone(), Arc::clone(p))).collect::<Vec<_>>()
        };
        let partners = settings.partners.iter().flat_map(named).collect();
        Self { policy, partners, epoch }
    }

    pub(super) fn limits(&self) -> &crate::xmpp::settings::XmppLimits {
        &self.policy.settings.limits
    }

    /// Whether a domain is an inside server's.
    pub(super) fn is_inside(&self, domain: &Domain) -> bool {
        self.inside_host(domain).is_some()
    }

    fn inside_host(&self, domain: &Domain) -> Option<&(Domain, u16)> {
        let inside = &self.policy.settings.inside;
        inside.iter().find(|(domains, _)| domains.contains(domain)).map(|(_, host)| host)
    }

    /// Whether a user of an inside server may federate over XMPP.
    pub(super) fn user_may(&self, user: &UserName<'_>) -> bool {
        self.policy.federation.users().rights(user).xmpp
    }

    /// The partner, when how much it sends is watched: nobody vouches for its users.
    pub(super) fn is_watched(&self, partner: &Domain) -> bool {
        matches!(
            self.kind(partner),
            Some(XmppPartnerKind::PublicVerified | XmppPartnerKind::PublicUnverified)
        )
    }

    /// What the users of this partner may begin.
    pub(super) fn kind(&self, partner: &Domain) -> Option<XmppPartnerKind> {
        self.partners.get(partner).map(|partner| partner.kind)
    }

    /// Whether we speak for this domain on this side.
    pub(super) fn serves(&self, side: XmppSide, local: &Domain) -> Result<(), Denied> {
        match side {
            XmppSide::Partner if self.policy.settings.domains.contains(local) => Ok(()),
            XmppSide::Partner => {
                Err(Denied::new(XmppRefusal::UnknownDomain, format!("{local} is not served here")))
            }
            XmppSide::Inside => self.partner(local).map(|_| ()),
        }
    }

    fn partner(&self, domain: &Domain) -> Result<&Arc<XmppPartner>, Denied> {
        let settings = &self.policy.settings;
        if !settings.enabled || !self.policy.federation.enabled() {
            return Err(Denied::new(
                XmppRefusal::Disabled,
                "XMPP federation is switched off here".to_owned(),
            ));
        }
        if self.policy.federation.blocked_by(domain).is_some() {
            return Err(Denied::new(
                XmppRefusal::DomainBlocked,
                format!("{domain} may not federate with this server"),
            ));
        }
        self.partners.get(domain).ok_or_else(|| {
            Denied::new(
                XmppRefusal::UnknownDomain,
                format!(
                    "{domain} is no XMPP partner here; to mend: an entry [[xmpp.partner]] is needed"
                ),
            )
        })
    }

    /// On what terms this pair may speak on this side.
    pub(super) fn terms(&self, side: XmppSide, pair: &Pair) -> Result<Terms, Denied> {
        self.serves(side, &pair.local)?;
        self.terms_with(side, &pair.remote)
    }

    /// On what terms the other end may speak at all.
    pub(super) fn terms_with(&self, side: XmppSide, remote: &Domain) -> Result<Terms, Denied> {
        let limits = self.limits();
        if side == XmppSide::Inside {
            let host = self.inside_host(remote).ok_or_else(|| {
                Denied::new(
                    XmppRefusal::UnknownDomain,
                    format!("{remote} is no domain of an inside XMPP server"),
                )
            })?;
            return Ok(Terms {
                tls: Negotiation::Required,
                methods: Methods::new(Negotiation::Required, Negotiation::Optional, true),
                keep_alive: true,
                connections: limits.connections,
                pinned: Some(host.clone()),
                wildcard: false,
                entry: remote.clone(),
                inside: true,
            });
        }
        let partner = self.partner(remote)?;
        let methods = Methods::of(partner);
        if methods.is_empty() {
            return Err(Denied::new(
                XmppRefusal::Certificate,
                format!("the entry of {remote} allows neither dialback nor SASL over TLS"),
            ));
        }
        Ok(Terms {
            tls: partner.tls,
            methods,
            keep_alive: partner.keep_alive,
            connections: partner.connections.unwrap_or(limits.partner_connections),
            pinned: partner.proxy.clone(),
            wildcard: partner.wildcard,
            entry: partner.domain.clone(),
            inside: false,
        })
    }
}

impl Terms {
    /// Where to look for the other end's server.
    pub(super) fn question(&self, remote: &Domain) -> XmppQuestion {
        match &self.pinned {
            Some((host, port)) => XmppQuestion::Host(host.clone(), *port),
            None => XmppQuestion::Domain(remote.clone()),
        }
    }

    /// What a certificate may name in place of the domain.
    pub(super) fn also(&self) -> Also<'_> {
        let pinned = self.pinned.as_ref().map(|(host, _)| host);
        Also { pinned, wildcard: self.wildcard }
    }
}
