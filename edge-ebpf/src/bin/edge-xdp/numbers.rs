//! What the functions of BPF take and give: they know numbers only, at most five of 64 bits, and give
//! one.

use aya_ebpf::bindings::xdp_md;
use edge_ebpf::{
    decide::{Family, Found, Judged, Packed, Place},
    packet::{Frame, Ip, Link, Piece},
    verdict::Reason,
};

use crate::tables::KernelTables;

/// The number that stands for no reason.
pub(super) const NO_REASON: u8 = 255;

/// A reason to refuse the packet in a number, as a function of BPF returns it.
#[inline(always)]
pub(super) fn answer(reason: Option<Reason>) -> u64 {
    match reason {
        Some(reason) => reason as u64,
        None => u64::from(NO_REASON),
    }
}

#[inline(always)]
pub(super) fn answer_of(number: u64) -> Option<Reason> {
    // SAFETY: `answer` made it from a reason, or it is the number that stands for none.
    (number as u8 != NO_REASON).then(|| unsafe { Reason::from_own_number(number as u8) })
}

/// What [`edge_ebpf::decide::rule`] says in a number, as a function of BPF returns it.
#[inline(always)]
pub(super) fn step(found: Option<Found>) -> u64 {
    match found {
        Some(found) => packed(found),
        None => u64::from(NO_REASON),
    }
}

#[inline(always)]
pub(super) fn step_of(number: u64) -> Option<Found> {
    (number as u8 != NO_REASON).then(|| unpacked(number))
}

/// What was found in one number, as a function of BPF returns it. Bits 8 to 11 are the content,
/// bits 16 to 31 the limits.
#[inline(always)]
pub(super) fn packed(found: Found) -> u64 {
    (u64::from(found.rule) << 32)
        | u64::from(found.limits) << 16
        | u64::from(found.content & 15) << 8
        | found.reason as u64
}

#[inline(always)]
pub(super) fn unpacked(packed: u64) -> Found {
    Found {
        // SAFETY: `packed` made it from a reason.
        reason: unsafe { Reason::from_own_number(packed as u8) },
        rule: (packed >> 32) as u32,
        limits: (packed >> 16) as u16,
        content: (packed >> 8) as u8 & 15,
    }
}

#[inline(always)]
pub(super) fn reason_of(number: u64) -> Reason {
    // SAFETY: `edge_piece` made it from a reason.
    unsafe { Reason::from_own_number(number as u8) }
}

#[inline(always)]
pub(super) fn whole(first: u64, second: u64) -> [u8; 16] {
    // SAFETY: sixteen bytes either way, and every bit pattern is a value of both.
    unsafe { core::mem::transmute([first, second]) }
}

/// Where the headers lie: the link layer's length, and above it that of the network layer.
#[inline(always)]
pub(super) fn place_of(link: &Link, header_length: u16) -> u32 {
    u32::from(link.length) | u32::from(header_length) << 8
}

impl KernelTables {
    /// Where the IP header begins, and how it is judged, in one number.
    #[inline(always)]
    pub(super) fn packed_link(&self, link: &Link) -> u32 {
        let shadow = match self.shadow {
            Some(generation) => generation + 1,
            None => 0,
        };
        u32::from(link.length) | u32::from(self.trial) << 8 | (shadow & 7) << 9
    }

    /// Where a fragment lies, and how it is judged, in one number.
    #[inline(always)]
    pub(super) fn piece(&self, link: &Link, zone: u8, six: bool) -> u32 {
        u32::from(link.length)
            | u32::from(zone & 1) << 8
            | u32::from(six) << 9
            | u32::from(self.trial) << 10
    }

    /// What was judged, in numbers that a function of BPF takes; its facts go beside them.
    #[inline(always)]
    pub(super) fn packed_judged(&self, judged: &Judged) -> [u64; 3] {
        let shadow = match self.shadow {
            Some(generation) => generation + 1,
            None => 0,
        };
        let place = u64::from(judged.network)
            | u64::from(judged.upper & 0x7fff) << 8
            | u64::from(judged.six) << 24
            | u64::from(self.trial) << 25
            | u64::from(shadow & 7) << 26
            | (judged.found.reason as u64) << 32
            | u64::from(judged.place.zone) << 40;
        let found = u64::from(judged.found.rule)
            | u64::from(judged.found.limits) << 32
            | u64::from(judged.found.content) << 48;
        let fragment = u64::from(judged.fragment_id) << 32 | u64::from(judged.fragment_length);
        [place, found, fragment]
    }
}

/// The tables as [`KernelTables::packed_link`] tells.
#[inline(always)]
pub(super) fn tables_of(context: *mut xdp_md, place: u32) -> KernelTables {
    let shadow = place >> 9 & 7;
    KernelTables {
        context,
        trial: place >> 8 & 1 != 0,
        shadow: if shadow == 0 { None } else { Some(shadow - 1) },
    }
}

/// A packet as [`edge_ebpf::decide::replies`] looks at it, read again from the frame.
#[inline(always)]
pub(super) fn packet_again<'a, A: Family>(
    frame: &Frame<'a>,
    place: u32,
    packed: Packed,
) -> Option<Ip<'a, A>> {
    let network = place & 0x1f;
    let (source, destination) = A::addresses(frame, network as usize)?;
    let mut upper = frame.cursor();
    upper.skip((network + (place >> 8 & 0x7fff)) as usize);
    Some(Ip {
        source,
        destination,
        hop_limit: 0,
        protocol: packed.protocol(),
        fragment: packed.fragment(),
        fragment_id: 0,
        fragment_length: 0,
        header_length: 0,
        transport: packed.transport(),
        upper,
    })
}

/// Offset, length and protocol of a fragment in one number.
#[inline(always)]
pub(super) fn piece_of<A>(piece: &Piece<A>) -> u64 {
    u64::from(piece.offset & 0xffff)
        | u64::from(piece.length & 0xffff) << 16
        | u64::from(piece.protocol) << 32
}

/// What was judged, from [`KernelTables::packed_judged`].
#[inline(always)]
pub(super) fn judged_of(
    context: *mut xdp_md,
    place: u64,
    facts: u64,
    found: u64,
    fragment: u64,
) -> (KernelTables, Judged) {
    let number = (place >> 32) as u8;
    let shadow = (place >> 26 & 7) as u32;
    let tables = KernelTables {
        context,
        trial: place >> 25 & 1 != 0,
        shadow: if shadow == 0 { None } else { Some(shadow - 1) },
    };
    let judged = Judged {
        found: Found {
            reason: if number == Reason::Rule as u8 { Reason::Rule } else { Reason::NoRule },
            rule: found as u32,
            limits: (found >> 32) as u16,
            content: (found >> 48) as u8,
        },
        place: Place { zone: (place >> 40) as u8 & 1, slot: 0 },
        packed: Packed(facts),
        network: (place & 0x1f) as u32,
        upper: (place >> 8 & 0x7fff) as u32,
        fragment_id: (fragment >> 32) as u32,
        fragment_length: fragment as u32,
        six: place >> 24 & 1 != 0,
    };
    (tables, judged)
}
