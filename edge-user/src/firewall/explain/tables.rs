//! The decision's tables as the pins hold them, with a note of every question and answer.
//!
//! Sockets cannot be asked from here as the kernel program asks them: the live program has
//! answered already, and its answer says what it found.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    ops::Deref,
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, MapData};
use edge_ebpf::{
    abi::{
        Block, Bucket, Flood, FlowKey, Fragment, FragmentKey, Interface, Limit, PRESENT_ADDRESSES,
        PRESENT_PREFIXES, PinholeKey, Rule, RuleLimits, SET_ANY, SetMask, Settings, VlanKey,
        WIDE_CELLS, WIDE_HERE, WORD_FEDERATION, WORD_MANAGEMENT, WORD_MEDIA, WORD_REMOTE,
        map_names as names, media_door_flow, presence4, presence6, presence6_again,
        presence6_short, presence6_wide, word_count, word_first, word_open_rule,
    },
    decide::{BucketName, Family, Found, Judged, Tables, Tuple, follow, rules},
    packet::{Frame, PROTOCOL_UDP},
    verdict::Reason,
};
use serde::Serialize;

use super::{
    super::{FirewallError, decode, kernel::open, sys},
    PacketFacts, blocks,
    finish::FloodState,
    look::{Asked, inner, lookup, missing, source_sets},
    names::{self as words, Names},
};

/// A question on the way to the decision, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was asked.
    pub asked: String,
    /// What the table said.
    pub answer: String,
}

/// The pinned tables.
pub(super) struct PinnedTables<'a> {
    pub pins: PathBuf,
    pub names: &'a Names,
    pub settings: Settings,
    /// Source of the packet.
    pub source: Option<IpAddr>,
    /// Outer VLAN of the packet.
    pub vlan: Option<u16>,
    /// Why the live program decided as it did: tells which socket it found.
    pub live: Reason,
    /// What the CPU had seen on which the live program was asked.
    pub flood: FloodState,
    /// Floods and ceilings are being asked about.
    pub in_flood: Cell<bool>,
    /// A limit has just refused the packet.
    pub refused: Cell<bool>,
    steps: RefCell<Vec<Step>>,
    /// No notes for now.
    quiet: Cell<bool>,
    fault: RefCell<Option<FirewallError>>,
    /// Blocks that were found, innermost first.
    found: RefCell<Vec<ipnet::IpNet>>,
}

impl<'a> PinnedTables<'a> {
    pub fn new(
        pins: &Path,
        names: &'a Names,
        settings: Settings,
        packet: &PacketFacts,
        (live, flood): (Reason, FloodState),
    ) -> Self {
        Self {
            pins: pins.to_owned(),
            names,
            settings,
            source: packet.source,
            vlan: packet.vlan,
            live,
            flood,
            in_flood: Cell::new(false),
            refused: Cell::new(false),
            steps: RefCell::default(),
            quiet: Cell::new(false),
            fault: RefCell::default(),
            found: RefCell::default(),
        }
    }

    /// The notes, and the blocks on the way; or the first fault of a table.
    pub fn finish(self) -> Asked<(Vec<Step>, Vec<ipnet::IpNet>)> {
        match self.fault.into_inner() {
            Some(fault) => Err(fault),
            None => Ok((self.steps.into_inner(), self.found.into_inner())),
        }
    }

    pub(super) fn note(&self, asked: impl Into<String>, answer: impl Into<String>) {
        if self.quiet.get() {
            return;
        }
        let step = Step { asked: asked.into(), answer: answer.into() };
        self.steps.borrow_mut().push(step);
    }

    /// What a table said; its fault is kept, and nothing found instead.
    pub(super) fn keep<T: Default>(&self, found: Asked<T>) -> T {
        found.unwrap_or_else(|fault| {
            self.fault.borrow_mut().get_or_insert(fault);
            T::default()
        })
    }

    /// An entry of the rates.
    pub(super) fn limits_of(&self, generation: u32, index: u32) -> Option<RuleLimits> {
        let rates = inner::<Array<MapData, RuleLimits>>(&self.pins, names::RATES, generation);
        self.keep(rates.and_then(|rates| missing(names::RATES, rates.get(&index, 0))))
    }

