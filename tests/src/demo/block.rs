//! Steps: a partner is blocked while it sends, and the block outlives the daemon.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use edge_ebpf::verdict::Reason;

use super::world::{World, contoso_access, user};
use crate::{
    lab::{counters::Counters, layout::Site, scan::SynSender, tls_client::request},
    patience::BUSY,
};

/// Time between two packets of the sender, each family.
const INTERVAL: Duration = Duration::from_micros(200);
/// The first drop must come within this.
const PATIENCE: Duration = BUSY;

/// What blocking a sending partner showed.
struct Blocked {
    first_drop: Duration,
    command: Duration,
    daemon_microseconds: Option<u64>,
}

/// `edge domain block` while the partner's edge sends: its next packets are dropped.
pub fn block(world: &mut World) -> Result<String> {
    unblock(world)?;
    let northwind = world.lab.identities.northwind.clone();
    let caller = world.caller(Site::Northwind, Some(&northwind));
    let mut client = caller.tls(contoso_access()[0], &Site::Contoso.host())?;
    let message =
        request("MESSAGE", &user(Site::Northwind), &user(Site::Contoso), &Site::Northwind.host());
    // Nobody may be at home inside; what counts is that the edge did not refuse it.
    let before = client.ask(&message)?.status;
    ensure!(before != 403, "northwind was refused before it was blocked");

    let counters = world.counters()?;
    let blocked = measure(world, &counters)?;
    let live = client.closed_within(PATIENCE);
    ensure!(live, "northwind's live connection was not closed");
    let mut families = Vec::new();
    for (from, to) in northwind_ways() {
        let dropped = dropped_from(world, &counters, from, to)?;
        families.push(format!("{from}: {dropped} of {PROBES} dropped"));
    }
    Ok(format!(
        "first packet dropped {:.1} ms after the command was given (the command took {:.1} ms{}); \
         counter blocked-domain; {}; its live connection was closed",
        milliseconds(blocked.first_drop),
        milliseconds(blocked.command),
        blocked
            .daemon_microseconds
            .map(|us| format!(", the daemon {:.1} ms", us as f64 / 1000.0))
            .unwrap_or_default(),
        families.join(", "),
    ))
}

/// `kill -9`: the drop goes on; a new daemon adopts what is pinned.
pub fn kill(world: &mut World) -> Result<String> {
    ensure_blocked(world)?;
    let counters = world.counters()?;
    world.contoso.kill()?;
    let mut dead = Vec::new();
    for (from, to) in northwind_ways() {
        dead.push(dropped_from(world, &counters, from, to)?);
    }
    let at_death = counters.packets(Reason::BlockedDomain)?;
    world.contoso.run()?;
    let adopted = world.counters()?.packets(Reason::BlockedDomain)?;
    ensure!(adopted >= at_death, "the counter began again: {adopted} after {at_death}");
    let mut alive = Vec::new();
    let counters = world.counters()?;
    for (from, to) in northwind_ways() {
        alive.push(dropped_from(world, &counters, from, to)?);
    }
    Ok(format!(
        "killed with SIGKILL: {dead:?} of {PROBES} packets (IPv4, IPv6) still dropped; started \
         again: pins adopted, counter kept at {adopted}, {alive:?} dropped"
    ))
}

/// Northwind is blocked from now on.
pub fn ensure_blocked(world: &World) -> Result<()> {
    let name = Site::Northwind.domain();
    if !world.contoso.domain_is(&name, "blocked")? {
        world.contoso.json(&["domain", "block", &name])?;
    }
    let counters = world.counters()?;
    crate::lab::process::wait_for("block in force", PATIENCE, || {
        let (from, to) = northwind_ways()[0];
        Ok((dropped_from(world, &counters, from, to)? == PROBES).then_some(()))
    })
}

/// Northwind is not blocked from now on (and was allowed by the file).
pub fn unblock(world: &World) -> Result<()> {
    // Nothing to take back is no fault here.
    let _ = world.contoso.command(&["domain", "unblock", &Site::Northwind.domain()])?;
    Ok(())
}

/// Packets in one probe.
pub(super) const PROBES: u64 = 20;

/// From Northwind's edge to Contoso's, each family.
fn northwind_ways() -> [(IpAddr, SocketAddr); 2] {
    let [from4, from6] = Site::Northwind.outside();
    let [to4, to6] = contoso_access();
    [(from4, to4), (from6, to6)]
}

/// Sends [`PROBES`] of Northwind's packets and says how many were counted as a blocked domain's.
fn dropped_from(world: &World, counters: &Counters, from: IpAddr, to: SocketAddr) -> Result<u64> {
    dropped_of(world, Site::Northwind, counters, (from, to))
}

/// Sends [`PROBES`] packets of a site and says how many were counted as a blocked domain's.
pub(super) fn dropped_of(
    world: &World,
    site: Site,
    counters: &Counters,
    (from, to): (IpAddr, SocketAddr),
) -> Result<u64> {
    let sender = SynSender::open(world.lab.site(site), from, to)?;
    let before = counters.packets(Reason::BlockedDomain)?;
    for _ in 0..PROBES {
        sender.send()?;
    }
    // The last packet may still be in a queue.
    let deadline = Instant::now() + Duration::from_millis(500);
    loop {
        let dropped = counters.packets(Reason::BlockedDomain)? - before;
        if dropped >= PROBES || Instant::now() >= deadline {
            return Ok(dropped);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Gives the command while packets flow, and watches the kernel's counter.
fn measure(world: &World, counters: &Counters) -> Result<Blocked> {
    while_northwind_sends(world, || command_and_watch(world, counters))
}

/// Does something while Northwind's packets of both families come.
pub(super) fn while_northwind_sends<T>(
    world: &World,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let senders = northwind_ways()
        .map(|(from, to)| SynSender::open(world.lab.site(Site::Northwind), from, to));
    let [sender4, sender6] = senders;
    let senders = [sender4?, sender6?];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for sender in &senders {
                    let _ = sender.send();
                }
                std::thread::sleep(INTERVAL);
            }
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn command_and_watch(world: &World, counters: &Counters) -> Result<Blocked> {
    // The sender is up and its packets arrive: they pass by the rule for the port.
    let passed = counters.packets(Reason::Rule)?;
    crate::lab::process::wait_for("packets of northwind", PATIENCE, || {
        Ok((counters.packets(Reason::Rule)? > passed + 10).then_some(()))
    })?;
    let before = counters.packets(Reason::BlockedDomain)?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let command = scope.spawn(|| {
            let answer = world.contoso.json(&["domain", "block", &Site::Northwind.domain()]);
            (answer, begun.elapsed())
        });
        let first_drop = loop {
            if counters.packets(Reason::BlockedDomain)? > before {
                break begun.elapsed();
            }
            ensure!(begun.elapsed() < PATIENCE, "no packet was dropped within {PATIENCE:?}");
            std::thread::sleep(Duration::from_micros(50));
        };
        let (answer, command) =
            command.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let answer = answer.context("edge domain block")?;
        let daemon_microseconds = answer["took_microseconds"].as_u64();
        Ok(Blocked { first_drop, command, daemon_microseconds })
    })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
