//! The load generator: caller (a partner's edge, TLS) and callee (a server inside: TLS, TCP or
//! UDP) on one thread that never blocks, pinned to a core of its own. At a fixed rate a call is
//! due when it is due, whatever the proxy does; latency counts from then.

pub mod link;
pub mod text;
pub mod tls;

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::{CpuSet, sched_setaffinity},
};
use rustls::{ClientConnection, ServerConnection, pki_types::ServerName};

use self::link::Link;
pub use self::text::{Scenario, request};
use super::world::Inside;

/// How long calls may take to end after the last began.
const PATIENCE: Duration = Duration::from_secs(10);
/// More calls are never open at once at a fixed rate: the proxy is lost then.
const MOST_OPEN: usize = 20_000;

/// When calls begin.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many a second.
    Rate(f64),
    /// As soon as fewer than so many are open.
    Open(usize),
}

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What each call is.
    pub scenario: Scenario,
    /// When they begin.
    pub pace: Pace,
    /// How many.
    pub calls: u32,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// From the first call's time to the last one's end.
    pub wall: Duration,
    /// CPU that the generator used.
    pub own: Duration,
    /// From the time a call was due to its first final response, sorted.
    latencies: Vec<Duration>,
}

impl Outcome {
    /// Calls that were played.
    pub fn calls(&self) -> usize {
        self.latencies.len()
    }

    /// The time within which so many of a thousand were answered.
    pub fn per_mille(&self, share: usize) -> Duration {
        let place = (self.latencies.len() * share).div_ceil(1000).saturating_sub(1);
        self.latencies.get(place).copied().unwrap_or_default()
    }
}

/// Somebody who looks at the messages of calls as they come.
pub trait Watch {
    /// An INVITE reached the callee, who has not answered yet.
    fn offered(&mut self, call: u32, message: &[u8]);
    /// A call's 200 reached the caller, who goes on now.
    fn answered(&mut self, call: u32, message: &[u8]);
    /// The 200 of its BYE reached the caller.
    fn ended(&mut self, call: u32);
}

/// Nobody looks.
struct Unwatched;

impl Watch for Unwatched {
    fn offered(&mut self, _: u32, _: &[u8]) {}
    fn answered(&mut self, _: u32, _: &[u8]) {}
    fn ended(&mut self, _: u32) {}
}

/// Caller and callee, connected.
pub struct Load {
    inside: Inside,
    callers: Vec<Link>,
    listener: TcpListener,
    callees: Vec<Link>,
    datagrams: Option<UdpSocket>,
    tls: tls::Configs,
    run: u32,
}

/// A run under way.
struct Run<'w> {
    watch: &'w mut dyn Watch,
    plan: Plan,
    number: u32,
    began: Instant,
    begun: u32,
    ended: u32,
    /// When each was due, and whether its first final response has come.
    calls: Vec<(Instant, bool)>,
    latencies: Vec<Duration>,
    fault: Option<String>,
}

impl Load {
    /// Connects so many caller's connections to the proxy and waits for its own at `inside`. To be
    /// called, and used, on a thread inside the load's namespace.
    pub fn connect(
        proxy: SocketAddr,
        inside: Inside,
        count: usize,
        tls: &tls::Configs,
    ) -> Result<Self> {
        let callee = inside.callee();
        let listener = TcpListener::bind(callee).context("the callee cannot listen")?;
        listener.set_nonblocking(true)?;
        let datagrams = match inside {
            Inside::Udp => Some(datagrams(callee, inside.proxy())?),
            Inside::Tls | Inside::Tcp => None,
        };
        let mut load = Self {
            inside,
            callers: Vec::new(),
            listener,
            callees: Vec::new(),
            datagrams,
            tls: tls.clone(),
            run: 0,
        };
        for _ in 0..count {
            load.callers.push(caller(proxy, tls)?);
        }
        Ok(load)
    }

    /// Plays a plan to its end.
    ///
    /// # Errors
    /// When a call fails, or does not end: figures of a run with faults mean nothing.
    pub fn play(&mut self, plan: Plan) -> Result<Outcome> {
        self.play_watched(plan, &mut Unwatched)
    }

    /// The same while somebody looks at it.
    ///
    /// # Errors
    /// As [`Self::play`].
    pub fn play_watched(&mut self, plan: Plan, watch: &mut dyn Watch) -> Result<Outcome> {
        self.run += 1;
        let own = super::cpu::of_thread()?;
        let mut run = Run {
            watch,
            plan,
            number: self.run,
            began: Instant::now(),
            begun: 0,
            ended: 0,
            calls: Vec::with_capacity(plan.calls as usize),
            latencies: Vec::with_capacity(plan.calls as usize),
            fault: None,
        };
        let mut last = run.began;
        let mut progress = (0, run.began);
        while run.ended < plan.calls {
            let next = run.begin(&mut self.callers)?;
            self.flush()?;
            self.wait(next)?;
            self.turn(&mut run)?;
            if let Some(fault) = run.fault.take() {
                bail!("call failed: {fault}");
            }
            last = Instant::now();
            if run.ended != progress.0 {
                progress = (run.ended, last);
            }
            ensure!(
                last < progress.1 + PATIENCE,
                "{} of {} calls never ended",
                run.begun - run.ended,
                run.begun
            );
        }
        run.latencies.sort_unstable();
        let own = super::cpu::of_thread()?.saturating_sub(own);
        Ok(Outcome { wall: last - run.began, own, latencies: run.latencies })
    }

