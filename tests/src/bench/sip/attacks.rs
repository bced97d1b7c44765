//! Bad input at a rate, while good calls go on: how much longer these take.
//!
//! The attacker shares the load's core at low priority, so that it takes from the generator as
//! little as can be; the proxy's core it takes from the proxy alone.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustls::{ClientConnection, StreamOwned};

use super::{
    Say,
    load::{self, Load, Outcome, Pace, Plan, Scenario, tls::Configs},
    proxies::{CORE, Product, Proxy},
    traffic::with_load,
    world::{Inside, OUTSIDE, World},
};
use crate::bench::{Row, median};

/// Good calls a second, and for how long.
const RATE: f64 = 500.0;
const SECONDS: f64 = 5.0;
const ROUNDS: usize = 5;
/// Connections that a slow attacker holds.
const HELD: usize = 300;
/// How long an attacker waits for anything.
const PATIENCE: Duration = Duration::from_millis(500);

/// One attack: what it does again and again, and how often a second.
struct Attack {
    name: &'static str,
    rate: u32,
    begin: fn(&World) -> Result<Attacker>,
}

type Attacker = Box<dyn FnMut() -> Result<()>>;

const ATTACKS: &[Attack] = &[
    Attack { name: "connections that say nothing", rate: 500, begin: silent },
    Attack { name: "garbage in place of TLS", rate: 300, begin: no_tls },
    Attack { name: "certificates of an unknown authority", rate: 50, begin: strangers },
    Attack { name: "garbage inside TLS", rate: 50, begin: garbage },
    Attack { name: "malformed messages of a partner", rate: 1000, begin: malformed },
    Attack { name: "another domain's From", rate: 1000, begin: spoofed },
    Attack { name: "messages of 60 KB, cut short", rate: 100, begin: big },
    Attack { name: "bytes one by one", rate: 1000, begin: slow },
];

/// p99 of good calls under each attack, and without one, turn by turn.
pub fn attacks(say: Say<'_>, world: &World) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for attack in ATTACKS {
        let (mut quiet, mut loud) = (Vec::new(), Vec::new());
        let mut done = 0;
        for _ in 0..ROUNDS {
            let proxy = Proxy::start(world, Product::Edge, Inside::Tls)?;
            let played = with_load(world, Inside::Tls, 1, |load| {
                good(load, 1.0)?;
                let alone = good(load, SECONDS)?;
                let (under, count) = under(world, attack, || good(load, SECONDS))?;
                Ok((alone, under, count))
            });
            let (alone, under, count) =
                played.with_context(|| format!("{}\n{}", attack.name, proxy.log_head()))?;
            quiet.push(milliseconds(&alone));
            loud.push(milliseconds(&under));
            done += count;
        }
        let rate = done as f64 / (SECONDS * ROUNDS as f64);
        let (ours, peer_value) = (median(loud), median(quiet));
        say(&format!("{}: {rate:.0} a second, p99 {peer_value:.2} to {ours:.2} ms", attack.name));
        rows.push(Row {
            path: format!("p99, {rate:.0}/s {}", attack.name),
            unit: "ms",
            ours,
            peer: "no attack",
            peer_value,
        });
    }
    Ok(rows)
}

fn good(load: &mut Load, seconds: f64) -> Result<Outcome> {
    let calls = (RATE * seconds) as u32;
    load.play(Plan { scenario: Scenario::Call, pace: Pace::Rate(RATE), calls })
}

fn milliseconds(outcome: &Outcome) -> f64 {
    outcome.per_mille(990).as_secs_f64() * 1e3
}

/// Does `work` while the attack goes on; how often it struck. What the attacker has to open first,
/// it has opened before.
fn under<T>(world: &World, attack: &Attack, work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let (stop, struck) = (AtomicBool::new(false), AtomicU64::new(0));
    let (ready, begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let striking = || world.load.run(|| strike(world, attack, ready, (&stop, &struck)));
        let attacker = scope.spawn(striking);
        // It can only fail with the attacker, who says why.
        let _ = begun.recv();
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        let attacked = attacker.join().map_err(|_| anyhow::anyhow!("the attacker panicked"))?;
        let worked = worked?;
        attacked?.context("the attack failed")?;
        Ok((worked, struck.load(Ordering::Relaxed)))
    })
}

