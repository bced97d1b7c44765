//! What happens to a packet, and why: the live, loaded, pinned program is asked with a trial run,
//! and the same decision is taken once more over the pinned tables, with a note of every
//! question, so that the answer comes with the way that led to it.
//!
//! It must never change a map, a counter or a bucket, and never answer for the live program: when
//! the two disagree, that is said, and the live one is right.

mod address;
mod blocks;
mod finish;
mod flow;
mod frame;
mod look;
mod names;
mod program;
mod tables;

use std::{net::IpAddr, path::Path};

use aya::maps::{Array, MapData};
use edge_ebpf::{
    abi::{EVENT_DATA, Event, Settings, map_names},
    decide::{NO_RULE, judge},
    packet::{Frame, describe},
    verdict::Reason,
};
use ipnet::IpNet;
use serde::Serialize;

pub use address::{AddressBlock, AddressFacts, address, syn_to_access};
pub use flow::FlowFacts;
pub use frame::{PacketSpec, SpecError, protocol};
pub(super) use names::{content as content_text, limit as limit_text};
pub(super) use program::info as program_info;
pub use tables::Step;

use self::{
    finish::FloodState,
    names::Names,
    program::{LiveAnswer, LiveProgram},
    tables::PinnedTables,
};
use super::{FirewallError, decode, kernel::open, plan::RuleRow, state, sys};

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The device it comes in on.
    pub device: String,
    /// Its index.
    pub ifindex: u32,
    /// Kernel id of the program that was asked.
    pub program_id: u32,
    /// The packet, as it can be read.
    pub packet: PacketFacts,
    /// `pass`, `drop`, `answer` or `forward`: what the live program does with it.
    pub verdict: &'static str,
    /// Name of the reason.
    pub reason: &'static str,
    /// The reason in one line.
    pub meaning: &'static str,
    /// `external`, `internal` or `none`.
    pub zone: &'static str,
    /// It would be dropped, but monitor mode passes it.
    pub monitored: bool,
    /// The rule that decided.
    pub rule: Option<RuleRow>,
    /// Id of the rule that decided; there is no `rule` when its name is not known.
    pub rule_id: Option<u32>,
    /// The media flow that it belongs to.
    pub flow: Option<FlowFacts>,
    /// Blocks that were found on the way.
    pub blocks: Vec<IpNet>,
    /// The questions on the way, and their answers.
    pub steps: Vec<Step>,
    /// What the same decision over the pinned tables comes to; `None`: the same.
    pub disagrees: Option<String>,
}

/// What can be read of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PacketFacts {
    /// Source.
    pub source: Option<IpAddr>,
    /// Destination.
    pub destination: Option<IpAddr>,
    /// `tcp` and so on, or a number.
    pub protocol: String,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// What an ICMP message is.
    pub icmp: Option<IcmpFacts>,
    /// Outer VLAN.
    pub vlan: Option<u16>,
    /// Bytes of the frame.
    pub length: usize,
}

/// What an ICMP message is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IcmpFacts {
    /// Type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The type's name, where it is a common one.
    pub name: Option<&'static str>,
}

/// Builds the frame of a packet as it would come in on this device.
pub fn frame(spec: &PacketSpec, device: &str) -> Result<Vec<u8>, SpecError> {
    frame::build(spec, sys::hardware_address(device))
}

