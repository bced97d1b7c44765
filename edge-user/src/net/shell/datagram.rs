//! UDP inside: each pair of listener and remote address is a connection of its own for the core. Of who
//! sends requests it is the address at which it hears answers.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{net::UdpSocket, sync::watch};

use super::{
    counters::add,
    hub::{Hub, Link, Phase, Way},
};
use crate::{
    config::Transport,
    net::Core,
    proxy::{AttemptId, Input, Peer, Refusal, Side},
    sip::Message,
};

/// A pair without traffic is forgotten after this (longer than any transaction, RFC 3261 17.1).
const IDLE: Duration = Duration::from_secs(300);
/// How often idle pairs are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// Pairs of one listener.
const MAX_PAIRS: usize = 4096;
/// Datagrams that are handed on together, when they are there.
const TOGETHER: usize = 32;
/// Of who names no port.
const SIP_PORT: u16 = 5060;
/// The largest datagram.
const MAX_DATAGRAM: usize = 65_535;

/// A UDP listener.
#[derive(Debug)]
pub(super) struct DatagramPort {
    socket: UdpSocket,
    local: SocketAddr,
    start: Instant,
    pairs: Mutex<HashMap<SocketAddr, Pair>>,
}

#[derive(Debug)]
struct Pair {
    link: Arc<Link>,
    /// Seconds since the port's start.
    used: AtomicU64,
}

impl DatagramPort {
    pub(super) fn new(socket: UdpSocket, local: SocketAddr) -> Arc<Self> {
        Arc::new(Self { socket, local, start: Instant::now(), pairs: Mutex::default() })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends a datagram; `false` when the system does not take it.
    pub(super) fn send(&self, link: &Link, bytes: &Bytes) -> bool {
        let remote = link.peer.remote;
        if let Some(pair) = self.pairs().get(&remote) {
            pair.used.store(self.now(), Ordering::Relaxed);
        }
        link.bytes_out.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.socket.try_send_to(bytes, remote).is_ok()
    }

    /// Takes a pair off the table.
    pub(super) fn forget(&self, link: &Link) {
        let mut pairs = self.pairs();
        if pairs.get(&link.peer.remote).is_some_and(|pair| pair.link.id == link.id) {
            pairs.remove(&link.peer.remote);
        }
    }

    /// The connection for a remote address, if there is one; it is in use.
    fn known(&self, remote: SocketAddr) -> Option<Arc<Link>> {
        self.pairs().get(&remote).map(|pair| {
            pair.used.store(self.now(), Ordering::Relaxed);
            Arc::clone(&pair.link)
        })
    }

    /// The connection for a remote address, new or known. A known one is told to the core again
    /// when it is asked for by an attempt: the same id, with that attempt. `None`: the table is full.
    pub(super) fn open<C: Core>(
        self: &Arc<Self>,
        hub: &Arc<Hub<C>>,
        remote: SocketAddr,
        attempt: Option<AttemptId>,
    ) -> Option<Arc<Link>> {
        if let Some(link) = self.known(remote) {
            if let Some(attempt) = attempt {
                let input = Input::Opened {
                    connection: link.id,
                    peer: link.peer.clone(),
                    attempt: Some(attempt),
                };
                hub.drive(|core, now, out| core.handle(now, input, out));
            }
            return Some(link);
        }
        if self.pairs().len() >= MAX_PAIRS {
            return None;
        }
        let peer = Peer {
            side: Side::Inside,
            transport: Transport::Udp,
            remote,
            local: self.local,
            names: Arc::default(),
            own: 0,
        };
        let way = Way::Datagram(Arc::clone(self));
        let link = hub.open(peer, attempt.is_some(), way, attempt);
        let pair = Pair { link: Arc::clone(&link), used: AtomicU64::new(self.now()) };
        let replaced = self.pairs().insert(remote, pair);
        // Two tasks may have opened the same pair at once: the later one holds.
        if let Some(replaced) = replaced {
            hub.gone(replaced.link.id);
        }
        Some(link)
    }

    /// Where the sender of a message from `remote` hears its answer: at the port that its Via names, unless
    /// it asks for the one it sent from (RFC 3261 section 18.2.2, RFC 3581). Who names no port is
    /// answered at 5060 where it is known there, and otherwise at the port it sent from.
    fn heard_at(&self, message: &Message, remote: SocketAddr) -> SocketAddr {
        let via = match message.is_request() {
            true => message.via().ok().filter(|via| via.rport.is_none()),
            false => None,
        };
        let Some(via) = via else { return remote };
        let mut at = remote;
        at.set_port(via.port.unwrap_or(SIP_PORT));
        let fits = at == remote || via.port.is_some() || self.pairs().contains_key(&at);
        if fits { at } else { remote }
    }

    fn pairs(&self) -> MutexGuard<'_, HashMap<SocketAddr, Pair>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_secs()
    }

