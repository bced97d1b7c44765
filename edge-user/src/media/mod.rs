//! Media: what calls say of it in SDP, which modalities are allowed, and the flows that a call
//! opens in the kernel and closes when it ends. No sockets, no clock.

pub mod body;
pub mod calls;
pub mod flow;
pub(crate) mod free;
#[cfg(test)]
mod invariants;
pub mod policy;
pub mod sdp;
