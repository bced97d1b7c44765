//! CPU for each stanza.

use std::net::TcpListener;

use anyhow::{Context as _, Result};

use super::{
    Say,
    load::{Ask, Load, Sink, stream},
    servers::{CHAT, COMPONENTS, Cast, INSIDE, OUTSIDE, OWN, Product, SECRET, Server},
};
use crate::bench::{
    Row, median,
    sip::{
        load::pin,
        proxies::CORE,
        world::{Inside, World},
    },
};

/// Turns of each server.
const ROUNDS: usize = 3;
/// Stanzas a second, whatever the scenario: what one core gives Prosody with room to spare.
const RATE: f64 = 1_000.0;
/// Seconds of one run, and of the run before it that nothing counts.
const SECONDS: f64 = 4.0;
const WARM: f64 = 1.0;

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    /// Prosody: an error comes back on the same stream.
    Bounce,
    /// Prosody: handed to a component.
    Component,
    /// Edge: relayed to an XMPP server inside.
    Relay,
    /// Edge: to a SIP server inside.
    Gateway,
}

impl Scenario {
    const fn product(self) -> Product {
        match self {
            Scenario::Bounce | Scenario::Component => Product::Prosody,
            Scenario::Relay | Scenario::Gateway => Product::Edge,
        }
    }

    /// Both ends.
    fn connect(self, cast: &Cast) -> Result<Load> {
        let tls = &cast.partners[0];
        let open = |to| stream::open(OUTSIDE, Cast::pair(0, to), tls, self == Scenario::Bounce);
        Ok(match self {
            Scenario::Bounce => Load {
                partner: open(OWN)?,
                sink: Sink::Partner,
                ask: Ask::Bounced("nobody@contoso.example"),
            },
            Scenario::Component => {
                let component = stream::component(COMPONENTS, CHAT, SECRET)?;
                let ask = Ask::Message("bob@chat.contoso.example");
                Load { partner: open(CHAT)?, sink: Sink::Xmpp(component), ask }
            }
            Scenario::Relay => {
                let listener = TcpListener::bind(INSIDE).context("the server inside")?;
                let mut partner = open(CHAT)?;
                let ask = Ask::Message("bob@chat.contoso.example");
                // The first makes the proxy connect.
                ask.write(&mut partner.out, u32::MAX);
                partner.flush()?;
                let inside = stream::accept(&listener, tls)?;
                let mut load = Load { partner, sink: Sink::Xmpp(inside), ask };
                load.first()?;
                load
            }
            Scenario::Gateway => {
                let listener =
                    TcpListener::bind(Inside::Tcp.callee()).context("the server inside")?;
                listener.set_nonblocking(true)?;
                let ask = Ask::Message("bob@contoso.example");
                Load { partner: open(OWN)?, sink: Sink::Sip(listener, Vec::new()), ask }
            }
        })
    }
}

/// CPU for each message that comes in and goes out.
pub fn messages(say: Say<'_>, world: &World, gateway: bool) -> Result<Vec<Row>> {
    let cast = Cast::new(world)?;
    let mut scenarios = vec![Scenario::Bounce, Scenario::Component, Scenario::Relay];
    scenarios.extend(gateway.then_some(Scenario::Gateway));
    let mut figures = vec![Vec::new(); scenarios.len()];
    for _ in 0..ROUNDS {
        for (scenario, figures) in scenarios.iter().zip(&mut figures) {
            figures.push(cost(say, world, &cast, *scenario)?);
        }
    }
    let all: Vec<f64> = figures.into_iter().map(median).collect();
    let row = |path: &str, ours, peer, peer_value| Row {
        path: path.to_owned(),
        unit: "µs/stanza",
        ours,
        peer,
        peer_value,
    };
    let (bounce, component) = (all[0], all[1]);
    let cheaper = bounce.min(component);
    let mut rows = vec![
        row("cpu message", all[2], "prosody", cheaper),
        row("cpu message, TLS both sides", all[2], "prosody", bounce),
        // Three times as many a second.
        row("cpu message, TLS both sides", all[2], "target", bounce / 3.0),
    ];
    rows.extend(all.get(3).map(|ours| row("cpu message to SIP", *ours, "prosody", cheaper)));
    Ok(rows)
}

fn cost(say: Say<'_>, world: &World, cast: &Cast, scenario: Scenario) -> Result<f64> {
    let server = Server::start(world, cast, scenario.product())?;
    let measured = world.load.run(|| {
        pin(CORE + 1)?;
        let mut load = scenario.connect(cast)?;
        load.play(RATE, (RATE * WARM) as u32)?;
        let before = server.cpu()?;
        let count = (RATE * SECONDS) as u32;
        let outcome = load.play(RATE, count)?;
        let used = server.cpu()?.saturating_sub(before);
        let each = |seconds: f64| seconds * 1e6 / f64::from(count);
        let cost = each(used.as_secs_f64());
        say(&format!(
            "{scenario:?} {:?}: {cost:.1} µs a stanza, {:.1} of the load, {:.1} s",
            scenario.product(),
            each(outcome.own.as_secs_f64()),
            outcome.wall.as_secs_f64(),
        ));
        anyhow::Ok(cost)
    })?;
    measured.with_context(|| format!("{scenario:?}\n{}", server.log_tail()))
}
