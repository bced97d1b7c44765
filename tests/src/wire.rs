//! Two namespaces and a veth pair between them, for tests and benchmarks of the firewall alone:
//! `edge0` is ours, `peer0` is the outside. Everything goes when the guard is dropped.

use std::{
    fs::File,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use edge_user::{
    config::{
        AccessService, Config, Dns, Federation, Firewall, FirewallRule, Host, Inside, InsideServer,
        Interface, Limits, Line, Log, Management, NextHop, Paths, Protocol, Rates, Services,
        TlsFiles, Transport, Xmpp, Zone,
    },
    firewall::inspect,
};

use crate::{
    lab::netns::Namespace,
    patience::{eventually, patience},
};

/// The device that carries the program.
pub const DEVICE: &str = "edge0";
/// Our address.
pub const EDGE4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Our address.
pub const EDGE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The outside's address.
pub const PEER4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The outside's address.
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// A rule that opens a UDP port of the external zone to everybody.
pub fn open_port(name: &str, port: u16) -> FirewallRule {
    FirewallRule {
        ports: vec![(port, port)],
        ..FirewallRule::new(name, Zone::External, Protocol::Udp)
    }
}

/// The Ethernet address of [`DEVICE`].
const EDGE_MAC: &str = "02:00:00:00:00:01";
/// The Ethernet address of the outside.
const PEER_MAC: &str = "02:00:00:00:00:02";

/// Index of a device of the namespace that this thread is in.
pub fn ifindex(device: &str) -> Option<u32> {
    let name = std::ffi::CString::new(device).ok()?;
    // SAFETY: a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Sends frames as they are out of a device, by a packet socket (packet(7)). Live frames of
/// `raw::send` are quicker, but the pages they lie in come back and are sent again as whoever
/// received them left them: they cannot be used where the program changes what it answers.
#[derive(Debug)]
pub struct FrameSender(File);

impl FrameSender {
    /// On a device of the namespace that this thread is in.
    ///
    /// # Errors
    /// When there is no such device, or not root.
    pub fn open(device: &str) -> io::Result<Self> {
        let index = ifindex(device).ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: no pointers.
        let socket =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, owned by nobody else.
        let sender = Self(unsafe { File::from_raw_fd(socket) });
        // SAFETY: plain numbers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: an address of the length that is given.
        let bound =
            unsafe { libc::bind(sender.0.as_raw_fd(), (&raw const address).cast(), length) };
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(sender) }
    }

    /// Sends one frame. `false`: there was no room for it.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn send(&mut self, frame: &[u8]) -> io::Result<bool> {
        match self.0.write(frame) {
            Ok(_) => Ok(true),
            Err(fault) if fault.raw_os_error() == Some(libc::ENOBUFS) => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

/// How long a datagram is waited for when one was dropped since: it may have been another.
const AFTER_A_DROP: Duration = Duration::from_millis(250);
/// When none was dropped: it is on its way, and a neighbour is looked for each second.
const LOST: Duration = Duration::from_secs(15);
/// When nobody counts.
const NOT_COUNTED: Duration = Duration::from_millis(1500);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The pair of namespaces.
#[derive(Debug)]
pub struct Wire {
    /// Ours.
    pub edge: Namespace,
    /// The outside.
    pub peer: Namespace,
    /// A pin folder of our own.
    pub pins: PathBuf,
    /// A state folder of our own.
    pub state: PathBuf,
}

impl Wire {
    /// Makes both, with addresses and the link up.
    pub fn new(tag: &str) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("edge-{tag}-{}-{number}", std::process::id());
        let edge = Namespace::create(&format!("{name}-edge"))?;
        let peer = Namespace::create(&format!("{name}-peer"))?;
        let state = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&state).with_context(|| state.display().to_string())?;
        let wire = Self { edge, peer, pins: Path::new("/sys/fs/bpf").join(&name), state };
        wire.edge.ip_batch(&format!(
            "link add {DEVICE} address {EDGE_MAC} type veth \
                 peer name peer0 address {PEER_MAC} netns {}\n\
             addr add {EDGE4}/24 dev {DEVICE}\n\
             addr add {EDGE6}/64 dev {DEVICE} nodad\n\
             link set {DEVICE} up\n",
            wire.peer.name()
        ))?;
        wire.peer.ip_batch(&format!(
            "addr add {PEER4}/24 dev peer0\n\
             addr add {PEER6}/64 dev peer0 nodad\n\
             link set peer0 up\n"
        ))?;
        wire.edge.wait_links();
        wire.peer.wait_links();
        Ok(wire)
    }

    /// Sends one datagram of so many bytes from outside and tells whether it arrives. One that is
    /// let in is waited for as long as it takes; that one is dropped is known from the program's
    /// counters, where there is a program of ours.
    ///
    /// # Panics
    /// When it cannot be sent.
    #[track_caller]
    pub fn passes(&self, from: IpAddr, to: IpAddr, port: u16, bytes: usize) -> bool {
        let receiver = self.edge.udp(SocketAddr::new(to, port)).expect("our port");
        let look = Some(Duration::from_millis(20));
        receiver.set_read_timeout(look).expect("a socket");
        let sender = self.peer.udp(SocketAddr::new(from, 0)).expect("an address outside");
        let dropped = || {
            let rows = inspect::reasons(&self.pins).ok()?;
            let drops = rows.iter().filter(|row| row.verdict == "drop");
            Some(drops.map(|row| row.packets).sum::<u64>())
        };
        let (before, began) = (dropped(), Instant::now());
        sender.send_to(&vec![7; bytes], (to, port)).expect("it is sent");
        let mut buffer = vec![0; bytes + 1];
        loop {
            if receiver.recv(&mut buffer).is_ok_and(|length| length == bytes) {
                return true;
            }
            let limit = match (before, dropped()) {
                (Some(before), Some(now)) if now > before => AFTER_A_DROP,
                (Some(_), Some(_)) => LOST,
                _ => NOT_COUNTED,
            };
            if began.elapsed() >= patience(limit) {
                return false;
            }
        }
    }

    /// Tells both ends who their neighbour is, for good: a program that drops ARP and neighbour
    /// discovery then leaves no end that has given up on the other.
    pub fn know_neighbours(&self) -> Result<()> {
        self.peer.ip_batch(&format!(
            "neigh replace {EDGE4} lladdr {EDGE_MAC} dev peer0 nud permanent\n\
             neigh replace {EDGE6} lladdr {EDGE_MAC} dev peer0 nud permanent\n"
        ))?;
        self.edge.ip_batch(&format!(
            "neigh replace {PEER4} lladdr {PEER_MAC} dev {DEVICE} nud permanent\n\
             neigh replace {PEER6} lladdr {PEER_MAC} dev {DEVICE} nud permanent\n"
        ))
    }

    /// Waits until no owner holds the pins any more.
    ///
    /// # Panics
    /// When one goes on holding them, or the pins are not there.
    #[track_caller]
    pub fn wait_lock_free(&self) {
        eventually("the lock is free", || !inspect::status(&self.pins).expect("the pins").daemon);
    }

    /// A small valid configuration: SIP on 5061 from everywhere, ssh from a management prefix.
    pub fn config(&self) -> Config {
        small_config(&self.pins, &self.state)
    }

    /// The configuration with changes, shared as the firewall wants it.
    pub fn config_with(&self, change: impl FnOnce(&mut Config)) -> Arc<Config> {
        let mut config = self.config();
        change(&mut config);
        Arc::new(config)
    }
}

/// A small valid configuration of [`DEVICE`], with its pins and its state there: SIP on 5061 from
/// everywhere, ssh from a management prefix.
pub fn small_config(pins: &Path, state: &Path) -> Config {
    let name = |text: &str| text.parse().expect("a domain name");
    let tls = TlsFiles { certificate: "c".into(), key: "k".into(), trust: "t".into() };
    let second = Duration::from_secs(1);
    Config {
        file: "edge.toml".into(),
        fqdn: name("edge.contoso.example"),
        domains: vec![name("contoso.example")],
        paths: Paths { state: state.to_owned(), run: state.to_owned(), pins: pins.to_owned() },
        interfaces: vec![Interface {
            device: DEVICE.to_owned(),
            vlan: None,
            zone: Zone::External,
            optional: false,
        }],
        management: Management {
            ports: vec![22],
            from: vec!["192.0.2.0/28".parse().expect("a prefix")],
            zone: Zone::External,
            line: Line::default(),
        },
        access: AccessService::new(
            vec![
                SocketAddr::new(IpAddr::V4(EDGE4), 5061),
                SocketAddr::new(IpAddr::V6(EDGE6), 5061),
            ],
            tls.clone(),
        ),
        inside: Inside {
            listen: vec![(Transport::Tls, SocketAddr::from(([10, 0, 0, 10], 5061)))],
            tls: Some(tls),
            servers: vec![InsideServer::Name(name("director.contoso.example"))],
            next_hops: vec![NextHop {
                host: Host::Name(name("director.contoso.example")),
                port: 5061,
                transport: Transport::Tls,
            }],
            routing: Default::default(),
            rates: Rates::default(),
            line: Line::default(),
        },
        services: Services::default(),
        media: Default::default(),
        xmpp: Xmpp::default(),
        revocation: Default::default(),
        pool: Default::default(),
        federation: Federation {
            enabled: true,
            allowed_domains: Vec::new(),
            blocked_domains: Vec::new(),
            ..Federation::default()
        },
        firewall: Firewall {
            max_blocked_addresses: 10_000,
            max_blocked_prefixes: 10_000,
            ..Firewall::default()
        },
        dns: Dns { servers: Vec::new(), timeout: second, trust_anchor: None },
        limits: Limits {
            connections: 1,
            connections_per_source: 1,
            handshakes: 1,
            handshakes_per_second: 1,
            handshakes_per_second_per_source: 1,
            handshake_timeout: second,
            message_timeout: second,
            idle_timeout: second,
            head_bytes: 1,
            body_bytes: 1,
            first_request_bytes: 1,
            transactions: 1,
            write_queue_bytes: 1,
        },
        log: Log { json: false, filter: "info".to_owned() },
    }
}

/// Blocks of our own addresses in [`Wire::config`].
pub const OWN_BLOCKS: u64 = 3;

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = edge_user::firewall::detach(&self.pins, true);
        Namespace::delete(self.edge.name());
        Namespace::delete(self.peer.name());
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

/// What a socket sends says that no router may cut it; `how`: whether it may be longer than what the
/// stack knows of the way (`IP_PMTUDISC_PROBE`) or not (`IP_PMTUDISC_DO`).
pub fn never_cut(socket: &std::net::UdpSocket, how: std::ffi::c_int) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let (level, option) = match socket.local_addr()?.is_ipv6() {
        true => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        false => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    };
    let size = size_of_val(&how) as libc::socklen_t;
    // SAFETY: the value lives longer than the call, and is as long as it says.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const how).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
