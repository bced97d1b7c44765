//! Calls: what each side said in SDP, which ports of ours it was told, and the flows that are open
//! for it. No sockets, no clock: messages on their way come in, changed bodies and changes of flows
//! come out.

mod status;

pub use status::{CallState, CallStatus, LineStatus};
