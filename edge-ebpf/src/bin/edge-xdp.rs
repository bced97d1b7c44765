//! Maps and entry points of the kernel half, nothing else.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros of the entry points make functions without text")]

#[path = "edge-xdp/context.rs"]
mod context;
#[path = "edge-xdp/cookie.rs"]
mod cookie;
#[path = "edge-xdp/functions.rs"]
mod functions;
#[path = "edge-xdp/hand.rs"]
mod hand;
#[path = "edge-xdp/headers.rs"]
mod headers;
#[path = "edge-xdp/maps.rs"]
mod maps;
#[path = "edge-xdp/media.rs"]
mod media;
#[path = "edge-xdp/numbers.rs"]
mod numbers;
#[path = "edge-xdp/record.rs"]
mod record;
#[path = "edge-xdp/tables.rs"]
mod tables;
#[path = "edge-xdp/too_long.rs"]
mod too_long;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_UNSPEC, xdp_action, xdp_md},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use edge_ebpf::{
    abi::{
        NO_GENERATION, PROGRAM_MEDIA, PROGRAM_SHADOW, PROGRAM_SYN_COOKIE, Settings, shadow_slot,
    },
    decide::{
        Decision, Done, NO_RULE, Tables as _, at_once, flow_begun, in_force, judge, refresh_flow,
    },
    packet::{Environment, Frame},
    verdict::{Reason, Verdict},
};

use crate::{context::frame_of, tables::KernelTables};

/// Judges every packet that comes in.
///
/// What is easy is judged here, with nothing else around it: this function's few values stay in
/// registers.
#[xdp(frags)]
pub fn edge_xdp(context: XdpContext) -> u32 {
    let Some(settings) = maps::SETTINGS.get(0) else { return xdp_action::XDP_DROP };
    if hand::trial(&context, settings).is_none() {
        let frame = frame_of(context.ctx);
        let tables = KernelTables::new(context.ctx);
        let raw = context.ctx;
        let ifindex = move || XdpContext::new(raw).ingress_ifindex() as u32;
        let then = Carry { context: raw, settings };
        let action = at_once(&tables, settings, &frame, ifindex, &then);
        if let Some(action) = action {
            return action;
        }
    }
    let action = edge_judge(context.ctx);
    if action >= NEXT_PROGRAM {
        // SAFETY: nothing here is left to drop.
        unsafe { maps::PROGRAMS.tail_call(&context, action - NEXT_PROGRAM) };
        // There is no such program.
        return edge_unanswered(context.ctx);
    }
    action
}

/// Counts what was judged [`at_once`], and gives the action.
struct Carry<'a> {
    context: *mut xdp_md,
    settings: &'a Settings,
}

impl Done for Carry<'_> {
    type Output = u32;

    #[inline(always)]
    fn done(&self, decision: &Decision) -> u32 {
        let context = XdpContext::new(self.context);
        let length = frame_of(self.context).len();
        if decision.verdict == Verdict::Forward {
            return forward(&context, decision, length as u32);
        }
        record::record(&context, self.settings, decision, length as u64);
        hand::action(decision.verdict)
    }
}

/// Hands a packet of a media flow to the program that forwards it.
#[inline(always)]
fn forward(context: &XdpContext, decision: &Decision, length: u32) -> u32 {
    hand::hand_on(decision, length);
    // SAFETY: nothing here is left to drop.
    unsafe { maps::PROGRAMS.tail_call(context, PROGRAM_MEDIA) };
    edge_unanswered(context.ctx)
}

/// Added to the slot of a program that goes on with the packet.
const NEXT_PROGRAM: u32 = 16;

/// Judges a packet that is not judged [`at_once`]; a function that the verifier proves by itself.
/// The action, or [`NEXT_PROGRAM`] and the slot of the program that goes on.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_judge(context: *mut xdp_md) -> u32 {
    let context = XdpContext::new(context);
    let Some(settings) = maps::SETTINGS.get(0) else { return xdp_action::XDP_DROP };
    let frame = frame_of(context.ctx);
    let ifindex = context.ingress_ifindex() as u32;
    let trial = hand::trial(&context, settings).is_some();
    let tables = KernelTables { trial, ..KernelTables::new(context.ctx) };
    let decision = judge(&tables, settings, &frame, &tables, ifindex);
    // What can be had again is not kept: the stack is small.
    let length = frame_of(context.ctx).len();
    if decision.verdict == Verdict::Forward {
        // In a trial too: whether the flow takes the packet is known there only.
        hand::hand_on(&decision, length as u32);
        return NEXT_PROGRAM + PROGRAM_MEDIA;
    }
    if let Some(trial) = hand::trial(&context, settings) {
        hand::answer_trial(trial, &decision, 0);
        return hand::action(decision.verdict);
    }
    if decision.verdict == Verdict::Answer {
        hand::hand_on(&decision, length as u32);
        return NEXT_PROGRAM + PROGRAM_SYN_COOKIE;
    }
    record::record(&context, settings, &decision, length as u64);
    if settings.shadow < NO_GENERATION {
        hand::hand_on(&decision, length as u32);
        return NEXT_PROGRAM + PROGRAM_SHADOW;
    }
    hand::action(decision.verdict)
}

