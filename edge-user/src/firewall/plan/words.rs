//! Words of ports and protocols, and the runs of rules they name.

use std::collections::{BTreeSet, HashMap};

use edge_ebpf::abi;

use super::{
    PlanError, PlanRule,
    compile::{zone_name, zone_number},
    drafts::Draft,
};
use crate::config::{Config, Management, MediaMode, Protocol, Zone};

/// Words and the runs of rules they name.
pub(super) struct Words<'a> {
    management: Option<&'a Management>,
    /// Where flows of calls may come in.
    media: Option<(u16, u16)>,
    drafts: &'a [Draft],
    rules: &'a [Vec<PlanRule>],
    pub slots: Vec<PlanRule>,
    runs: HashMap<Vec<PlanRule>, u32>,
    pub port_words: Vec<(u32, u32, u32)>,
    pub protocol_words: Vec<(u32, u32)>,
}

impl<'a> Words<'a> {
    /// `rules`: those of each draft.
    pub fn new(config: &'a Config, drafts: &'a [Draft], rules: &'a [Vec<PlanRule>]) -> Self {
        let media = media_ports(config);
        Self { media, drafts, rules, ..Self::of_management(Some(&config.management)) }
    }

    /// Nothing but management.
    pub fn of_management(management: Option<&'a Management>) -> Self {
        Self {
            management,
            media: None,
            drafts: &[],
            rules: &[],
            slots: Vec::new(),
            runs: HashMap::new(),
            port_words: Vec::new(),
            protocol_words: Vec::new(),
        }
    }

    pub fn ports(&mut self) -> Result<(), PlanError> {
        for zone in [Zone::External, Zone::Internal] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                self.ports_of(zone, protocol)?;
            }
        }
        Ok(())
    }

    /// Cuts the ports where any range begins or ends, and gives each piece one word.
    fn ports_of(&mut self, zone: Zone, protocol: Protocol) -> Result<(), PlanError> {
        let management = self
            .management
            .filter(|management| protocol == Protocol::Tcp && zone == management.zone)
            .map_or(&[][..], |management| &management.ports);
        let media = self.media.filter(|_| protocol == Protocol::Udp);
        let mut cuts = BTreeSet::new();
        let ranges = self.drafts.iter().filter(|d| d.zone == zone && d.protocol == protocol);
        for (first, last) in ranges
            .flat_map(|draft| draft.ports.iter().copied())
            .chain(management.iter().map(|port| (*port, *port)))
            .chain(media)
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
            if media.is_some_and(|(low, high)| (low..=high).contains(&first)) {
                flags |= abi::WORD_MEDIA;
            }
            let here =
                |draft: &&Draft| (draft.zone, draft.protocol) == (zone, protocol) && covers(draft);
            if self.drafts.iter().filter(here).any(|draft| draft.federation) {
                flags |= abi::WORD_FEDERATION;
            }
            // Not where other services listen too, at another address: a word knows no addresses.
            let mut services = self.drafts.iter().filter(here).filter(|d| d.service.is_some());
            if services.next().is_some_and(|draft| draft.remote)
                && services.all(|draft| draft.remote)
            {
                flags |= abi::WORD_REMOTE;
            }
            let what = || format!("{protocol} port {first}");
            let word = self.word(zone, protocol, covers, flags, what)?;
            if word != 0 {
                let index =
                    |port| abi::port_index(zone_number(zone), protocol == Protocol::Udp, port);
                self.port_words.push((index(first), index(last), word));
            }
        }
        Ok(())
    }

    pub fn protocols(&mut self) -> Result<(), PlanError> {
        for zone in [Zone::External, Zone::Internal] {
            let numbers: BTreeSet<Protocol> = self
                .drafts
                .iter()
                .filter(|draft| {
                    draft.zone == zone && !matches!(draft.protocol, Protocol::Tcp | Protocol::Udp)
                })
                .map(|draft| draft.protocol)
                .collect();
            for protocol in numbers {
                let number = u8::from(protocol);
                let name = || format!("IP protocol {number}");
                let word = self.word(zone, protocol, |_| true, 0, name)?;
                self.protocol_words.push((abi::protocol_index(zone_number(zone), number), word));
            }
        }
        Ok(())
    }

    /// The word for the rules that `covers` picks, in order, up to the first that takes all.
    fn word(
        &mut self,
        zone: Zone,
        protocol: Protocol,
        covers: impl Fn(&Draft) -> bool,
        flags: u32,
        what: impl Fn() -> String,
    ) -> Result<u32, PlanError> {
        let mut run = Vec::new();
        for (draft, rules) in self.drafts.iter().zip(self.rules) {
            if draft.zone == zone && draft.protocol == protocol && covers(draft) {
                run.extend(rules);
                if rules.iter().any(takes_all) {
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

/// Where flows of calls may come in, on both sides.
fn media_ports(config: &Config) -> Option<(u16, u16)> {
    let av = config.services.av.as_ref().filter(|_| config.media.mode == MediaMode::Relay)?;
    Some(av.media_ports)
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
