//! What an idle stream keeps in memory.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    Say,
    load::stream,
    servers::{Cast, OUTSIDE, OWN, PARTNERS, Product, Server},
};
use crate::bench::{
    Row,
    sip::{load::pin, proxies::CORE, world::World},
};

/// Streams of each partner, and those before anything is measured.
const STREAMS: usize = 250;
const FIRST: usize = 10;
/// What was sent last is dealt with by then.
const SETTLE: Duration = Duration::from_millis(500);

/// Memory of two thousand proved streams of eight partners that say nothing.
pub fn idle(say: Say<'_>, world: &World) -> Result<Vec<Row>> {
    let cast = Cast::new(world)?;
    let mut figures = Vec::new();
    for product in [Product::Edge, Product::Prosody] {
        let server = Server::start(world, &cast, product)?;
        let grown = world.load.run(|| {
            pin(CORE + 1)?;
            let open = |count: usize| -> Result<Vec<_>> {
                let all = (0..count * PARTNERS.len()).map(|number| {
                    let partner = number % PARTNERS.len();
                    let tls = &cast.partners[partner];
                    stream::open(OUTSIDE, Cast::pair(partner, OWN), tls, false)
                });
                all.collect()
            };
            let first = open(FIRST)?;
            std::thread::sleep(SETTLE);
            let before = server.resident_kib()?;
            let all = open(STREAMS)?;
            std::thread::sleep(SETTLE);
            let after = server.resident_kib()?;
            for mut link in first.into_iter().chain(all) {
                // It fails when the server has closed it.
                link.read(|_| None, |_, _| {})?;
            }
            anyhow::Ok(after.saturating_sub(before))
        })?;
        let grown = grown.with_context(|| format!("{product:?}\n{}", server.log_tail()))?;
        let each = grown as f64 / (STREAMS * PARTNERS.len()) as f64;
        say(&format!("idle {product:?}: {each:.1} KiB each"));
        figures.push(each);
    }
    let row = |peer, peer_value| Row {
        path: "memory idle stream".to_owned(),
        unit: "KiB",
        ours: figures[0],
        peer,
        peer_value,
    };
    Ok(vec![row("prosody", figures[1]), row("target", 60.0)])
}