    fn sweep<C: Core>(&self, hub: &Arc<Hub<C>>, all: bool) {
        let oldest = self.now().saturating_sub(IDLE.as_secs());
        let mut gone = Vec::new();
        self.pairs().retain(|_, pair| {
            let keep = !all && pair.used.load(Ordering::Relaxed) >= oldest;
            if !keep {
                gone.push(pair.link.id);
            }
            keep
        });
        for id in gone {
            hub.gone(id);
        }
    }
}

/// Receives until the listener is taken away or the shell stops.
pub(super) async fn run<C: Core>(
    hub: Arc<Hub<C>>,
    port: Arc<DatagramPort>,
    mut remove: watch::Receiver<bool>,
) {
    let mut phase = hub.phase.subscribe();
    let mut sweep = tokio::time::interval(SWEEP);
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut inputs = Vec::with_capacity(TOGETHER);
    loop {
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => break,
            _ = remove.wait_for(|remove| *remove) => break,
            _ = sweep.tick() => port.sweep(&hub, false),
            received = port.socket.recv_from(&mut buffer) => {
                // An error here is about a datagram we sent (ICMP); the socket lives on.
                let (mut next, mut left) = (received.ok(), TOGETHER);
                while let Some((length, remote)) = next {
                    if let Some(bytes) = buffer.get(..length) {
                        take(&hub, &port, remote, bytes, &mut inputs);
                    }
                    left -= 1;
                    next = match left {
                        0 => None,
                        _ => port.socket.try_recv_from(&mut buffer).ok(),
                    };
                }
                if !inputs.is_empty() {
                    hub.deliver(&mut inputs);
                }
            }
        }
    }
    port.sweep(&hub, true);
}

fn take<C: Core>(
    hub: &Arc<Hub<C>>,
    port: &Arc<DatagramPort>,
    remote: SocketAddr,
    bytes: &[u8],
    inputs: &mut Vec<Input>,
) {
    // Keep-alives of other people's making: nothing but line ends or zeros.
    if bytes.iter().all(|b| matches!(b, b'\r' | b'\n' | 0)) {
        return;
    }
    let settings = hub.settings();
    // One that we sent to first is a next hop: its answers are welcome.
    let known = port.known(remote);
    if !known.as_ref().is_some_and(|link| link.outbound) {
        let probe = Peer {
            side: Side::Inside,
            transport: Transport::Udp,
            remote,
            local: port.local,
            names: Arc::default(),
            own: 0,
        };
        if !settings.listed(&probe) {
            let detail = "its address is in no prefix of [inside] servers".to_owned();
            hub.refuse(remote, Refusal::NotListed, detail);
            return;
        }
    }
    let parsed = Message::parse_datagram(Bytes::copy_from_slice(bytes), &settings.frame);
    let at = parsed.as_ref().map_or(remote, |message| port.heard_at(message, remote));
    let known = if at == remote { known } else { port.known(at) };
    let Some(link) = known.or_else(|| port.open(hub, at, None)) else {
        add(&hub.counters.datagrams_dropped);
        return;
    };
    link.bytes_in.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    add(&hub.counters.messages);
    let connection = link.id;
    inputs.push(match parsed {
        Ok(message) => Input::Message { connection, message },
        Err(error) => Input::Unreadable { connection, error },
    });
}
