//! The compiler itself: drafts of rules, then sets, then runs of rules, then words.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use edge_ebpf::abi;
use ipnet::IpNet;

use super::{
    PlanError, PlanFlood, PlanInterface, PlanRule, ROW_MANAGEMENT, RULE_ACCESS, RULE_INSIDE,
    RuleIds, RuleOrigin, RuleRow, RuleSet,
};
use crate::config::{Config, InsideServer, Protocol, Transport, Zone};

/// Source prefixes of one family in one generation, as the kernel program's maps have room.
const MAX_SOURCES: u32 = 16_384;
/// Our own addresses in one generation.
const MAX_DESTINATIONS: u32 = 1024;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A rule before it has numbers.
struct Draft {
    name: String,
    zone: Zone,
    protocol: u8,
    ports: Vec<(u16, u16)>,
    to: Vec<IpAddr>,
    from: Vec<IpNet>,
    drop: bool,
    origin: RuleOrigin,
}

/// Compiles a configuration with remembered rule ids; `ids` learns the new names.
pub fn compile_with(config: &Config, ids: &mut RuleIds) -> Result<RuleSet, PlanError> {
    let drafts = drafts(config)?;
    check_blocks(config)?;
    let mut names: Vec<&str> = drafts.iter().map(|draft| draft.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    ids.assign(&names)?;
    let mut sets = Sets::new(&config.management.from);
    let mut rules = Vec::with_capacity(drafts.len());
    for draft in &drafts {
        rules.push(PlanRule {
            id: ids.get(&draft.name).ok_or(PlanError::TooManyIds { max: abi::MAX_RULE_IDS })?,
            source_set: sets.source(&draft.from)?,
            destination_set: sets.destination(&draft.to)?,
            action: if draft.drop { abi::ACTION_DROP } else { abi::ACTION_PASS },
            limits: 0,
            content: abi::CONTENT_ANY,
        });
    }
    let mut words = Words::new(config, &drafts, &rules);
    words.ports()?;
    words.protocols()?;
    let rows = rows(config, &drafts, &rules);
    let firewall = &config.firewall;
    let flag = |on: bool, bit: u32| if on { bit } else { 0 };
    Ok(RuleSet {
        interfaces: config
            .interfaces
            .iter()
            .zip(1..)
            .map(|(i, number)| PlanInterface {
                device: i.device.clone(),
                vlan: i.vlan,
                zone: i.zone,
                optional: i.optional,
                slot: if number < abi::INTERFACE_SLOTS { number as u8 } else { 0 },
            })
            .collect(),
        allow_generic: firewall.allow_generic,
        flags: flag(firewall.monitor, abi::SETTING_MONITOR)
            | flag(firewall.lldp, abi::SETTING_LLDP)
            | flag(firewall.lacp, abi::SETTING_LACP)
            | flag(firewall.dhcp_client, abi::SETTING_DHCP_CLIENT),
        events_per_second: firewall.events_per_second,
        event_bytes: abi::EVENT_DATA as u32,
        max_addresses: firewall.max_blocked_addresses,
        max_prefixes: firewall.max_blocked_prefixes,
        port_words: words.port_words,
        protocol_words: words.protocol_words,
        rules: words.slots,
        limits: Vec::new(),
        flood: PlanFlood::default(),
        sources: sets.source_members()?,
        destinations: sets.destination_members()?,
        rows,
        management: config.management.from.clone(),
        blocks: firewall.blocks.clone(),
    })
}

/// The number of a zone in the kernel's tables.
pub(in crate::firewall) fn zone_number(zone: Zone) -> u8 {
    match zone {
        Zone::External => abi::ZONE_EXTERNAL,
        Zone::Internal => abi::ZONE_INTERNAL,
    }
}

fn zone_name(zone: Zone) -> &'static str {
    match zone {
        Zone::External => "external",
        Zone::Internal => "internal",
    }
}

