//! Step: a discovered partner that tries out our users is listed, blocked by the kernel, and
//! forgiven.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    block::{PROBES, dropped_of},
    discover::with_config,
    world::{World, contoso_access, user},
};
use crate::{
    lab::{
        config::EdgeConfig,
        layout::Site,
        process::wait_for,
        tls_client::{SipClient, request},
    },
    patience::BUSY,
};

/// Users of ours that a discovered partner may write to, in this step.
const USERS: usize = 10;
/// The kernel has the block within this; it takes milliseconds.
const PATIENCE: Duration = BUSY;

/// Adatum without an entry writes to one user after the other.
pub fn block_throttled(world: &mut World) -> Result<String> {
    let domain = Site::Adatum.domain();
    let strict = |config: &mut EdgeConfig| {
        config.allowed.retain(|allowed| *allowed != domain);
        config.federation.push("discovery = true".to_owned());
        config.federation.push(format!("[federation.throttle]\ndistinct_users = {USERS}"));
    };
    with_config(world, strict, |world| {
        let (mut client, listed) = enumerate(world)?;
        ensure!(listed == 403, "one user more than {USERS} was answered with {listed}");
        ensure!(client.closed_within(PATIENCE), "adatum's live connection was not closed");
        let counters = world.counters()?;
        let way = (IpAddr::V4(Site::Adatum.v4()), contoso_access()[0]);
        let dropped = || dropped_of(world, Site::Adatum, &counters, way);
        wait_for("packets of adatum dropped", PATIENCE, || {
            Ok((dropped()? == PROBES).then_some(()))
        })?;
        let told = world.contoso.json(&["partner", "show", &Site::Adatum.domain()])?;
        let watched = &told["watch"][0];
        ensure!(watched["standing"] == "listed", "edge partner show: {told:#}");
        ensure!(watched["blocked_in_kernel"] == true, "edge partner show: {told:#}");
        let evidence = &watched["evidence"];
        world.contoso.json(&["partner", "forgive", &Site::Adatum.domain()])?;
        let after = say(&mut session(world, way.1)?, 0)?;
        ensure!(after != 403, "forgiven, and still refused");
        let left = dropped()?;
        ensure!(left == 0, "forgiven, and {left} of {PROBES} packets dropped");
        Ok(format!(
            "{} discovered, {USERS} users allowed: the {}th is 403 watch-listed, its connection \
             closed, {PROBES} of {PROBES} packets dropped by the kernel; edge partner show: {} \
             messages to {} users, {} samples; forgiven: 0 dropped, let in again",
            Site::Adatum.domain(),
            USERS + 1,
            evidence["messages"],
            evidence["distinct_users"],
            evidence["samples"].as_array().map_or(0, Vec::len),
        ))
    })
}

fn session(world: &World, to: SocketAddr) -> Result<SipClient> {
    let adatum = &world.lab.identities.adatum;
    world.caller(Site::Adatum, Some(adatum)).tls(to, &Site::Contoso.host())
}

/// Writes to one user more than it may; what it was told the last time.
fn enumerate(world: &World) -> Result<(SipClient, u16)> {
    let mut client = session(world, contoso_access()[0])?;
    for number in 0..USERS {
        // Nobody is at home inside; what counts is that the edge did not refuse it.
        let status = say(&mut client, number)?;
        ensure!(status != 403, "user {number} was refused");
    }
    let last = say(&mut client, USERS)?;
    Ok((client, last))
}

fn say(client: &mut SipClient, number: usize) -> Result<u16> {
    let to = format!("user{number}@{}", Site::Contoso.domain());
    let message = request("MESSAGE", &user(Site::Adatum), &to, &Site::Adatum.host());
    Ok(client.ask(&message).with_context(|| format!("message to {to}"))?.status)
}
