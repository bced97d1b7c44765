//! Calls, as `edge call` shows them.

use std::time::Instant;

use crate::{
    domain::Domain,
    media::flow::{CallId, Flow},
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
