//! Maps and entry points of the kernel half, nothing else.
#![no_std]
#![no_main]

#[path = "edge-xdp/maps.rs"]
mod maps;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use core::hint::black_box;

/// Judges every packet that comes in.
#[xdp(frags)]
pub fn edge_xdp(_context: XdpContext) -> u32 {
    if maps::SETTINGS.get(0).is_none() {
        let _ = black_box(maps::INTERFACES.get(0));
        // SAFETY: the value is only compared with nothing.
        let _ = black_box(unsafe {
            maps::VLANS.get(&edge_ebpf::abi::VlanKey { ifindex: 0, outer: 0, inner: 0 })
        });
        let _ = black_box(maps::PORT_WORDS.get_value(0, &0));
        let _ = black_box(maps::PROTOCOL_WORDS.get_value(0, &0));
        let _ = black_box(maps::RULES.get_value(0, &0));
        let _ = black_box(
            maps::SOURCES4
                .get(0)
                .and_then(|m| m.get(&aya_ebpf::btf_maps::lpm_trie::Key::new(32, [0; 4]))),
        );
        let _ = black_box(
            maps::SOURCES6
                .get(0)
                .and_then(|m| m.get(&aya_ebpf::btf_maps::lpm_trie::Key::new(128, [0; 16]))),
        );
        let _ = black_box(maps::DESTINATIONS.get_value_ptr_mut(0, &[0; 16]));
        let _ = black_box(maps::BLOCKED4.get_ptr(&[0; 4]));
        let _ = black_box(maps::BLOCKED6.get_ptr(&[0; 16]));
        let _ = black_box(
            maps::BLOCKED4_PREFIXES.get(&aya_ebpf::btf_maps::lpm_trie::Key::new(32, [0; 4])),
        );
        let _ = black_box(
            maps::BLOCKED6_PREFIXES.get(&aya_ebpf::btf_maps::lpm_trie::Key::new(128, [0; 16])),
        );
        let _ = black_box(maps::PRESENCE4.get(0));
        let _ = black_box(maps::PRESENCE6.get(0));
        let _ = black_box(maps::REASON_COUNTERS.get(0));
        let _ = black_box(maps::RULE_COUNTERS.get(0));
        let _ = black_box(maps::EVENT_BUDGETS.get(0));
        let _ = black_box(maps::FLOWS.get_ptr(&edge_ebpf::abi::FlowKey {
            local: [0; 16],
            remote: [0; 16],
            local_port: [0; 2],
            remote_port: [0; 2],
            protocol: 0,
            reserved: [0; 3],
        }));
        if let Some(entry) = maps::EVENTS.reserve(0) {
            entry.discard(0);
        }
    }
    xdp_action::XDP_PASS
}

/// Remembers the flows this appliance begins.
#[classifier]
pub fn edge_egress(_context: TcContext) -> i32 {
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
