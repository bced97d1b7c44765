//! How long a call's INVITE takes, at half of the rate that fills Kamailio's core; and what a
//! message costs when the core is full: at a low rate much of the cost is waking up for each one.

use std::time::Duration;

use anyhow::Result;

use super::{
    Say,
    load::{Load, Outcome, Pace, Plan, Scenario},
    proxies::{Product, Proxy},
    traffic::with_load,
    world::{Inside, World},
};
use crate::bench::{Row, median};

/// Turns of each proxy.
const ROUNDS: usize = 3;
/// Calls open at once when it is to be full.
const OPEN: usize = 100;
/// Calls that are played then, and before.
const FULL: u32 = 30_000;
const WARM: u32 = 2_000;
/// Seconds at the fixed rate.
const SECONDS: f64 = 6.0;

/// From when a call was due to the 200 of its INVITE, ours and theirs at one rate.
pub fn p99(say: Say<'_>, world: &World) -> Result<Vec<Row>> {
    let (theirs_full, theirs_cost) = full(say, world, Product::Kamailio)?;
    let (ours_full, ours_cost) = full(say, world, Product::Edge)?;
    let rate = theirs_full / 2.0;
    let mut figures = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for _ in 0..ROUNDS {
        for (product, figures) in [Product::Edge, Product::Kamailio].into_iter().zip(&mut figures) {
            let calls = (rate * SECONDS) as u32;
            let outcome = on(world, product, |load| play(load, Pace::Rate(rate), calls))?;
            for (figures, share) in figures.iter_mut().zip([500, 990]) {
                figures.push(outcome.per_mille(share).as_secs_f64() * 1e3);
            }
            say(&format!(
                "{product:?} at {rate:.0} calls a second: median {:.2} ms, p99 {:.2} ms",
                milliseconds(outcome.per_mille(500)),
                milliseconds(outcome.per_mille(990))
            ));
        }
    }
    let [[ours50, ours99], [theirs50, theirs99]] = figures;
    let row = |path: &str, ours, peer, peer_value| Row {
        path: path.to_owned(),
        unit: "ms",
        ours: median(ours),
        peer,
        peer_value,
    };
    let when_full = |path: &str, unit, ours, peer_value| Row {
        path: path.to_owned(),
        unit,
        ours,
        peer: "kamailio",
        peer_value,
    };
    Ok(vec![
        when_full("cpu tls call, core full", "µs/message", ours_cost, theirs_cost),
        when_full("calls a second, core full", "calls/s", ours_full, theirs_full),
        row("p50 tls call", ours50, "kamailio", median(theirs50)),
        row("p99 tls call", ours99.clone(), "kamailio", median(theirs99)),
        row("p99 tls call", ours99, "target", 2.0),
    ])
}

/// Calls a second on a full core, and CPU for each message then.
fn full(say: Say<'_>, world: &World, product: Product) -> Result<(f64, f64)> {
    let proxy = Proxy::start(world, product, Inside::Tls)?;
    let (outcome, used) = with_load(world, Inside::Tls, 1, |load| {
        let plan = |calls| Plan { scenario: Scenario::Call, pace: Pace::Open(OPEN), calls };
        load.play(plan(WARM))?;
        let before = proxy.cpu()?;
        let outcome = load.play(plan(FULL))?;
        Ok((outcome, proxy.cpu()?.saturating_sub(before)))
    })?;
    let calls = outcome.calls() as f64;
    let rate = calls / outcome.wall.as_secs_f64();
    let cost = used.as_secs_f64() * 1e6 / (calls * Scenario::Call.messages() as f64);
    say(&format!(
        "{product:?} is full at {rate:.0} calls a second, {cost:.1} µs a message; the load was \
         busy {:.0} % of it",
        100.0 * outcome.own.as_secs_f64() / outcome.wall.as_secs_f64()
    ));
    Ok((rate, cost))
}

fn on(
    world: &World,
    product: Product,
    work: impl FnOnce(&mut Load) -> Result<Outcome> + Send,
) -> Result<Outcome> {
    let _proxy = Proxy::start(world, product, Inside::Tls)?;
    with_load(world, Inside::Tls, 1, work)
}

fn play(load: &mut Load, pace: Pace, calls: u32) -> Result<Outcome> {
    let plan = Plan { scenario: Scenario::Call, pace, calls };
    load.play(Plan { calls: WARM.min(calls), ..plan })?;
    load.play(plan)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
