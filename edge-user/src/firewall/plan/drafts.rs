//! Rules before they have numbers: an administrator's first, in the order of the file, then those
//! that services imply.

use std::{collections::BTreeSet, net::IpAddr};

use super::{PlanError, RuleOrigin, is_implied, services};
use crate::config::{Config, Content, FirewallRule, Line, Protocol, Rates, Service, Sources, Zone};

/// A rule before it has numbers.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub name: String,
    pub zone: Zone,
    pub protocol: Protocol,
    pub ports: Vec<(u16, u16)>,
    pub to: Vec<IpAddr>,
    pub from: Sources,
    pub drop: bool,
    pub rates: Rates,
    pub content: Content,
    /// A blocked domain's addresses are dropped here.
    pub federation: bool,
    /// Its ports are those of remote users: whoever guesses passwords is dropped there.
    pub remote: bool,
    pub service: Option<Service>,
    pub why: String,
    pub line: Line,
}

impl Draft {
    pub fn origin(&self) -> RuleOrigin {
        if self.service.is_some() { RuleOrigin::Implied } else { RuleOrigin::File }
    }
}

/// Every rule of a configuration.
pub(super) fn drafts(config: &Config) -> Result<Vec<Draft>, PlanError> {
    let mut names = BTreeSet::new();
    let mut drafts = Vec::new();
    for rule in &config.firewall.rules {
        if is_implied(&rule.name) || !names.insert(&rule.name) {
            return Err(PlanError::DuplicateName { name: rule.name.clone() });
        }
        drafts.push(written(rule)?);
    }
    services::implied(config, &mut drafts);
    Ok(drafts)
}

/// A rule of the file.
fn written(rule: &FirewallRule) -> Result<Draft, PlanError> {
    let fault = |fault| PlanError::Rule { name: rule.name.clone(), fault };
    if matches!(rule.protocol, Protocol::Other(1 | 6 | 17 | 58)) {
        return Err(fault("write tcp, udp, icmp or icmpv6 instead of the number"));
    }
    let with_ports = matches!(rule.protocol, Protocol::Tcp | Protocol::Udp);
    if with_ports == rule.ports.is_empty() {
        return Err(fault("tcp and udp need ports, other protocols have none"));
    }
    if rule.ports.iter().any(|(first, last)| first > last) {
        return Err(fault("a port range begins with its lower end"));
    }
    if rule.drop && !(rule.rates.is_none() && rule.content == Content::Any) {
        return Err(fault("a rule that drops has no rates and no content"));
    }
    let fits = match rule.content {
        Content::Any => true,
        Content::Sip => with_ports,
        Content::Stun | Content::Media => rule.protocol == Protocol::Udp,
    };
    if !fits {
        return Err(fault("its content cannot be told in packets of its protocol"));
    }
    Ok(Draft {
        name: rule.name.clone(),
        zone: rule.zone,
        protocol: rule.protocol,
        ports: rule.ports.clone(),
        to: rule.to.clone(),
        from: rule.from.clone(),
        drop: rule.drop,
        rates: rule.rates,
        content: rule.content,
        federation: false,
        remote: false,
        service: None,
        why: "an administrator's rule".to_owned(),
        line: rule.line,
    })
}
