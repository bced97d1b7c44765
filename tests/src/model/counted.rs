//! Which reason and which rule a packet was counted under, read in two calls.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result, ensure};
use edge_ebpf::{
    abi::{Counter, ReasonCounter, map_names},
    verdict::{REASON_SLOTS, Reason},
};

use crate::kernel::Kernel;

const MAP_LOOKUP_BATCH: libc::c_long = 24;
/// The test device's interfaces use the first two slots of interfaces.
const REASONS: usize = 2 * REASON_SLOTS;
/// The worlds' rules have small ids.
const RULES: usize = 64;

/// The counters after the last packet.
pub struct Counted {
    reasons: Vec<Counter>,
    rules: Vec<Counter>,
    cpus: usize,
}

impl Counted {
    /// The counters now.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn new(kernel: &Kernel) -> Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(_, fault)| fault)?;
        let mut counted = Self { reasons: Vec::new(), rules: Vec::new(), cpus };
        (counted.reasons, counted.rules) = counted.read(kernel)?;
        Ok(counted)
    }

    /// What was counted since the last call: one packet of this length.
    ///
    /// # Errors
    /// When it was another number of packets, or of bytes.
    pub fn one_more(&mut self, kernel: &Kernel, length: u64) -> Result<(Reason, Option<u32>)> {
        let (reasons, rules) = self.read(kernel)?;
        let reason = difference(&self.reasons, &reasons, length).context("reasons")?;
        let rule = difference(&self.rules, &rules, length).context("rules")?;
        (self.reasons, self.rules) = (reasons, rules);
        let number = reason.context("no reason was counted")? % REASON_SLOTS;
        let reason =
            Reason::from_number(u8::try_from(number)?).context("a reason without a name")?;
        Ok((reason, rule.map(u32::try_from).transpose()?))
    }

    fn read(&self, kernel: &Kernel) -> Result<(Vec<Counter>, Vec<Counter>)> {
        let reasons = kernel.per_cpu_array(map_names::REASON_COUNTERS)?;
        let rules = kernel.per_cpu_array(map_names::RULE_COUNTERS)?;
        Ok((
            sums(reasons, REASONS, self.cpus, ReasonCounter::default(), ReasonCounter::counted)?,
            sums(rules, RULES, self.cpus, Counter::default(), |counter| counter)?,
        ))
    }
}

/// The one slot in which a packet of this length was counted.
fn difference(before: &[Counter], after: &[Counter], length: u64) -> Result<Option<usize>> {
    let mut changed = None;
    for (slot, (before, after)) in before.iter().zip(after).enumerate() {
        if before != after {
            ensure!(changed.is_none(), "a packet was counted twice");
            ensure!(after.packets == before.packets + 1, "one packet was counted as several");
            ensure!(after.bytes == before.bytes + length, "another length was counted");
            changed = Some(slot);
        }
    }
    Ok(changed)
}

/// The first `count` entries of a per-CPU array, summed over the CPUs.
fn sums<V: Copy>(
    map: BorrowedFd<'_>,
    count: usize,
    cpus: usize,
    empty: V,
    counted: impl Fn(V) -> Counter,
) -> Result<Vec<Counter>> {
    let mut keys = vec![0_u32; count];
    let mut values = vec![empty; count * cpus];
    let mut last = 0_u32;
    // in_batch, out_batch, keys, values, count and map, elem_flags, flags.
    let mut attributes = [0_u64; 16];
    attributes[1] = (&raw mut last) as u64;
    attributes[2] = keys.as_mut_ptr() as u64;
    attributes[3] = values.as_mut_ptr() as u64;
    let descriptor = u32::try_from(map.as_raw_fd())?;
    attributes[4] = u64::try_from(count)? | u64::from(descriptor) << 32;
    // SAFETY: the attributes are zero beyond what is set; keys and values have room for `count`
    // entries of all CPUs, and values are plain numbers a multiple of eight bytes long.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            MAP_LOOKUP_BATCH,
            attributes.as_mut_ptr(),
            size_of_val(&attributes),
        )
    };
    ensure!(result == 0, "counters: {}", std::io::Error::last_os_error());
    ensure!(attributes[4] as u32 as usize == count, "fewer counters than asked for");
    Ok(values.chunks(cpus).map(|all| all.iter().copied().map(&counted).sum()).collect())
}
