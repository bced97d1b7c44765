//! The thread of the daemon's way: it waits for sockets and for commands, and takes a batch from each
//! socket in turn. Nothing here is made for a packet.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, atomic::Ordering, mpsc},
};

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::{
    Leg, Tally,
    datagrams::{Batch, Moved, Socket},
};
use crate::{firewall::media::entry::Door, media::flow::MediaSide};

/// What the epoll set calls the wish to be heard.
const WAKE: u64 = 0;
/// Sockets that are looked at in one round.
const ROUND: usize = 64;

/// What is asked of the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Have the flow's sockets ready; if the door leads to a flow already, this one follows it.
    Prepare { door: Door, leg: Leg, answer: mpsc::SyncSender<io::Result<()>> },
    /// The door is open: send on what comes from now on.
    Read { door: Door },
    /// Send nothing more on.
    Close { door: Door, answer: mpsc::SyncSender<io::Result<()>> },
    /// These devices are ours, outside and inside.
    Devices([Vec<u32>; 2]),
    /// End.
    Stop,
}

/// A flow.
struct Relay {
    leg: Leg,
    receive: Rc<Socket>,
    send: Rc<Socket>,
    /// Its number in the epoll set, while it is read.
    token: Option<u64>,
}

/// What the thread has.
pub(super) struct Worker {
    commands: mpsc::Receiver<Command>,
    tally: Arc<Tally>,
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    devices: [Vec<u32>; 2],
}

/// What changes while it runs: not to be sent to another thread.
struct Open {
    sockets: HashMap<SocketAddr, Rc<Socket>>,
    relays: HashMap<Door, Relay>,
    tokens: HashMap<u64, Door>,
    next: u64,
    batch: Batch,
}

impl Worker {
    /// And what wakes it.
    pub fn new(
        commands: mpsc::Receiver<Command>,
        tally: Arc<Tally>,
    ) -> io::Result<(Self, Arc<OwnedFd>)> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let devices = Default::default();
        let worker = Self { commands, tally, epoll, wake: Arc::clone(&wake), devices };
        Ok((worker, wake))
    }

    /// Until it is told to stop, or nobody is left to tell it anything.
    pub fn run(mut self) {
        let mut open = Open {
            sockets: HashMap::new(),
            relays: HashMap::new(),
            tokens: HashMap::new(),
            next: WAKE + 1,
            batch: Batch::new(),
        };
        let mut events: Vec<epoll::Event> = Vec::with_capacity(ROUND);
        loop {
            events.clear();
            let waited =
                epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None);
            if waited.is_err_and(|errno| errno != rustix::io::Errno::INTR) {
                tracing::error!(?waited, "media through the daemon has ended");
                return;
            }
            let tokens: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
            for token in tokens {
                if token != WAKE {
                    self.forward(&mut open, token);
                } else if !self.obey(&mut open) {
                    return;
                }
            }
        }
    }

    /// `false`: it is to end.
    fn obey(&mut self, open: &mut Open) -> bool {
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        loop {
            match self.commands.try_recv() {
                Ok(Command::Prepare { door, leg, answer }) => {
                    let _ = answer.send(self.prepare(open, door, leg));
                }
                Ok(Command::Read { door }) => {
                    if let Err(fault) = self.read(open, door) {
                        tracing::error!(%fault, ?door, "a media flow's socket is not read");
                    }
                }
                Ok(Command::Close { door, answer }) => {
                    self.close(open, door);
                    let _ = answer.send(Ok(()));
                }
                Ok(Command::Devices(devices)) => self.devices = devices,
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    fn forward(&self, open: &mut Open, token: u64) {
        let Some(relay) = open.tokens.get(&token).and_then(|door| open.relays.get(door)) else {
            return;
        };
        let [outside, inside] = &self.devices;
        let devices = match relay.leg.side {
            MediaSide::Outside => outside,
            MediaSide::Inside => inside,
        };
        let (from, by) = (&relay.receive, &relay.send);
        let moved = open.batch.forward(from, devices, by, relay.leg.to);
        // What cannot be read waits no longer: asking has taken the error away.
        let Moved { read, sent } = moved.unwrap_or_default();
        let count = |number: usize| u64::try_from(number).unwrap_or(0);
        self.tally.packets.fetch_add(count(sent), Ordering::Relaxed);
        self.tally.lost.fetch_add(count(read.saturating_sub(sent)), Ordering::Relaxed);
    }

    fn prepare(&self, open: &mut Open, door: Door, leg: Leg) -> io::Result<()> {
        let (receive, send) = match (open.socket(leg.local), open.socket(leg.from)) {
            (Ok(receive), Ok(send)) => (receive, send),
            (Err(fault), _) | (_, Err(fault)) => {
                open.forget_unused([leg.local, leg.from]);
                return Err(fault);
            }
        };
        let before = open.relays.remove(&door);
        let same = |relay: &Relay| relay.leg.local == leg.local;
        let token = before.as_ref().filter(|relay| same(relay)).and_then(|relay| relay.token);
        open.relays.insert(door, Relay { leg, receive, send, token });
        if let Some(before) = before {
            if token.is_none() {
                self.leave(open, &before);
            }
            let places = [before.leg.local, before.leg.from];
            drop(before);
            open.forget_unused(places);
        }
        Ok(())
    }

    fn read(&self, open: &mut Open, door: Door) -> io::Result<()> {
        let Some(relay) = open.relays.get_mut(&door).filter(|relay| relay.token.is_none()) else {
            return Ok(());
        };
        // What came before the door was open is nobody's.
        open.batch.drain(&relay.receive);
        let token = open.next;
        epoll::add(
            &self.epoll,
            &*relay.receive,
            epoll::EventData::new_u64(token),
            epoll::EventFlags::IN,
        )?;
        relay.token = Some(token);
        open.tokens.insert(token, door);
        open.next += 1;
        Ok(())
    }

    fn close(&self, open: &mut Open, door: Door) {
        let Some(relay) = open.relays.remove(&door) else { return };
        self.leave(open, &relay);
        let places = [relay.leg.local, relay.leg.from];
        drop(relay);
        open.forget_unused(places);
    }

    fn leave(&self, open: &mut Open, relay: &Relay) {
        if let Some(token) = relay.token {
            open.tokens.remove(&token);
            let _ = epoll::delete(&self.epoll, &*relay.receive);
        }
    }
}

impl Open {
    fn socket(&mut self, at: SocketAddr) -> io::Result<Rc<Socket>> {
        if let Some(socket) = self.sockets.get(&at) {
            return Ok(Rc::clone(socket));
        }
        let socket = Rc::new(Socket::bind(at)?);
        self.sockets.insert(at, Rc::clone(&socket));
        Ok(socket)
    }

    /// Closes those of these sockets that no flow has.
    fn forget_unused(&mut self, places: [SocketAddr; 2]) {
        for at in places {
            if self.sockets.get(&at).is_some_and(|socket| Rc::strong_count(socket) == 1) {
                self.sockets.remove(&at);
            }
        }
    }
}
