//! Key and value of every map the kernel program and the daemon share.
//!
//! All types are `repr(C)` without padding, so that a key is its bytes. Addresses and ports in
//! keys are big-endian bytes, as they stand in the packet; counters and flags are native.
//! A change of any layout here must raise [`SCHEMA`].

mod blocks;
mod flows;
mod limits;
pub mod map_names;
mod media;
mod records;
mod rules;
#[cfg(test)]
mod tests;
#[cfg(feature = "user")]
mod user;

pub use self::{blocks::*, flows::*, limits::*, media::*, records::*, rules::*};

/// Version of all layouts in this module. Pins with another number are refused, never reused.
pub const SCHEMA: u32 = 4;
/// Zones: an interface, or a VLAN of a trunk, belongs to one.
pub const ZONES: u32 = 2;
/// The side of the Internet.
pub const ZONE_EXTERNAL: u8 = 0;
/// The side of the organisation.
pub const ZONE_INTERNAL: u8 = 1;
/// No zone: everything is dropped (`interface-unknown`, `vlan-unknown`).
pub const ZONE_NONE: u8 = 0xff;
/// Interfaces beyond this ifindex cannot be configured; the attach says so.
pub const MAX_IFINDEX: u32 = 4096;
/// Generations of a rule set: two that take turns, and the shadow.
pub const GENERATIONS: u32 = 3;
/// The slot of the shadow: a rule set that only counts what it would have done otherwise.
pub const GENERATION_SHADOW: u32 = 2;
/// Slot of `PROGRAMS`: judges a packet by the shadow generation.
pub const PROGRAM_SHADOW: u32 = 0;
/// Slot of `PROGRAMS`: answers a SYN with a SYN cookie.
pub const PROGRAM_SYN_COOKIE: u32 = 1;
/// Slot of `PROGRAMS`: answers a trial.
pub const PROGRAM_TRIAL: u32 = 2;
/// Slot of `PROGRAMS`: forwards a packet of a media flow.
pub const PROGRAM_MEDIA: u32 = 3;
/// Slots of `PROGRAMS`.
pub const PROGRAM_SLOTS: u32 = 4;

/// What the next program must know of a packet. Per CPU: the next program runs at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// Id of the rule that decided; of a media flow, its slot in `MEDIA_FLOWS`.
    pub rule: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// Number of the reason.
    pub reason: u8,
    /// The action that was decided on.
    pub action: u8,
    /// Zone.
    pub zone: u8,
    /// The interface's slot in `REASON_COUNTERS`.
    pub slot: u8,
    /// Zero.
    pub reserved: u32,
}

/// One entry in `SETTINGS`. Written last when anything changes: one store swaps the generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// 0 or 1: which slot of the generation maps is in force. [`NO_GENERATION`]: none yet.
    pub generation: u32,
    /// `SETTING_*` bits.
    pub flags: u32,
    /// Sampled events per second, CPU and reason. 0 switches events off.
    pub events_per_second: u32,
    /// Another number after every change of the block tables, and 0 while they change. A block
    /// that the program has found is remembered under it and counts for nothing under any other;
    /// under 0 nothing is remembered. Another number after every swap of the generation too, and
    /// written after it: what is remembered under it knows the management prefixes in force.
    pub block_epoch: u64,
    /// A number that only this appliance's owner knows, for trial runs: see [`Trial`].
    pub trial: u64,
    /// Packets that may reach the stack, by zone.
    pub ceilings: [Limit; ZONES as usize],
    /// Blocks that begin with a later version are not in force yet: see [`Block`].
    pub block_version: u32,
    /// [`GENERATION_SHADOW`] while a shadow counts, else [`NO_GENERATION`].
    pub shadow: u32,
    /// New connections of a zone in a second beyond which SYNs are answered with cookies; 0: never.
    /// See [`FLOOD_ROUND`] for how exactly.
    pub flood_syns: u32,
    /// Secret of the hash of [`bucket_index`].
    pub hash_seed: u32,
    /// Bytes of a frame that an event takes along, at most [`EVENT_DATA`].
    pub event_bytes: u32,
    /// Zero.
    pub reserved: u32,
}

impl Settings {
    /// The generation, read once: the kernel program looks at the settings in the map itself,
    /// where the daemon may write another number at any time.
    #[inline(always)]
    pub fn generation_now(&self) -> u32 {
        // SAFETY: a reference to a number.
        unsafe { core::ptr::read_volatile(&raw const self.generation) }
    }

    /// The epoch of remembered blocks, read once and before whatever is looked up after it.
    #[inline(always)]
    pub fn epoch_now(&self) -> u64 {
        // SAFETY: a reference to a number.
        unsafe { core::ptr::read_volatile(&raw const self.block_epoch) }
    }
}

/// No rule set has been written yet.
pub const NO_GENERATION: u32 = GENERATIONS;
/// Count drops, but pass the packets (monitor-only).
pub const SETTING_MONITOR: u32 = 1;
/// Blocked IPv6 prefixes shorter than /48 exist: `PRESENCE6_SHORT` must be asked, too.
pub const SETTING_SHORT_PREFIXES6: u32 = 1 << 1;
/// Let LLDP through.
pub const SETTING_LLDP: u32 = 1 << 2;
/// Let LACP through.
pub const SETTING_LACP: u32 = 1 << 3;
/// Let DHCP answers through to the client ports (68, 546).
pub const SETTING_DHCP_CLIENT: u32 = 1 << 4;
/// There is a threshold for floods: TCP that rules let in is asked once more.
pub const SETTING_FLOOD: u32 = 1 << 6;
/// There are ceilings: everything that is let in is asked once more.
pub const SETTING_CEILING: u32 = 1 << 7;
/// Media flows may be for endpoints behind us (`MEDIA_PINHOLES`).
pub const SETTING_PINHOLES: u32 = 1 << 8;
/// Any block exists at all (else the block tables are not asked).
pub const SETTING_BLOCKS: u32 = 1 << 5;

/// An interface, or a VLAN of a trunk.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `ZONE_*`. In a fresh map all bytes are zero, so this is the zone plus one.
    pub zone_plus_one: u8,
    /// 1: tagged frames are looked up in `VLANS`.
    pub trunk: u8,
    /// Its slot in `REASON_COUNTERS`, 1 to 31; 0 when there are more interfaces than slots.
    pub slot: u8,
    /// Zero.
    pub reserved: u8,
}

/// Key of `VLANS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanKey {
    /// The device.
    pub ifindex: u32,
    /// Outer VLAN id, host order.
    pub outer: u16,
    /// Inner VLAN id, host order; 0 for a single tag.
    pub inner: u16,
}

/// An IPv4 address in one word, as it stands in the packet.
pub const fn word4(address: [u8; 4]) -> u32 {
    u32::from_ne_bytes(address)
}

/// An IPv6 address in two words, as it stands in the packet.
pub const fn words6(address: [u8; 16]) -> [u64; 2] {
    // SAFETY: sixteen bytes either way, and every bit pattern is a value of both.
    unsafe { core::mem::transmute(address) }
}

/// An IPv6 address from two words, as it stands in the packet.
pub const fn address6(words: [u64; 2]) -> [u8; 16] {
    // SAFETY: sixteen bytes either way, and every bit pattern is a value of both.
    unsafe { core::mem::transmute(words) }
}

/// An IPv4 address in the 16-byte form used by keys that serve both families.
pub const fn mapped(address: [u8; 4]) -> [u8; 16] {
    // As one number, so that the kernel program writes it with two stores.
    ((0xffff_u128 << 32) | u32::from_be_bytes(address) as u128).to_be_bytes()
}