    fn word_in(&self, map: &str, generation: u32, index: u32) -> u32 {
        self.keep(
            inner::<Array<MapData, u32>>(&self.pins, map, generation).and_then(|inner| {
                inner.get(&index, 0).map_err(|fault| FirewallError::map(map, fault))
            }),
        )
    }

    fn word(&self, word: u32) -> String {
        let mut parts = Vec::new();
        if word & WORD_MANAGEMENT != 0 {
            parts.push("a management port".to_owned());
        }
        if word & WORD_FEDERATION != 0 {
            parts.push("a federation port".to_owned());
        }
        if word & WORD_REMOTE != 0 {
            parts.push("a port of remote users".to_owned());
        }
        if word & WORD_MEDIA != 0 {
            parts.push("a port of media flows".to_owned());
        }
        match (word_open_rule(word), word_count(word)) {
            (Some(rule), _) => parts.push(format!("open to all by {}", self.names.rule(rule))),
            (None, 0) => parts.push("no rule names it".to_owned()),
            (None, 1) => parts.push("one rule names it".to_owned()),
            (None, count) => parts.push(format!("{count} rules name it")),
        }
        parts.join(", ")
    }

    /// Asks without notes.
    pub(super) fn quietly<T>(&self, ask: impl FnOnce() -> T) -> T {
        let before = self.quiet.replace(true);
        let answer = ask();
        self.quiet.set(before);
        answer
    }

    /// The rules of the word one by one, as [`rules`] tries them.
    fn try_rules<A: Family + Copy>(
        &self,
        generation: u32,
        word: u32,
        source: A,
        destination: A,
    ) -> Found {
        let outcome = self.quietly(|| rules(self, generation, word, source, destination));
        let own = decode::address(destination.mapped());
        let remote = decode::address(source.mapped());
        for position in 0..word_count(word) {
            let Some((rule, to_us, from_it)) = self.quietly(|| {
                let rule = self.rule(generation, word_first(word) + position)?;
                let to_us = rule.destination_set == SET_ANY
                    || destination.is_named(&rule)
                    || self
                        .destinations(generation, &destination.mapped())
                        .contains(rule.destination_set);
                let from_it = rule.source_set == SET_ANY
                    || source.sources(self, generation).contains(rule.source_set);
                Some((rule, to_us, from_it))
            }) else {
                break;
            };
            let tried = words::rule_tried(self.names, &rule, (own, to_us), (remote, from_it));
            self.note(self.names.rule(rule.id), tried);
            if to_us && from_it {
                return outcome;
            }
        }
        self.note("the rules together", format!("none takes it: {}", outcome.reason.explain()));
        outcome
    }

    fn note_flow(&self, asked: String, slot: u32) -> u32 {
        let answer = if slot == 0 { "there is none".to_owned() } else { format!("flow {slot}") };
        self.note(asked, answer);
        slot
    }

    fn note_block(&self, asked: String, found: Option<(ipnet::IpNet, Block)>) {
        let answer = match &found {
            None => "none".to_owned(),
            Some((prefix, block)) => {
                format!("{prefix}: {}", words::block(block, &self.settings, sys::now().seconds()))
            }
        };
        self.note(asked, answer);
        self.found.borrow_mut().extend(found.map(|(prefix, _)| prefix));
    }

    fn exact(&self, source: IpAddr) -> Option<Block> {
        let found = self.keep(blocks::exact(&self.pins, source));
        let net = ipnet::IpNet::from(source);
        self.note_block(format!("a block of exactly {source}"), found.map(|block| (net, block)));
        found
    }

    fn prefix(&self, source: IpAddr) -> Option<Block> {
        let all = self.keep(blocks::prefixes_around(&self.pins, source));
        let longest = all.last().copied();
        self.note_block(format!("the longest blocked prefix around {source}"), longest);
        longest.map(|(_, block)| block)
    }

    fn presence(&self, at: u32, word: u64, cell: String) {
        let present = (word >> at) as u32;
        let answer = match (present & PRESENT_ADDRESSES != 0, present & PRESENT_PREFIXES != 0) {
            (false, false) => "none",
            (true, false) => "perhaps an address: its table knows",
            (false, true) => "perhaps a prefix: its table knows",
            (true, true) => "perhaps: the tables know",
        };
        self.note(format!("any block in {cell}, by the presence bitmap"), answer);
    }

