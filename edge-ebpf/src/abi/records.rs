//! What the program tells: counters, sampled drops, and the answer to a trial.

use crate::verdict::REASON_SLOTS;

/// Slots for interfaces in `REASON_COUNTERS`. Slot 0 is for frames of no configured interface.
pub const INTERFACE_SLOTS: u32 = 32;

/// Index into `REASON_COUNTERS`.
pub const fn reason_slot(interface_slot: u8, reason: u8) -> u32 {
    ((interface_slot as u32) % INTERFACE_SLOTS) * REASON_SLOTS as u32
        + (reason as u32) % REASON_SLOTS as u32
}

/// Index into `SHADOW_COUNTERS`: first what passes and the shadow would drop, by the shadow's
/// reason; then what is dropped and the shadow would pass, by the reason in force.
pub const fn shadow_slot(shadow_drops: bool, reason: u8) -> u32 {
    (if shadow_drops { 0 } else { REASON_SLOTS as u32 }) + (reason as u32) % REASON_SLOTS as u32
}

/// Packets and bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

impl core::iter::Sum for Counter {
    fn sum<I: Iterator<Item = Self>>(counters: I) -> Self {
        counters.fold(Self::default(), |total, counter| Self {
            packets: total.packets.wrapping_add(counter.packets),
            bytes: total.bytes.wrapping_add(counter.bytes),
        })
    }
}

/// Packets and bytes of a reason, and how many events of it this CPU has sent in this second: in
/// one value, so that a dropped packet costs one look-up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReasonCounter {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
    /// The kernel's tick (jiffies) at which the second was last looked at. The coarse clock moves
    /// with it and not between, so within one tick the clock has nothing new to say.
    pub tick: u64,
    /// Seconds since boot.
    pub second: u32,
    /// Events sent in that second.
    pub sent: u32,
}

impl ReasonCounter {
    /// What was counted, without the events.
    pub const fn counted(self) -> Counter {
        Counter { packets: self.packets, bytes: self.bytes }
    }
}

/// A sampled packet that was dropped (or would have been, in monitor mode).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`, coarse).
    pub at_nanoseconds: u64,
    /// Source address; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
    /// The interface.
    pub ifindex: u32,
    /// Length of the frame in bytes.
    pub length: u32,
    /// Rule id, or `u32::MAX` when no rule decided.
    pub rule: u32,
    /// Source port, big-endian.
    pub source_port: [u8; 2],
    /// Destination port, big-endian; for ICMP the type and code.
    pub destination_port: [u8; 2],
    /// Outer VLAN id, host order; 0 when untagged.
    pub vlan: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Number of the reason.
    pub reason: u8,
    /// Zone.
    pub zone: u8,
    /// 1: the packet was passed all the same (monitor mode).
    pub monitored: u8,
    /// EtherType, big-endian.
    pub ether_type: [u8; 2],
    /// Bytes of the frame in `data`.
    pub captured: u16,
    /// Zero.
    pub reserved: [u8; 6],
    /// The frame's first bytes.
    pub data: [u8; EVENT_DATA],
}

/// Room for a frame's first bytes in an event.
pub const EVENT_DATA: usize = 160;

/// A trial run: 32 bytes of metadata in front of the frame, given with `BPF_PROG_TEST_RUN`. Real
/// traffic brings no metadata, and cannot know the number. The program changes nothing in a trial
/// and writes its answer over the question.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// [`Settings::trial`]; in the answer [`TRIAL_ANSWERED`].
    pub magic: u64,
    /// Id of the rule that decided, or `u32::MAX`.
    pub rule: u32,
    /// Number of the reason.
    pub reason: u8,
    /// 0 pass, 1 drop, 2 answered with a cookie, 3 forwarded.
    pub verdict: u8,
    /// Zone, or `ZONE_NONE`.
    pub zone: u8,
    /// 1: passed in monitor mode only.
    pub monitored: u8,
    /// Slot of the media flow that was found, or 0.
    pub flow: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

/// See [`Trial::magic`].
pub const TRIAL_ANSWERED: u64 = u64::from_be_bytes(*b"answered");
