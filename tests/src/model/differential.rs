//! The loaded program and the model, asked the same question again and again.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use edge_ebpf::{
    abi::{FLOW_SECONDS, Trial},
    decide::NO_RULE,
    verdict::{Reason, Verdict},
};
use edge_user::firewall::KERNEL_OBJECT;

use super::{
    counted::Counted,
    judge::{Judgement, judge},
    lower,
    memory::Memory,
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
    let failed = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (next, failed) = (Arc::clone(&next), Arc::clone(&failed));
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
                    if enough || failed.load(Ordering::Relaxed) {
                        return Ok(done);
                    }
                    let seed = seed.wrapping_add(number);
                    let world = one_world(&mut kernel, &sockets, seed, &mut done);
                    // When one has failed, the others need not go on.
                    failed.fetch_or(world.is_err(), Ordering::Relaxed);
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
    let mut world = any_world(&mut random, now() / 1_000_000_000);
    world.sockets.clone_from(&sockets.known);
    kernel.apply(&lower::tables(&world))?;
    let mut memory = Memory::default();
    forget(kernel)?;
    let mut counted = Counted::new(kernel)?;
    for number in 0..PACKETS {
        let frame = any_frame(&mut random, &world);
        let before = now();
        let trial = kernel.trial(&frame, lower::TRIAL)?.context("the trial was not answered")?;
        let verdict = kernel.run(&frame)?;
        let after = now();
        let (reason, rule) = counted
            .one_more(kernel, frame.len() as u64)
            .with_context(|| format!("packet {number} of the world with seed {seed}"))?;
        let program = Judgement { verdict, reason, rule };
        let mut earlier = memory.clone();
        let model = judge(&world, &mut memory, after, &frame);
        let mut same = model == program;
        if before != after {
            // The clock has moved on meanwhile, and the program may have read either time.
            let other = judge(&world, &mut earlier, before, &frame);
            same |= other == program;
            memory = Memory::default();
            forget(kernel)?;
        }
        let tried = judgement(&trial)?;
        if before == after && tried != program {
            return Err(disagreement(&world, seed, number, &frame)
                .context(format!("the program says {program:?}, in a trial {tried:?}")));
        }
        if !same {
            return Err(disagreement(&world, seed, number, &frame)
                .context(format!("the program says {program:?}, the model says {model:?}")));
        }
        done.pairs += 1;
        *done.reasons.entry(reason).or_default() += 1;
    }
    done.worlds += 1;
    Ok(())
}

/// Takes away what passing packets have left behind.
fn forget(kernel: &mut Kernel) -> Result<()> {
    kernel.forget_packets()?;
    kernel.empty_buckets()
}

/// What a trial's answer says.
fn judgement(trial: &Trial) -> Result<Judgement> {
    let reason = Reason::from_number(trial.reason).context("a reason without a name")?;
    let verdict = if trial.monitored == 1 { Verdict::Pass } else { reason.verdict() };
    let rule = (trial.rule != NO_RULE).then_some(trial.rule);
    Ok(Judgement { verdict, reason, rule })
}

fn disagreement(world: &World, seed: u64, number: u64, frame: &[u8]) -> anyhow::Error {
    let frame: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    anyhow::anyhow!(
        "packet {number} of the world with seed {seed}; \
         `cargo xtask fuzz differential --seed {seed} --pairs {PACKETS}` has it again\n\
         frame {frame}\n{world:#?}"
    )
}

/// Nanoseconds since boot, by the clock that the program reads.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    let part = |number| u64::try_from(number).unwrap_or_default();
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
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
