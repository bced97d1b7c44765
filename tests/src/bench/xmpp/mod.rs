//! `bench xmpp`: what our proxy and gateway cost beside Debian's Prosody, in one run: stanzas from
//! the same generator, both servers alone on one core, turn by turn.
//!
//! What is compared: one stanza comes in over TLS from a partner's server, and one goes out. Prosody
//! relays nothing between servers, so it does the nearest: it answers a message to nobody with an
//! error over the same TLS stream (both ways, one TLS stanza in and one out), and it hands messages
//! to a component behind it (XEP-0114; one TLS stanza in, and one out without TLS, which is less
//! work than ours: we do TLS on both sides). The cheaper of the two is the row `cpu message`.

mod load;
mod memory;
mod servers;
mod traffic;

use anyhow::{Result, bail, ensure};

use super::{Row, sip::world::World};

/// Says how far it is, from any thread.
type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// What can be measured alone.
const PARTS: [&str; 3] = ["message", "gateway", "idle"];

/// Measures everything, or only one part.
///
/// # Errors
/// When not root, without two cores, or when a stanza is lost.
pub fn bench(say: Say<'_>, only: Option<&str>) -> Result<Vec<Row>> {
    ensure!(rustix::process::geteuid().is_root(), "the benchmark makes namespaces: run it as root");
    if let Some(part) = only
        && !PARTS.contains(&part)
    {
        bail!("no part `{part}`: there are {}", PARTS.join(", "));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ensure!(cores >= 2, "the server and the load need a core each, and there is {cores}");
    let wanted = |part: &str| only.is_none_or(|only| only == part);
    let world = World::new("bxmpp")?;
    let mut rows = Vec::new();
    if wanted("message") || wanted("gateway") {
        rows.extend(traffic::messages(say, &world, wanted("gateway"))?);
    }
    if wanted("idle") {
        rows.extend(memory::idle(say, &world)?);
    }
    Ok(rows)
}
