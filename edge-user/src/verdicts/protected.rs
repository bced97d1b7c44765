//! Whose addresses are never blocked for a domain's sake.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    config::{Config, Federation, Host, InsideServer, NextHop, Transport},
    domain::Domain,
    federation::usable,
    xmpp::settings::XmppPartner,
};

/// Who else uses an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Protection {
    /// An allowed partner, as DNS says.
    #[error("also an edge of allowed partner {0}")]
    Partner(Domain),
    /// An XMPP partner, as DNS says.
    #[error("also a server of XMPP partner {0}")]
    XmppPartner(Domain),
    /// A partner, proven on a live connection.
    #[error("partner {0} is connected from there")]
    LivePartner(Domain),
    /// A partner, proven on a connection that went within the last day. Holds off the watch list
    /// only.
    #[error("partner {0} was connected from there within the last day")]
    RecentPartner(Domain),
    /// One of our next hops.
    #[error("also a next hop of ours")]
    NextHop,
    /// A DNS server we ask.
    #[error("also a DNS server of ours")]
    DnsServer,
    /// Revocation lists are fetched from there.
    #[error("also a host of revocation lists")]
    CrlHost,
    /// In a prefix from which this appliance is managed.
    #[error("in a management prefix")]
    Management,
    /// A server of ours.
    #[error("also a server inside")]
    Inside,
    /// A user of ours, outside.
    #[error("a remote user is signed in from there")]
    RemoteUser,
}

/// What holds, as far as verdicts are concerned.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Allowed and blocked domains, file and runtime changes joined.
    pub federation: Federation,
    /// Every address of ours, advertised ones too.
    pub own: Vec<IpAddr>,
    /// Prefixes that are protected whatever DNS says.
    pub fixed: Vec<(IpNet, Protection)>,
    /// Next hops given by name.
    pub next_hops: Vec<NextHop>,
    /// A rule asks for the partners' addresses.
    pub partners: bool,
    /// XMPP partners; `None`: XMPP is not served, and nobody's XMPP servers matter.
    pub xmpp: Option<Vec<Arc<XmppPartner>>>,
}

impl Setting {
    /// Whether an address may be blocked, by what the configuration itself says.
    pub fn may_block(&self, address: IpAddr) -> bool {
        usable(address, &self.own, &self.federation.allow_addresses).is_ok()
            && !self.fixed.iter().any(|(prefix, _)| prefix.contains(&address))
    }

    /// From the configuration, and the lists in force. More addresses of ours (those of the
    /// interfaces) may be added to `own`.
    pub fn new(config: &Config, federation: Federation) -> Self {
        let listen = config.access.listen.iter().map(|l| l.ip());
        let inside = config.inside.listen.iter().map(|l| l.1.ip());
        let advertise = config.access.advertise.iter().copied();
        let mut fixed = Vec::new();
        fixed.extend(config.management.from.iter().map(|net| (*net, Protection::Management)));
        fixed.extend(config.dns.servers.iter().map(|s| (s.ip().into(), Protection::DnsServer)));
        for server in &config.inside.servers {
            if let InsideServer::Prefix(net) = server {
                fixed.push((*net, Protection::Inside));
            }
        }
        let mut next_hops = Vec::new();
        for hop in config.inside.all_next_hops() {
            match hop.host {
                Host::Address(address) => fixed.push((address.into(), Protection::NextHop)),
                Host::Name(_) | Host::Srv { .. } => next_hops.push(hop.clone()),
            }
        }
        let xmpp = config.services.xmpp.as_ref();
        for server in xmpp.iter().flat_map(|service| &service.servers) {
            let (host, port) = server.next_hop.clone();
            let (host, transport) = (Host::Name(host), Transport::Tls);
            next_hops.push(NextHop { host, port, transport });
        }
        let xmpp = xmpp.map(|_| config.xmpp.partners.clone());
        let own = listen.chain(inside).chain(advertise).chain(config.services.addresses());
        let partners = config.asks_for_partners();
        Self { federation, own: own.collect(), fixed, next_hops, partners, xmpp }
    }
}

/// Addresses in use by others, counted by who uses them.
#[derive(Debug, Default)]
pub(super) struct Protected {
    pub fixed: Vec<(IpNet, Protection)>,
    addresses: HashMap<IpAddr, BTreeMap<Protection, usize>>,
    /// Addresses whose protection began or ended since the last look.
    touched: HashSet<IpAddr>,
}

impl Protected {
    pub fn add(&mut self, address: IpAddr, protection: Protection) {
        let address = address.to_canonical();
        let holders = self.addresses.entry(address).or_default();
        let count = holders.entry(protection).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.touched.insert(address);
        }
    }

    pub fn remove(&mut self, address: IpAddr, protection: &Protection) {
        let address = address.to_canonical();
        let Some(holders) = self.addresses.get_mut(&address) else { return };
        if let Some(count) = holders.get_mut(protection) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                holders.remove(protection);
                self.touched.insert(address);
            }
        }
        if holders.is_empty() {
            self.addresses.remove(&address);
        }
    }

    /// Who uses an address.
    pub fn find(&self, address: IpAddr) -> Option<&Protection> {
        let counted = self.addresses.get(&address).and_then(|holders| holders.keys().next());
        counted
            .or_else(|| self.fixed.iter().find(|(net, _)| net.contains(&address)).map(|(_, p)| p))
    }

    /// Who uses an address in this prefix, but for a domain's own connections.
    pub fn find_in(&self, prefix: &IpNet, but: &Domain) -> Option<Protection> {
        let own = Protection::LivePartner(but.clone());
        let first = |holders: &BTreeMap<Protection, usize>| -> Option<Protection> {
            holders.keys().find(|protection| **protection != own).cloned()
        };
        let counted = match prefix.prefix_len() == prefix.max_prefix_len() {
            true => self.addresses.get(&prefix.addr()).and_then(first),
            false => {
                let within = self.addresses.iter().filter(|(address, _)| prefix.contains(*address));
                within.filter_map(|(_, holders)| first(holders)).min()
            }
        };
        let meets = |net: &IpNet| net.contains(prefix) || prefix.contains(net);
        let fixed = || self.fixed.iter().find(|(net, _)| meets(net)).map(|(_, p)| p.clone());
        counted.or_else(fixed)
    }

    pub fn take_touched(&mut self) -> HashSet<IpAddr> {
        std::mem::take(&mut self.touched)
    }
}
