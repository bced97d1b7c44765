//! `bench sip`: what our proxy costs beside Debian's Kamailio, in one run: the same scenario from
//! the same generator, both proxies alone on one core, turn by turn.

mod attacks;
pub mod codec;
pub(super) mod cpu;
mod latency;
pub(super) mod load;
mod memory;
pub(super) mod proxies;
pub(super) mod traffic;
pub(super) mod world;

use anyhow::{Result, bail, ensure};

use self::world::{Inside, World};
use super::Row;

/// Says how far it is, from any thread.
type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// What can be measured alone.
const PARTS: [&str; 12] = [
    "tls",
    "tcp",
    "udp",
    "connections",
    "firewall",
    "p99",
    "handshake",
    "idle",
    "dialogs",
    "growth",
    "core",
    "attacks",
];

/// Measures everything, or only one part.
///
/// # Errors
/// When not root, without two cores, or when a call fails.
pub fn bench(say: Say<'_>, only: Option<&str>) -> Result<Vec<Row>> {
    ensure!(rustix::process::geteuid().is_root(), "the benchmark makes namespaces: run it as root");
    if let Some(part) = only
        && !PARTS.contains(&part)
    {
        bail!("no part `{part}`: there are {}", PARTS.join(", "));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ensure!(cores >= 2, "the proxy and the load need a core each, and there is {cores}");
    let wanted = |part: &str| only.is_none_or(|only| only == part);
    let world = World::new("bsip")?;
    let mut rows = Vec::new();
    for inside in [Inside::Tls, Inside::Tcp, Inside::Udp] {
        if wanted(inside.name()) {
            rows.extend(traffic::cpu(say, &world, inside)?);
        }
    }
    type Part = fn(Say<'_>, &World) -> Result<Vec<Row>>;
    let others: [(&str, Part); 8] = [
        ("connections", traffic::connections),
        ("firewall", traffic::firewall),
        ("p99", latency::p99),
        ("handshake", memory::handshake),
        ("idle", memory::idle),
        ("dialogs", memory::dialogs),
        ("growth", memory::growth),
        ("attacks", attacks::attacks),
    ];
    for (name, part) in others {
        if wanted(name) {
            rows.extend(part(say, &world)?);
        }
    }
    if wanted("core") {
        rows.extend(codec::core(say)?);
    }
    Ok(rows)
}
