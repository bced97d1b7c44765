//! `[xmpp]` and `[service.xmpp]`.

use std::{net::SocketAddr, sync::Arc};

use super::{
    Config,
    model::TlsFiles,
    model_firewall::{Line, Rates},
};
use crate::{
    domain::Domain,
    xmpp::settings::{Chats, XmppLimits, XmppPartner, XmppSettings},
};

/// `[xmpp]`: who may federate over XMPP, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xmpp {
    /// The organisation's switch for XMPP.
    pub enabled: bool,
    /// What becomes of chat messages for SIP users.
    pub chats: Chats,
    /// Partners. No domain twice; none is ours, a SIP partner's or blocked.
    pub partners: Vec<Arc<XmppPartner>>,
    /// Bounds.
    pub limits: XmppLimits,
}

impl Default for Xmpp {
    fn default() -> Self {
        Self {
            enabled: true,
            chats: Chats::default(),
            partners: Vec::new(),
            limits: XmppLimits::default(),
        }
    }
}

/// XMPP federation: where it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XmppService {
    /// External addresses; port 5269 when not given.
    pub listen: Vec<SocketAddr>,
    /// External addresses with TLS from the first byte (XEP-0368); port 5270 when not given.
    pub direct_tls: Vec<SocketAddr>,
    /// Internal addresses; port 23456 when not given.
    pub inside: Vec<SocketAddr>,
    /// Certificate, key, and the roots that partners' certificates chain to; those of the access
    /// service when not given.
    pub tls: TlsFiles,
    /// Domains of the gateway, whose users are SIP users. Each is one of `edge.domains`, and no
    /// inside server's.
    pub domains: Vec<Domain>,
    /// XMPP servers of our own, which have their stanzas relayed. No domain twice.
    pub servers: Vec<XmppServer>,
    /// Of the external side.
    pub rates: Rates,
    /// Where it stands.
    pub line: Line,
}

impl XmppService {
    /// With everything else as it is when the file does not say.
    pub fn at(listen: Vec<SocketAddr>, tls: TlsFiles) -> Self {
        Self {
            listen,
            direct_tls: Vec::new(),
            inside: Vec::new(),
            tls,
            domains: Vec::new(),
            servers: Vec::new(),
            rates: Rates::default(),
            line: Line::default(),
        }
    }

    /// Every listener.
    pub fn sockets(&self) -> impl Iterator<Item = &SocketAddr> {
        self.listen.iter().chain(&self.direct_tls).chain(&self.inside)
    }
}

/// An XMPP server of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XmppServer {
    /// Its domains. At least one.
    pub domains: Vec<Domain>,
    /// Where it is; the name is in its certificate. Port 5269 when not given.
    pub next_hop: (Domain, u16),
}

impl Config {
    /// What the cores of XMPP need to know; `None`: there is no XMPP service.
    pub fn xmpp_settings(&self) -> Option<XmppSettings> {
        let service = self.services.xmpp.as_ref()?;
        let servers = service.servers.iter();
        let inside: Vec<_> =
            servers.map(|server| (server.domains.clone(), server.next_hop.clone())).collect();
        let of_servers = inside.iter().flat_map(|(domains, _)| domains.iter().cloned());
        Some(XmppSettings {
            enabled: self.xmpp.enabled,
            domains: service.domains.iter().cloned().chain(of_servers).collect(),
            inside,
            chats: self.xmpp.chats,
            partners: self.xmpp.partners.clone(),
            limits: self.xmpp.limits.clone(),
        })
    }
}
