//! What passing packets leave behind, and what later ones are refused for: rates, content and
//! fragments.

use std::{collections::HashMap, net::IpAddr};

use edge_ebpf::verdict::Reason;

use super::{
    headers::{Packet, Piece, Transport, number},
    world::{Carries, Flow, Limit, Scope, World},
};

/// Seconds in which fragments follow their first.
const FRAGMENT_SECONDS: u64 = 30;
/// Parts of a nanosecond in which rates reckon.
const PARTS: u64 = 256;
/// Bytes of a message in which scanners are looked for.
const SCANNED: usize = 512;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    fragments: HashMap<FragmentName, Fragment>,
    /// Sequence number of a connection's first byte.
    beginnings: HashMap<Flow, u32>,
    sources: HashMap<(IpAddr, u32), Due>,
    totals: HashMap<u32, Due>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FragmentName {
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    protocol: u8,
    zone: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fragment {
    /// Where what was seen ends; `None`: some of it overlapped.
    end: Option<u32>,
    second: u64,
}

/// When the next unit of each kind is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Due {
    new: u64,
    packets: u64,
    bytes: u64,
}

/// A packet that would pass.
pub struct Seen<'a> {
    /// Its zone.
    pub zone: u8,
    /// The packet.
    pub packet: &'a Packet,
    /// Bytes of its frame.
    pub length: u64,
}

impl Memory {
    /// Whether a packet that would pass, by this rule if it is one, is refused after all.
    pub fn refuses(
        &mut self,
        world: &World,
        now: u64,
        seen: &Seen<'_>,
        rule: Option<u32>,
    ) -> Option<Reason> {
        let rule = world.rules.iter().find(|other| Some(other.id) == rule);
        if let Some(rule) = rule {
            if let Some(reason) = self.content(seen.packet, rule.content) {
                return Some(reason);
            }
            if let Some(limits) = rule.limits {
                let limits = world.limits[limits];
                let due = self.sources.entry((network(seen.packet.source), rule.id)).or_default();
                if !take(&limits.source, due, now, seen) {
                    return Some(Reason::RateSource);
                }
                let due = self.totals.entry(rule.id).or_default();
                if !take(&limits.total, due, now, seen) {
                    return Some(Reason::RateTotal);
                }
            }
        }
        let refused = self.begins(now / 1_000_000_000, seen);
        if let Transport::Tcp { from, to, flags } = seen.packet.transport
            && flags & 0x12 == 2
            && refused.is_none()
            && rule.is_some_and(|rule| rule.content != Carries::Anything)
        {
            let (flow, sequence) = segment(seen.packet, from, to);
            self.beginnings.insert(flow, sequence.wrapping_add(1));
        }
        refused
    }

    /// Remembers a first fragment; refuses one that comes twice.
    fn begins(&mut self, second: u64, seen: &Seen<'_>) -> Option<Reason> {
        let packet = seen.packet;
        let (id, length) = packet.fragment?;
        let name = FragmentName {
            source: packet.source,
            destination: packet.destination,
            id,
            protocol: if packet.source.is_ipv4() { packet.protocol } else { 0 },
            zone: seen.zone,
        };
        let again = self.fragments.get(&name).is_some_and(|known| known.second + 1 >= second);
        let end = (!again).then_some(length);
        self.fragments.insert(name, Fragment { end, second });
        again.then_some(Reason::FragmentOverlap)
    }

    /// Judges a later fragment.
    pub fn follows(&mut self, second: u64, zone: u8, piece: &Piece) -> Reason {
        let name = FragmentName {
            source: piece.source,
            destination: piece.destination,
            id: piece.id,
            protocol: piece.protocol,
            zone,
        };
        match self.fragments.get_mut(&name) {
            Some(known) if known.second + FRAGMENT_SECONDS >= second => match known.end {
                Some(end) if piece.offset >= end => {
                    known.end = Some(piece.offset + piece.length);
                    Reason::FragmentTracked
                }
                _ => {
                    known.end = None;
                    Reason::FragmentOverlap
                }
            },
            _ => Reason::Fragment,
        }
    }

