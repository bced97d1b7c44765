//! Who is there: partners, our own and remote users by their connections, those who were there a
//! moment ago, and the hosts of revocation lists.

use std::{collections::HashMap, net::IpAddr, time::Instant};

use ipnet::IpNet;

use super::{
    super::{MAX_CRL_ADDRESSES, MAX_CRL_POINTS, MAX_SEEN, MAX_SUBDOMAINS, SEEN_FOR},
    DomainBlocks, Protection, Role,
};
use crate::{
    domain::Domain,
    proxy::{ConnectionId, Question},
};

/// Domains that one connection is remembered to have proved.
const MAX_PROVED: usize = 8;
/// Connections remembered.
const MAX_LIVE: usize = 65_536;
/// Connections remembered after they went.
const MAX_GONE: usize = 1024;

impl DomainBlocks {
    /// Whether a domain that was proved is a partner's. The proxy lets nobody prove a domain that is
    /// none: a name without an entry is a discovered one's.
    pub(super) fn is_partner(&self, domain: &Domain) -> bool {
        let discovery = self.setting.as_ref().is_some_and(|s| s.federation.discovery);
        let xmpp = self.setting.as_ref().and_then(|setting| setting.xmpp.as_ref());
        let xmpp = xmpp.is_some_and(|partners| partners.iter().any(|p| p.is_of(domain)));
        self.covering(domain).is_none() && (discovery || xmpp || self.allowed.contains_key(domain))
    }

    pub(super) fn proved(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        domain: Domain,
        remote: IpAddr,
    ) {
        let protects = self.is_partner(&domain);
        if let Some(by) = self.covering(&domain) {
            let Some(blocked) = self.blocked.get_mut(&by) else { return };
            blocked.seen.retain(|(address, _)| *address != remote);
            if blocked.seen.len() >= MAX_SEEN {
                blocked.seen.remove(0);
            }
            blocked.seen.push((remote, now + SEEN_FOR));
            if !blocked.names.contains(&domain) && blocked.names.len() <= MAX_SUBDOMAINS {
                blocked.names.push(domain.clone());
                let role = Role::Blocked(by.clone());
                self.watches.add(Question::Federation(domain.clone()), role.clone(), false);
                if self.setting.as_ref().is_some_and(|setting| setting.xmpp.is_some()) {
                    self.watches.add(Question::Xmpp(domain.clone()), role, false);
                }
            }
            self.judge(&by);
        }
        if self.gone.contains(&connection) {
            if protects {
                self.lingering.left(now, domain, remote);
            }
            return;
        }
        if self.live.len() >= MAX_LIVE
            && let Some(oldest) = self.live.keys().next().copied()
        {
            self.closed(now, oldest);
        }
        let proved = self.live.entry(connection).or_default();
        let pair = (domain.clone(), remote);
        if proved.len() >= MAX_PROVED || proved.contains(&pair) {
            return;
        }
        proved.push(pair);
        if protects {
            self.protected.add(remote, Protection::LivePartner(domain));
        }
    }

    pub(super) fn closed(&mut self, now: Instant, connection: ConnectionId) {
        if self.gone.len() >= MAX_GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(connection);
        for (domain, remote) in self.live.remove(&connection).into_iter().flatten() {
            if self.is_partner(&domain) {
                self.lingering.left(now, domain.clone(), remote);
            }
            self.protected.remove(remote, &Protection::LivePartner(domain));
        }
        if let Some((remote, protection)) = self.ours.remove(&connection) {
            self.protected.remove(remote, &protection);
        }
    }

    /// Whoever this is, is ours: as long as the connection lives.
    pub(super) fn protect_ours(
        &mut self,
        connection: ConnectionId,
        remote: IpAddr,
        protection: Protection,
    ) {
        if self.ours.len() < MAX_LIVE && !self.ours.contains_key(&connection) {
            self.ours.insert(connection, (remote, protection.clone()));
            self.protected.add(remote, protection);
        }
    }

    /// Where revocation lists are fetched from is never blocked.
    pub(super) fn crl_host(&mut self, point: Box<str>, mut addresses: Vec<IpAddr>) {
        addresses.truncate(MAX_CRL_ADDRESSES);
        if self.crl_hosts.len() >= MAX_CRL_POINTS && !self.crl_hosts.contains_key(&point) {
            return;
        }
        for address in &addresses {
            self.protected.add(*address, Protection::CrlHost);
        }
        let former = match addresses.is_empty() {
            true => self.crl_hosts.remove(&point),
            false => self.crl_hosts.insert(point, addresses),
        };
        for address in former.into_iter().flatten() {
            self.protected.remove(address, &Protection::CrlHost);
        }
    }

    /// Which honest one was connected lately from where an offender sends from.
    pub(super) fn recent(&self, offender: &Domain) -> HashMap<IpNet, Protection> {
        // The offender itself is listed.
        let honest =
            |domain: &&Domain| self.is_partner(domain) && !self.offenders.is_listed(domain);
        let one = |prefix: IpNet| {
            let domain = self.lingering.at(&prefix).find(honest)?;
            Some((prefix, Protection::RecentPartner(domain.clone())))
        };
        self.offenders.prefixes(offender).filter_map(one).collect()
    }
}