fn strike(
    world: &World,
    attack: &Attack,
    ready: mpsc::Sender<()>,
    (stop, struck): (&AtomicBool, &AtomicU64),
) -> Result<()> {
    load::pin(CORE + 1)?;
    // By its nice value alone a thread is not taken from its core before its slice is over.
    edge_user::net::lower_priority()?;
    let mut attacker = (attack.begin)(world)?;
    drop(ready);
    let spacing = Duration::from_secs(1) / attack.rate;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        attacker()?;
        struck.fetch_add(1, Ordering::Relaxed);
        next = (next + spacing).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn connect() -> Result<TcpStream> {
    let stream = TcpStream::connect(OUTSIDE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

type Session = StreamOwned<ClientConnection, TcpStream>;

fn session(tls: &Configs) -> Result<Session> {
    let (socket, connection) = load::handshake(OUTSIDE, tls)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(StreamOwned::new(connection, socket))
}

fn silent(_: &World) -> Result<Attacker> {
    Ok(Box::new(|| connect().map(drop)))
}

fn no_tls(_: &World) -> Result<Attacker> {
    Ok(Box::new(|| {
        let mut stream = connect()?;
        let _ = stream.write_all(&[0x47; 512]);
        let _ = stream.read(&mut [0; 64]);
        Ok(())
    }))
}

fn strangers(world: &World) -> Result<Attacker> {
    let tls = world.stranger.clone();
    Ok(Box::new(move || {
        // In TLS 1.3 the refusal comes after our end of the handshake.
        if let Ok(mut session) = session(&tls) {
            let _ = session.read(&mut [0; 64]);
        }
        Ok(())
    }))
}

fn garbage(world: &World) -> Result<Attacker> {
    let tls = world.tls.clone();
    Ok(Box::new(move || {
        let mut session = session(&tls)?;
        let _ = session.write_all(&[0x00, 0xff, b'\r', b'\n'].repeat(512));
        let _ = session.read(&mut [0; 64]);
        Ok(())
    }))
}

fn malformed(world: &World) -> Result<Attacker> {
    let good = message();
    let bad = good.replace("CSeq: 1 MESSAGE", "CSeq: x MESSAGE");
    talker(world, bad)
}

fn spoofed(world: &World) -> Result<Attacker> {
    let other = message().replace("alice@fabrikam.example", "alice@northwind.example");
    talker(world, other)
}

fn big(world: &World) -> Result<Attacker> {
    let tls = world.tls.clone();
    let fill = "x".repeat(60_000);
    let head = message().replace("Content-Type", &format!("P-Fill: {fill}\r\nContent-Type"));
    let cut = head[..head.len() - 200].to_owned();
    let mut at: Option<Session> = None;
    let mut left = 0;
    Ok(Box::new(move || {
        if left == 0 {
            (at, left) = (Some(session(&tls)?), 1);
        }
        left -= 1;
        let Some(session) = &mut at else { return Ok(()) };
        let _ = session.write_all(cut.as_bytes());
        Ok(())
    }))
}

/// Says the same over one connection, and over a new one when that is closed.
fn talker(world: &World, text: String) -> Result<Attacker> {
    let tls = world.tls.clone();
    let mut at = session(&tls)?;
    let mut buffer = vec![0; 16_384];
    Ok(Box::new(move || {
        let sent = at.write_all(text.as_bytes()).and_then(|()| at.read(&mut buffer));
        match sent {
            Ok(length) if length > 0 => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            _ => {
                at = session(&tls)?;
                Ok(())
            }
        }
    }))
}

fn slow(world: &World) -> Result<Attacker> {
    let mut held = Vec::new();
    for _ in 0..HELD {
        held.push(session(&world.tls)?);
    }
    let bytes = message().into_bytes();
    let mut count = 0;
    Ok(Box::new(move || {
        let (at, place) = (count % HELD, count / HELD % bytes.len());
        count += 1;
        // One that was cut off is not opened again: the rest goes on.
        let _ = held[at].write_all(&bytes[place..=place]);
        Ok(())
    }))
}

fn message() -> String {
    let mut out = Vec::new();
    load::request(&mut out, Scenario::Message, (0, 0), OUTSIDE);
    String::from_utf8_lossy(&out).into_owned()
}
