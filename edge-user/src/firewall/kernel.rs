//! The kernel's side: the loaded program and the pinned maps, typed, and how they are written.
//!
//! A rule set is written into fresh inner maps in the slot that is not in force; one store into
//! `SETTINGS` swaps it in. Nothing here decides what should be in force.

use std::{
    io,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray,
        PerCpuValues, ProgramArray, lpm_trie::Key as LpmKey,
    },
    programs::{ProgramError, SchedClassifier, Xdp},
};
use edge_ebpf::abi::{
    Block, Bucket, Counter, FlowKey, Interface, KnownKey, MAX_RATES, MAX_RULES, NO_GENERATION,
    PORT_WORD_SLOTS, PROGRAM_MEDIA, PROGRAM_SHADOW, PROGRAM_SYN_COOKIE, PROTOCOL_WORD_SLOTS, Rule,
    RuleLimits, SCHEMA, SetMask, Settings, VlanKey, map_names as names, mapped,
};
use ipnet::IpNet;

use super::{
    FirewallError, KERNEL_OBJECT,
    blocks::{Bitmap, BlockSink, Presence, Room},
    debug_log::{self, DebugLog},
    media::InUse,
    plan::RuleSet,
    shape::{self, INNER_DESTINATIONS, INNER_SOURCES, NO_PREALLOC, SHAPES},
    sys,
};
use crate::failpoint;

mod interfaces;

type Outer<V> = ArrayOfMaps<MapData, V>;

/// The loaded program and its maps.
pub(super) struct Kernel {
    /// Holds the programs.
    pub ebpf: Ebpf,
    /// Reads the program's debug messages, when they are asked for.
    _debug_log: Option<DebugLog>,
    settings: Array<MapData, Settings>,
    interfaces: Array<MapData, Interface>,
    vlans: HashMap<MapData, VlanKey, Interface>,
    port_words: Outer<Array<MapData, u32>>,
    protocol_words: Outer<Array<MapData, u32>>,
    rules: Outer<Array<MapData, Rule>>,
    rates: Outer<Array<MapData, RuleLimits>>,
    sources4: Outer<LpmTrie<MapData, [u8; 4], SetMask>>,
    sources6: Outer<LpmTrie<MapData, [u8; 16], SetMask>>,
    destinations: Outer<HashMap<MapData, [u8; 16], SetMask>>,
    rule_counters: PerCpuArray<MapData, Counter>,
    known_sources: HashMap<MapData, KnownKey, Bucket>,
    /// The block tables.
    pub blocks: BlockMaps,
    pins: PathBuf,
}

/// The block tables and their bitmaps.
pub(super) struct BlockMaps {
    blocked4: HashMap<MapData, [u8; 4], Block>,
    blocked6: HashMap<MapData, [u8; 16], Block>,
    prefixes4: LpmTrie<MapData, [u8; 4], Block>,
    prefixes6: LpmTrie<MapData, [u8; 16], Block>,
    presence4: Array<MapData, u64>,
    presence6: Array<MapData, u64>,
    presence6_short: Array<MapData, u64>,
    folder: PathBuf,
}

/// Opens a pinned map as `T`.
pub(super) fn open<T>(pins: &Path, name: &str) -> Result<T, FirewallError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let path = shape::map_folder(pins).join(name);
    if !path.exists() {
        return Err(FirewallError::NotLoaded { pins: pins.to_owned() });
    }
    MapData::from_pin(path)
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .map_err(|fault| FirewallError::map(name, fault))
}

/// A signal ends the verifier's work on a program (`EAGAIN`): it is asked again, as libbpf does.
const VERIFIER_TRIES: usize = 10;

/// Loads a program, again when a signal to this process broke the verifier off.
///
/// # Errors
/// The kernel's last word.
pub fn verified(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    let broken_off = |fault: &ProgramError| {
        matches!(fault, ProgramError::LoadError { io_error, .. }
            if io_error.kind() == io::ErrorKind::WouldBlock)
    };
    for _ in 1..VERIFIER_TRIES {
        match load() {
            Err(fault) if broken_off(&fault) => {}
            done => return done,
        }
    }
    load()
}