/// The packet of a program that is not there: what was judged in earnest stands, and a SYN that
/// nobody answers, or a packet that nobody forwards, is dropped and counted.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_unanswered(context: *mut xdp_md) -> u32 {
    let context = XdpContext::new(context);
    let Some((decision, action, length)) = hand::handed() else { return xdp_action::XDP_DROP };
    let (reason, rule) = match action {
        xdp_action::XDP_TX => (Reason::Flood, decision.rule),
        xdp_action::XDP_REDIRECT => (Reason::MediaNoRoute, NO_RULE),
        _ => return action,
    };
    let Some(settings) = maps::SETTINGS.get(0) else { return xdp_action::XDP_DROP };
    let decision = Decision { reason, verdict: Verdict::Drop, rule, ..decision };
    record::record(&context, settings, &decision, u64::from(length));
    xdp_action::XDP_DROP
}

/// Answers a SYN in a flood, and counts it.
#[xdp(frags)]
pub fn edge_syn_cookie(context: XdpContext) -> u32 {
    let Some((decision, _, length)) = hand::handed() else { return xdp_action::XDP_DROP };
    let Some(settings) = maps::SETTINGS.get(0) else { return xdp_action::XDP_DROP };
    let (reason, action) = match cookie::answer(&context) {
        Some(()) => (Reason::SynCookie, xdp_action::XDP_TX),
        None => (Reason::Flood, xdp_action::XDP_DROP),
    };
    let decision = Decision { reason, verdict: reason.verdict(), ..decision };
    record::record(&context, settings, &decision, u64::from(length));
    action
}

/// Forwards a packet of a media flow, if the flow takes it, and counts it.
#[xdp(frags)]
pub fn edge_media(context: XdpContext) -> u32 {
    let Some((mut found, _, length)) = hand::handed() else { return xdp_action::XDP_DROP };
    let Some(settings) = maps::SETTINGS.get(0) else { return xdp_action::XDP_DROP };
    let trial = hand::trial(&context, settings).is_some();
    if maps::MEDIA_FLOWS.get(found.rule).is_some_and(|flow| flow.next != 0) {
        found.rule = media::edge_shared(context.ctx, found.rule) as u32;
    }
    let outcome = media::edge_forward(context.ctx, found.rule, u32::from(trial));
    // SAFETY: `edge_forward` made the number from a reason.
    let reason = unsafe { Reason::from_own_number(outcome as u8) };
    let verdict = in_force(settings, reason);
    let decision = Decision { reason, verdict, rule: NO_RULE, ..found };
    if let Some(trial) = hand::trial(&context, settings) {
        hand::answer_trial(trial, &decision, found.rule);
        return hand::action(verdict);
    }
    record::record(&context, settings, &decision, length.into());
    if verdict == Verdict::Forward {
        return (outcome >> 8) as u32;
    }
    let told = reason == Reason::MediaTooLong && verdict == Verdict::Drop;
    if told && too_long::edge_too_long(context.ctx, found.rule) == 1 {
        return xdp_action::XDP_TX;
    }
    hand::action(verdict)
}

/// Judges by the shadow generation what was judged in earnest a moment ago, and counts where the
/// two differ. The packet goes on as it was judged in earnest. Nothing else is changed; the
/// shadow's rates are never used up.
#[xdp(frags)]
pub fn edge_shadow(context: XdpContext) -> u32 {
    let Some((decision, action, length)) = hand::handed() else { return xdp_action::XDP_DROP };
    let Some(settings) = maps::SETTINGS.get(0) else { return action };
    let tables = KernelTables {
        trial: true,
        shadow: Some(settings.shadow),
        ..KernelTables::new(context.ctx)
    };
    let frame = frame_of(context.ctx);
    let ifindex = context.ingress_ifindex() as u32;
    let shadow = judge(&tables, settings, &frame, &tables, ifindex);
    let passes = decision.reason.verdict() == Verdict::Pass;
    let would_pass = shadow.reason.verdict() != Verdict::Drop;
    if passes != would_pass {
        let reason = if passes { shadow.reason } else { decision.reason };
        record::count_shadow(shadow_slot(passes, reason as u8), length);
    }
    action
}

/// An outgoing packet, whose first part only lies in linear memory.
struct Outgoing {
    length: usize,
}

impl Environment for Outgoing {
    fn total_length(&self) -> usize {
        self.length
    }
}

/// Remembers the flows this appliance begins, so that their answers are known when they come.
/// It decides nothing.
#[classifier]
pub fn edge_egress(context: TcContext) -> i32 {
    // SAFETY: the packet's first part lies between these two for as long as the program runs.
    let frame =
        unsafe { Frame::from_raw(context.data() as *const u8, context.data_end() as *const u8) };
    if let Some(key) = flow_begun(&frame, &Outgoing { length: context.len() as usize }) {
        let tables = KernelTables::new(context.as_ptr().cast());
        let now = tables.now_seconds();
        if refresh_flow(tables.flow(&key), now) {
            // When it fails, the answer is dropped: the safe side.
            let _ = maps::FLOWS.insert(&key, now, 0);
        }
    }
    TC_ACT_UNSPEC
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