/// Explains what the live program does with a frame that comes in on `device`, which must be a
/// device of the caller's network namespace. Works without the daemon.
pub fn packet(
    pins: &Path,
    state: &Path,
    device: &str,
    frame: &[u8],
) -> Result<Explanation, FirewallError> {
    let program = LiveProgram::of(pins, device)?;
    let settings = settings(pins)?;
    let names = Names::new(state::read(state).ok().flatten());
    let (live, flood) = ask(&program, &settings, frame, finish::floods(pins)?)?;
    let described = described(frame);
    let facts = facts(&described, frame.len());
    let tables = PinnedTables::new(pins, &names, settings, &facts, (live.reason, flood));
    let again = judge(&tables, &settings, &Frame::new(frame), &frame, program.ifindex);
    let (again, flow) = flow::again(&tables, again, frame);
    let (steps, blocks) = tables.finish()?;
    let rule = (again.rule != NO_RULE).then_some(again.rule);
    let disagrees = (again.reason != live.reason || rule != live.rule).then(|| {
        format!(
            "over the pinned tables the same decision comes to {} ({}){}: the tables changed \
             meanwhile, or the live program is of another version; the live program's answer \
             holds, and the steps are not its steps",
            again.reason.verdict().name(),
            again.reason.name(),
            rule.map_or(String::new(), |id| format!(" by {}", names.rule(id))),
        )
    });
    let port = u16::from_be_bytes(described.destination_port);
    let row = live.rule.and_then(|id| names.row(id, described.protocol, port)).cloned();
    Ok(Explanation {
        device: device.to_owned(),
        ifindex: program.ifindex,
        program_id: program.id,
        packet: facts,
        verdict: live.action,
        reason: live.reason.name(),
        meaning: live.reason.explain(),
        zone: decode::zone(live.zone),
        monitored: live.monitored,
        rule: row.or_else(|| management(&names, live.reason)),
        rule_id: live.rule,
        flow: flow.filter(|flow| live.flow == Some(flow.slot)),
        blocks,
        steps,
        disagrees,
    })
}

/// Asks the live program, on the CPU that is nearest to a flood: each counts for itself, and what
/// the busiest one does is what an administrator wants to see.
fn ask(
    program: &LiveProgram,
    settings: &Settings,
    frame: &[u8],
    floods: Vec<FloodState>,
) -> Result<(LiveAnswer, FloodState), FirewallError> {
    let (cpu, answer) =
        sys::on_cpu(floods.first().map(|flood| flood.cpu), || program.ask(settings.trial, frame));
    let flood = floods.into_iter().find(|flood| flood.cpu == cpu);
    Ok((answer?, flood.unwrap_or_default()))
}

/// Management has a row and no number.
fn management(names: &Names, reason: Reason) -> Option<RuleRow> {
    let rows = names.plan()?.rows.iter();
    rows.filter(|_| reason == Reason::Management).find(|row| row.id.is_none()).cloned()
}

/// Name of a loaded program.
pub(super) fn program_name(id: u32) -> Option<String> {
    program::info(id)?.name_as_str().map(str::to_owned)
}

fn settings(pins: &Path) -> Result<Settings, FirewallError> {
    let map: Array<MapData, Settings> = open(pins, map_names::SETTINGS)?;
    map.get(&0, 0).map_err(|fault| FirewallError::map(map_names::SETTINGS, fault))
}

/// The frame as an event would tell of it.
fn described(frame: &[u8]) -> Event {
    let mut event = Event {
        at_nanoseconds: 0,
        source: [0; 16],
        destination: [0; 16],
        ifindex: 0,
        length: 0,
        rule: NO_RULE,
        source_port: [0; 2],
        destination_port: [0; 2],
        vlan: 0,
        protocol: 0,
        reason: 0,
        zone: 0,
        monitored: 0,
        ether_type: [0; 2],
        captured: 0,
        reserved: [0; 6],
        data: [0; EVENT_DATA],
    };
    describe(&Frame::new(frame), &mut event);
    event
}

fn facts(event: &Event, length: usize) -> PacketFacts {
    let address = |bytes: [u8; 16]| (bytes != [0; 16]).then(|| decode::address(bytes));
    let is_icmp = matches!(event.protocol, protocol::ICMP | protocol::ICMPV6);
    let icmp = is_icmp.then(|| {
        let [kind, code] = event.destination_port;
        IcmpFacts { kind, code, name: names::icmp(event.protocol, kind) }
    });
    let port = |bytes: [u8; 2]| if is_icmp { 0 } else { u16::from_be_bytes(bytes) };
    PacketFacts {
        source: address(event.source),
        destination: address(event.destination),
        protocol: names::protocol(event.protocol),
        source_port: port(event.source_port),
        destination_port: port(event.destination_port),
        icmp,
        vlan: (event.vlan != 0).then_some(event.vlan),
        length,
    }
}
