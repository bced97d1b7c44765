//! Calls, as `edge call` shows them.

use std::time::Instant;

use super::{call::Call, said::Said};
use crate::{
    domain::Domain,
    media::{
        flow::{CallId, Flow},
        sdp::MediaKind,
    },
};

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallState {
    /// There is an offer, and no final answer.
    Setup,
    /// It was accepted.
    Up,
    /// It was found in the kernel after a restart, and nothing has been heard of it since.
    Adopted,
}

/// A call.
#[derive(Clone, Debug)]
pub struct CallStatus {
    /// Its name.
    pub id: CallId,
    /// Call-ID; empty when it was adopted.
    pub call_id: Box<str>,
    /// Who called (From's URI); empty when it was adopted.
    pub caller: Box<str>,
    /// Who was called (To's URI); empty when it was adopted.
    pub callee: Box<str>,
    /// The partner that is outside; `None` for a remote user, or when it was adopted.
    pub partner: Option<Domain>,
    /// It came from outside.
    pub inbound: bool,
    /// State.
    pub state: CallState,
    /// Since when it is known.
    pub since: Instant,
    /// By then it ends, unless it is refreshed.
    pub until: Instant,
    /// Its m-lines, in order.
    pub lines: Vec<LineStatus>,
}

/// An m-line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineStatus {
    /// From 0.
    pub line: u8,
    /// Media type: `audio`; empty when it was adopted.
    pub kind: Box<str>,
    /// It is on hold.
    pub held: bool,
    /// Flows that are open for it.
    pub flows: Vec<Flow>,
}

/// How a call is shown.
pub(super) fn of(call: &Call) -> CallStatus {
    let state = match call.up {
        _ if call.adopted => CallState::Adopted,
        Some(_) => CallState::Up,
        None => CallState::Setup,
    };
    let session = &call.session;
    let lines = session.outside.iter().zip(&session.inside).enumerate();
    let line = |(index, (outside, inside)): (usize, (&Said, &Said))| {
        let line = u8::try_from(index).unwrap_or(u8::MAX);
        LineStatus {
            line,
            kind: kind(if call.adopted { MediaKind::Other } else { outside.kind }).into(),
            held: outside.is_forwarded() && (outside.held || inside.held),
            flows: flows(call, index),
        }
    };
    CallStatus {
        id: call.id,
        call_id: call.parties.call_id.clone(),
        caller: call.parties.caller.clone(),
        callee: call.parties.callee.clone(),
        partner: call.parties.partner.clone(),
        inbound: call.parties.inbound,
        state,
        since: call.since,
        until: call.end().0,
        lines: lines.map(line).collect(),
    }
}

/// Those of the transport that an m-line stands for.
fn flows(call: &Call, line: usize) -> Vec<Flow> {
    let slot = call.session.slot_of(line);
    let slot = slot.filter(|slot| call.session.first(*slot) == Some(line));
    call.flows.iter().filter(|flow| Some(flow.line) == slot).cloned().collect()
}

const fn kind(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
        MediaKind::Application => "application",
        MediaKind::ApplicationSharing => "applicationsharing",
        MediaKind::Data => "data",
        MediaKind::Message => "message",
        MediaKind::Text => "text",
        MediaKind::Image => "image",
        MediaKind::Other => "",
    }
}