impl Kernel {
    /// Loads the program over the pinned maps, making those that are not there. The shapes must
    /// have been checked.
    pub fn load(pins: &Path, plan: &RuleSet, debug_log: bool) -> Result<Self, FirewallError> {
        let folder = shape::map_folder(pins);
        std::fs::create_dir_all(&folder)
            .map_err(|fault| FirewallError::io(folder.display().to_string(), fault))?;
        let mut loader = EbpfLoader::new();
        for shape in SHAPES {
            loader.map_pin_path(shape.name, folder.join(shape.name));
        }
        for name in [names::BLOCKED4, names::BLOCKED6] {
            loader.map_max_entries(name, with_both_sides(plan.max_addresses));
        }
        for name in [names::BLOCKED4_PREFIXES, names::BLOCKED6_PREFIXES] {
            loader.map_max_entries(name, with_both_sides(plan.max_prefixes));
        }
        let mut ebpf =
            loader.load(KERNEL_OBJECT).map_err(|fault| FirewallError::Load(chain(&fault)))?;
        let xdp: &mut Xdp = program(&mut ebpf, "edge_xdp")?;
        verified(|| xdp.load()).map_err(|fault| FirewallError::Load(chain(&fault)))?;
        for (_, name) in RARE {
            if ebpf.program(name).is_some() {
                let rare: &mut Xdp = program(&mut ebpf, name)?;
                verified(|| rare.load()).map_err(|fault| FirewallError::Load(chain(&fault)))?;
            }
        }
        let egress: &mut SchedClassifier = program(&mut ebpf, "edge_egress")?;
        verified(|| egress.load()).map_err(|fault| FirewallError::Load(chain(&fault)))?;
        let debug_log = debug_log.then(|| debug_log::start(&mut ebpf)).transpose()?;
        Ok(Self {
            _debug_log: debug_log,
            ebpf,
            settings: open(pins, names::SETTINGS)?,
            interfaces: open(pins, names::INTERFACES)?,
            vlans: open(pins, names::VLANS)?,
            port_words: open(pins, names::PORT_WORDS)?,
            protocol_words: open(pins, names::PROTOCOL_WORDS)?,
            rules: open(pins, names::RULES)?,
            rates: open(pins, names::RATES)?,
            sources4: open(pins, names::SOURCES4)?,
            sources6: open(pins, names::SOURCES6)?,
            destinations: open(pins, names::DESTINATIONS)?,
            rule_counters: open(pins, names::RULE_COUNTERS)?,
            known_sources: open(pins, names::KNOWN_SOURCES)?,
            blocks: BlockMaps::open(pins)?,
            pins: pins.to_owned(),
        })
    }

    /// What is in force. In fresh maps: no generation.
    pub fn settings(&self) -> Result<Settings, FirewallError> {
        let found = self.settings.get(&0, 0).map_err(|e| FirewallError::map(names::SETTINGS, e))?;
        if found.schema == 0 {
            return Ok(Settings {
                schema: SCHEMA,
                generation: NO_GENERATION,
                shadow: NO_GENERATION,
                trial: sys::random(),
                hash_seed: sys::random() as u32,
                ..Settings::default()
            });
        }
        Ok(found)
    }

    /// One store: swaps the generation, and everything else that `settings` says, at once.
    pub fn set_settings(&mut self, settings: Settings) -> Result<(), FirewallError> {
        self.settings.set(0, settings, 0).map_err(|e| FirewallError::map(names::SETTINGS, e))?;
        failpoint::wrote(names::SETTINGS);
        Ok(())
    }

