//! The loaded program and the model, asked the same question again and again.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use edge_ebpf::{abi::FLOW_SECONDS, verdict::Reason};
use edge_user::firewall::KERNEL_OBJECT;

use super::{
    counted::Counted,
    judge::judge,
    lower,
    packet::any_frame,
    random::{Random, any_world, own_addresses},
    world::{Flow, World},
};
use crate::kernel::Kernel;

/// Packets for each world.
const PACKETS: u64 = 4000;
/// Programs that are asked at the same time: writing a rule set is mostly waiting.
const THREADS: u64 = 4;

/// How long it goes on.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// So many pairs of a world and a packet.
    Pairs(u64),
    /// So much time.
    Time(Duration),
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Pairs of a world and a packet.
    pub pairs: u64,
    /// Worlds.
    pub worlds: u64,
    /// How often each reason was given.
    pub reasons: BTreeMap<Reason, u64>,
}

impl Done {
    fn add(&mut self, other: Self) {
        self.pairs += other.pairs;
        self.worlds += other.worlds;
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
    }
}

/// Asks both until it is enough. World `n` is made from `seed + n`, so that a failure can be
/// had again alone.
///
/// # Errors
/// When the two disagree: with the seed of the world, the packet, and what each says.
pub fn run(seed: u64, until: Until) -> Result<Done> {
    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let next = Arc::clone(&next);
            in_namespace(move || {
                let mut kernel = Kernel::load(KERNEL_OBJECT)?;
                let sockets = Sockets::open()?;
                let mut done = Done::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let enough = match until {
                        Until::Pairs(pairs) => number * PACKETS >= pairs,
                        Until::Time(time) => began.elapsed() >= time,
                    };
                    if enough {
                        return Ok(done);
                    }
                    let world =
                        one_world(&mut kernel, &sockets, seed.wrapping_add(number), &mut done);
                    if world.is_err() {
                        // The others need not go on.
                        next.store(u64::MAX / PACKETS / 2, Ordering::Relaxed);
                    }
                    world?;
                }
            })
        })
        .collect();
    let mut all = Done::default();
    for thread in threads {
        match thread.join() {
            Ok(done) => all.add(done?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok(all)
}

fn one_world(kernel: &mut Kernel, sockets: &Sockets, seed: u64, done: &mut Done) -> Result<()> {
    let mut random = Random(seed);
    let mut world = any_world(&mut random, now());
    world.sockets.clone_from(&sockets.known);
    kernel.apply(&lower::tables(&world))?;
    let mut counted = Counted::new(kernel)?;
    for number in 0..PACKETS {
        let frame = any_frame(&mut random, &world);
        let verdict = kernel.run(&frame)?;
        let (reason, rule) = counted.one_more(kernel, frame.len() as u64).with_context(|| {
            format!("packet {number} of the world with seed {seed}, frame {frame:02x?}")
        })?;
        let model = judge(&world, now(), &frame);
        let same = model.verdict == verdict && model.reason == reason && model.rule == rule;
        if !same {
            return Err(disagreement(&world, seed, number, &frame).context(format!(
                "the program says {verdict:?}, {reason:?}, rule {rule:?}; the model says {:?}, \
                 {:?}, rule {:?}",
                model.verdict, model.reason, model.rule
            )));
        }
        done.pairs += 1;
        *done.reasons.entry(reason).or_default() += 1;
    }
    done.worlds += 1;
    Ok(())
}

fn disagreement(world: &World, seed: u64, number: u64, frame: &[u8]) -> anyhow::Error {
    let frame: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    anyhow::anyhow!(
        "packet {number} of the world with seed {seed}; \
         `cargo xtask fuzz differential --seed {seed} --pairs {PACKETS}` has it again\n\
         frame {frame}\n{world:#?}"
    )
}

/// Seconds since boot.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(time.tv_sec).unwrap_or_default()
}

const _: () = assert!(FLOW_SECONDS == 60, "the model keeps flows as long");

/// Sockets that the program finds, and what the model is told of them.
struct Sockets {
    known: Vec<Flow>,
    _tcp: Vec<(TcpListener, TcpStream, TcpStream)>,
    _udp: Vec<UdpSocket>,
}

impl Sockets {
    fn open() -> Result<Self> {
        let mut sockets = Self { known: Vec::new(), _tcp: Vec::new(), _udp: Vec::new() };
        for v4 in [true, false] {
            let [me, other] = own_addresses(v4);
            let listener = TcpListener::bind((other, 0))?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            let (server, _) = listener.accept()?;
            let (near, far) = (client.local_addr()?, client.peer_addr()?);
            sockets.known.extend([flow(6, near, far), flow(6, far, near)]);
            sockets._tcp.push((listener, client, server));
            let stranger: IpAddr =
                if v4 { [198, 18, 0, 1].into() } else { "2001:db9::1".parse()? };
            let connected = UdpSocket::bind((me, 0))?;
            connected.connect((stranger, 53))?;
            sockets.known.push(flow(17, connected.local_addr()?, connected.peer_addr()?));
            // One that is only bound proves nothing.
            sockets._udp.extend([connected, UdpSocket::bind((me, 3478))?]);
        }
        Ok(sockets)
    }
}

fn flow(protocol: u8, local: SocketAddr, remote: SocketAddr) -> Flow {
    Flow {
        protocol,
        local: local.ip(),
        local_port: local.port(),
        remote: remote.ip(),
        remote_port: remote.port(),
        left_at: 0,
    }
}

/// Does it in a network namespace of its own with our addresses on its loopback; the namespace
/// ends with the thread.
pub(crate) fn in_namespace<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> JoinHandle<Result<T>> {
    thread::spawn(|| {
        // SAFETY: only this thread moves, and it ends after the work.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        ensure!(moved == 0, "a network namespace needs root");
        ip(&["link", "set", "lo", "up"])?;
        for v4 in [true, false] {
            let (length, family) = if v4 { (32, "-4") } else { (128, "-6") };
            for own in own_addresses(v4) {
                ip(&["addr", "add", &format!("{own}/{length}"), "dev", "lo"])?;
            }
            ip(&[family, "route", "add", "default", "dev", "lo"])?;
        }
        work()
    })
}

fn ip(arguments: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(arguments).status().context("the ip command")?;
    ensure!(done.success(), "ip {}", arguments.join(" "));
    Ok(())
}
