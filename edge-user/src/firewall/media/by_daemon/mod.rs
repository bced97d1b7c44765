//! The way through the daemon, for flows that leave by a device to which XDP can send nothing: the
//! program in the kernel judges every packet by the same rules, counts it and passes it to a socket
//! at the flow's own port; a thread sends it on from the socket at the other port of ours.
//!
//! All sockets are that thread's. Whoever opens a flow waits until its sockets are there, and whoever
//! closes one until nothing more is sent. It must never send on what the kernel has not judged: it
//! reads a socket only while the flow's door is open, and takes only what arrived at our devices.

mod datagrams;
mod worker;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use edge_ebpf::abi::{MEDIA_BY_DAEMON, MediaFlow};

use self::worker::{Command, Worker};
use super::entry::{self, Door};
use crate::{
    firewall::{FirewallError, decode},
    media::flow::MediaSide,
};

/// What went through the daemon so far.
#[derive(Debug, Default)]
struct Tally {
    packets: AtomicU64,
    lost: AtomicU64,
}

/// Where a flow's packets come in and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leg {
    side: MediaSide,
    local: SocketAddr,
    from: SocketAddr,
    to: SocketAddr,
}

impl Leg {
    fn of(flow: &MediaFlow) -> Self {
        let socket = |address, port| {
            let (address, port) = (decode::address(address), u16::from_be_bytes(port));
            match address {
                // A link-local address means something on its device only.
                IpAddr::V6(six) if six.is_unicast_link_local() => {
                    SocketAddr::V6(SocketAddrV6::new(six, port, 0, flow.ifindex))
                }
                _ => SocketAddr::new(address, port),
            }
        };
        Self {
            side: entry::side(flow),
            local: socket(flow.local, flow.local_port),
            from: socket(flow.from, flow.from_port),
            to: socket(flow.to, flow.to_port),
        }
    }
}

/// The daemon's way. Dropping it closes every socket.
#[derive(Debug)]
pub(super) struct ByDaemon {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    tally: Arc<Tally>,
    /// Flows that go this way, by their slot.
    slots: HashMap<u32, MediaFlow>,
    /// Doors whose flow goes this way, with its slot.
    doors: HashMap<Door, u32>,
    devices: [Vec<u32>; 2],
}

impl ByDaemon {
    /// Starts the thread. Its sockets are in the network namespace of the caller.
    pub fn start() -> Result<Self, FirewallError> {
        let fault = |fault| FirewallError::io("starting the thread of media", fault);
        let tally = Arc::new(Tally::default());
        let (commands, receiver) = mpsc::channel();
        let (worker, wake) = Worker::new(receiver, Arc::clone(&tally)).map_err(fault)?;
        let thread = std::thread::Builder::new()
            .name("media".to_owned())
            .spawn(move || worker.run())
            .map_err(fault)?;
        Ok(Self {
            commands,
            wake,
            thread: Some(thread),
            tally,
            slots: HashMap::new(),
            doors: HashMap::new(),
            devices: Default::default(),
        })
    }

    /// A slot holds this flow from now on.
    pub fn noted(&mut self, slot: u32, flow: &MediaFlow) {
        if flow.call != 0 && flow.flags & MEDIA_BY_DAEMON != 0 {
            self.slots.insert(slot, *flow);
        } else {
            self.slots.remove(&slot);
        }
    }

    /// A door is about to lead to a slot: what must be there before is there when this returns.
    pub fn before(&mut self, door: Door, slot: u32) -> Result<(), FirewallError> {
        match self.slots.get(&slot) {
            Some(flow) => {
                let leg = Leg::of(flow);
                self.ask(|answer| Command::Prepare { door, leg, answer }).map_err(|fault| {
                    let what = format!("sockets of a media flow at {} and {}", leg.local, leg.from);
                    FirewallError::io(what, fault)
                })
            }
            None if self.doors.remove(&door).is_some() => self
                .ask(|answer| Command::Close { door, answer })
                .map_err(|fault| FirewallError::io("closing a media flow's sockets", fault)),
            None => Ok(()),
        }
    }

    /// The door leads there.
    pub fn after(&mut self, door: Door, slot: u32) {
        if self.slots.contains_key(&slot) {
            self.doors.insert(door, slot);
            self.tell(Command::Read { door });
        }
    }

    /// Which devices are ours, outside and inside.
    pub fn set_devices(&mut self, devices: [Vec<u32>; 2]) {
        if self.devices != devices {
            self.devices.clone_from(&devices);
            self.tell(Command::Devices(devices));
        }
    }

    /// Flows that go this way now; packets that went it, and those that could not.
    pub fn numbers(&self) -> (usize, u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (self.doors.len(), count(&self.tally.packets), count(&self.tally.lost))
    }

    fn ask(
        &self,
        command: impl FnOnce(mpsc::SyncSender<io::Result<()>>) -> Command,
    ) -> io::Result<()> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.tell(command(answer));
        answered.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of media is gone")))
    }

    fn tell(&self, command: Command) {
        // When the thread is gone, whoever asks it notices.
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        }
    }
}

impl Drop for ByDaemon {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
