//! Numbers of the kernel's tables in words: rules, sets, zones, ports, blocks.

use std::net::IpAddr;

use edge_ebpf::abi::{
    Block, CONTENT_ANY, CONTENT_MEDIA, CONTENT_SIP, CONTENT_STUN, LIMIT_SCALE, Limit, MAX_SETS,
    Rule, SCOPE_FEDERATION, SCOPE_REMOTE, SET_ANY, SOURCE_SET_MANAGEMENT, SOURCE_SET_PARTNERS,
    SetMask, Settings,
};

use super::super::{
    decode,
    plan::{PlanRule, RuleRow, RuleSet},
    state::Kept,
};
use super::protocol as protocol_numbers;

/// What the state folder remembers of the plan in force. Without it, numbers stay numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    plan: Option<RuleSet>,
}

impl Names {
    pub fn new(kept: Option<Kept>) -> Self {
        Self { plan: kept.map(|kept| kept.plan) }
    }

    pub fn plan(&self) -> Option<&RuleSet> {
        self.plan.as_ref()
    }

    /// The row of a rule that fits this port best; a rule with several ports has several rows.
    pub fn row(&self, id: u32, protocol: u8, port: u16) -> Option<&RuleRow> {
        let rows = || self.plan.iter().flat_map(|plan| &plan.rows).filter(|r| r.id == Some(id));
        let fits = |row: &&RuleRow| {
            protocol_number(&row.protocol) == Some(protocol)
                && (row.ports.is_empty()
                    || row.ports.iter().any(|(first, last)| (*first..=*last).contains(&port)))
        };
        rows().find(fits).or_else(|| rows().next())
    }

    /// `rule sip-federation`, or its number.
    pub fn rule(&self, id: u32) -> String {
        let rows = self.plan.iter().flat_map(|plan| &plan.rows);
        match rows.into_iter().find(|row| row.id == Some(id)) {
            Some(row) => format!("rule `{}`", row.name),
            None => format!("rule number {id}"),
        }
    }

    fn users(&self, uses: impl Fn(&PlanRule) -> bool) -> Vec<String> {
        let mut ids: Vec<u32> =
            self.plan.iter().flat_map(|p| &p.rules).filter(|r| uses(r)).map(|r| r.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().map(|id| self.rule(id)).collect()
    }

    /// A source set: `management`, `partners`, or which rules ask for it.
    pub fn source_set(&self, set: u8) -> String {
        match set {
            SET_ANY => "any source".to_owned(),
            SOURCE_SET_MANAGEMENT => "the management prefixes".to_owned(),
            SOURCE_SET_PARTNERS => "the partners".to_owned(),
            _ => match self.users(|rule| rule.source_set == set)[..] {
                [] => format!("source set {set}"),
                ref rules => format!("the sources of {}", rules.join(", ")),
            },
        }
    }

    /// A destination set: which rules ask for it.
    pub fn destination_set(&self, set: u8) -> String {
        match self.users(|rule| rule.destination_set == set)[..] {
            _ if set == SET_ANY => "any address".to_owned(),
            [] => format!("destination set {set}"),
            ref rules => format!("the destinations of {}", rules.join(", ")),
        }
    }

    /// All sets of a mask.
    pub fn sets(&self, mask: SetMask, name: impl Fn(&Self, u8) -> String) -> String {
        let names: Vec<String> =
            (0..MAX_SETS).filter(|set| mask.contains(*set)).map(|set| name(self, set)).collect();
        if names.is_empty() { "in no set".to_owned() } else { format!("in {}", names.join("; ")) }
    }
}

/// Whether a rule takes the packet, in words. `matches` is what the sets say.
pub(super) fn rule_tried(
    names: &Names,
    rule: &Rule,
    destination: (IpAddr, bool),
    source: (IpAddr, bool),
) -> String {
    let ((destination, to_us), (source, from_it)) = (destination, source);
    if !to_us {
        let set = names.destination_set(rule.destination_set);
        return format!("no: {destination} is not among {set}");
    }
    if !from_it {
        let set = names.source_set(rule.source_set);
        return format!("no: {source} is not among {set}");
    }
    let mut text = "yes: ".to_owned();
    text.push_str(if rule.action == edge_ebpf::abi::ACTION_DROP { "drop" } else { "pass" });
    if rule.limits != 0 {
        text.push_str(", within its rates");
    }
    if rule.content != CONTENT_ANY {
        text.push_str(&format!(", when the payload is {}", content(rule.content)));
    }
    text
}

/// What a payload must look like.
pub(in crate::firewall) fn content(number: u8) -> &'static str {
    match number {
        CONTENT_ANY => "anything",
        CONTENT_SIP => "SIP in the clear",
        CONTENT_STUN => "STUN or TURN",
        CONTENT_MEDIA => "media (RFC 7983)",
        _ => "unknown",
    }
}

