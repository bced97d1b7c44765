//! Step: a call with media. Its ports are closed before, open for its own packets while it lasts,
//! and closed after.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use edge_ebpf::verdict::Reason;
use serde_json::Value;

use super::{
    discover::{reload, with_config},
    world::{World, user},
};
use crate::lab::{
    config::EdgeConfig,
    daemon::Edge,
    layout::Site,
    process::wait_for,
    rtp::RtpEnd,
    sipp::{self, Carrier, Dialogue, Play},
};

/// Ports of media.
const MEDIA_PORTS: (u16, u16) = (50_000, 50_199);
/// How long they talk.
const TALK: Duration = Duration::from_secs(5);
/// Packets each way that are waited for.
const PACKETS: u64 = 20;
/// Longer than anything here takes on a machine that is busy.
const PATIENCE: Duration = crate::patience::BUSY;

/// Both edges get an A/V service; a user of Fabrikam calls a user of Contoso, and both speak.
pub fn call_with_media(world: &mut World) -> Result<String> {
    let media = |config: &EdgeConfig| {
        let (first, last) = MEDIA_PORTS;
        config.clone().media("relay", &format!("{first}-{last}"))
    };
    let plain = world.fabrikam.config.clone();
    world.fabrikam.config = media(&plain);
    reload(&world.fabrikam)?;
    let played = with_config(world, |config| *config = media(config), spoken);
    world.fabrikam.config = plain;
    reload(&world.fabrikam)?;
    played
}

fn spoken(world: &mut World) -> Result<String> {
    let counters = world.counters()?;
    let probed = |from: Site, ports: &[SocketAddr], reason: Reason| -> Result<u64> {
        let before = counters.packets(reason)?;
        for port in ports {
            probe(world, from, *port)?;
        }
        let arrived = || Ok(counters.packets(reason)? - before);
        let wanted = ports.len() as u64;
        wait_for(reason.name(), PATIENCE, || Ok((arrived()? >= wanted).then_some(())))?;
        arrived()
    };
    let (first, last) = MEDIA_PORTS;
    let all: Vec<SocketAddr> = Site::Contoso
        .outside()
        .into_iter()
        .flat_map(|address| (first..=last).map(move |port| SocketAddr::new(address, port)))
        .collect();
    let relayed = counters.packets(Reason::MediaRelayed)?;
    let closed = probed(Site::Fabrikam, &all, Reason::NoRule)?;
    ensure!(counters.packets(Reason::MediaRelayed)? == relayed, "media before any call");

    let dialogue = Dialogue {
        talk: TALK,
        ..Dialogue::once(Play::Media, &user(Site::Fabrikam), &user(Site::Contoso))
    };
    let (from, to) =
        (world.agent(Site::Fabrikam, Carrier::Tcp), world.agent(Site::Contoso, Carrier::Tcp));
    let receiver = sipp::receiver(&to, world.lab.dir(), &dialogue)?;
    let server = world.edge(Site::Fabrikam).config.inside_address();
    let sender = sipp::sender(&from, world.lab.dir(), &dialogue, server)?;
    let mut heard = [0; 2];
    wait_for("media both ways", PATIENCE, || {
        let flows = flows(&world.contoso)?;
        heard = [packets(&flows, "outside"), packets(&flows, "inside")];
        Ok(heard.iter().all(|packets| *packets >= PACKETS).then_some(()))
    })?;
    let open = open_port(&flows(&world.contoso)?)?;
    let stranger = probed(Site::Stranger, &[open], Reason::MediaSource)?;
    sender.finish(PATIENCE).context("the caller")?;
    receiver.finish(PATIENCE).context("the callee")?;

    wait_for("the call's flows closed", PATIENCE, || {
        Ok(flows(&world.contoso)?.is_empty().then_some(()))
    })?;
    let relayed = counters.packets(Reason::MediaRelayed)?;
    let after = probed(Site::Fabrikam, &[open], Reason::NoRule)?;
    ensure!(counters.packets(Reason::MediaRelayed)? == relayed, "media after the call");
    let status = world.contoso.status()?;
    let delay = |name: &str| status["media"][name]["longest_microseconds"].as_u64().unwrap_or(0);
    Ok(format!(
        "ports {first}-{last}: {closed} probes dropped before; {open} open while they spoke, {} \
         packets in and {} out forwarded by the kernel, {stranger} of a stranger dropped; {after} \
         dropped after; opened {} us after the answer came and before it left, closed {} us after BYE \
         came",
        heard[0],
        heard[1],
        delay("open_delay"),
        delay("close_delay"),
    ))
}

/// A packet of RTP from a site's edge to a port of Contoso's.
fn probe(world: &World, from: Site, to: SocketAddr) -> Result<()> {
    let [four, six] = from.outside();
    let own = SocketAddr::new(if to.is_ipv4() { four } else { six }, 0);
    RtpEnd::bind(world.lab.site(from), own, 0x7a7a_7a7a)?.send(to)
}

/// The flows of all calls, as `edge call list` tells them.
fn flows(edge: &Edge) -> Result<Vec<Value>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let calls = edge.json(&["call", "list"])?;
    let lines = list(&calls).into_iter().flat_map(|call| list(&call["lines"]));
    Ok(lines.flat_map(|line| list(&line["flows"])).collect())
}

fn packets(flows: &[Value], from: &str) -> u64 {
    let from = flows.iter().filter(|flow| flow["from"] == from);
    from.filter_map(|flow| flow["packets"].as_u64()).sum()
}

/// Where RTP comes in from outside.
fn open_port(flows: &[Value]) -> Result<SocketAddr> {
    let mut open = flows.iter().filter(|flow| flow["from"] == "outside");
    let flow = open.find(|flow| flow["component"] == "rtp").context("no flow from outside")?;
    let local = flow["local"].as_str().context("no address of ours")?;
    Ok(local.parse()?)
}
