//! What is kept of a decision: counters always, an event of some drops, a log line in debugging.

use aya_ebpf::{Global, btf_maps::PerCpuArray, programs::XdpContext};
use aya_log_ebpf::info;
use edge_ebpf::{
    abi::{Counter, Settings},
    decide::{Decision, NO_RULE},
    packet::{Frame, describe},
    verdict::Verdict,
};

use crate::{maps, tables::now_nanoseconds};

const NANOSECONDS: u64 = 1_000_000_000;

/// Set by the loader to have a log line for each dropped packet. Off, the verifier takes the
/// code away.
#[unsafe(no_mangle)]
static DEBUG_LOG: Global<u8> = Global::new(0);

#[inline(always)]
fn count<const SLOTS: usize>(counters: &PerCpuArray<Counter, SLOTS>, slot: u32, length: u64) {
    if let Some(counter) = counters.get_ptr_mut(slot) {
        // SAFETY: the pointer comes from a per-CPU map, and no other program on this CPU writes
        // while this one runs.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(length);
        }
    }
}

/// Counts a decision; of a drop, sends an event when they are on and this second's are not used
/// up.
#[inline(always)]
pub fn record(context: &XdpContext, settings: &Settings, decision: &Decision, length: u64) {
    count(&maps::REASON_COUNTERS, decision.reason as u32, length);
    if decision.rule != NO_RULE {
        count(&maps::RULE_COUNTERS, decision.rule, length);
    }
    if settings.events_per_second != 0 && decision.reason.verdict() == Verdict::Drop {
        sample(context, decision, settings.events_per_second, length as u32);
    }
    if DEBUG_LOG.load() != 0 && decision.reason.verdict() == Verdict::Drop {
        log(context, decision.reason as u8, decision.rule);
    }
}

#[inline(never)]
fn log(context: &XdpContext, reason: u8, rule: u32) {
    info!(context, "dropped: reason {}, rule {}", reason, rule);
}

/// Sends an event, if the budget of its reason on this CPU has room in this second.
#[inline(never)]
fn sample(context: &XdpContext, decision: &Decision, events_per_second: u32, length: u32) {
    let Some(budget) = maps::EVENT_BUDGETS.get_ptr_mut(decision.reason as u32) else { return };
    let now = now_nanoseconds();
    let second = now / NANOSECONDS;
    // SAFETY: the pointer comes from a per-CPU map; see `count`.
    unsafe {
        if (*budget).second != second {
            (*budget).second = second;
            (*budget).sent = 0;
        }
        if (*budget).sent >= u64::from(events_per_second) {
            return;
        }
        (*budget).sent = (*budget).sent.wrapping_add(1);
    }
    let Some(mut entry) = maps::EVENTS.reserve(0) else { return };
    // SAFETY: the packet lies between these two for as long as the program runs.
    let frame =
        unsafe { Frame::from_raw(context.data() as *const u8, context.data_end() as *const u8) };
    // SAFETY: the ring gave this memory for one event, and an event of zeroes is an event.
    let event = unsafe {
        entry.as_mut_ptr().write_bytes(0, 1);
        &mut *entry.as_mut_ptr()
    };
    event.at_nanoseconds = now;
    event.ifindex = context.ingress_ifindex() as u32;
    event.length = length;
    event.rule = decision.rule;
    event.reason = decision.reason as u8;
    event.zone = decision.zone;
    event.monitored = u8::from(decision.verdict == Verdict::Pass);
    describe(&frame, event);
    entry.submit(0);
}