    /// Writes a rule set into the slot of `generation`, which must not be in force.
    /// `own`: the addresses of this appliance; `in_use`: what it must know of calls that began
    /// before.
    pub fn write_rule_set(
        &mut self,
        generation: u32,
        (plan, own): (&RuleSet, &[IpAddr]),
        in_use: &InUse,
    ) -> Result<(), FirewallError> {
        let mut ports = Array::create(PORT_WORD_SLOTS, 0).map_err(at(names::PORT_WORDS))?;
        for (first, last, word) in &plan.port_words {
            for index in *first..=*last {
                ports.set(index, *word, 0).map_err(at(names::PORT_WORDS))?;
            }
        }
        for (index, word) in in_use.words_with(&plan.port_words) {
            ports.set(index, word, 0).map_err(at(names::PORT_WORDS))?;
        }
        self.port_words.set(generation, &ports, 0).map_err(at(names::PORT_WORDS))?;
        failpoint::wrote(names::PORT_WORDS);
        let mut words = Array::create(PROTOCOL_WORD_SLOTS, 0).map_err(at(names::PROTOCOL_WORDS))?;
        for (index, word) in &plan.protocol_words {
            words.set(*index, *word, 0).map_err(at(names::PROTOCOL_WORDS))?;
        }
        self.protocol_words.set(generation, &words, 0).map_err(at(names::PROTOCOL_WORDS))?;
        failpoint::wrote(names::PROTOCOL_WORDS);
        let mut rules = Array::create(MAX_RULES, 0).map_err(at(names::RULES))?;
        for (index, rule) in (0u32..).zip(&plan.rules) {
            let rule = plan.kernel_rule(rule);
            rules.set(index, rule, 0).map_err(at(names::RULES))?;
        }
        self.rules.set(generation, &rules, 0).map_err(at(names::RULES))?;
        failpoint::wrote(names::RULES);
        let mut rates = Array::create(MAX_RATES, 0).map_err(at(names::RATES))?;
        for (index, limits) in (1u32..).zip(&plan.limits) {
            rates.set(index, limits.kernel(), 0).map_err(at(names::RATES))?;
        }
        self.rates.set(generation, &rates, 0).map_err(at(names::RATES))?;
        failpoint::wrote(names::RATES);
        self.write_sources(generation, plan, own)?;
        self.write_destinations(generation, plan)
    }

    /// Writes the sets of sources of `generation`, which may be in force. `own` are the addresses
    /// of this appliance.
    pub fn write_sources(
        &mut self,
        generation: u32,
        plan: &RuleSet,
        own: &[IpAddr],
    ) -> Result<(), FirewallError> {
        let mut sources4 =
            LpmTrie::create(INNER_SOURCES, NO_PREALLOC).map_err(at(names::SOURCES4))?;
        let mut sources6 =
            LpmTrie::create(INNER_SOURCES, NO_PREALLOC).map_err(at(names::SOURCES6))?;
        let own = plan.own_without_management(own);
        for (prefix, mask) in plan.sources.iter().chain(&own) {
            match prefix {
                IpNet::V4(net) => sources4
                    .insert(&lpm(net.prefix_len(), net.network().octets()), set_mask(*mask), 0)
                    .map_err(at(names::SOURCES4))?,
                IpNet::V6(net) => sources6
                    .insert(&lpm(net.prefix_len(), net.network().octets()), set_mask(*mask), 0)
                    .map_err(at(names::SOURCES6))?,
            }
        }
        self.sources4.set(generation, &sources4, 0).map_err(at(names::SOURCES4))?;
        failpoint::wrote(names::SOURCES4);
        self.sources6.set(generation, &sources6, 0).map_err(at(names::SOURCES6))?;
        failpoint::wrote(names::SOURCES6);
        Ok(())
    }

    fn write_destinations(&mut self, generation: u32, plan: &RuleSet) -> Result<(), FirewallError> {
        let mut destinations =
            HashMap::create(INNER_DESTINATIONS, NO_PREALLOC).map_err(at(names::DESTINATIONS))?;
        for (address, mask) in &plan.destinations {
            let key = match address {
                IpAddr::V4(address) => mapped(address.octets()),
                IpAddr::V6(address) => address.octets(),
            };
            destinations.insert(key, set_mask(*mask), 0).map_err(at(names::DESTINATIONS))?;
        }
        self.destinations.set(generation, &destinations, 0).map_err(at(names::DESTINATIONS))?;
        failpoint::wrote(names::DESTINATIONS);
        Ok(())
    }

