//! From one program to the next: what a tail call hands on, and trials.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use edge_ebpf::{
    abi::{Handed, Settings, TRIAL_ANSWERED, Trial},
    decide::Decision,
    verdict::{Reason, Verdict},
};

use crate::maps;

/// Hands a decision on.
#[inline(always)]
pub fn hand_on(decision: &Decision, length: u32) {
    let Some(handed) = maps::HANDED.get_ptr_mut(0) else { return };
    // SAFETY: the pointer comes from a per-CPU map.
    unsafe {
        *handed = Handed {
            rule: decision.rule,
            length,
            reason: decision.reason as u8,
            action: action(decision.verdict) as u8,
            zone: decision.zone,
            slot: decision.slot,
            reserved: 0,
        };
    }
}

/// What was handed on: the decision, the action that it means, and the frame's length.
#[inline(always)]
pub fn handed() -> Option<(Decision, u32, u32)> {
    let handed = maps::HANDED.get_ptr_mut(0)?;
    // SAFETY: the pointer comes from a per-CPU map; `hand_on` made the number from a reason.
    let (handed, reason) = unsafe { (*handed, Reason::from_own_number((*handed).reason)) };
    let verdict =
        if handed.action == xdp_action::XDP_PASS as u8 { Verdict::Pass } else { Verdict::Drop };
    let decision =
        Decision { verdict, reason, rule: handed.rule, zone: handed.zone, slot: handed.slot };
    Some((decision, u32::from(handed.action), handed.length))
}

/// The action of a verdict.
#[inline(always)]
pub const fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Answer => xdp_action::XDP_TX,
        Verdict::Forward => xdp_action::XDP_REDIRECT,
    }
}

/// The question in front of the frame, if this is a trial.
#[inline(always)]
pub fn trial(context: &XdpContext, settings: &Settings) -> Option<*mut Trial> {
    let (meta, data) = (context.metadata(), context.data());
    if meta.wrapping_add(size_of::<Trial>()) > data {
        return None;
    }
    let trial = meta as *mut Trial;
    // SAFETY: the comparison above found the bytes to be there.
    let magic = unsafe { (*trial).magic };
    (settings.trial != 0 && magic == settings.trial).then_some(trial)
}

/// Writes the answer to a trial over its question. `flow` is the media flow that was found, or 0.
#[inline(always)]
pub fn answer_trial(trial: *mut Trial, decision: &Decision, flow: u32) {
    // SAFETY: `trial` found the bytes to be there, and nothing has moved them.
    unsafe {
        (*trial).magic = TRIAL_ANSWERED;
        (*trial).rule = decision.rule;
        (*trial).reason = decision.reason as u8;
        (*trial).verdict = match decision.reason.verdict() {
            Verdict::Pass => 0,
            Verdict::Drop => 1,
            Verdict::Answer => 2,
            Verdict::Forward => 3,
        };
        (*trial).zone = decision.zone;
        (*trial).flow = flow;
        (*trial).monitored = u8::from(
            decision.verdict == Verdict::Pass && decision.reason.verdict() != Verdict::Pass,
        );
    }
}
