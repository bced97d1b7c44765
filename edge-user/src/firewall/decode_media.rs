//! Media flows as JSON for people.

use std::path::Path;

use edge_ebpf::abi::{
    MEDIA_BEHIND_NAT, MEDIA_BY_DAEMON, MEDIA_CANDIDATE, MEDIA_LEARNED, MEDIA_OUT_IPV6,
    MEDIA_REWRITE, MEDIA_RTP, MEDIA_TIMED, MEDIA_TURNS, MediaFlow, MediaState, PinholeKey,
    map_names as names, media_door_flow, media_door_state,
};
use serde_json::{Value, json};

use super::{
    decode::{Rows, address, array, hash, zone},
    explain, sys,
};

/// The entries of one of the media maps; `None`: it is none of them.
pub(super) fn dump(pins: &Path, name: &str) -> Option<Rows> {
    Some(match name {
        names::MEDIA_PORTS => array(pins, name, |index, door: u32| {
            (door != 0).then(|| {
                json!({
                    "zone": zone((index >> 17) as u8),
                    "family": if index & 0x1_0000 == 0 { "ipv4" } else { "ipv6" },
                    "port": index & 0xffff,
                    "flow": media_door_flow(door),
                    "state": media_door_state(door),
                })
            })
        }),
        names::MEDIA_PINHOLES => hash(pins, name, |key: PinholeKey, door: u32| {
            json!({
                "zone": zone(key.zone),
                "address": address(key.address).to_string(),
                "port": u16::from_be_bytes(key.port),
                "flow": media_door_flow(door),
                "state": media_door_state(door),
            })
        }),
        names::MEDIA_FLOWS => array(pins, name, flow),
        names::MEDIA_STATES => array(pins, name, state),
        names::MEDIA_EVENTS => Ok(vec![json!({
            "note": "a ring that is read by taking out, and the daemon is its reader: MEDIA_STATES shows what was learned",
        })]),
        _ => return None,
    })
}

/// A call as people see it.
fn call(number: u64) -> String {
    format!("{number:016x}")
}

/// An address with its port.
fn end(bytes: [u8; 16], port: [u8; 2]) -> String {
    std::net::SocketAddr::new(address(bytes), u16::from_be_bytes(port)).to_string()
}

fn hardware(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// What is left until a second since boot.
fn left(at: u32) -> u64 {
    u64::from(at).saturating_sub(sys::now().seconds())
}

fn flow(slot: u32, flow: MediaFlow) -> Option<Value> {
    if flow == MediaFlow::default() {
        return None;
    }
    let flags: Vec<&str> = [
        (MEDIA_REWRITE, "rewrite"),
        (MEDIA_OUT_IPV6, "out-ipv6"),
        (MEDIA_BEHIND_NAT, "behind-nat"),
        (MEDIA_RTP, "rtp"),
        (MEDIA_BY_DAEMON, "by-daemon"),
        (MEDIA_TURNS, "turns"),
        (MEDIA_TIMED, "timed"),
    ]
    .iter()
    .filter(|(bit, _)| flow.flags & bit != 0)
    .map(|(_, name)| *name)
    .collect();
    let rewritten = |bytes, port| (flow.flags & MEDIA_REWRITE != 0).then(|| end(bytes, port));
    let nat = flow.flags & MEDIA_BEHIND_NAT != 0;
    let source = address(flow.source);
    // Of a mapped address, the first 96 bits are always the same.
    let bits = flow.source_bits.saturating_sub(if source.is_ipv4() { 96 } else { 0 });
    Some(json!({
        "slot": slot,
        "call": call(flow.call),
        "line": flow.line,
        "flags": flags,
        "source": if nat { format!("{source}/{bits}") } else { end(flow.source, flow.source_port) },
        "local": end(flow.local, flow.local_port),
        "to": rewritten(flow.to, flow.to_port),
        "from": rewritten(flow.from, flow.from_port),
        "ifindex": flow.ifindex,
        "vlan": (flow.vlan != 0).then_some(flow.vlan),
        "mtu": (flow.mtu != 0).then_some(flow.mtu),
        "next_hop": hardware(flow.next_hop),
        "device_address": hardware(flow.device),
        "content": explain::content_text(flow.content),
        "packets": explain::limit_text(&flow.packets),
        "bytes": explain::limit_text(&flow.bytes),
        "next": (flow.next != 0).then_some(flow.next),
        "state": flow.state,
        "epoch": flow.epoch,
        "clock": (flow.clock != 0).then_some(flow.clock),
        "ends_in_seconds": left(flow.expires_at_seconds),
        "may_be_learned_for_seconds": left(flow.learn_until_seconds),
        "about": flow.about,
    }))
}

fn state(slot: u32, state: MediaState) -> Option<Value> {
    if state == MediaState::default() {
        return None;
    }
    let (now, known) = (sys::monotonic_nanoseconds(), state.learned != 0);
    let seen = (state.last_seen != 0).then(|| now.saturating_sub(state.last_seen) / 1_000_000);
    let expected = state.highest_sequence.wrapping_sub(state.first_sequence).wrapping_add(1);
    let rtp = state.received != 0;
    Some(json!({
        "slot": slot,
        "packets": state.packets,
        "bytes": state.bytes,
        "dropped": state.dropped,
        "last_seen_milliseconds_ago": seen,
        "learned": match state.learned {
            MEDIA_CANDIDATE => "candidate",
            MEDIA_LEARNED => "learned",
            _ => "nothing",
        },
        "source": known.then(|| end(state.source, state.source_port)),
        "ssrc": known.then(|| format!("{:#010x}", state.ssrc)),
        "epoch": state.epoch,
        "expected": rtp.then_some(expected),
        "received": rtp.then_some(state.received),
        "jitter_in_clock_units": rtp.then_some(state.jitter / 16),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_told_with_addresses_as_text() {
        let row = flow(
            3,
            MediaFlow {
                call: 0xab,
                source: edge_ebpf::abi::mapped([203, 0, 113, 0]),
                source_bits: 96 + 24,
                to_port: [0x1f, 0x90],
                to: edge_ebpf::abi::mapped([10, 0, 0, 7]),
                flags: MEDIA_REWRITE | MEDIA_BEHIND_NAT,
                ..MediaFlow::default()
            },
        )
        .unwrap();
        assert_eq!(row["call"], "00000000000000ab");
        assert_eq!(row["source"], "203.0.113.0/24");
        assert_eq!(row["to"], "10.0.0.7:8080");
        assert_eq!(row["flags"], json!(["rewrite", "behind-nat"]));
        assert!(flow(4, MediaFlow::default()).is_none());
        assert!(state(4, MediaState::default()).is_none());
    }
}
