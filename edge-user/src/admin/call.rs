//! `edge call`, and the form in which calls and their flows are told.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{
    call_text::{self, list_text, show_text},
    client::{self, ClientError},
    commands::{CommandError, Outcome, Report},
    protocol::{CallRequest, Request},
};
use crate::{
    config::Paths,
    firewall::{
        FirewallError,
        media::{FlowRow, NextHop, read},
    },
    media::flow::{CallId, Component, Flow, FlowStatus, MediaSide, Way},
};

/// How long packets are counted for `edge call show`.
pub const READING: Duration = Duration::from_secs(1);

/// `edge call`.
#[derive(Clone, Debug, Subcommand)]
pub enum CallCommand {
    /// All calls that have media
    List,
    /// One call: who, since when, and its flows with a second's packets
    Show {
        /// Its id, as `edge call list` shows it, or its Call-ID
        id: String,
    },
    /// Close a call's media; nothing is said to the two sides
    End {
        /// Its id, as `edge call list` shows it, or its Call-ID
        id: String,
    },
}

/// `edge call …`.
pub fn call(paths: &Paths, command: &CallCommand) -> Outcome {
    let ask = |request| client::ask(&paths.run, &Request::Call(request));
    match command.clone() {
        CallCommand::List => {
            let json = match ask(CallRequest::List) {
                Err(ClientError::NotRunning { .. }) => calls_json(&rows(paths)?, None),
                other => other?,
            };
            Ok(Report::new(list_text(&json)?, json))
        }
        CallCommand::Show { id } => {
            let json = match ask(CallRequest::Show { id: id.clone() }) {
                Err(ClientError::NotRunning { .. }) => from_kernel(paths, &id)?,
                other => other?,
            };
            Ok(Report::new(show_text(&json)?, json))
        }
        CallCommand::End { id } => {
            let json = ask(CallRequest::End { id })?;
            Ok(Report::new(call_text::ended(&json), json))
        }
    }
}

