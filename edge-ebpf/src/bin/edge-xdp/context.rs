//! What the kernel says of the packet and of the time.

use aya_ebpf::{bindings::xdp_md, helpers::bpf_ktime_get_coarse_ns, programs::XdpContext};
use edge_ebpf::packet::Frame;

/// Nanoseconds since boot, to a clock tick.
#[inline(always)]
pub fn now_nanoseconds() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The packet of a context.
#[inline(always)]
pub fn frame_of<'a>(context: *mut xdp_md) -> Frame<'a> {
    let context = XdpContext::new(context);
    // SAFETY: the packet lies between these two for as long as the program runs.
    unsafe { Frame::from_raw(context.data() as *const u8, context.data_end() as *const u8) }
}
