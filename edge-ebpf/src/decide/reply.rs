//! Answers to what this appliance began.
//!
//! A TCP segment is one when the kernel has a socket for exactly this connection that is not
//! listening; a UDP datagram when the kernel has a connected socket for it, or when a datagram
//! of the same flow left a short while ago. A bound socket alone proves nothing.

use super::{Family, Tables, Tuple};
use crate::{
    abi::{FLOW_SECONDS, FlowKey},
    packet::{
        self, Environment, Frame, Handler, Ip, Kind, Link, PROTOCOL_UDP, Piece, TCP_ACK, TCP_SYN,
    },
    verdict::Reason,
};

/// Whether the packet answers something of ours, and how that is known.
#[inline(always)]
pub(super) fn reply<T: Tables, A: Family>(tables: &T, ip: &Ip<'_, A>) -> Option<Reason> {
    let transport = &ip.transport;
    let tuple =
        Tuple::new(ip.source, transport.source_port, ip.destination, transport.destination_port);
    match transport.kind {
        // A segment that opens a connection answers nothing. It could also revive a connection
        // in TIME-WAIT on a port that no rule opens (RFC 9293 section 3.10.7.4).
        Kind::Tcp if transport.detail & (TCP_SYN | TCP_ACK) == TCP_SYN => None,
        Kind::Tcp => tables.tcp_socket(&tuple).then_some(Reason::ReplyTcp),
        Kind::Udp if tables.udp_socket(&tuple) => Some(Reason::ReplyUdp),
        Kind::Udp if remembered(tables, &tuple, PROTOCOL_UDP) => Some(Reason::ReplyRemembered),
        Kind::Udp | Kind::Icmp | Kind::Other => None,
    }
}

/// Whether a packet of this flow left within [`FLOW_SECONDS`].
#[inline(always)]
pub(super) fn remembered<T: Tables, A: Family>(tables: &T, tuple: &Tuple<A>, protocol: u8) -> bool {
    match tables.flow(&tuple.flow(protocol)) {
        // An entry from the future is one that another CPU has just written.
        Some(left_at) => tables.now_seconds().saturating_sub(left_at) <= FLOW_SECONDS,
        None => false,
    }
}

/// Whether this is a DHCP server's answer to a client (RFC 2131 section 4.1, RFC 8415 section
/// 7.2: ports 67 to 68, or 547 to 546 from the link).
#[inline(always)]
pub(super) fn is_dhcp_answer<A: Family>(ip: &Ip<'_, A>) -> bool {
    if ip.transport.kind != Kind::Udp {
        return false;
    }
    let ports = (ip.transport.source_port, ip.transport.destination_port);
    if A::ICMP == packet::PROTOCOL_ICMP {
        return ports == (67, 68);
    }
    let source = ip.source.mapped();
    ports == (547, 546) && source[0] == 0xfe && source[1] & 0xc0 == 0x80
}

/// Seconds after which a flow that is still in use is written again.
const REFRESH_SECONDS: u64 = 2;

/// The flow that an outgoing frame begins or goes on with, when its answers are to be known by
/// it: UDP and ICMP echo requests.
#[inline(always)]
pub fn flow_begun(frame: &Frame<'_>, environment: &impl Environment) -> Option<FlowKey> {
    packet::parse(frame, environment, Outgoing).ok()?
}

/// Reads the flow of an outgoing packet.
struct Outgoing;

impl Handler for Outgoing {
    type Output = Option<FlowKey>;

    fn link(self, _link: &Link) -> Self::Output {
        None
    }

    #[inline(always)]
    fn ipv4(self, _link: &Link, ip: &Ip<'_, [u8; 4]>) -> Self::Output {
        outgoing(ip)
    }

    #[inline(always)]
    fn ipv6(self, _link: &Link, ip: &Ip<'_, [u8; 16]>) -> Self::Output {
        outgoing(ip)
    }

    fn piece4(self, _link: &Link, _piece: &Piece<[u8; 4]>) -> Self::Output {
        None
    }

    fn piece6(self, _link: &Link, _piece: &Piece<[u8; 16]>) -> Self::Output {
        None
    }
}

#[inline(always)]
fn outgoing<A: Family>(ip: &Ip<'_, A>) -> Option<FlowKey> {
    let transport = &ip.transport;
    let remote_port = match transport.kind {
        Kind::Udp => transport.destination_port,
        Kind::Icmp if transport.detail == A::ECHO.1 => 0,
        Kind::Tcp | Kind::Icmp | Kind::Other => return None,
    };
    let tuple = Tuple::new(ip.destination, remote_port, ip.source, transport.source_port);
    Some(tuple.flow(ip.protocol))
}

/// Whether the flow must be written: it is not there, or has not been for a while.
#[inline(always)]
pub const fn refresh_flow(written_at: Option<u64>, now: u64) -> bool {
    match written_at {
        Some(written_at) => now.saturating_sub(written_at) >= REFRESH_SECONDS,
        None => true,
    }
}
