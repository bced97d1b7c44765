//! The place of the calls' media in the proxy: what their bodies become on their way, and which
//! flows are open.

use std::{net::SocketAddr, time::Instant};

use super::{Output, proxy::Proxy};
use crate::media::{
    calls::CallStatus,
    flow::{CallId, Flow, FlowId, FlowStatus},
};

impl Proxy {
    /// The source of a flow was learned.
    pub fn media_learned(
        &mut self,
        _now: Instant,
        _flow: FlowId,
        _source: SocketAddr,
        _out: &mut Vec<Output>,
    ) {
    }

    /// What the kernel has counted: said every few seconds.
    pub fn media_seen(&mut self, _now: Instant, _flows: &[FlowStatus], _out: &mut Vec<Output>) {}

    /// A change of a call's flows could not be put in force.
    pub fn media_failed(&mut self, _now: Instant, _call: CallId, _out: &mut Vec<Output>) {}

    /// Every call that has, or had, media.
    pub fn calls(&self) -> Vec<CallStatus> {
        Vec::new()
    }

    /// Closes the media of a call; says nothing to anybody. `false`: there is no such call.
    pub fn end_call(&mut self, _now: Instant, _call: CallId, _out: &mut Vec<Output>) -> bool {
        false
    }

    /// Takes over what is open in the kernel, from the run before; closes what is for nobody. Before
    /// any message.
    pub fn adopt_flows(&mut self, _now: Instant, _flows: Vec<Flow>, _out: &mut Vec<Output>) {}
}