    fn flush(&mut self) -> Result<()> {
        for link in self.callers.iter_mut().chain(&mut self.callees) {
            if !link.out.is_empty() || link.is_full() {
                link.flush()?;
            }
        }
        Ok(())
    }

    /// Waits for something to read, at most until then.
    fn wait(&self, until: Instant) -> Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left)?;
        let mut fds = vec![PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN)];
        for link in self.callers.iter().chain(&self.callees) {
            let mut interest = PollFlags::IN;
            interest.set(PollFlags::OUT, link.is_full());
            fds.push(PollFd::from_borrowed_fd(link.as_fd(), interest));
        }
        if let Some(socket) = &self.datagrams {
            fds.push(PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN));
        }
        poll(&mut fds, Some(&timeout))?;
        Ok(())
    }

    /// Reads everything there is and answers it.
    fn turn(&mut self, run: &mut Run<'_>) -> Result<()> {
        while let Ok((socket, _)) = self.listener.accept() {
            let tls = match self.inside {
                Inside::Tls => Some(ServerConnection::new(self.tls.server.clone())?.into()),
                Inside::Tcp | Inside::Udp => None,
            };
            self.callees.push(Link::new(socket, tls)?);
        }
        for link in &mut self.callers {
            let from = link.local;
            link.read(text::first_message, |message, out| run.answered(message, from, out))?;
        }
        let contact = self.inside.contact();
        for link in &mut self.callees {
            link.read(text::first_message, |message, out| {
                run.offered(message);
                text::answers(out, message, contact, |_| {});
            })?;
            if link.is_handshaking() {
                link.flush()?;
            }
        }
        self.datagrams(contact)
    }

    fn datagrams(&self, contact: &str) -> Result<()> {
        let Some(socket) = &self.datagrams else { return Ok(()) };
        let (mut buffer, mut out, mut ends) = ([0; 65_536], Vec::new(), Vec::new());
        loop {
            let length = match socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the callee's UDP socket"),
            };
            out.clear();
            ends.clear();
            text::answers(&mut out, &buffer[..length], contact, |end| ends.push(end));
            let mut start = 0;
            for &end in &ends {
                socket.send(&out[start..end])?;
                start = end;
            }
        }
    }
}

impl Run<'_> {
    /// Begins what is due; when the next is.
    fn begin(&mut self, callers: &mut [Link]) -> Result<Instant> {
        let now = Instant::now();
        while self.begun < self.plan.calls {
            let open = (self.begun - self.ended) as usize;
            let due = match self.plan.pace {
                Pace::Open(most) if open >= most => break,
                Pace::Open(_) => now,
                Pace::Rate(rate) => {
                    ensure!(open < MOST_OPEN, "{open} calls are open: the rate is too high");
                    self.began + Duration::from_secs_f64(f64::from(self.begun) / rate)
                }
            };
            if due > now {
                return Ok(due);
            }
            let at = self.begun as usize % callers.len();
            let call = (self.begun, self.number);
            let link = &mut callers[at];
            text::request(&mut link.out, self.plan.scenario, call, link.local);
            self.calls.push((due, false));
            self.begun += 1;
        }
        Ok(now + Duration::from_millis(100))
    }

    /// A request reached the callee.
    fn offered(&mut self, message: &[u8]) {
        if message.starts_with(b"INVITE ")
            && let Some((call, _)) = text::call(message).filter(|(_, run)| *run == self.number)
        {
            self.watch.offered(call, message);
        }
    }

    /// A response reached the caller.
    fn answered(&mut self, message: &[u8], from: SocketAddr, out: &mut Vec<u8>) {
        let status = text::status(message);
        let Some((call, _)) = text::call(message).filter(|(_, run)| *run == self.number) else {
            return;
        };
        let Some((due, answered)) = self.calls.get_mut(call as usize) else { return };
        match status {
            Some(100..200) => {}
            Some(200) if text::is_of_bye(message) => {
                self.watch.ended(call);
                self.ended += 1;
            }
            Some(200) if *answered => {}
            Some(200) => {
                *answered = true;
                self.latencies.push(due.elapsed());
                self.watch.answered(call, message);
                let number = (call, self.number);
                match self.plan.scenario {
                    Scenario::Call => text::inside_dialog(out, message, number, from, true),
                    Scenario::Dialog => {
                        text::inside_dialog(out, message, number, from, false);
                        self.ended += 1;
                    }
                    Scenario::Message | Scenario::Options => self.ended += 1,
                }
            }
            _ => {
                self.fault.get_or_insert_with(|| String::from_utf8_lossy(message).into_owned());
            }
        }
    }
}

/// Keeps this thread on one core.
pub fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("there is no core {core}"))
}

/// Opens one connection to the proxy, to the end of its handshake.
fn caller(proxy: SocketAddr, tls: &tls::Configs) -> Result<Link> {
    let (socket, tls) = handshake(proxy, tls)?;
    Ok(Link::new(socket, Some(tls.into()))?)
}

/// A full handshake with both certificates.
pub fn handshake(proxy: SocketAddr, tls: &tls::Configs) -> Result<(TcpStream, ClientConnection)> {
    let mut socket = TcpStream::connect(proxy).context("the proxy does not listen")?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(super::world::HOST)?;
    let mut connection = ClientConnection::new(tls.client.clone(), name)?;
    while connection.is_handshaking() || connection.wants_write() {
        connection.complete_io(&mut socket).context("the handshake failed")?;
    }
    Ok((socket, connection))
}

fn datagrams(at: SocketAddr, proxy: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(at)?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20)?;
    socket.connect(proxy)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