/// What the kernel holds, for when there is no daemon.
fn rows(paths: &Paths) -> Result<Vec<FlowRow>, CommandError> {
    match read(&paths.pins) {
        Err(FirewallError::NotLoaded { .. }) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

fn from_kernel(paths: &Paths, id: &str) -> Result<Value, CommandError> {
    let before = rows(paths)?;
    let began = Instant::now();
    std::thread::sleep(READING);
    let statuses = before.into_iter().map(|row| row.status).collect::<Vec<_>>();
    let reading = Reading::new(&statuses, began.elapsed());
    let all = calls_json(&rows(paths)?, Some(&reading));
    let calls = all.as_array().cloned().unwrap_or_default();
    let found = calls.into_iter().find(|call| call["id"] == id);
    found.ok_or_else(|| CommandError::Arguments(no_such_call(id)))
}

/// Nobody has this id.
pub fn no_such_call(id: &str) -> String {
    format!("there is no call `{id}` with media: `edge call list` names them")
}

/// Calls of which only the kernel tells.
fn calls_json(rows: &[FlowRow], reading: Option<&Reading>) -> Value {
    let mut calls: BTreeMap<CallId, BTreeMap<u8, Vec<Value>>> = BTreeMap::new();
    for row in rows {
        let told = flow_json(&row.flow, Some(&row.status), reading, None);
        let lines = calls.entry(row.flow.call).or_default();
        lines.entry(row.flow.line).or_default().push(told);
    }
    let told = calls.into_iter().map(|(id, lines)| {
        let lines = lines.into_iter().map(|(line, flows)| json!({"line": line, "flows": flows}));
        json!({
            "id": id.to_string(),
            "state": "kernel",
            "lines": lines.collect::<Vec<_>>(),
        })
    });
    told.collect()
}

/// What was counted some time ago.
#[derive(Clone, Debug)]
pub struct Reading {
    before: BTreeMap<u32, (u64, u64)>,
    time: Duration,
}

impl Reading {
    /// What was counted this time ago.
    pub fn new(statuses: &[FlowStatus], time: Duration) -> Self {
        let before = statuses.iter().map(|status| (status.id.0, (status.packets, status.bytes)));
        Self { before: before.collect(), time }
    }

    /// Packets and bits a second since.
    fn rates(&self, now: &FlowStatus) -> Option<(f64, f64)> {
        let (packets, bytes) = self.before.get(&now.id.0)?;
        let per_second = |count: u64| count as f64 / self.time.as_secs_f64().max(0.001);
        let packets = per_second(now.packets.checked_sub(*packets)?);
        let bits = per_second(now.bytes.checked_sub(*bytes)?.saturating_mul(8));
        Some((packets, bits))
    }
}

/// A flow, what it counted, its rates, and where it leaves.
pub fn flow_json(
    flow: &Flow,
    status: Option<&FlowStatus>,
    reading: Option<&Reading>,
    next_hop: Option<&NextHop>,
) -> Value {
    let (mode, local) = match flow.way {
        Way::Relay { local, .. } => ("relay", local),
        Way::Pinhole => ("pinhole", flow.to),
    };
    let mut told = Map::new();
    let mut put = |name: &str, value: Value| drop(told.insert(name.to_owned(), value));
    put("flow", json!(flow.id.0));
    put("component", json!(component(flow.component)));
    put("from", json!(side(flow.side)));
    put("mode", json!(mode));
    put("local", json!(local));
    put("source", json!(flow.source.to_string()));
    put("source_port", json!(flow.source_port));
    put("to", json!(flow.to));
    put("held", json!(flow.held));
    put("seconds_left", json!(flow.expires.as_secs()));
    put("packets_per_second_at_most", json!(flow.packets_per_second));
    put("bytes_per_second_at_most", json!(flow.bytes_per_second));
    if let Some(status) = status {
        put("packets", json!(status.packets));
        put("bytes", json!(status.bytes));
        put("dropped", json!(status.dropped));
        let ago = status.last_seen.map(|at| SystemTime::now().duration_since(at));
        put("idle_seconds", json!(ago.map(|ago| ago.unwrap_or_default().as_secs())));
        put("learned", json!(status.source));
        put("ssrc", json!(status.ssrc.map(|ssrc| format!("{ssrc:08x}"))));
        let lost = status.expected.saturating_sub(status.received);
        put("expected", json!(status.expected));
        put("lost", json!(lost));
        put("lost_percent", json!(percent(lost, status.expected)));
        let jitter = status.jitter.map(|jitter| jitter.as_secs_f64() * 1000.0);
        put("jitter_milliseconds", json!(jitter.map(|ms| (ms * 100.0).round() / 100.0)));
        put("routed", json!(status.routed));
        if let Some((packets, bits)) = reading.and_then(|reading| reading.rates(status)) {
            put("packets_per_second", json!(packets.round()));
            put("bits_per_second", json!(bits.round()));
        }
    }
    if let Some(hop) = next_hop {
        put("next_hop", next_hop_json(hop));
    }
    Value::Object(told)
}

fn next_hop_json(hop: &NextHop) -> Value {
    let address = hop
        .link_address
        .map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"));
    json!({
        "neighbour": hop.neighbour,
        "link_address": address,
        "device": hop.device,
        "vlan": hop.vlan,
        "sent_by": if hop.by_daemon { "daemon" } else { "kernel" },
    })
}

fn percent(part: u32, of: u32) -> f64 {
    if of == 0 { 0.0 } else { (f64::from(part) * 10_000.0 / f64::from(of)).round() / 100.0 }
}

const fn component(component: Component) -> &'static str {
    match component {
        Component::Rtp => "rtp",
        Component::Rtcp => "rtcp",
    }
}

const fn side(side: MediaSide) -> &'static str {
    match side {
        MediaSide::Outside => "outside",
        MediaSide::Inside => "inside",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::flow::{FlowContent, FlowId};

    fn flow() -> Flow {
        Flow {
            id: FlowId(3),
            call: CallId(0xabc),
            line: 0,
            component: Component::Rtp,
            side: MediaSide::Outside,
            way: Way::Relay {
                local: "203.0.113.10:50000".parse().unwrap(),
                from: "10.1.0.10:50000".parse().unwrap(),
            },
            source: "198.51.100.7/32".parse().unwrap(),
            source_port: Some(4000),
            learn: Duration::ZERO,
            learned_anew: 0,
            to: "10.1.0.20:30000".parse().unwrap(),
            content: FlowContent::Media,
            clock: Some(8000),
            packets_per_second: 100,
            bytes_per_second: 33_333,
            expires: Duration::from_secs(60),
            held: false,
            timed: false,
            turns: false,
        }
    }

    fn status(packets: u64) -> FlowStatus {
        FlowStatus {
            id: FlowId(3),
            call: CallId(0xabc),
            packets,
            bytes: packets * 200,
            dropped: 1,
            last_seen: None,
            source: Some("198.51.100.7:4001".parse().unwrap()),
            ssrc: Some(0x1234),
            expected: 200,
            received: 197,
            jitter: Some(Duration::from_micros(2500)),
            routed: true,
        }
    }

    #[test]
    fn rates_come_from_two_readings_and_loss_from_sequence_numbers() {
        let reading = Reading::new(&[status(100)], Duration::from_secs(2));
        let told = flow_json(&flow(), Some(&status(200)), Some(&reading), None);
        assert_eq!(
            (told["packets_per_second"].as_f64(), told["bits_per_second"].as_f64()),
            (Some(50.0), Some(80_000.0))
        );
        assert_eq!((told["lost"].as_u64(), told["lost_percent"].as_f64()), (Some(3), Some(1.5)));
        assert_eq!(told["jitter_milliseconds"].as_f64(), Some(2.5));
        assert_eq!(told["learned"], "198.51.100.7:4001");
        let fresh = flow_json(&flow(), Some(&status(5)), Some(&reading), None);
        assert!(fresh.get("packets_per_second").is_none(), "counted anew meanwhile");
    }

    #[test]
    fn without_a_daemon_flows_are_told_by_call_and_line() {
        let row = |id, call, line| FlowRow {
            flow: Flow { id: FlowId(id), call: CallId(call), line, ..flow() },
            status: FlowStatus { id: FlowId(id), call: CallId(call), ..status(9) },
        };
        let told = calls_json(&[row(1, 7, 0), row(2, 7, 1), row(3, 8, 0), row(4, 7, 0)], None);
        assert_eq!(told.as_array().unwrap().len(), 2);
        assert_eq!(
            (&told[0]["id"], &told[0]["state"]),
            (&json!("0000000000000007"), &json!("kernel"))
        );
        let flows = |line: usize| told[0]["lines"][line]["flows"].as_array().unwrap().len();
        assert_eq!((flows(0), flows(1)), (2, 1));
        let text = list_text(&told).unwrap();
        assert!(text.contains("0000000000000008") && text.contains("kernel"), "{text}");
        let text = show_text(&told[0]).unwrap();
        assert!(
            text.contains("203.0.113.10:50000") && text.contains("198.51.100.7:4001"),
            "{text}"
        );
    }
}