    /// Puts flows in as the egress program does.
    pub fn remember_flows(&mut self, flows: Vec<(FlowKey, u64)>) -> Result<(), FirewallError> {
        let mut map: HashMap<MapData, FlowKey, u64> = open(&self.pins, names::FLOWS)?;
        for (key, left_at) in flows {
            map.insert(key, left_at, 0).map_err(at(names::FLOWS))?;
        }
        Ok(())
    }

    /// Puts the programs for rare work into the slots that the others call into. The program that
    /// is still on the devices calls them too: what it hands to a shadow would not arrive, so
    /// there must be none, and none under way.
    pub fn fill_programs(&mut self) -> Result<(), FirewallError> {
        let mut slots: ProgramArray<MapData> = open(&self.pins, names::PROGRAMS)?;
        for (slot, name) in RARE {
            if self.ebpf.program(name).is_none() {
                continue;
            }
            let rare: &mut Xdp = program(&mut self.ebpf, name)?;
            let fd = rare.fd().map_err(|fault| FirewallError::Load(chain(&fault)))?;
            slots.set(slot, fd, 0).map_err(at(names::PROGRAMS))?;
            failpoint::wrote(names::PROGRAMS);
        }
        Ok(())
    }

    /// Gives a source a bucket of its own under a rule, unless it has one.
    pub fn know(&mut self, address: IpAddr, rule: u32) -> Result<(), FirewallError> {
        const NO_EXIST: u64 = 1;
        let source = match address {
            IpAddr::V4(address) => mapped(address.octets()),
            // One host has a /64 to choose from.
            IpAddr::V6(address) => (u128::from(address) >> 64 << 64).to_be_bytes(),
        };
        let key = KnownKey { source, rule, reserved: 0 };
        match self.known_sources.insert(key, Bucket::default(), NO_EXIST) {
            Err(MapError::SyscallError(fault))
                if fault.io_error.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                Ok(())
            }
            other => other.map_err(at(names::KNOWN_SOURCES)),
        }
    }

    /// Sets the counters of these rules to zero.
    pub fn clear_rule_counters(&mut self, ids: &[u32]) -> Result<(), FirewallError> {
        if ids.is_empty() {
            return Ok(());
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, e)| FirewallError::io("counting CPUs", e))?;
        for id in ids {
            let zeros = PerCpuValues::try_from(vec![Counter::default(); cpus])
                .map_err(|e| FirewallError::io("counting CPUs", e))?;
            self.rule_counters.set(*id, zeros, 0).map_err(at(names::RULE_COUNTERS))?;
            failpoint::wrote(names::RULE_COUNTERS);
        }
        Ok(())
    }
}

impl BlockMaps {
    pub fn open(pins: &Path) -> Result<Self, FirewallError> {
        Ok(Self {
            blocked4: open(pins, names::BLOCKED4)?,
            blocked6: open(pins, names::BLOCKED6)?,
            prefixes4: open(pins, names::BLOCKED4_PREFIXES)?,
            prefixes6: open(pins, names::BLOCKED6_PREFIXES)?,
            presence4: open(pins, names::PRESENCE4)?,
            presence6: open(pins, names::PRESENCE6_PAGES)?,
            presence6_short: open(pins, names::PRESENCE6_SHORT)?,
            folder: shape::map_folder(pins),
        })
    }

    /// Every entry.
    pub fn entries(&self) -> Result<Vec<(IpNet, Block)>, FirewallError> {
        let mut all = Vec::new();
        self.each(|prefix, block| all.push((prefix, block)))?;
        Ok(all)
    }

