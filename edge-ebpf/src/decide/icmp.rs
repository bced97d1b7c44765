//! ICMP and ICMPv6, by the tables of RFC 4890 and their counterpart for IPv4.
//!
//! | type | IPv4 | IPv6 | what happens |
//! | --- | --- | --- | --- |
//! | neighbour discovery (RS, RA, NS, NA) | | 133-136 | passes with hop limit 255, unfragmented (RFC 6980) |
//! | multicast listener discovery | | 130-132, 143 | passes from the link: hop limit 1, link-local or no source |
//! | errors | 3, 11, 12 | 1-4 | pass when they quote a packet of ours |
//! | echo reply | 0 | 129 | passes when it answers a request of ours |
//! | echo request | 8 | 128 | a matter of rules |
//! | all others, redirects among them | | | dropped |

use super::{Family, Tables, Tuple, reply};
use crate::{
    packet::{self, Ip, Kind, Quoted},
    verdict::Reason,
};

/// What keeps an IPv6 link alive, or is meant to look like it: decided before everything else.
#[inline(always)]
pub(super) fn local_link(ip: &Ip<'_, [u8; 16]>) -> Option<Reason> {
    if ip.transport.kind != Kind::Icmp {
        return None;
    }
    let unspecified = ip.source.is([0; 16]);
    match ip.transport.detail {
        133..=136 if ip.fragment => Some(Reason::Fragment),
        133..=136 if ip.hop_limit != 255 => Some(Reason::NeighbourHopLimit),
        // RFC 4861: solicitations come from no address before there is one, advertisements never.
        134 | 136 if unspecified => Some(Reason::BadSource),
        133..=136 => Some(Reason::NeighbourDiscovery),
        130..=132 | 143 => {
            let link_local = ip.source[0] == 0xfe && ip.source[1] & 0xc0 == 0x80;
            let near = ip.hop_limit == 1 && (link_local || unspecified);
            Some(if near { Reason::MulticastListener } else { Reason::IcmpType })
        }
        _ if unspecified => Some(Reason::BadSource),
        _ => None,
    }
}

/// ICMP that answers something: an error or an echo reply.
#[inline(always)]
pub(super) fn answer<T: Tables, A: Family>(tables: &T, ip: &Ip<'_, A>) -> Reason {
    let kind = ip.transport.detail;
    let (echo_reply, error) = if A::ICMP == packet::PROTOCOL_ICMP {
        (kind == packet::ICMP_ECHO_REPLY, matches!(kind, 3 | 11 | 12))
    } else {
        (kind == packet::ICMPV6_ECHO_REPLY, matches!(kind, 1..=4))
    };
    if echo_reply {
        let tuple = Tuple::new(ip.source, 0, ip.destination, ip.transport.source_port);
        return if reply::remembered(tables, &tuple, A::ICMP) {
            Reason::IcmpReply
        } else {
            Reason::IcmpUnsolicited
        };
    }
    if !error {
        return Reason::IcmpType;
    }
    let Some(quoted) = packet::quoted::<A>(ip.upper) else {
        return Reason::IcmpUnsolicited;
    };
    // The error goes to whoever sent the quoted packet.
    if !quoted.source.is(ip.destination) {
        return Reason::IcmpUnsolicited;
    }
    let Quoted { source: local, destination: remote, .. } = quoted;
    let tuple = Tuple::new(remote, quoted.destination_port, local, quoted.source_port);
    let ours = match quoted.protocol {
        packet::PROTOCOL_TCP => tables.tcp_socket(&tuple),
        packet::PROTOCOL_UDP => {
            tables.udp_socket(&tuple) || reply::remembered(tables, &tuple, quoted.protocol)
        }
        _ => reply::remembered(tables, &tuple, quoted.protocol),
    };
    if ours { Reason::IcmpError } else { Reason::IcmpUnsolicited }
}
