//! What is remembered of packets on the way: flows that this appliance began, and fragments.

/// A flow that this appliance began, remembered when its packet left. Aligned, so that the kernel
/// program writes it in words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Our address; IPv4 as `::ffff:a.b.c.d`.
    pub local: [u8; 16],
    /// The other side's address, likewise.
    pub remote: [u8; 16],
    /// Our port, big-endian; the identifier for an ICMP echo.
    pub local_port: [u8; 2],
    /// The other side's port, big-endian; zero for an ICMP echo.
    pub remote_port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// How long a remembered flow lets answers in, in seconds.
pub const FLOW_SECONDS: u64 = 60;

/// Key of `FRAGMENTS`: what all fragments of a packet have in common (RFC 791, RFC 8200).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Destination, likewise.
    pub destination: [u8; 16],
    /// Identification, host order.
    pub id: u32,
    /// IP protocol; of IPv6 the number after the fragment header.
    pub protocol: u8,
    /// The zone it came in by.
    pub zone: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// How far the fragments of a packet have come.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// End of what was seen, in bytes of the packet's payload; [`FRAGMENT_SPOILED`]: they
    /// overlapped, and no more pass.
    pub end: u32,
    /// Seconds since boot when the first came.
    pub seconds: u32,
}

/// See [`Fragment::end`].
pub const FRAGMENT_SPOILED: u32 = u32::MAX;
/// How long fragments may follow their first, in seconds. The stack waits as long.
pub const FRAGMENT_SECONDS: u32 = 30;
/// First fragments that are remembered a second, on each CPU.
pub const FRAGMENTS_PER_SECOND: u32 = 4096;