    fn source_octets4(&self) -> Option<[u8; 4]> {
        match self.source {
            Some(IpAddr::V4(source)) => Some(source.octets()),
            _ => None,
        }
    }

    fn source_octets6(&self) -> Option<[u8; 16]> {
        match self.source {
            Some(IpAddr::V6(source)) => Some(source.octets()),
            _ => None,
        }
    }

    fn note_sets(&self, source: IpAddr, mask: SetMask) {
        let sets = self.names.sets(mask, Names::source_set);
        self.note(format!("source sets of {source}"), sets);
    }

    fn note_socket<A: Family>(&self, kind: &str, tuple: &Tuple<A>, found: bool) -> bool {
        let (local, remote) = (decode::address(tuple.local.mapped()), tuple.remote.mapped());
        let asked = format!(
            "a {kind} socket of ours between {local} port {} and {} port {}",
            u16::from_be_bytes(tuple.local_port),
            decode::address(remote),
            u16::from_be_bytes(tuple.remote_port),
        );
        let answer = if found { "found by the live program" } else { "none found" };
        self.note(asked, answer);
        found
    }
}

impl Tables for PinnedTables<'_> {
    fn interface(&self, ifindex: u32) -> Option<Interface> {
        let found = open::<Array<MapData, Interface>>(&self.pins, names::INTERFACES)
            .and_then(|map| missing(names::INTERFACES, map.get(&ifindex, 0)));
        let found = self.keep(found);
        let device = sys::device_name(ifindex).unwrap_or_default();
        self.note(format!("interface {device} (index {ifindex})"), zone(found));
        if let Some(vlan) = self.vlan
            && found.is_none_or(|found| found.trunk == 0)
        {
            let answer = "none: no [[interface]] of this device has a `vlan`";
            self.note(format!("the zone of VLAN {vlan}"), answer);
        }
        found
    }

    fn vlan(&self, key: &VlanKey) -> Option<Interface> {
        let found = self.keep(lookup(&self.pins, names::VLANS, key));
        let inner = if key.inner == 0 { String::new() } else { format!(".{}", key.inner) };
        let answer = match found {
            None => "none: no [[interface]] of this device names it".to_owned(),
            found => zone(found),
        };
        self.note(format!("the zone of VLAN {}{inner} of this trunk", key.outer), answer);
        found
    }

    fn port_word(&self, generation: u32, index: u32) -> u32 {
        let word = self.word_in(names::PORT_WORDS, generation, index);
        let protocol = if index & 0x1_0000 == 0 { "tcp" } else { "udp" };
        let zone = decode::zone((index >> 17) as u8);
        self.note(
            format!("{protocol} port {} in the {zone} zone", index & 0xffff),
            self.word(word),
        );
        word
    }

    fn protocol_word(&self, generation: u32, index: u32) -> u32 {
        let word = self.word_in(names::PROTOCOL_WORDS, generation, index);
        let (zone, protocol) = (decode::zone((index >> 8) as u8), words::protocol(index as u8));
        self.note(format!("{protocol} in the {zone} zone"), self.word(word));
        word
    }

    fn rule(&self, generation: u32, index: u32) -> Option<impl Deref<Target = Rule>> {
        let rules = inner::<Array<MapData, Rule>>(&self.pins, names::RULES, generation);
        self.keep(rules.and_then(|rules| missing(names::RULES, rules.get(&index, 0)))).map(Box::new)
    }

    fn limits(&self, generation: u32, index: u32) -> Option<impl Deref<Target = RuleLimits>> {
        self.limits_of(generation, index).map(Box::new)
    }

    fn conforms(&self, limit: &Limit, due: u64, now: u64, units: u64) -> Option<u64> {
        let next = edge_ebpf::decide::conforms(limit, due, now, units);
        self.refused.set(self.refused.get() || next.is_none());
        next
    }

    fn content(&self, _: &Settings, judged: &Judged, frame: &Frame<'_>) -> Option<Reason> {
        self.ask_content(judged, frame)
    }

    fn limited(&self, settings: &Settings, judged: &Judged, frame: &Frame<'_>) -> Option<Reason> {
        self.ask_limits(settings, judged, frame)
    }

    fn flooded(&self, settings: &Settings, judged: &Judged, frame: &Frame<'_>) -> Option<Reason> {
        self.ask_floods(settings, judged, frame)
    }

    fn first_fragment(&self, _: &Settings, judged: &Judged, frame: &Frame<'_>) -> Option<Reason> {
        self.ask_first_fragment(judged, frame)
    }

    fn bucket<R>(&self, name: BucketName, change: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        self.ask_bucket(name, change)
    }

    fn flood<R>(&self, zone: u8, change: impl FnOnce(&mut Flood) -> R) -> Option<R> {
        Some(change(&mut self.flood.zone(zone)))
    }

    fn new_connections(&self, zone: u8, change: impl FnOnce(u64) -> u64) -> u32 {
        change(self.told(zone)) as u32
    }

    fn sends_cookies(&self, zone: u8) -> bool {
        self.flood.zone(zone).cookies_until != 0
    }

    fn media_port(&self, index: u32) -> u32 {
        let found = open::<Array<MapData, u32>>(&self.pins, names::MEDIA_PORTS)
            .and_then(|ports| missing(names::MEDIA_PORTS, ports.get(&index, 0)));
        let slot = media_door_flow(self.keep(found).unwrap_or(0));
        self.note_flow(format!("the media flow at our UDP port {}", index & 0xffff), slot)
    }

    fn pinhole(&self, key: &PinholeKey) -> u32 {
        let found: Option<u32> = self.keep(lookup(&self.pins, names::MEDIA_PINHOLES, key));
        let end = (decode::address(key.address), u16::from_be_bytes(key.port));
        let asked = format!("the media flow to {}", std::net::SocketAddr::from(end));
        self.note_flow(asked, media_door_flow(found.unwrap_or(0)))
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.keep(lookup(&self.pins, names::FRAGMENTS, key))
    }

    fn set_fragment(&self, _key: &FragmentKey, _fragment: Fragment) {}

    fn later_fragment(&self, key: &FragmentKey, offset: u32, length: u32) -> Reason {
        let known = self.quietly(|| self.fragment(key));
        let reason = known.map_or(Reason::Fragment, |mut known| {
            follow(&mut known, self.now_seconds() as u32, offset, length)
        });
        self.note("the first fragment of this packet", reason.explain());
        reason
    }

    fn set_beginning(&self, _key: &FlowKey, _sequence: u32) {}

    fn beginning(&self, key: &FlowKey) -> Option<u32> {
        self.keep(lookup(&self.pins, names::BEGINNINGS, key))
    }

    fn cookie_is_good<A: Family>(&self, _judged: &Judged, _tuple: &Tuple<A>) -> bool {
        self.live != Reason::SynCookieBad
    }

    fn frame_length(&self, frame: &Frame<'_>) -> u32 {
        u32::try_from(frame.len()).unwrap_or(u32::MAX)
    }

    fn now_nanoseconds(&self) -> u64 {
        sys::monotonic_nanoseconds()
    }

    fn sources4(&self, generation: u32, source: &[u8; 4]) -> SetMask {
        let found = source_sets(&self.pins, names::SOURCES4, generation, *source);
        let mask = self.keep(found).unwrap_or_default();
        self.note_sets((*source).into(), mask);
        mask
    }

    fn sources6(&self, generation: u32, source: &[u8; 16]) -> SetMask {
        let found = source_sets(&self.pins, names::SOURCES6, generation, *source);
        let mask = self.keep(found).unwrap_or_default();
        self.note_sets((*source).into(), mask);
        mask
    }

    fn destinations(&self, generation: u32, destination: &[u8; 16]) -> SetMask {
        type Own = HashMap<MapData, [u8; 16], SetMask>;
        let found = inner::<Own>(&self.pins, names::DESTINATIONS, generation)
            .and_then(|own| missing(names::DESTINATIONS, own.get(destination, 0)));
        let mask = self.keep(found).unwrap_or_default();
        let own = decode::address(*destination);
        self.note(
            format!("sets of our address {own}"),
            self.names.sets(mask, Names::destination_set),
        );
        mask
    }

    fn presence4(&self, slot: u32) -> u64 {
        let word = self.keep(blocks::presence(&self.pins, names::PRESENCE4, slot));
        if let Some(source) = self.source_octets4() {
            let [a, b, c, _] = source;
            self.presence(presence4(source).1, word, format!("{a}.{b}.{c}.0/24"));
        }
        word
    }

    fn presence6(&self, slot: u32) -> u64 {
        let word = self.keep(blocks::presence(&self.pins, names::PRESENCE6_PAGES, slot));
        if let Some(source) = self.source_octets6() {
            let net = ipnet::Ipv6Net::new(source.into(), 48).map(|net| net.trunc().to_string());
            let net = net.unwrap_or_default();
            match presence6(source) {
                (first, at) if first == slot => self.presence(at, word, net),
                _ => self.presence(presence6_again(source).1, word, format!("{net} after all")),
            }
        }
        word
    }

    fn presence6_short(&self, slot: u32) -> u64 {
        let word = self.keep(blocks::presence(&self.pins, names::PRESENCE6_SHORT, slot));
        if let Some(source) = self.source_octets6() {
            let (bits, at, marks) = match presence6_wide(source) {
                (wide, at) if wide == slot => (16, at, WIDE_HERE | WIDE_CELLS),
                _ => (32, presence6_short(source).1, 1),
            };
            let net = ipnet::Ipv6Net::new(source.into(), bits).map(|net| net.trunc().to_string());
            let found = (word >> at) as u32 & marks != 0;
            self.note(
                format!("any prefix shorter than /48 in {}", net.unwrap_or_default()),
                if found { "perhaps" } else { "none" },
            );
        }
        word
    }

    fn blocked4(&self, source: &[u8; 4]) -> Option<Block> {
        self.exact((*source).into())
    }

    fn blocked4_prefix(&self, source: &[u8; 4]) -> Option<Block> {
        self.prefix((*source).into())
    }

    fn blocked6(&self, source: &[u8; 16]) -> Option<Block> {
        self.exact((*source).into())
    }

    fn blocked6_prefix(&self, source: &[u8; 16]) -> Option<Block> {
        self.prefix((*source).into())
    }

    fn tcp_socket<A: Family>(&self, tuple: &Tuple<A>) -> bool {
        let found = matches!(self.live, Reason::ReplyTcp | Reason::IcmpError)
            || (self.in_flood.get() && self.passed_live());
        self.note_socket("TCP", tuple, found)
    }

    fn udp_socket<A: Family>(&self, tuple: &Tuple<A>) -> bool {
        // An ICMP error may as well be known by a flow.
        let remembered = || self.quietly(|| self.flow(&tuple.flow(PROTOCOL_UDP))).is_some();
        let found =
            self.live == Reason::ReplyUdp || (self.live == Reason::IcmpError && !remembered());
        self.note_socket("connected UDP", tuple, found)
    }

    fn flow(&self, key: &FlowKey) -> Option<u64> {
        let found: Option<u64> = self.keep(lookup(&self.pins, names::FLOWS, key));
        let asked = format!(
            "a {} flow of ours from {} to {}",
            words::protocol(key.protocol),
            decode::address(key.local),
            decode::address(key.remote)
        );
        let answer = match found {
            None => "none is remembered".to_owned(),
            Some(at) => format!("left {} s ago", self.now_seconds().saturating_sub(at)),
        };
        self.note(asked, answer);
        found
    }

    fn now_seconds(&self) -> u64 {
        sys::now().seconds()
    }

    fn rules4(&self, generation: u32, word: u32, source: [u8; 4], own: [u8; 4]) -> Found {
        self.try_rules(generation, word, source, own)
    }

    fn rules6(&self, generation: u32, word: u32, source: [u8; 16], own: [u8; 16]) -> Found {
        self.try_rules(generation, word, source, own)
    }
}

fn zone(interface: Option<Interface>) -> String {
    match interface {
        Some(found) if found.zone_plus_one != 0 => {
            format!("{} zone", decode::zone(found.zone_plus_one - 1))
        }
        Some(found) if found.trunk != 0 => "a trunk without a zone of its own".to_owned(),
        _ => "belongs to no zone".to_owned(),
    }
}
