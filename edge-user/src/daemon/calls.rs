//! What the daemon answers about calls and their media.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tracing::info;

use super::{Daemon, media::Media};
use crate::{
    admin::{
        call::{READING, Reading, flow_json, no_such_call},
        protocol::CallRequest,
    },
    media::{
        calls::{CallState, CallStatus},
        flow::{CallId, FlowId, FlowStatus},
    },
    state::Author,
};

/// Calls that a list names at most.
const LISTED: usize = 10_000;

impl Daemon {
    /// Lists calls, shows one, and ends the media of one.
    pub(super) async fn call(
        &self,
        request: CallRequest,
        author: &Author,
    ) -> Result<Value, String> {
        match request {
            CallRequest::List => {
                let counted = Counted::of(self.media.as_deref())?;
                let calls = self.calls();
                let told = calls.iter().take(LISTED);
                Ok(told.map(|call| counted.call_json(call, None, None)).collect())
            }
            CallRequest::Show { id } => {
                let before = Counted::of(self.media.as_deref())?;
                let began = Instant::now();
                tokio::time::sleep(READING).await;
                let all: Vec<FlowStatus> = before.0.into_values().collect();
                let reading = Reading::new(&all, began.elapsed());
                let counted = Counted::of(self.media.as_deref())?;
                let call = self.find(&id)?;
                Ok(counted.call_json(&call, Some(&reading), self.media.as_deref()))
            }
            CallRequest::End { id } => {
                let call = self.find(&id)?.id;
                let known =
                    self.shell.with_core(|core, now, out| core.proxy.end_call(now, call, out));
                if !known {
                    return Err(no_such_call(&id));
                }
                let (call, by) = (call.to_string(), &author.by);
                info!(call, by, "an administrator closed a call's media");
                Ok(json!({ "id": call }))
            }
        }
    }

    fn calls(&self) -> Vec<CallStatus> {
        let mut calls = self.shell.with_core(|core, _, _| core.proxy.calls());
        calls.sort_by_key(|call| call.since);
        calls
    }

    fn find(&self, id: &str) -> Result<CallStatus, String> {
        let wanted = (id.len() == 16).then(|| u64::from_str_radix(id, 16).ok()).flatten();
        let is = |call: &CallStatus| {
            wanted.map(CallId) == Some(call.id) || (!id.is_empty() && &*call.call_id == id)
        };
        self.calls().into_iter().find(is).ok_or_else(|| no_such_call(id))
    }
}

/// What was counted, by flow.
struct Counted(HashMap<FlowId, FlowStatus>);

impl Counted {
    fn of(media: Option<&Media>) -> Result<Self, String> {
        let all = media.map(|media| media.status().map_err(|fault| fault.to_string()));
        let all = all.transpose()?.unwrap_or_default();
        Ok(Self(all.into_iter().map(|status| (status.id, status)).collect()))
    }

    fn call_json(
        &self,
        call: &CallStatus,
        reading: Option<&Reading>,
        hops: Option<&Media>,
    ) -> Value {
        let now = Instant::now();
        let seconds = |time: Duration| time.as_secs();
        let lines = call.lines.iter().map(|line| {
            let flows = line.flows.iter().map(|flow| {
                let hop = hops.and_then(|media| media.next_hop(flow.id));
                // A name may have gone to another call meanwhile.
                let status = self.0.get(&flow.id).filter(|status| status.call == flow.call);
                flow_json(flow, status, reading, hop.as_ref())
            });
            json!({
                "line": line.line,
                "kind": line.kind,
                "held": line.held,
                "flows": flows.collect::<Vec<_>>(),
            })
        });
        json!({
            "id": call.id.to_string(),
            "call_id": call.call_id,
            "caller": call.caller,
            "callee": call.callee,
            "partner": call.partner,
            "direction": if call.inbound { "inbound" } else { "outbound" },
            "state": state(call.state),
            "seconds": seconds(now.saturating_duration_since(call.since)),
            "seconds_left": seconds(call.until.saturating_duration_since(now)),
            "lines": lines.collect::<Vec<_>>(),
        })
    }
}

const fn state(state: CallState) -> &'static str {
    match state {
        CallState::Setup => "setup",
        CallState::Up => "up",
        CallState::Adopted => "adopted",
    }
}
