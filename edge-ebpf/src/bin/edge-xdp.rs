//! Maps and entry points of the kernel half, nothing else.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macros of the entry points make functions without text")]

#[path = "edge-xdp/maps.rs"]
mod maps;
#[path = "edge-xdp/record.rs"]
mod record;
#[path = "edge-xdp/tables.rs"]
mod tables;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use edge_ebpf::{
    decide::{Tables as _, flow_begun, judge, refresh_flow},
    packet::{Environment, Frame},
    verdict::Verdict,
};

use crate::tables::KernelTables;

/// Judges every packet that comes in.
#[xdp(frags)]
pub fn edge_xdp(context: XdpContext) -> u32 {
    let tables = KernelTables { context: context.ctx };
    let Some(settings) = maps::SETTINGS.get(0) else { return xdp_action::XDP_DROP };
    // SAFETY: the packet lies between these two for as long as the program runs.
    let frame =
        unsafe { Frame::from_raw(context.data() as *const u8, context.data_end() as *const u8) };
    let decision = judge(&tables, settings, &frame, &tables, context.ingress_ifindex() as u32);
    record::record(&context, settings, &decision, frame.len() as u64);
    match decision.verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Answer => xdp_action::XDP_TX,
    }
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
        let tables = KernelTables { context: context.as_ptr().cast() };
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