    fn content(&self, packet: &Packet, carries: Carries) -> Option<Reason> {
        if carries == Carries::Anything {
            return None;
        }
        let udp = match packet.transport {
            Transport::Udp { .. } => true,
            Transport::Tcp { from, to, flags } => {
                let (flow, sequence) = segment(packet, from, to);
                // Only a connection's first bytes say what it is.
                if flags & 0x12 == 2 || self.beginnings.get(&flow) != Some(&sequence) {
                    return None;
                }
                false
            }
            Transport::Icmp { .. } | Transport::Other => return None,
        };
        let first = *packet.payload.first()?;
        match carries {
            Carries::Stun if !matches!(first, 0..=3 | 64..=79) => Some(Reason::NotMedia),
            Carries::Media if !matches!(first, 0..=3 | 16..=79 | 128..=191) => {
                Some(Reason::NotMedia)
            }
            Carries::Sip if !is_sip(&packet.payload, udp) => Some(Reason::NotSip),
            Carries::Sip if is_scanner(&packet.payload) => Some(Reason::SipScanner),
            _ => None,
        }
    }
}

/// A TCP segment's connection, and the sequence number of its first byte.
fn segment(packet: &Packet, from: u16, to: u16) -> (Flow, u32) {
    let flow = Flow {
        protocol: 6,
        local: packet.destination,
        local_port: to,
        remote: packet.source,
        remote_port: from,
        left_at: 0,
    };
    let high = u32::from(number(&packet.upper, 4));
    (flow, high * 65_536 + u32::from(number(&packet.upper, 6)))
}

/// What counts as one source: of IPv6 a /64.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

/// Takes a packet from all of a scope's limits, or from none.
fn take(scope: &Scope, due: &mut Due, now: u64, seen: &Seen<'_>) -> bool {
    let opens = matches!(seen.packet.transport, Transport::Tcp { flags, .. } if flags & 0x12 == 2);
    let now = now * PARTS;
    let mut after = *due;
    let fits = (!opens || unit(&scope.new, &mut after.new, now, 1))
        && unit(&scope.packets, &mut after.packets, now, 1)
        && unit(&scope.bytes, &mut after.bytes, now, seen.length);
    if fits {
        *due = after;
    }
    fits
}

/// `units` are due at a time of their own; they may come early by the burst.
fn unit(limit: &Limit, due: &mut u64, now: u64, units: u64) -> bool {
    if limit.per_second == 0 {
        return true;
    }
    let each = (PARTS * 1_000_000_000 / limit.per_second).max(1);
    let at = (*due).max(now);
    if at - now > each.saturating_mul(limit.burst) {
        return false;
    }
    *due = at + each * units;
    true
}

/// Whether a payload begins like SIP: a status line, a method and a URI, a keep-alive.
fn is_sip(payload: &[u8], udp: bool) -> bool {
    match payload[0] {
        b'\r' | b'\n' => return true,
        0 | 1 if udp => return payload.get(4..8) == Some(&[0x21, 0x12, 0xa4, 0x42]),
        _ => {}
    }
    if payload.len() >= 8 && payload[..6].eq_ignore_ascii_case(b"SIP/2.") {
        return true;
    }
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(byte);
    let length = payload.iter().take_while(|byte| token(byte)).count();
    if length == 0 || length >= 24 {
        return length > 0;
    }
    match &payload[length..] {
        // The rest may come with the next segment.
        [] | [b' '] | [b' ', _] => true,
        [b' ', b'/' | b'*', ..] => false,
        [b' ', first, second, ..] => length > 4 || [first | 0x20, second | 0x20] != *b"ht",
        _ => false,
    }
}

/// Whether the head of a SIP message names a scanner.
fn is_scanner(payload: &[u8]) -> bool {
    let head = payload.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(payload.len());
    let signatures: [&[u8]; 4] = [b"sipvicio", b"sundaydd", b"sipcli/v", b"friendly-scanner"];
    (0..head.min(SCANNED))
        .any(|at| signatures.iter().any(|signature| payload[at..].starts_with(signature)))
}
