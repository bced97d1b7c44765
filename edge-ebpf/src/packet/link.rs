//! Ethernet and its tags (IEEE 802.1Q, 802.1ad).

use super::Cursor;
use crate::verdict::Reason;

/// EtherType of IPv4.
pub const ETHER_TYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHER_TYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHER_TYPE_IPV6: u16 = 0x86dd;
/// EtherType of slow protocols, LACP among them.
pub const ETHER_TYPE_SLOW_PROTOCOLS: u16 = 0x8809;
/// EtherType of LLDP.
pub const ETHER_TYPE_LLDP: u16 = 0x88cc;

/// The low twelve bits of a tag.
const VLAN_ID: u16 = 0x0fff;

/// The link layer of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The EtherType after the tags, host order.
    pub ether_type: u16,
    /// Outer VLAN id, host order; 0 when untagged (or only tagged with a priority).
    pub outer: u16,
    /// Inner VLAN id, host order; 0 for a single tag.
    pub inner: u16,
    /// Bytes of the Ethernet header and its tags.
    pub length: u8,
}

const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, 0x8100 | 0x88a8 | 0x9100)
}

/// Reads the Ethernet header and up to two tags.
///
/// A tag with the id 0 carries a priority and no VLAN: the kernel takes it away as if it were
/// not there, so it names no VLAN here either; it does count as a tag.
///
/// The answer goes into an empty link of the caller's, so that its fields stay apart in the
/// kernel program's registers.
///
/// # Errors
/// The reason to drop the frame.
#[inline(always)]
pub fn read_link(cursor: &mut Cursor<'_>, link: &mut Link) -> Result<(), Reason> {
    let ethernet = cursor.take::<14>().ok_or(Reason::Truncated)?;
    link.ether_type = ethernet.number::<12>();
    link.length = 14;
    if !is_tag(link.ether_type) {
        return Ok(());
    }
    let tag = cursor.take::<4>().ok_or(Reason::Truncated)?;
    link.length = 18;
    link.outer = tag.number::<0>() & VLAN_ID;
    link.ether_type = tag.number::<2>();
    if !is_tag(link.ether_type) {
        return Ok(());
    }
    let tag = cursor.take::<4>().ok_or(Reason::Truncated)?;
    link.length = 22;
    let inner = tag.number::<0>() & VLAN_ID;
    if link.outer == 0 {
        link.outer = inner;
    } else {
        link.inner = inner;
    }
    link.ether_type = tag.number::<2>();
    if is_tag(link.ether_type) { Err(Reason::VlanDepth) } else { Ok(()) }
}