/// An administrator's rules first, in the order of the file, then those of the services.
fn drafts(config: &Config) -> Result<Vec<Draft>, PlanError> {
    let mut names = BTreeSet::from([RULE_ACCESS, RULE_INSIDE, ROW_MANAGEMENT]);
    let mut drafts = Vec::new();
    for rule in &config.firewall.rules {
        if !names.insert(&rule.name) {
            return Err(PlanError::DuplicateName { name: rule.name.clone() });
        }
        let fault = |fault| PlanError::Rule { name: rule.name.clone(), fault };
        let protocol = match rule.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
            Protocol::Icmp => ICMP,
            Protocol::Icmpv6 => ICMPV6,
            Protocol::Other(TCP | UDP | ICMP | ICMPV6) => {
                return Err(fault("write tcp, udp, icmp or icmpv6 instead of the number"));
            }
            Protocol::Other(number) => number,
        };
        if matches!(protocol, TCP | UDP) == rule.ports.is_empty() {
            return Err(fault("tcp and udp need ports, other protocols have none"));
        }
        if rule.ports.iter().any(|(first, last)| first > last) {
            return Err(fault("a port range begins with its lower end"));
        }
        drafts.push(Draft {
            name: rule.name.clone(),
            zone: rule.zone,
            protocol,
            ports: rule.ports.clone(),
            to: rule.to.clone(),
            from: rule.from.clone(),
            drop: rule.drop,
            origin: RuleOrigin::File,
        });
    }
    let access = config.access.listen.iter().map(|address| (TCP, address.port(), address.ip()));
    implied(&mut drafts, RULE_ACCESS, Zone::External, access, &[]);
    let inside = config.inside.listen.iter().map(|(transport, address)| {
        let protocol = if *transport == Transport::Udp { UDP } else { TCP };
        (protocol, address.port(), address.ip())
    });
    implied(&mut drafts, RULE_INSIDE, Zone::Internal, inside, &inside_prefixes(config));
    Ok(drafts)
}

/// A draft for each protocol and port of a service, all under one name and id.
fn implied(
    drafts: &mut Vec<Draft>,
    name: &str,
    zone: Zone,
    listen: impl Iterator<Item = (u8, u16, IpAddr)>,
    from: &[IpNet],
) {
    let mut addresses: BTreeMap<(u8, u16), BTreeSet<IpAddr>> = BTreeMap::new();
    for (protocol, port, address) in listen {
        addresses.entry((protocol, port)).or_default().insert(address);
    }
    for ((protocol, port), to) in addresses {
        let any = to.iter().any(IpAddr::is_unspecified);
        drafts.push(Draft {
            name: name.to_owned(),
            zone,
            protocol,
            ports: vec![(port, port)],
            to: if any { Vec::new() } else { to.into_iter().collect() },
            from: from.to_vec(),
            drop: false,
            origin: RuleOrigin::Implied,
        });
    }
}

/// The inside servers' prefixes when all are known by prefix; else none, which means any.
fn inside_prefixes(config: &Config) -> Vec<IpNet> {
    let prefixes: Option<Vec<IpNet>> = config
        .inside
        .servers
        .iter()
        .map(|server| match server {
            InsideServer::Prefix(prefix) => Some(*prefix),
            InsideServer::Name(_) => None,
        })
        .collect();
    prefixes.unwrap_or_default()
}

fn check_blocks(config: &Config) -> Result<(), PlanError> {
    for block in &config.firewall.blocks {
        for management in &config.management.from {
            if overlap(block, management) {
                return Err(PlanError::BlockedManagement {
                    block: *block,
                    management: *management,
                });
            }
        }
    }
    Ok(())
}

/// Whether two prefixes have an address in common.
pub(in crate::firewall) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn rows(config: &Config, drafts: &[Draft], rules: &[PlanRule]) -> Vec<RuleRow> {
    let management = RuleRow {
        id: None,
        name: ROW_MANAGEMENT.to_owned(),
        zone: config.management.zone,
        protocol: "tcp".to_owned(),
        ports: config.management.ports.iter().map(|port| (*port, *port)).collect(),
        to: Vec::new(),
        from: config.management.from.clone(),
        action: "pass".to_owned(),
        origin: RuleOrigin::Implied,
    };
    let others = drafts.iter().zip(rules).map(|(draft, rule)| RuleRow {
        id: Some(rule.id),
        name: draft.name.clone(),
        zone: draft.zone,
        protocol: match draft.protocol {
            TCP => "tcp".to_owned(),
            UDP => "udp".to_owned(),
            ICMP => "icmp".to_owned(),
            ICMPV6 => "icmpv6".to_owned(),
            number => number.to_string(),
        },
        ports: draft.ports.clone(),
        to: draft.to.clone(),
        from: draft.from.clone(),
        action: if draft.drop { "drop" } else { "pass" }.to_owned(),
        origin: draft.origin,
    });
    std::iter::once(management).chain(others).collect()
}

/// Numbered sets of sources and of our own addresses.
struct Sets {
    sources: Vec<BTreeSet<IpNet>>,
    destinations: Vec<BTreeSet<IpAddr>>,
}

