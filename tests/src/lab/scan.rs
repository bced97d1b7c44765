//! A port scanner: half-open SYN scan for TCP, one datagram a port for UDP, both families, all
//! 65,535 ports. It says what an outsider sees: open, closed (a reset or port unreachable), or
//! nothing.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    mem::size_of,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::netns::Namespace;

/// Answers that come later are not waited for.
const QUIET: Duration = Duration::from_secs(1);
/// Probes between two looks at the answers.
const BURST: usize = 256;
/// Our port in TCP probes.
const SOURCE_PORT: u16 = 61_234;

/// What a scan saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Ports that answered as a service does.
    pub open: BTreeSet<u16>,
    /// Ports that said "nobody here": reachable, no service.
    pub closed: BTreeSet<u16>,
    /// Probes sent.
    pub probes: u64,
}

/// Sends a SYN to each of `ports` of `target` from inside `namespace`; never completes a
/// connection.
pub fn tcp(namespace: &Namespace, from: IpAddr, target: IpAddr, ports: &[u16]) -> Result<Seen> {
    namespace.run(|| scan_tcp(from, target, ports))?
}

/// Sends a datagram to each of `ports` of `target` from inside `namespace`.
pub fn udp(namespace: &Namespace, target: IpAddr, ports: &[u16]) -> Result<Seen> {
    namespace.run(|| scan_udp(target, ports))?
}

/// Scans until there was `enough`: on a machine that is busy a probe or its answer may be lost.
/// What is seen is what any of the scans saw.
pub fn until(enough: impl Fn(&Seen) -> bool, scan: impl Fn() -> Result<Seen>) -> Result<Seen> {
    const SCANS: usize = 10;
    let mut all = Seen::default();
    for _ in 0..SCANS {
        let mut seen = scan()?;
        all.open.append(&mut seen.open);
        all.closed.append(&mut seen.closed);
        all.probes += seen.probes;
        if enough(&all) {
            break;
        }
    }
    Ok(all)
}

/// Every port there is.
pub fn all_ports() -> Vec<u16> {
    (1..=u16::MAX).collect()
}

fn scan_tcp(from: IpAddr, target: IpAddr, ports: &[u16]) -> Result<Seen> {
    let socket = RawTcp::open(target).context("raw socket")?;
    let mut seen = Seen::default();
    for burst in ports.chunks(BURST) {
        for &port in burst {
            socket.send(&syn(from, target, port)).with_context(|| format!("port {port}"))?;
            seen.probes += 1;
        }
        socket.read(target, &mut seen)?;
    }
    let deadline = Instant::now() + QUIET;
    while Instant::now() < deadline {
        socket.read(target, &mut seen)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(seen)
}

/// Sends SYNs to one port, one at a time: traffic that the kernel must judge, and a connection
/// that never comes to be.
pub struct SynSender {
    socket: RawTcp,
    segment: [u8; 20],
}

impl SynSender {
    /// Ready to send from `from` (an address of `namespace`) to `to`.
    pub fn open(namespace: &Namespace, from: IpAddr, to: SocketAddr) -> Result<Self> {
        let socket = namespace.run(|| RawTcp::open(to.ip()))?.context("raw socket")?;
        Ok(Self { socket, segment: syn(from, to.ip(), to.port()) })
    }

    /// Sends one.
    pub fn send(&self) -> io::Result<()> {
        self.socket.send(&self.segment)
    }
}

fn scan_udp(target: IpAddr, ports: &[u16]) -> Result<Seen> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    receive_errors(&socket, target)?;
    let mut seen = Seen::default();
    for burst in ports.chunks(BURST) {
        for &port in burst {
            send_datagram(&socket, SocketAddr::new(target, port))?;
            seen.probes += 1;
        }
        read_datagrams(&socket, target, &mut seen);
    }
    let deadline = Instant::now() + QUIET;
    while Instant::now() < deadline {
        read_datagrams(&socket, target, &mut seen);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(seen)
}

/// A pending ICMP error is reported by the next call, whatever that sends: try again.
fn send_datagram(socket: &UdpSocket, to: SocketAddr) -> Result<()> {
    for _ in 0..8 {
        match socket.send_to(b"edge", to) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).with_context(|| format!("port {}", to.port())),
        }
    }
    Ok(())
}

