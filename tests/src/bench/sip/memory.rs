//! Handshakes, and what stays in memory: idle connections, open dialogs, and nothing else.

use std::{io::ErrorKind, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    Say,
    load::{self, Pace, Plan, Scenario},
    proxies::{CORE, Product, Proxy},
    traffic::with_load,
    world::{Inside, OUTSIDE, World},
};
use crate::bench::{Row, median};

/// Handshakes of one turn, and turns.
const HANDSHAKES: u32 = 1_500;
const ROUNDS: usize = 3;
/// Idle connections.
const IDLE: usize = 10_000;
/// Open dialogs, and those before anything is measured.
const DIALOGS: u32 = 100_000;
const FIRST_DIALOGS: u32 = 5_000;
/// What may be open at once while they are made.
const OPEN: usize = 200;
/// Calls a second for a minute: until every timer of a call has run out, and the rest.
const RATE: f64 = 2_000.0;
const UNTIL_STEADY: f64 = 36.0;
const REST: f64 = 24.0;
/// What was sent last is dealt with by then.
const SETTLE: Duration = Duration::from_millis(500);

/// CPU of a full handshake with both certificates, the connection's opening and end included.
pub fn handshake(say: Say<'_>, world: &World) -> Result<Vec<Row>> {
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (product, figures) in [Product::Edge, Product::Kamailio].into_iter().zip(&mut figures) {
            let proxy = Proxy::start(world, product, Inside::Tls)?;
            let used = on_core(world, || {
                let many = |count: u32| -> Result<()> {
                    let mut failed = 0;
                    for _ in 0..count {
                        // Debian's TLS module fails one now and then; more are no measurement.
                        if let Err(error) = load::handshake(OUTSIDE, &world.tls) {
                            failed += 1;
                            ensure!(failed <= count / 100, "{failed} failed: {error:#}");
                        }
                    }
                    std::thread::sleep(SETTLE);
                    Ok(())
                };
                many(HANDSHAKES / 10)?;
                let before = proxy.cpu()?;
                many(HANDSHAKES)?;
                Ok(proxy.cpu()?.saturating_sub(before))
            })
            .with_context(|| format!("{product:?}\n{}", proxy.log_head()))?;
            let cost = used.as_secs_f64() * 1e6 / f64::from(HANDSHAKES);
            say(&format!("handshake {product:?}: {cost:.0} µs"));
            figures.push(cost);
        }
    }
    let [ours, theirs] = figures;
    Ok(vec![Row {
        path: "handshake mtls".to_owned(),
        unit: "µs",
        ours: median(ours),
        peer: "kamailio",
        peer_value: median(theirs),
    }])
}

/// Memory of ten thousand partners' connections that say nothing.
pub fn idle(say: Say<'_>, world: &World) -> Result<Vec<Row>> {
    let mut figures = Vec::new();
    for product in [Product::Edge, Product::Kamailio] {
        let proxy = Proxy::start(world, product, Inside::Tls)?;
        let grown = on_core(world, || {
            let open = |count| -> Result<Vec<_>> {
                (0..count).map(|_| load::handshake(OUTSIDE, &world.tls)).collect()
            };
            drop(open(200)?);
            std::thread::sleep(SETTLE);
            let before = proxy.resident_kib()?;
            let all = open(IDLE)?;
            std::thread::sleep(SETTLE);
            let after = proxy.resident_kib()?;
            for (socket, _) in &all {
                socket.set_nonblocking(true)?;
                let alive = match socket.peek(&mut [0]) {
                    Ok(length) => length > 0,
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                };
                ensure!(alive, "{product:?} closed a connection");
            }
            Ok(after.saturating_sub(before))
        })
        .with_context(|| format!("{product:?}\n{}", proxy.log_head()))?;
        let each = grown as f64 / IDLE as f64;
        say(&format!("idle {product:?}: {each:.1} KiB each"));
        figures.push(each);
    }
    let row = |peer, peer_value| Row {
        path: "memory idle".to_owned(),
        unit: "KiB",
        ours: figures[0],
        peer,
        peer_value,
    };
    Ok(vec![row("kamailio", figures[1]), row("target", 16.0)])
}

/// Memory of a hundred thousand open dialogs, at once after the last began.
pub fn dialogs(say: Say<'_>, world: &World) -> Result<Vec<Row>> {
    let proxy = Proxy::start(world, Product::Edge, Inside::Tls)?;
    let grown = with_load(world, Inside::Tls, 1, |load| {
        let plan = |calls| Plan { scenario: Scenario::Dialog, pace: Pace::Open(OPEN), calls };
        load.play(plan(FIRST_DIALOGS))?;
        let before = proxy.resident_kib()?;
        load.play(plan(DIALOGS))?;
        std::thread::sleep(SETTLE);
        Ok(proxy.resident_kib()?.saturating_sub(before))
    })?;
    let each = grown as f64 / f64::from(DIALOGS);
    say(&format!("dialogs: {each:.2} KiB each"));
    Ok(vec![Row {
        path: "memory open dialog".to_owned(),
        unit: "KiB",
        ours: each,
        peer: "target",
        peer_value: 2.0,
    }])
}

/// Memory after a minute of calls, against when every timer of the first calls had run out.
pub fn growth(say: Say<'_>, world: &World) -> Result<Vec<Row>> {
    let proxy = Proxy::start(world, Product::Edge, Inside::Tls)?;
    let (steady, end) = with_load(world, Inside::Tls, 1, |load| {
        let plan = |seconds: f64| Plan {
            scenario: Scenario::Call,
            pace: Pace::Rate(RATE),
            calls: (RATE * seconds) as u32,
        };
        load.play(plan(UNTIL_STEADY))?;
        let steady = proxy.resident_kib()?;
        load.play(plan(REST))?;
        Ok((steady, proxy.resident_kib()?))
    })?;
    say(&format!("{RATE} calls a second: {steady} KiB after 36 s, {end} KiB after 60 s"));
    Ok(vec![Row {
        path: "memory after 60 s of calls".to_owned(),
        unit: "MiB",
        ours: end as f64 / 1024.0,
        peer: "after 36 s",
        peer_value: steady as f64 / 1024.0,
    }])
}

fn on_core<T: Send>(world: &World, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    world.load.run(|| {
        load::pin(CORE + 1)?;
        work()
    })?
}
