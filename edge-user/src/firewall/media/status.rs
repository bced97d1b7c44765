//! What the kernel counted, as people read it; also without a daemon.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use edge_ebpf::abi::{MEDIA_LEARNED, MediaFlow, MediaLearned, MediaState};

use super::{
    Counts, Maps,
    entry::{self, Door},
    table,
};
use crate::{
    firewall::{FirewallError, decode, sys},
    media::flow::{CallId, Flow, FlowId, FlowStatus},
};

/// A flow and what it counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// It.
    pub flow: Flow,
    /// What it counted.
    pub status: FlowStatus,
}

/// The flows of these pins, by call and number: for when there is no daemon to ask.
pub fn read(pins: &Path) -> Result<Vec<FlowRow>, FirewallError> {
    let maps = Maps::open(pins)?;
    let (doors, slots) = maps.read()?;
    let open = behind_all(&doors, &slots);
    let now = sys::now().seconds();
    let of_all = Counts::open(pins)?.of(&open)?;
    let rows = open.iter().zip(of_all).filter_map(|(kernel, status)| {
        Some(FlowRow { flow: entry::from_kernel(kernel, now)?, status })
    });
    let mut rows: Vec<FlowRow> = rows.collect();
    rows.sort_by_key(|row| (row.flow.call, row.flow.line, row.flow.id));
    Ok(rows)
}

/// Every flow that comes in by one of these doors, however many share it.
pub(super) fn behind_all(doors: &[(Door, u32)], slots: &HashMap<u32, MediaFlow>) -> Vec<MediaFlow> {
    let all = doors.iter().flat_map(|(door, first)| table::behind(*door, *first, slots));
    all.filter_map(|(_, flow)| flow).collect()
}

/// What was counted for a flow. What was learned under another epoch is nothing.
pub(super) fn status(kernel: &MediaFlow, state: &MediaState) -> FlowStatus {
    let of_now = state.epoch == kernel.epoch;
    let learned = of_now && state.learned == MEDIA_LEARNED;
    let source =
        SocketAddr::new(decode::address(state.source), u16::from_be_bytes(state.source_port));
    let counted = of_now && state.received > 0;
    let expected = state.highest_sequence.wrapping_sub(state.first_sequence).wrapping_add(1);
    FlowStatus {
        id: FlowId(kernel.state),
        call: CallId(kernel.call),
        packets: state.packets,
        bytes: state.bytes,
        dropped: state.dropped,
        last_seen: (state.last_seen != 0).then(|| wall(state.last_seen)),
        source: learned.then_some(source),
        ssrc: counted.then_some(state.ssrc),
        expected: if counted { expected } else { 0 },
        received: if counted { state.received } else { 0 },
        jitter: (counted && kernel.clock != 0).then(|| jitter(state.jitter, kernel.clock)),
        routed: kernel.ifindex != 0,
    }
}

/// Jitter in 16ths of clock units as time.
fn jitter(sixteenths: u32, clock: u32) -> Duration {
    let nanoseconds = u64::from(sixteenths).saturating_mul(1_000_000_000 / 16);
    Duration::from_nanos(nanoseconds.checked_div(u64::from(clock)).unwrap_or(0))
}

/// Nanoseconds since boot by the wall clock.
fn wall(nanoseconds: u64) -> SystemTime {
    let age = sys::monotonic_nanoseconds().saturating_sub(nanoseconds);
    let now = SystemTime::now();
    now.checked_sub(Duration::from_nanos(age)).unwrap_or(now)
}

/// Decodes one record; one of another length is not ours.
pub(super) fn learned(bytes: &[u8]) -> Option<MediaLearned> {
    if bytes.len() != size_of::<MediaLearned>() {
        return None;
    }
    // SAFETY: the length is that of a `MediaLearned`, which is plain data for which every bit
    // pattern is a value; the read does not ask for alignment.
    Some(unsafe { bytes.as_ptr().cast::<MediaLearned>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_under_another_epoch_counts_for_nothing() {
        let kernel = MediaFlow {
            call: 9,
            state: 3,
            epoch: 5,
            clock: 8000,
            ifindex: 2,
            ..MediaFlow::default()
        };
        let state = MediaState {
            packets: 90,
            epoch: 5,
            learned: MEDIA_LEARNED,
            source: edge_ebpf::abi::mapped([192, 0, 2, 7]),
            source_port: 4000u16.to_be_bytes(),
            first_sequence: 65_530,
            highest_sequence: 65_629,
            received: 90,
            jitter: 16 * 80,
            ssrc: 77,
            ..MediaState::default()
        };
        let found = status(&kernel, &state);
        assert_eq!(found.source, Some("192.0.2.7:4000".parse().unwrap()));
        assert_eq!((found.expected, found.received, found.ssrc), (100, 90, Some(77)));
        assert_eq!(found.jitter, Some(Duration::from_millis(10)));
        assert!(found.routed && found.last_seen.is_none());
        let other = status(&MediaFlow { epoch: 6, ..kernel }, &state);
        assert_eq!((other.source, other.ssrc, other.expected), (None, None, 0));
        assert_eq!(other.packets, 90, "packets are counted for the flow, not for its source");
    }

    #[test]
    fn a_record_of_another_length_is_not_ours() {
        let bytes = [1; size_of::<MediaLearned>()];
        assert!(learned(&bytes).is_some());
        assert!(learned(&bytes[1..]).is_none());
    }
}
