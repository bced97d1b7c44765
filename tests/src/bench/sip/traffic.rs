//! CPU for each message.

use anyhow::{Context as _, Result};

use super::{
    Say,
    load::{self, Load, Outcome, Pace, Plan, Scenario},
    proxies::{CORE, Product, Proxy},
    world::{Inside, OUTSIDE, World},
};
use crate::bench::{Row, median};

/// Turns of each proxy.
const ROUNDS: usize = 3;
/// Messages a second that the proxy receives, whatever the scenario: where threads mostly sleep,
/// and where Kamailio uses about three quarters of a core (4,000 calls a second).
const MESSAGES: [f64; 2] = [12_000.0, 24_000.0];
/// Seconds of one run, and of the run before it that nothing counts.
const SECONDS: f64 = 4.0;
const WARM: f64 = 1.0;
/// Connections of a partner that has many.
const MANY: usize = 16;
/// What is measured over each transport.
const SCENARIOS: [(Scenario, &str); 3] =
    [(Scenario::Call, "call"), (Scenario::Message, "message"), (Scenario::Options, "options")];

/// CPU for each message that the proxy received, in every scenario, over TLS outside and this
/// transport inside.
pub fn cpu(say: Say<'_>, world: &World, inside: Inside) -> Result<Vec<Row>> {
    let cases: Vec<_> = MESSAGES
        .into_iter()
        .flat_map(|messages| SCENARIOS.map(|(scenario, name)| (messages, scenario, name)))
        .collect();
    let mut figures = [vec![Vec::new(); cases.len()], vec![Vec::new(); cases.len()]];
    for _ in 0..ROUNDS {
        for (product, figures) in [Product::Edge, Product::Kamailio].into_iter().zip(&mut figures) {
            let proxy = Proxy::start(world, product, inside)?;
            let measured = with_load(world, inside, 1, |load| {
                cases.iter().zip(figures).try_for_each(|((messages, scenario, name), figures)| {
                    let (cost, outcome) = cost(&proxy, load, *scenario, *messages)?;
                    say(&format!(
                        "tls/{} {name} at {messages} {product:?}: {cost:.1} µs a message, {:.1} of \
                         the load, median {:.0} µs, {:.1} s",
                        inside.name(),
                        per_message(outcome.own.as_secs_f64(), *scenario, outcome.calls()),
                        outcome.per_mille(500).as_secs_f64() * 1e6,
                        outcome.wall.as_secs_f64(),
                    ));
                    figures.push(cost);
                    Ok(())
                })
            });
            measured.with_context(|| format!("{product:?}\n{}", proxy.log_head()))?;
        }
    }
    let [ours, theirs] = figures;
    let rows = cases.iter().zip(ours.into_iter().zip(theirs));
    Ok(rows
        .map(|((messages, _, name), (ours, theirs))| Row {
            path: match *messages == MESSAGES[0] {
                true => format!("cpu {} {name}", inside.name()),
                false => format!("cpu {} {name}, {messages} a second", inside.name()),
            },
            unit: "µs/message",
            ours: median(ours),
            peer: "kamailio",
            peer_value: median(theirs),
        })
        .collect())
}

/// The same for calls over sixteen connections of the partner.
pub fn connections(say: Say<'_>, world: &World) -> Result<Vec<Row>> {
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (product, figures) in [Product::Edge, Product::Kamailio].into_iter().zip(&mut figures) {
            let proxy = Proxy::start(world, product, Inside::Tls)?;
            let (cost, _) = with_load(world, Inside::Tls, MANY, |load| {
                cost(&proxy, load, Scenario::Call, MESSAGES[0])
            })
            .with_context(|| format!("{product:?}\n{}", proxy.log_head()))?;
            say(&format!("{MANY} connections {product:?}: {cost:.1} µs a message"));
            figures.push(cost);
        }
    }
    let [ours, theirs] = figures;
    Ok(vec![Row {
        path: format!("cpu tls call, {MANY} connections"),
        unit: "µs/message",
        ours: median(ours),
        peer: "kamailio",
        peer_value: median(theirs),
    }])
}

/// Ours with the firewall's programs, and with these taken away.
pub fn firewall(say: Say<'_>, world: &World) -> Result<Vec<Row>> {
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let proxy = Proxy::start(world, Product::Edge, Inside::Tls)?;
        for (with, figures) in [true, false].into_iter().zip(&mut figures) {
            if !with {
                proxy.without_firewall()?;
            }
            let (cost, _) = with_load(world, Inside::Tls, 1, |load| {
                cost(&proxy, load, Scenario::Call, MESSAGES[0])
            })?;
            say(&format!("firewall {with}: {cost:.1} µs a message"));
            figures.push(cost);
        }
    }
    let [with, without] = figures;
    Ok(vec![Row {
        path: "cpu tls call, with firewall".to_owned(),
        unit: "µs/message",
        ours: median(with),
        peer: "without",
        peer_value: median(without),
    }])
}

/// Runs `work` with the load connected, on a thread of the load's namespace and core.
pub fn with_load<T: Send>(
    world: &World,
    inside: Inside,
    connections: usize,
    work: impl FnOnce(&mut Load) -> Result<T> + Send,
) -> Result<T> {
    world.load.run(|| {
        load::pin(CORE + 1)?;
        let mut load = Load::connect(OUTSIDE, inside, connections, &world.tls)?;
        work(&mut load)
    })?
}

/// CPU a message of this scenario, at so many `messages` a second.
fn cost(
    proxy: &Proxy,
    load: &mut Load,
    scenario: Scenario,
    messages: f64,
) -> Result<(f64, Outcome)> {
    let rate = messages / scenario.messages() as f64;
    let plan =
        |seconds: f64| Plan { scenario, pace: Pace::Rate(rate), calls: (rate * seconds) as u32 };
    load.play(plan(WARM))?;
    let before = proxy.cpu()?;
    let outcome = load.play(plan(SECONDS))?;
    let used = proxy.cpu()?.saturating_sub(before);
    Ok((per_message(used.as_secs_f64(), scenario, outcome.calls()), outcome))
}

fn per_message(seconds: f64, scenario: Scenario, calls: usize) -> f64 {
    seconds * 1e6 / (calls as u64 * scenario.messages()) as f64
}