impl Sets {
    /// Source set 0 is the management prefixes.
    fn new(management: &[IpNet]) -> Self {
        let management = management.iter().map(IpNet::trunc).collect();
        Self { sources: vec![management], destinations: Vec::new() }
    }

    fn source(&mut self, from: &[IpNet]) -> Result<u8, PlanError> {
        let set: BTreeSet<IpNet> = from.iter().map(IpNet::trunc).collect();
        let whole = |v6: bool| {
            set.iter().any(|net| net.prefix_len() == 0 && matches!(net, IpNet::V6(_)) == v6)
        };
        if set.is_empty() || (whole(false) && whole(true)) {
            return Ok(abi::SET_ANY);
        }
        // Set 0 belongs to management; a rule with the same prefixes gets its own number.
        number(&mut self.sources, 1, set, "sources")
    }

    fn destination(&mut self, to: &[IpAddr]) -> Result<u8, PlanError> {
        if to.is_empty() {
            return Ok(abi::SET_ANY);
        }
        number(&mut self.destinations, 0, to.iter().copied().collect(), "destinations")
    }

    /// Each prefix with its own sets and those of the prefixes that cover it.
    fn source_members(&self) -> Result<Vec<(IpNet, u64)>, PlanError> {
        let mut own: BTreeMap<IpNet, u64> = BTreeMap::new();
        for (index, set) in self.sources.iter().enumerate() {
            for prefix in set {
                *own.entry(*prefix).or_default() |= 1 << index;
            }
        }
        for v6 in [false, true] {
            let count = own.keys().filter(|net| matches!(net, IpNet::V6(_)) == v6).count();
            if count > MAX_SOURCES as usize {
                let what = "source prefixes";
                return Err(PlanError::TooManyMembers { what, count, max: MAX_SOURCES });
            }
        }
        // Covering prefixes sort before what they cover, so a stack holds the way down.
        let mut order: Vec<(IpNet, u64)> = own.into_iter().collect();
        order.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
        let mut way: Vec<(IpNet, u64)> = Vec::new();
        let mut members = Vec::with_capacity(order.len());
        for (net, mask) in order {
            while way.last().is_some_and(|(above, _)| !above.contains(&net)) {
                way.pop();
            }
            let mask = mask | way.last().map_or(0, |(_, above)| *above);
            way.push((net, mask));
            members.push((net, mask));
        }
        Ok(members)
    }

    fn destination_members(&self) -> Result<Vec<(IpAddr, u64)>, PlanError> {
        let mut members: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for (index, set) in self.destinations.iter().enumerate() {
            for address in set {
                *members.entry(*address).or_default() |= 1 << index;
            }
        }
        if members.len() > MAX_DESTINATIONS as usize {
            let (what, count) = ("addresses", members.len());
            return Err(PlanError::TooManyMembers { what, count, max: MAX_DESTINATIONS });
        }
        Ok(members.into_iter().collect())
    }
}

fn number<T: PartialEq>(
    sets: &mut Vec<T>,
    first: usize,
    set: T,
    what: &'static str,
) -> Result<u8, PlanError> {
    let found = sets.iter().skip(first).position(|known| *known == set).map(|at| at + first);
    let index = found.unwrap_or(sets.len());
    if index >= usize::from(abi::MAX_SETS) {
        let max = usize::from(abi::MAX_SETS) - first;
        return Err(PlanError::TooManySets { what, max });
    }
    if found.is_none() {
        sets.push(set);
    }
    Ok(index as u8)
}

/// Words and the runs of rules they name.
struct Words<'a> {
    config: &'a Config,
    drafts: &'a [Draft],
    rules: &'a [PlanRule],
    slots: Vec<PlanRule>,
    runs: HashMap<Vec<PlanRule>, u32>,
    port_words: Vec<(u32, u32, u32)>,
    protocol_words: Vec<(u32, u32)>,
}

impl<'a> Words<'a> {
    fn new(config: &'a Config, drafts: &'a [Draft], rules: &'a [PlanRule]) -> Self {
        Self {
            config,
            drafts,
            rules,
            slots: Vec::new(),
            runs: HashMap::new(),
            port_words: Vec::new(),
            protocol_words: Vec::new(),
        }
    }

    fn ports(&mut self) -> Result<(), PlanError> {
        for zone in [Zone::External, Zone::Internal] {
            for protocol in [TCP, UDP] {
                self.ports_of(zone, protocol)?;
            }
        }
        Ok(())
    }

