//! The media flow of a packet: what the program that forwards makes of it, over the pinned maps.

use aya::{
    Pod,
    maps::{Array, MapData},
};
use edge_ebpf::{
    abi::{MediaFlow, MediaState, map_names},
    decide::{Decision, NO_RULE, in_force},
    media,
    packet::Frame,
    verdict::Reason,
};
use serde::Serialize;

use super::{
    super::{kernel::open, sys},
    look::missing,
    tables::PinnedTables,
};

/// A media flow, as far as it says whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowFacts {
    /// Its slot in `MEDIA_FLOWS`.
    pub slot: u32,
    /// Its slot in `MEDIA_STATES`.
    pub state: u32,
    /// The call, as `edge call list` names it.
    pub call: String,
    /// m-line of the call, from 0.
    pub line: u8,
}

/// The decision once more: of a packet that belongs to a flow, whether the flow takes it.
pub(super) fn again(
    tables: &PinnedTables<'_>,
    decision: Decision,
    frame: &[u8],
) -> (Decision, Option<FlowFacts>) {
    if decision.reason != Reason::MediaRelayed {
        return (decision, None);
    }
    let slot = shared(tables, decision.rule, frame);
    let flow: MediaFlow = entry(tables, map_names::MEDIA_FLOWS, slot).unwrap_or_default();
    let state = entry(tables, map_names::MEDIA_STATES, flow.state);
    let facts =
        FlowFacts { slot, state: flow.state, call: format!("{:016x}", flow.call), line: flow.line };
    let reason = reason(&flow, state, frame);
    tables.note(
        format!("flow {slot}, m-line {} of call {}", facts.line, facts.call),
        reason.explain(),
    );
    let verdict = in_force(&tables.settings, reason);
    (Decision { reason, verdict, rule: NO_RULE, ..decision }, Some(facts))
}

/// The flow that the packet belongs to, among those that share its door.
fn shared(tables: &PinnedTables<'_>, first: u32, frame: &[u8]) -> u32 {
    let Some(packet) = media::read(&Frame::new(frame)) else { return first };
    media::shared(first, |slot| {
        let flow: MediaFlow = entry(tables, map_names::MEDIA_FLOWS, slot)?;
        let state: MediaState = entry(tables, map_names::MEDIA_STATES, flow.state)?;
        Some((media::fits(&flow, &state, &packet), flow.next.into()))
    })
}

fn reason(flow: &MediaFlow, state: Option<MediaState>, frame: &[u8]) -> Reason {
    let Some(state) = state else { return Reason::MediaExpired };
    let Some(packet) = media::read(&Frame::new(frame)) else { return Reason::MediaShape };
    match media::judge(flow, &state, &packet, sys::monotonic_nanoseconds()) {
        Ok(step) if step.by_daemon => Reason::MediaToDaemon,
        Ok(_) => Reason::MediaRelayed,
        Err(reason) => reason,
    }
}

fn entry<V: Pod>(tables: &PinnedTables<'_>, name: &str, slot: u32) -> Option<V> {
    let found = open::<Array<MapData, V>>(&tables.pins, name)
        .and_then(|map| missing(name, map.get(&slot, 0)));
    tables.keep(found)
}