    /// Looks at every entry, in no order.
    pub fn each(&self, mut look: impl FnMut(IpNet, Block)) -> Result<(), FirewallError> {
        let mut prefix = |address: IpAddr, length: u32, block: Block| {
            if let Ok(prefix) = IpNet::new(address, u8::try_from(length).unwrap_or(u8::MAX)) {
                look(prefix, block);
            }
        };
        for entry in self.blocked4.iter() {
            let (address, block) = entry.map_err(at(names::BLOCKED4))?;
            prefix(address.into(), 32, block);
        }
        for entry in self.prefixes4.iter() {
            let (key, block) = entry.map_err(at(names::BLOCKED4_PREFIXES))?;
            prefix(key.data().into(), key.prefix_len(), block);
        }
        for entry in self.blocked6.iter() {
            let (address, block) = entry.map_err(at(names::BLOCKED6))?;
            prefix(address.into(), 128, block);
        }
        for entry in self.prefixes6.iter() {
            let (key, block) = entry.map_err(at(names::BLOCKED6_PREFIXES))?;
            prefix(key.data().into(), key.prefix_len(), block);
        }
        Ok(())
    }

    /// Entries of one table: IPv4 addresses, IPv6 addresses, IPv4 prefixes, IPv6 prefixes.
    pub fn count(&self, table: u8) -> u64 {
        let count = match table {
            0 => self.blocked4.keys().filter(Result::is_ok).count(),
            1 => self.blocked6.keys().filter(Result::is_ok).count(),
            2 => self.prefixes4.keys().filter(Result::is_ok).count(),
            _ => self.prefixes6.keys().filter(Result::is_ok).count(),
        };
        count as u64
    }

    /// Makes the bitmaps what they should be, word by word. Bits that are missing are a hole, so
    /// this runs at every adoption.
    pub fn repair_presence(&mut self, presence: &Presence) -> Result<u64, FirewallError> {
        let mut repaired = 0;
        for bitmap in Bitmap::ALL {
            let name = self.bitmap(bitmap).0;
            let words = presence.words(bitmap);
            let slots = u32::try_from(words.len()).unwrap_or(u32::MAX);
            let map = MapData::from_pin(self.folder.join(name)).map_err(at(name))?;
            let pinned: Vec<u64> = sys::array_values(map.fd().as_fd(), slots)
                .map_err(|fault| FirewallError::map(name, fault))?;
            for ((slot, word), pinned) in (0u32..).zip(words).zip(pinned) {
                if pinned != *word {
                    self.presence(bitmap, slot, *word)?;
                    repaired += 1;
                }
            }
        }
        Ok(repaired)
    }

    fn bitmap(&mut self, bitmap: Bitmap) -> (&'static str, &mut Array<MapData, u64>) {
        match bitmap {
            Bitmap::V4 => (names::PRESENCE4, &mut self.presence4),
            Bitmap::V6 => (names::PRESENCE6_PAGES, &mut self.presence6),
            Bitmap::Short6 => (names::PRESENCE6_SHORT, &mut self.presence6_short),
        }
    }
}

impl BlockSink for BlockMaps {
    fn put(&mut self, prefix: IpNet, block: &Block) -> Result<(), FirewallError> {
        failpoint::wrote("what comes before a block");
        match prefix {
            IpNet::V4(net) if net.prefix_len() == 32 => {
                self.blocked4.insert(net.addr().octets(), block, 0).map_err(at(names::BLOCKED4))
            }
            IpNet::V4(net) => self
                .prefixes4
                .insert(&lpm(net.prefix_len(), net.network().octets()), block, 0)
                .map_err(at(names::BLOCKED4_PREFIXES)),
            IpNet::V6(net) if net.prefix_len() == 128 => {
                self.blocked6.insert(net.addr().octets(), block, 0).map_err(at(names::BLOCKED6))
            }
            IpNet::V6(net) => self
                .prefixes6
                .insert(&lpm(net.prefix_len(), net.network().octets()), block, 0)
                .map_err(at(names::BLOCKED6_PREFIXES)),
        }
    }

