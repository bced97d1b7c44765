//! What a text becomes on its way to the other side.

use bytes::Bytes;

use super::{
    MediaFault,
    call::{Call, Line},
    said::Said,
    settings::{CallSettings, OwnAddress},
};
use crate::config::MediaMode;
use crate::media::{
    flow::MediaSide,
    sdp::{Candidates, LineChange, Rewrite, Sdp, Transport},
};

/// Whether the two sides take RTP and RTCP on one port, by m-line.
pub(super) type Mux<'a> = &'a dyn Fn(usize) -> bool;

/// The text for a side, with our ports in it.
pub(super) fn for_side(
    call: &Call,
    sdp: &Sdp,
    said: &[Said],
    to: MediaSide,
    mux: Mux<'_>,
) -> Result<Bytes, MediaFault> {
    let leg = (*call.legs.of(to)).filter(|_| call.mode == MediaMode::Relay);
    written(sdp, said, leg, &call.lines, to, mux)
}

/// The text for a side to which no port of ours is told: there is no call.
pub(super) fn without_ports(
    settings: &CallSettings,
    sdp: &Sdp,
    said: &[Said],
    to: MediaSide,
    six: bool,
) -> Result<Bytes, MediaFault> {
    let leg = match settings.mode {
        MediaMode::Relay => settings.on(to).prefer(six),
        _ => None,
    };
    written(sdp, said, leg, &[], to, &|_| false)
}

fn written(
    sdp: &Sdp,
    said: &[Said],
    leg: Option<OwnAddress>,
    ports: &[Line],
    to: MediaSide,
    mux: Mux<'_>,
) -> Result<Bytes, MediaFault> {
    let port = |slot: u8| ports.get(usize::from(slot)).map_or(0, |line| *line.ports.of(to));
    let line = |(index, said): (usize, &Said)| {
        if said.rejected {
            return LineChange::Reject;
        }
        let Some(leg) = leg else { return LineChange::Keep };
        if !said.on || said.protocol == Transport::Sip {
            return LineChange::Keep;
        }
        let rtp = port(said.slot);
        if rtp == 0 {
            // It has no way here.
            return LineChange::Reject;
        }
        let rtcp = (said.protocol.is_rtp() && !mux(index)).then_some(rtp + 1);
        LineChange::Anchor { address: leg.shown, rtp, rtcp }
    };
    let lines: Vec<LineChange> = said.iter().enumerate().map(line).collect();
    let (origin, candidates) = match leg {
        Some(leg) => (Some(leg.shown), Candidates::Replace),
        None => (None, Candidates::Keep),
    };
    if leg.is_none() && lines.iter().all(|line| *line == LineChange::Keep) {
        return Ok(sdp.text().clone());
    }
    Ok(sdp.rewrite(&Rewrite { origin, lines, candidates })?)
}
