//! The kernel program with maps that are filled by hand: what [`MemoryTables`] say is put into
//! the maps, and packets are run through the real program with `BPF_PROG_TEST_RUN`. Nothing is
//! attached or pinned; all is gone when the value is dropped.

use std::{
    collections::{self, BTreeSet},
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun as _, TestRunOptions,
    maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, Map, MapData, PerCpuArray, ProgramArray, RingBuf,
        lpm_trie::Key,
    },
    programs::{SchedClassifier, Xdp},
};
use edge_ebpf::{
    abi::{
        Block, Bucket, Counter, Event, FlowKey, Fragment, FragmentKey, GENERATIONS,
        INTERFACE_SLOTS, Interface, MAX_RATES, MAX_RULES, PORT_WORD_SLOTS, PROGRAM_MEDIA,
        PROGRAM_SHADOW, PROGRAM_SYN_COOKIE, PROTOCOL_WORD_SLOTS, ReasonCounter, Rule, RuleLimits,
        SetMask, Settings, TRIAL_ANSWERED, Trial, map_names, reason_slot,
    },
    decide::{Generation, MemoryTables},
    verdict::{REASON_SLOTS, Reason, Verdict},
};
use edge_user::firewall::verified;

mod maps;
mod media;

pub use maps::memory;
use maps::{data, replace, replace_prefixes};
pub use media::{Outcome, XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};

/// The interface that a test run pretends packets come in on: the loopback of the namespace.
pub const TEST_IFINDEX: u32 = 1;
/// `BPF_F_NO_PREALLOC`, as the inner maps have it.
const NO_PREALLOC: u32 = 1;

/// The loaded program.
pub struct Kernel {
    ebpf: Ebpf,
    /// What is in the slots of the generations, so that it is not written again.
    generations: [Option<Generation>; GENERATIONS as usize],
    /// Words of the presence bitmaps that were written and are not zero: IPv4, IPv6,
    /// short IPv6 prefixes.
    present: [BTreeSet<u32>; 3],
    /// Another one each time the tables are written.
    epoch: u64,
}

impl Kernel {
    /// Loads the object and both programs.
    ///
    /// # Errors
    /// When the kernel refuses it; the verifier's log is in the error.
    pub fn load(object: &[u8]) -> Result<Self> {
        Self::load_with_room(object, 65_536)
    }