    fn remove(&mut self, prefix: IpNet) -> Result<(), FirewallError> {
        failpoint::wrote("what comes before a block goes");
        let (name, removed) = match prefix {
            IpNet::V4(net) if net.prefix_len() == 32 => {
                (names::BLOCKED4, self.blocked4.remove(&net.addr().octets()))
            }
            IpNet::V4(net) => (
                names::BLOCKED4_PREFIXES,
                self.prefixes4.remove(&lpm(net.prefix_len(), net.network().octets())),
            ),
            IpNet::V6(net) if net.prefix_len() == 128 => {
                (names::BLOCKED6, self.blocked6.remove(&net.addr().octets()))
            }
            IpNet::V6(net) => (
                names::BLOCKED6_PREFIXES,
                self.prefixes6.remove(&lpm(net.prefix_len(), net.network().octets())),
            ),
        };
        match removed {
            Err(MapError::SyscallError(fault))
                if fault.io_error.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            other => other.map_err(at(name)),
        }
    }

    fn presence(&mut self, bitmap: Bitmap, slot: u32, word: u64) -> Result<(), FirewallError> {
        let (name, map) = self.bitmap(bitmap);
        map.set(slot, word, 0).map_err(at(name))
    }
}

/// Kernel id of the pinned settings map, if one is pinned.
pub(super) fn settings_id(pins: &Path) -> Option<u32> {
    let info = MapInfo::from_pin(shape::map_folder(pins).join(names::SETTINGS)).ok()?;
    Some(info.id())
}

/// Room in a table for what goes and what comes while a list changes.
fn with_both_sides(max: u32) -> u32 {
    max.max(1).saturating_mul(2)
}

/// The room that the pinned block tables have, whatever the configuration says by now: half of
/// what they hold, so that a list can change.
pub(super) fn room(pins: &Path) -> Result<Room, FirewallError> {
    let max = |name: &str| {
        let path = shape::map_folder(pins).join(name);
        MapInfo::from_pin(path).map(|info| info.max_entries() / 2).map_err(at(name))
    };
    Ok(Room {
        addresses: [max(names::BLOCKED4)?, max(names::BLOCKED6)?],
        prefixes: [max(names::BLOCKED4_PREFIXES)?, max(names::BLOCKED6_PREFIXES)?],
    })
}

/// What there is to say when the tables have other room than is asked for: addresses and prefixes.
pub(super) fn other_room(room: &Room, asked: [u32; 2]) -> Option<String> {
    let has = [room.addresses[0], room.prefixes[0]];
    (has != asked).then(|| {
        let [addresses, prefixes] = has;
        format!(
            "the block tables keep their size ({addresses} addresses, {prefixes} prefixes) until \
             `edge detach`"
        )
    })
}

/// Programs for rare work, and for media, by their slots in `PROGRAMS`, which the others call into.
const RARE: [(u32, &str); 3] = [
    (PROGRAM_SHADOW, "edge_shadow"),
    (PROGRAM_SYN_COOKIE, "edge_syn_cookie"),
    (PROGRAM_MEDIA, "edge_media"),
];

/// A program of the object.
pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, FirewallError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| FirewallError::Load(format!("the object has no program `{name}`")))?
        .try_into()
        .map_err(|fault| FirewallError::Load(chain(&fault)))
}

/// An error with its causes, which aya's own text leaves out.
pub(super) fn chain(fault: &(dyn std::error::Error + 'static)) -> String {
    let mut text = fault.to_string();
    let mut next = fault.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn at(map: &str) -> impl Fn(MapError) -> FirewallError + '_ {
    move |fault| FirewallError::map(map, chain(&fault))
}

fn lpm<K: Pod>(length: u8, data: K) -> LpmKey<K> {
    LpmKey::new(u32::from(length), data)
}

fn set_mask(mask: u64) -> SetMask {
    SetMask { low: mask as u32, high: (mask >> 32) as u32 }
}