fn read_datagrams(socket: &UdpSocket, target: IpAddr, seen: &mut Seen) {
    let mut buffer = [0_u8; 2048];
    for _ in 0..BURST {
        match socket.recv_from(&mut buffer) {
            Ok((_, from)) if from.ip() == target => {
                seen.open.insert(from.port());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => break,
        }
    }
    while let Some(port) = refused_port(socket) {
        seen.closed.insert(port);
    }
}

/// Asks for ICMP errors on the socket's error queue.
fn receive_errors(socket: &UdpSocket, target: IpAddr) -> io::Result<()> {
    let (level, option) = if target.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    };
    let on: libc::c_int = 1;
    // SAFETY: `on` lives for the call and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The port of the next refused datagram in the error queue.
fn refused_port(socket: &UdpSocket) -> Option<u16> {
    // SAFETY: all-zero is a value of both types.
    let (mut name, mut message): (libc::sockaddr_in6, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut control = [0_u8; 512];
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len();
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the pointers in `message` point to live buffers of the given sizes.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    // The port lies at the same place in both families' addresses.
    (length >= 0).then_some(u16::from_be(name.sin6_port))
}

/// A raw socket; once connected it is read and written like a file.
struct RawTcp {
    socket: File,
}

impl RawTcp {
    fn open(target: IpAddr) -> io::Result<Self> {
        let family = if target.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_TCP) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        connect(&fd, target)?;
        Ok(Self { socket: File::from(fd) })
    }

    fn send(&self, segment: &[u8]) -> io::Result<()> {
        use std::io::Write as _;
        loop {
            match (&self.socket).write(segment) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // An ICMP error for an earlier probe; this one was not sent.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn read(&self, target: IpAddr, seen: &mut Seen) -> Result<()> {
        use std::io::Read as _;
        let mut buffer = [0_u8; 2048];
        loop {
            let length = match (&self.socket).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error.into()),
            };
            // IPv4 raw sockets give the IP header too.
            let skip = if target.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
            let Some(segment) = buffer[..length].get(skip..).filter(|s| s.len() >= 20) else {
                continue;
            };
            let port = u16::from_be_bytes([segment[0], segment[1]]);
            if u16::from_be_bytes([segment[2], segment[3]]) != SOURCE_PORT {
                continue;
            }
            match segment[13] & 0x17 {
                0x12 => seen.open.insert(port),
                flags if flags & 0x04 != 0 => seen.closed.insert(port),
                _ => false,
            };
        }
    }
}

fn connect(fd: &OwnedFd, target: IpAddr) -> io::Result<()> {
    let address = SocketAddr::new(target, 0);
    rustix::net::connect(fd, &address).map_err(io::Error::from)
}

/// A TCP SYN with its checksum.
fn syn(from: IpAddr, to: IpAddr, port: u16) -> [u8; 20] {
    let mut segment = [0_u8; 20];
    segment[0..2].copy_from_slice(&SOURCE_PORT.to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[4..8].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x02;
    segment[14..16].copy_from_slice(&1024_u16.to_be_bytes());
    let checksum = tcp_checksum(from, to, &segment);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

/// The Internet checksum over pseudo header and segment (RFC 9293 section 3.1).
fn tcp_checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut bytes = [octets(from), octets(to)].concat();
    bytes.extend_from_slice(&[0, 6]);
    bytes.extend_from_slice(&u16::try_from(segment.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend_from_slice(segment);
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_with_its_checksum_sums_to_zero() {
        for (from, to) in [("192.0.2.42", "203.0.113.10"), ("2001:db8:6::10", "2001:db8:1::10")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            assert_eq!(tcp_checksum(from, to, &syn(from, to, 5061)), 0);
        }
    }
}