    /// The same, with room for so many blocks of each kind.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn load_with_room(object: &[u8], blocks: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for name in [
            map_names::BLOCKED4,
            map_names::BLOCKED6,
            map_names::BLOCKED4_PREFIXES,
            map_names::BLOCKED6_PREFIXES,
        ] {
            loader.map_max_entries(name, blocks);
        }
        let mut ebpf = loader.load(object).context("loading the object")?;
        let xdp: &mut Xdp = ebpf.program_mut("edge_xdp").context("edge_xdp")?.try_into()?;
        verified(|| xdp.load()).context("loading edge_xdp")?;
        let egress: &mut SchedClassifier =
            ebpf.program_mut("edge_egress").context("edge_egress")?.try_into()?;
        verified(|| egress.load()).context("loading edge_egress")?;
        Ok(Self {
            ebpf,
            generations: [const { None }; GENERATIONS as usize],
            present: Default::default(),
            epoch: 0,
        })
    }

    /// What each program costs the kernel.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn program_costs(&self) -> Result<Vec<(String, ProgramCost)>> {
        let mut costs = Vec::new();
        for (name, program) in self.ebpf.programs() {
            // One that is not loaded has no cost.
            let Ok(info) = program.info() else { continue };
            let cost = ProgramCost {
                verified_instructions: info.verified_instruction_count().context("no count")?,
                translated_bytes: info.size_translated().context("no size")?,
                jited_bytes: info.size_jitted(),
            };
            costs.push((name.to_owned(), cost));
        }
        costs.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(costs)
    }

    /// Bytes that the kernel has set aside for each map, as it accounts them.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn map_memory(&self) -> Result<Vec<(String, u64)>> {
        self.ebpf
            .maps()
            .map(|(name, map)| Ok((name.to_owned(), memory(data(map)?.fd().as_fd())?)))
            .collect()
    }

    /// Runs one frame through `edge_xdp`.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn run(&self, frame: &[u8]) -> Result<Verdict> {
        Ok(match self.test_run(frame, 1)?.0 {
            1 => Verdict::Drop,
            3 => Verdict::Answer,
            2 => Verdict::Pass,
            other => anyhow::bail!("edge_xdp answered {other}"),
        })
    }

    /// The program that judges packets.
    ///
    /// # Errors
    /// When it is not there.
    pub fn xdp(&self) -> Result<BorrowedFd<'_>> {
        let xdp: &Xdp = self.ebpf.program("edge_xdp").context("edge_xdp")?.try_into()?;
        Ok(xdp.fd()?.as_fd())
    }

    /// Average time for one packet over this many runs.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn time(&self, frame: &[u8], repeat: u32) -> Result<Duration> {
        Ok(self.test_run(frame, repeat)?.1)
    }

    fn test_run(&self, frame: &[u8], repeat: u32) -> Result<(u32, Duration)> {
        let xdp: &Xdp = self.ebpf.program("edge_xdp").context("edge_xdp")?.try_into()?;
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let result = xdp.test_run(options)?;
        Ok((result.return_value, result.duration))
    }

    /// Runs one frame through `edge_egress`.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let egress: &SchedClassifier =
            self.ebpf.program("edge_egress").context("edge_egress")?.try_into()?;
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
        egress.test_run(options)?;
        Ok(())
    }

    /// Names of all maps of the object.
    pub fn map_names(&self) -> Vec<String> {
        self.ebpf.maps().map(|(name, _)| name.to_owned()).collect()
    }

    /// The descriptor of a per-CPU array.
    ///
    /// # Errors
    /// When there is no such map.
    pub fn per_cpu_array(&self, name: &str) -> Result<BorrowedFd<'_>> {
        match self.ebpf.map(name) {
            Some(Map::PerCpuArray(map)) => Ok(map.fd().as_fd()),
            _ => anyhow::bail!("no per-CPU array {name}"),
        }
    }

    pub(crate) fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    /// A map's descriptor.
    pub(crate) fn descriptor(&self, name: &str) -> Result<BorrowedFd<'_>> {
        Ok(data(self.ebpf.map(name).with_context(|| format!("no map {name}"))?)?.fd().as_fd())
    }

    pub(crate) fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        Ok(Array::try_from(self.map(name)?)?)
    }

    pub(crate) fn hash<K: Pod, V: Pod>(
        &mut self,
        name: &str,
    ) -> Result<HashMap<&mut MapData, K, V>> {
        Ok(HashMap::try_from(self.map(name)?)?)
    }

    /// Writes the settings.
    ///
    /// # Errors
    /// When the kernel refuses the write.
    pub fn set_settings(&mut self, settings: Settings) -> Result<()> {
        Ok(self.array(map_names::SETTINGS)?.set(0, settings, 0)?)
    }

    /// Writes an interface.
    ///
    /// # Errors
    /// When the kernel refuses the write.
    pub fn set_interface(&mut self, ifindex: u32, interface: Interface) -> Result<()> {
        Ok(self.array(map_names::INTERFACES)?.set(ifindex, interface, 0)?)
    }

    /// Takes the block of exactly this address out of the kernel's table, and changes nothing else.
    ///
    /// # Errors
    /// When there is none.
    pub fn forget_block(&mut self, address: std::net::IpAddr) -> Result<()> {
        match address {
            std::net::IpAddr::V4(address) => {
                self.hash::<[u8; 4], Block>(map_names::BLOCKED4)?.remove(&address.octets())?;
            }
            std::net::IpAddr::V6(address) => {
                self.hash::<[u8; 16], Block>(map_names::BLOCKED6)?.remove(&address.octets())?;
            }
        }
        Ok(())
    }

    /// Writes a flow as the egress program does.
    ///
    /// # Errors
    /// When the kernel refuses the write.
    pub fn set_flow(&mut self, key: edge_ebpf::abi::FlowKey, left_at: u64) -> Result<()> {
        Ok(self.hash(map_names::FLOWS)?.insert(key, left_at, 0)?)
    }

    /// The flows that are remembered.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn flows(&mut self) -> Result<Vec<(edge_ebpf::abi::FlowKey, u64)>> {
        let flows = self.hash::<edge_ebpf::abi::FlowKey, u64>(map_names::FLOWS)?;
        Ok(flows.iter().collect::<Result<_, _>>()?)
    }

    /// Forgets fragments and beginnings of connections.
    ///
    /// # Errors
    /// When the kernel refuses a write.
    pub fn forget_packets(&mut self) -> Result<()> {
        let mut fragments = self.hash::<FragmentKey, Fragment>(map_names::FRAGMENTS)?;
        replace(&mut fragments, std::iter::empty())?;
        let mut beginnings = self.hash::<FlowKey, u32>(map_names::BEGINNINGS)?;
        replace(&mut beginnings, std::iter::empty())
    }

    /// Loads the programs for rare work and puts them where the others find them.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn load_rare(&mut self) -> Result<()> {
        for (slot, name) in [
            (PROGRAM_SHADOW, "edge_shadow"),
            (PROGRAM_SYN_COOKIE, "edge_syn_cookie"),
            (PROGRAM_MEDIA, "edge_media"),
        ] {
            let program: &mut Xdp = self.ebpf.program_mut(name).context(name)?.try_into()?;
            verified(|| program.load()).with_context(|| format!("loading {name}"))?;
            let fd = program.fd()?.try_clone()?;
            let mut programs = ProgramArray::try_from(self.map(map_names::PROGRAMS)?)?;
            programs.set(slot, &fd, 0)?;
        }
        Ok(())
    }

    /// Makes the maps say what `tables` say. Blocks, VLANs, flows and presence bits that are
    /// not in them are taken away; sockets cannot be made here. The settings come last.
    ///
    /// # Errors
    /// When the kernel refuses a write.
    pub fn apply(&mut self, tables: &MemoryTables) -> Result<()> {
        for index in 0..8 {
            let interface = tables.interfaces.get(&index).copied();
            let none = Interface { zone_plus_one: 0, trunk: 0, slot: 0, reserved: 0 };
            self.set_interface(index, interface.unwrap_or(none))?;
        }
        replace(&mut self.hash(map_names::VLANS)?, tables.vlans.iter())?;
        replace(&mut self.hash(map_names::BLOCKED4)?, tables.blocked4.iter())?;
        replace(&mut self.hash(map_names::BLOCKED6)?, tables.blocked6.iter())?;
        replace(&mut self.hash(map_names::FLOWS)?, tables.flows.iter())?;
        self.forget_packets()?;
        for (index, bucket) in tables.source_buckets.borrow().iter() {
            self.array(map_names::SOURCE_BUCKETS)?.set(*index, *bucket, 0)?;
        }
        for (index, bucket) in tables.total_buckets.borrow().iter() {
            self.array(map_names::TOTAL_BUCKETS)?.set(*index, *bucket, 0)?;
        }
        let known = tables.known_sources.borrow();
        replace(&mut self.hash(map_names::KNOWN_SOURCES)?, known.iter())?;
        let mut trie = LpmTrie::try_from(self.map(map_names::BLOCKED4_PREFIXES)?)?;
        replace_prefixes(&mut trie, &tables.blocked4_prefixes)?;
        let mut trie = LpmTrie::try_from(self.map(map_names::BLOCKED6_PREFIXES)?)?;
        replace_prefixes(&mut trie, &tables.blocked6_prefixes)?;
        self.apply_presence(0, map_names::PRESENCE4, &tables.presence4)?;
        self.apply_presence(1, map_names::PRESENCE6_PAGES, &tables.presence6)?;
        self.apply_presence(2, map_names::PRESENCE6_SHORT, &tables.presence6_short)?;
        for (slot, generation) in (0..GENERATIONS).zip(&tables.generations) {
            let index = usize::try_from(slot)?;
            if self.generations[index].as_ref() != Some(generation) {
                self.generations[index] = None;
                self.apply_generation(slot, generation)?;
                self.generations[index] = Some(generation.clone());
            }
        }
        self.epoch += 1;
        self.set_settings(Settings { block_epoch: self.epoch, ..tables.settings })
    }

    fn apply_presence(
        &mut self,
        family: usize,
        name: &str,
        words: &collections::HashMap<u32, u64>,
    ) -> Result<()> {
        let now: BTreeSet<u32> = words.keys().copied().collect();
        let before = std::mem::replace(&mut self.present[family], now.clone());
        let mut map = self.array::<u64>(name)?;
        for slot in before.difference(&now) {
            map.set(*slot, 0, 0)?;
        }
        for (slot, word) in words {
            map.set(*slot, *word, 0)?;
        }
        Ok(())
    }

    fn apply_generation(&mut self, slot: u32, generation: &Generation) -> Result<()> {
        let mut words = Array::<MapData, u32>::create(PORT_WORD_SLOTS, 0)?;
        for (index, word) in &generation.port_words {
            words.set(*index, *word, 0)?;
        }
        self.inner(map_names::PORT_WORDS, slot, &words)?;
        let mut words = Array::<MapData, u32>::create(PROTOCOL_WORD_SLOTS, 0)?;
        for (index, word) in &generation.protocol_words {
            words.set(*index, *word, 0)?;
        }
        self.inner(map_names::PROTOCOL_WORDS, slot, &words)?;
        let mut rules = Array::<MapData, Rule>::create(MAX_RULES, 0)?;
        for (index, rule) in (0..).zip(&generation.rules) {
            rules.set(index, *rule, 0)?;
        }
        self.inner(map_names::RULES, slot, &rules)?;
        let mut rates = Array::<MapData, RuleLimits>::create(MAX_RATES, 0)?;
        for (index, limits) in (0..).zip(&generation.rates) {
            rates.set(index, *limits, 0)?;
        }
        self.inner(map_names::RATES, slot, &rates)?;
        let mut sources = LpmTrie::<MapData, [u8; 4], SetMask>::create(1024, NO_PREALLOC)?;
        for (address, length, mask) in generation.sources4.iter() {
            sources.insert(&Key::new(length.into(), *address), mask, 0)?;
        }
        self.inner(map_names::SOURCES4, slot, &sources)?;
        let mut sources = LpmTrie::<MapData, [u8; 16], SetMask>::create(1024, NO_PREALLOC)?;
        for (address, length, mask) in generation.sources6.iter() {
            sources.insert(&Key::new(length.into(), *address), mask, 0)?;
        }
        self.inner(map_names::SOURCES6, slot, &sources)?;
        let mut own = HashMap::<MapData, [u8; 16], SetMask>::create(64, NO_PREALLOC)?;
        for (address, mask) in &generation.destinations {
            own.insert(address, mask, 0)?;
        }
        self.inner(map_names::DESTINATIONS, slot, &own)
    }

    fn inner<V: aya::maps::InnerMap>(&mut self, name: &str, slot: u32, map: &V) -> Result<()> {
        let mut outer = ArrayOfMaps::<_, V>::try_from(self.map(name)?)?;
        outer.set(slot, map, 0).with_context(|| format!("{name}[{slot}]"))
    }

    /// Packets and bytes of a reason, all CPUs together.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn reason_counter(&mut self, reason: Reason) -> Result<Counter> {
        (0..INTERFACE_SLOTS as u8)
            .map(|slot| {
                let index = reason_slot(slot, reason as u8);
                self.counter(map_names::REASON_COUNTERS, index, ReasonCounter::counted)
            })
            .sum()
    }

    /// Packets and bytes of a rule, all CPUs together.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn rule_counter(&mut self, rule: u32) -> Result<Counter> {
        self.counter(map_names::RULE_COUNTERS, rule, |counter| counter)
    }

    fn counter<V: Pod>(
        &mut self,
        name: &str,
        slot: u32,
        counted: impl Fn(V) -> Counter,
    ) -> Result<Counter> {
        let counters = PerCpuArray::<_, V>::try_from(self.map(name)?)?;
        let mut sum = Counter::default();
        for value in counters.get(&slot, 0)?.iter().copied().map(counted) {
            sum.packets += value.packets;
            sum.bytes += value.bytes;
        }
        Ok(sum)
    }

    /// Runs a frame and tells the verdict and the one reason that was counted for it.
    ///
    /// # Errors
    /// When not exactly one packet was counted.
    pub fn judge(&mut self, frame: &[u8]) -> Result<(Verdict, Reason)> {
        let before = self.all_counters()?;
        let verdict = self.run(frame)?;
        Ok((verdict, self.counted_since(&before, frame.len())?))
    }

    /// The one reason that one frame of this length was counted for.
    fn counted_since(&mut self, before: &[Counter], length: usize) -> Result<Reason> {
        let after = self.all_counters()?;
        let mut counted = (0_u8..).zip(after.iter().zip(before)).filter(|(_, (a, b))| a != b);
        let (slot, (now, earlier)) = counted.next().context("nothing was counted")?;
        let number = slot % REASON_SLOTS as u8;
        anyhow::ensure!(counted.next().is_none(), "more than one reason was counted");
        anyhow::ensure!(now.packets == earlier.packets + 1, "not one packet");
        anyhow::ensure!(now.bytes == earlier.bytes + length as u64, "not its length");
        Reason::from_number(number).context("a reason without a name")
    }

    /// Makes all buckets of sources and rules empty of debt.
    ///
    /// # Errors
    /// When the kernel refuses a write.
    pub fn empty_buckets(&mut self) -> Result<()> {
        for name in [map_names::SOURCE_BUCKETS, map_names::TOTAL_BUCKETS] {
            let mut buckets = self.array::<Bucket>(name)?;
            for index in 0..buckets.len() {
                buckets.set(index, Bucket::default(), 0)?;
            }
        }
        Ok(())
    }

    /// What the shadow would have done otherwise.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn shadow_counter(&mut self, slot: u32) -> Result<Counter> {
        self.counter(map_names::SHADOW_COUNTERS, slot, |counter| counter)
    }

    /// Runs one frame through `edge_xdp` and gives back what became of it.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn answer(&self, frame: &[u8]) -> Result<Vec<u8>> {
        let xdp: &Xdp = self.ebpf.program("edge_xdp").context("edge_xdp")?.try_into()?;
        let mut data = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut data),
            ..TestRunOptions::default()
        };
        let length = xdp.test_run(options)?.data_size_out;
        data.truncate(usize::try_from(length)?);
        Ok(data)
    }

    /// Runs one frame through `edge_xdp` as a trial with this number. `None`: the program took it
    /// for real traffic.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn trial(&self, frame: &[u8], magic: u64) -> Result<Option<Trial>> {
        const META: usize = size_of::<Trial>();
        let xdp: &Xdp = self.ebpf.program("edge_xdp").context("edge_xdp")?.try_into()?;
        let mut data = magic.to_ne_bytes().to_vec();
        data.resize(META, 0);
        data.extend_from_slice(frame);
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index,
        // egress_ifindex.
        let (meta, end) = (u32::try_from(META)?, u32::try_from(data.len())?);
        let context: Vec<u8> =
            [meta, end, 0, TEST_IFINDEX, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut out = vec![0; data.len() + 64];
        let options = TestRunOptions {
            data_in: Some(&data),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        xdp.test_run(options)?;
        // SAFETY: the buffer is longer than a `Trial`, for which every bit pattern is a value.
        let trial = unsafe { out.as_ptr().cast::<Trial>().read_unaligned() };
        Ok((trial.magic == TRIAL_ANSWERED).then_some(trial))
    }

    /// Every reason's counter, the first two slots of interfaces one after the other.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn all_counters(&mut self) -> Result<Vec<Counter>> {
        // The tests' interfaces use the first slots only.
        (0..2 * REASON_SLOTS as u32)
            .map(|slot| self.counter(map_names::REASON_COUNTERS, slot, ReasonCounter::counted))
            .collect()
    }

    /// Takes all events out of the ring.
    ///
    /// # Errors
    /// When the ring is not there.
    pub fn events(&mut self) -> Result<Vec<Event>> {
        let mut ring = RingBuf::try_from(self.map(map_names::EVENTS)?)?;
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            anyhow::ensure!(item.len() == size_of::<Event>(), "an event of another size");
            // SAFETY: as many bytes as an event has, and every bit pattern is a value of it.
            events.push(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
        }
        Ok(events)
    }
}

/// What a program costs the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    /// Instructions the verifier looked at.
    pub verified_instructions: u32,
    /// Size in the kernel's form.
    pub translated_bytes: u32,
    /// Size as machine code.
    pub jited_bytes: u32,
}