    /// Cuts the ports where any range begins or ends, and gives each piece one word.
    fn ports_of(&mut self, zone: Zone, protocol: u8) -> Result<(), PlanError> {
        let management: &[u16] = match protocol == TCP && zone == self.config.management.zone {
            true => &self.config.management.ports,
            false => &[],
        };
        let mut cuts = BTreeSet::new();
        let ranges = self.drafts.iter().filter(|d| d.zone == zone && d.protocol == protocol);
        for (first, last) in ranges
            .flat_map(|draft| draft.ports.iter().copied())
            .chain(management.iter().map(|port| (*port, *port)))
        {
            cuts.insert(u32::from(first));
            cuts.insert(u32::from(last) + 1);
        }
        let cuts: Vec<u32> = cuts.into_iter().collect();
        for piece in cuts.windows(2) {
            let &[first, next] = piece else { continue };
            let (first, last) = (first as u16, (next - 1) as u16);
            let covers = |draft: &Draft| {
                draft.ports.iter().any(|(low, high)| (*low..=*high).contains(&first))
            };
            let mut flags = 0;
            if management.contains(&first) {
                flags |= abi::WORD_MANAGEMENT;
            }
            let access = zone == Zone::External && protocol == TCP;
            if access && self.config.access.listen.iter().any(|a| a.port() == first) {
                flags |= abi::WORD_FEDERATION;
            }
            let name = if protocol == TCP { "tcp" } else { "udp" };
            let word =
                self.word(zone, protocol, covers, flags, || format!("{name} port {first}"))?;
            if word != 0 {
                let index = |port| abi::port_index(zone_number(zone), protocol == UDP, port);
                self.port_words.push((index(first), index(last), word));
            }
        }
        Ok(())
    }

    fn protocols(&mut self) -> Result<(), PlanError> {
        for zone in [Zone::External, Zone::Internal] {
            let numbers: BTreeSet<u8> = self
                .drafts
                .iter()
                .filter(|draft| draft.zone == zone && !matches!(draft.protocol, TCP | UDP))
                .map(|draft| draft.protocol)
                .collect();
            for protocol in numbers {
                let name = || format!("IP protocol {protocol}");
                let word = self.word(zone, protocol, |_| true, 0, name)?;
                self.protocol_words.push((abi::protocol_index(zone_number(zone), protocol), word));
            }
        }
        Ok(())
    }

    /// The word for the rules that `covers` picks, in order, up to the first that takes all.
    fn word(
        &mut self,
        zone: Zone,
        protocol: u8,
        covers: impl Fn(&Draft) -> bool,
        flags: u32,
        what: impl Fn() -> String,
    ) -> Result<u32, PlanError> {
        let mut run = Vec::new();
        for (draft, rule) in self.drafts.iter().zip(self.rules) {
            if draft.zone == zone && draft.protocol == protocol && covers(draft) {
                run.push(*rule);
                if takes_all(rule) {
                    break;
                }
            }
        }
        if run.is_empty() {
            return Ok(flags);
        }
        let count = run.len();
        if count > abi::MAX_RULES_PER_WORD as usize {
            return Err(PlanError::TooManyRulesForPort {
                what: what(),
                zone: zone_name(zone),
                count,
                max: abi::MAX_RULES_PER_WORD,
            });
        }
        let open = match run[..] {
            [only] if unconditional(&only) => Some(only.id),
            _ => None,
        };
        let first = match self.runs.get(&run) {
            Some(first) => *first,
            None => {
                let first = self.slots.len();
                if first + count > abi::MAX_RULES as usize {
                    let needed = first + count;
                    return Err(PlanError::TooManyRules { needed, max: abi::MAX_RULES });
                }
                self.slots.extend_from_slice(&run);
                self.runs.insert(run, first as u32);
                first as u32
            }
        };
        // An open rule has its slot all the same, where people find it.
        if let Some(rule) = open {
            return Ok(abi::open_word(rule, flags));
        }
        Ok(abi::word(first, count as u32, flags))
    }
}

/// Whether every packet satisfies the rule.
fn takes_all(rule: &PlanRule) -> bool {
    rule.source_set == abi::SET_ANY && rule.destination_set == abi::SET_ANY
}

/// Whether nothing is left to ask about a packet that the rule takes.
fn unconditional(rule: &PlanRule) -> bool {
    takes_all(rule)
        && rule.action == abi::ACTION_PASS
        && rule.limits == 0
        && rule.content == abi::CONTENT_ANY
}