/// A limit: units a second, and at once.
pub(in crate::firewall) fn limit(limit: &Limit) -> String {
    if limit.increment == 0 {
        return "no limit".to_owned();
    }
    let per_second = LIMIT_SCALE * 1_000_000_000 / limit.increment;
    format!("{per_second} a second and {} at once", limit.tolerance / limit.increment)
}

/// Names of the protocols that have one, with their numbers.
const PROTOCOLS: [(&str, u8); 4] = [
    ("icmp", protocol_numbers::ICMP),
    ("tcp", protocol_numbers::TCP),
    ("udp", protocol_numbers::UDP),
    ("icmpv6", protocol_numbers::ICMPV6),
];

/// A protocol's name, or its number.
pub(in crate::firewall) fn protocol(number: u8) -> String {
    let named = PROTOCOLS.iter().find(|(_, known)| *known == number);
    named.map_or_else(|| format!("protocol {number}"), |(name, _)| (*name).to_owned())
}

fn protocol_number(name: &str) -> Option<u8> {
    let named = PROTOCOLS.iter().find(|(known, _)| *known == name);
    named.map(|(_, number)| *number).or_else(|| name.parse().ok())
}

/// The name of a common ICMP message (RFC 792, RFC 4443, RFC 4861).
pub(super) fn icmp(protocol: u8, kind: u8) -> Option<&'static str> {
    Some(match (protocol == protocol_numbers::ICMPV6, kind) {
        (false, 8) | (true, 128) => "echo request",
        (false, 0) | (true, 129) => "echo reply",
        (false, 3) | (true, 1) => "destination unreachable",
        (true, 2) => "packet too big",
        (false, 11) | (true, 3) => "time exceeded",
        (false, 12) | (true, 4) => "parameter problem",
        (false, 5) | (true, 137) => "redirect",
        (true, 133) => "router solicitation",
        (true, 134) => "router advertisement",
        (true, 135) => "neighbour solicitation",
        (true, 136) => "neighbour advertisement",
        _ => return None,
    })
}

/// A block in words, and whether it is in force now.
pub(super) fn block(block: &Block, settings: &Settings, now: u64) -> String {
    const BOTH: u8 = SCOPE_FEDERATION | SCOPE_REMOTE;
    let scope = match block.scope {
        SCOPE_FEDERATION => "what it sends to federation ports is dropped",
        SCOPE_REMOTE => "what it sends to ports of remote users is dropped",
        BOTH => "what it sends to ports of federation and of remote users is dropped",
        _ => "everything from it is dropped",
    };
    let owners = if block.owners == 1 { "owner" } else { "owners" };
    let mut text =
        format!("{scope} ({}), held by {} {owners}", decode::reason(block.reason), block.owners);
    let ends = u64::from(block.expires_at_seconds);
    match ends {
        0 => {}
        _ if now >= ends => text.push_str(", expired: no longer in force"),
        _ => text.push_str(&format!(", for {} s more", ends - now)),
    }
    if !block.in_version(settings.block_version) {
        text.push_str(", of another version of the block lists: not in force");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_ebpf::{abi::SCOPE_ALL, verdict::Reason};

    #[test]
    fn a_limit_reads_as_it_was_written() {
        for (rate, burst) in [(1, 0), (50, 100), (900, 900), (1000, 10), (1_000_000, 5)] {
            let text = limit(&Limit::new(rate, burst));
            assert_eq!(text, format!("{rate} a second and {burst} at once"));
        }
    }

    #[test]
    fn a_block_says_whether_it_is_in_force() {
        let settings = Settings { block_version: 3, ..Settings::default() };
        let entry = Block::new(SCOPE_ALL, Reason::BlockedAddress as u8, 1, 50);
        assert!(block(&entry, &settings, 40).contains("for 10 s more"));
        assert!(block(&entry, &settings, 50).contains("no longer in force"));
        let later = Block { from_version: 4, expires_at_seconds: 0, ..entry };
        assert!(block(&later, &settings, 0).contains("not in force"));
        let domain = Block::new(SCOPE_FEDERATION, Reason::BlockedDomain as u8, 1, 0);
        assert!(block(&domain, &settings, 0).starts_with("what it sends to federation ports"));
        let guesser = Block { scope: SCOPE_REMOTE, ..domain };
        assert!(block(&guesser, &settings, 0).starts_with("what it sends to ports of remote"));
        let both = Block { scope: SCOPE_FEDERATION | SCOPE_REMOTE, ..domain };
        assert!(block(&both, &settings, 0).contains("of federation and of remote users"));
    }
}
