//! What is kept of a decision: counters always, an event of some drops, a log line in debugging.

use aya_ebpf::{
    Global,
    bindings::xdp_md,
    helpers::{bpf_jiffies64, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use aya_log_ebpf::info;
use edge_ebpf::{
    abi::{EVENT_DATA, Event, Settings, reason_slot},
    decide::{Decision, NO_RULE},
    packet::{Frame, describe},
    verdict::Verdict,
};

use crate::{context::now_nanoseconds, maps};

/// Fewer bytes of a frame than its Ethernet header tell nothing.
const FIRST_BYTES: u32 = 14;
const NANOSECONDS: u64 = 1_000_000_000;

/// Set by the loader to have a log line for each dropped packet. Off, the verifier takes the
/// code away.
#[unsafe(no_mangle)]
static DEBUG_LOG: Global<u8> = Global::new(0);

#[inline(always)]
fn count_rule(slot: u32, length: u64) {
    if let Some(counter) = maps::RULE_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the pointer comes from a per-CPU map, and no other program on this CPU writes
        // while this one runs.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(length);
        }
    }
}

/// Counts a packet that the shadow would have judged otherwise.
#[inline(always)]
pub fn count_shadow(slot: u32, length: u32) {
    if let Some(counter) = maps::SHADOW_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: as in `count_rule`.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(u64::from(length));
        }
    }
}

#[inline(always)]
fn counter_slot(decision: &Decision) -> u32 {
    reason_slot(decision.slot, decision.reason as u8)
}

/// Counts a decision; of a drop, sends an event when they are on and this second's are not used
/// up.
#[inline(always)]
pub fn record(context: &XdpContext, settings: &Settings, decision: &Decision, length: u64) {
    if decision.rule != NO_RULE {
        count_rule(decision.rule, length);
    }
    let Some(counter) = maps::REASON_COUNTERS.get_ptr_mut(counter_slot(decision)) else { return };
    // SAFETY: as in `count_rule`.
    unsafe {
        (*counter).packets = (*counter).packets.wrapping_add(1);
        (*counter).bytes = (*counter).bytes.wrapping_add(length);
    }
    let (budget, verdict) = (settings.events_per_second, decision.reason.verdict());
    if budget != 0 && verdict == Verdict::Drop {
        // The tick is one load from memory, the clock a call and a division.
        // SAFETY: as in `count_rule`, and a helper without arguments.
        let used_up = unsafe { (*counter).sent >= budget && (*counter).tick == bpf_jiffies64() };
        if !used_up {
            let decided = u32::from(decision.reason as u8)
                | u32::from(decision.zone) << 8
                | u32::from(decision.verdict == Verdict::Pass) << 16
                | u32::from(decision.slot) << 24;
            let budget = budget << 16 | settings.event_bytes & 0xffff;
            edge_sample(context.ctx, budget, length as u32, decided, decision.rule);
        }
    }
    if DEBUG_LOG.load() != 0 && verdict == Verdict::Drop {
        log(context, decision.reason as u8, decision.rule);
    }
}

#[inline(never)]
fn log(context: &XdpContext, reason: u8, rule: u32) {
    info!(context, "dropped: reason {}, rule {}", reason, rule);
}

/// Sends an event, if the budget of its reason on this CPU has room in this second. Of `decided`,
/// the low byte is the reason, the next the zone, bit 16 says that the packet passes all the same,
/// and the high byte is the interface's slot. Of `budget`, the high half is events a second and
/// the low half bytes of the frame to take along. A function that the verifier proves by itself; its answer means nothing.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_sample(
    context: *mut xdp_md,
    budget: u32,
    length: u32,
    decided: u32,
    rule: u32,
) -> u32 {
    let slot = reason_slot((decided >> 24) as u8, decided as u8);
    let Some(counter) = maps::REASON_COUNTERS.get_ptr_mut(slot) else { return 0 };
    // SAFETY: a helper without arguments. The tick comes before the clock: should it move in
    // between, the clock is only read once more.
    let tick = unsafe { bpf_jiffies64() };
    let now = now_nanoseconds();
    let second = (now / NANOSECONDS) as u32;
    // SAFETY: as in `count_rule`.
    unsafe {
        (*counter).tick = tick;
        if (*counter).second != second {
            (*counter).second = second;
            (*counter).sent = 0;
        }
        if (*counter).sent >= budget >> 16 {
            return 0;
        }
        (*counter).sent = (*counter).sent.wrapping_add(1);
    }
    let Some(mut entry) = maps::EVENTS.reserve(0) else { return 0 };
    let context = XdpContext::new(context);
    // SAFETY: the packet lies between these two for as long as the program runs.
    let frame =
        unsafe { Frame::from_raw(context.data() as *const u8, context.data_end() as *const u8) };
    // SAFETY: the ring gave this memory for one event, and an event of zeroes is an event.
    let event = unsafe {
        // In words: a call of `memset` would want a frame of its own.
        let words = entry.as_mut_ptr().cast::<u64>();
        for at in 0..size_of::<Event>() / 8 {
            words.add(at).write_volatile(0);
        }
        &mut *entry.as_mut_ptr()
    };
    event.at_nanoseconds = now;
    event.ifindex = context.ingress_ifindex() as u32;
    event.length = length;
    event.rule = rule;
    event.reason = decided as u8;
    event.zone = (decided >> 8) as u8;
    event.monitored = (decided >> 16) as u8 & 1;
    let wanted = (budget & 0xffff).min(length).min(EVENT_DATA as u32);
    // Not "more than none", which the verifier of kernel 6.1 does not take as a lower bound.
    if wanted >= FIRST_BYTES {
        // SAFETY: the context is the program's own, and the buffer holds as many bytes.
        let copied =
            unsafe { bpf_xdp_load_bytes(context.ctx, 0, event.data.as_mut_ptr().cast(), wanted) };
        if copied == 0 {
            event.captured = wanted as u16;
        }
    }
    describe(&frame, event);
    entry.submit(0);
    1
}
