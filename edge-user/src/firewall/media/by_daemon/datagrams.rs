//! UDP sockets, and many datagrams with one system call: recvmmsg(2) and sendmmsg(2). What a router
//! keeps is kept: the traffic class, and the hop limit less one.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    ptr,
};

/// Datagrams that are taken together.
const COUNT: usize = 32;
/// Bytes of a datagram at most: those of a jumbo frame.
const SIZE: usize = 9216;
/// Bytes for what comes with a datagram: device, hop limit and class.
const CONTROL: usize = 128;

/// A bound socket.
#[derive(Debug)]
pub(super) struct Socket {
    socket: UdpSocket,
    six: bool,
}

impl Socket {
    /// Binds it. With each datagram comes where it arrived, its hop limit and its class.
    pub fn bind(at: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        let six = at.is_ipv6();
        let (level, options) = match six {
            true => (
                libc::IPPROTO_IPV6,
                [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVTCLASS],
            ),
            false => (libc::IPPROTO_IP, [libc::IP_PKTINFO, libc::IP_RECVTTL, libc::IP_RECVTOS]),
        };
        for option in options {
            let on: libc::c_int = 1;
            // SAFETY: the value is an integer of the length that is given and outlives the call.
            let set = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    level,
                    option,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            if set != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self { socket, six })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Read.
    pub read: usize,
    /// Sent on.
    pub sent: usize,
}

/// What came with a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct About {
    /// Device that it arrived at; 0: not said.
    ifindex: u32,
    /// Hop limit, or time to live.
    hops: u8,
    /// Traffic class, or type of service.
    class: u8,
    length: usize,
    /// It did not fit.
    cut: bool,
}

/// Bytes for control messages, aligned as the kernel wants them.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Room for datagrams on their way: all that they ever take, however many flows there are.
pub(super) struct Batch {
    bytes: Vec<u8>,
    control: Vec<Control>,
}

impl Batch {
    pub fn new() -> Self {
        Self { bytes: vec![0; COUNT * SIZE], control: vec![Control([0; CONTROL]); COUNT] }
    }

    /// Throws away what waits.
    pub fn drain(&mut self, from: &Socket) {
        while self.read(from).is_ok_and(|read| read.len() == COUNT) {}
    }

    /// Sends on what waits, as far as there is room, of what arrived at one of these devices.
    pub fn forward(
        &mut self,
        from: &Socket,
        devices: &[u32],
        by: &Socket,
        to: SocketAddr,
    ) -> io::Result<Moved> {
        let read = self.read(from)?;
        // Only there has the program in the kernel judged it.
        let fits = |about: &About| !about.cut && about.hops > 1 && devices.contains(&about.ifindex);
        let sent = self.send(&read, fits, by, to);
        Ok(Moved { read: read.len(), sent })
    }

    fn read(&mut self, from: &Socket) -> io::Result<Vec<About>> {
        let mut parts = parts(&mut self.bytes, |_| SIZE);
        let places = parts.iter_mut().zip(&mut self.control);
        let mut headers: Vec<libc::mmsghdr> =
            places.map(|(part, control)| header(part, control, CONTROL)).collect();
        // SAFETY: every header points to a part and to control bytes of the lengths it says, which
        // outlive the call.
        let read = unsafe {
            libc::recvmmsg(
                from.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                COUNT as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        Ok(headers.iter().take(read).map(about).collect())
    }

    /// How many were sent.
    fn send(
        &mut self,
        read: &[About],
        fits: impl Fn(&About) -> bool,
        by: &Socket,
        to: SocketAddr,
    ) -> usize {
        let (mut name, name_length) = name(to);
        let mut parts = parts(&mut self.bytes, |place| read.get(place).map_or(0, |a| a.length));
        let places = parts.iter_mut().zip(&mut self.control).zip(read);
        let mut headers: Vec<libc::mmsghdr> = places
            .filter(|(_, about)| fits(about))
            .map(|((part, control), about)| {
                let length = write_control(control, by.six, about);
                let mut header = header(part, control, length);
                header.msg_hdr.msg_name = (&raw mut name).cast();
                header.msg_hdr.msg_namelen = name_length;
                header
            })
            .collect();
        let (mut done, mut sent) = (0, 0);
        while let Some(rest) = headers.get_mut(done..).filter(|rest| !rest.is_empty()) {
            // SAFETY: as in `read`; the name is only read, and outlives the call.
            let now = unsafe {
                libc::sendmmsg(
                    by.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(now) {
                Ok(now) if now > 0 => (done, sent) = (done + now, sent + now),
                // The first of them cannot go: a network drops it, and does not wait.
                _ => done += 1,
            }
        }
        sent
    }
}

/// The room of each datagram, of these lengths.
fn parts(bytes: &mut [u8], length: impl Fn(usize) -> usize) -> Vec<libc::iovec> {
    let all = bytes.chunks_exact_mut(SIZE).enumerate();
    all.map(|(place, part)| libc::iovec {
        iov_base: part.as_mut_ptr().cast(),
        iov_len: length(place).min(SIZE),
    })
    .collect()
}

fn header(part: &mut libc::iovec, control: &mut Control, length: usize) -> libc::mmsghdr {
    // SAFETY: all zeros is a value of this plain C structure.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
    header.msg_hdr.msg_controllen = length.min(CONTROL);
    header
}

/// Reads what came with a datagram.
fn about(header: &libc::mmsghdr) -> About {
    let message = &header.msg_hdr;
    let mut about = About {
        length: header.msg_len as usize,
        cut: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        ..About::default()
    };
    // SAFETY: the kernel has filled the header and its control bytes, which are still there.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: the macros lead only to whole headers within the control bytes, whose data is of
        // the kind that level and type say.
        unsafe {
            let data = libc::CMSG_DATA(next);
            let number = || data.cast::<libc::c_int>().read_unaligned();
            match ((*next).cmsg_level, (*next).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    about.ifindex = info.ipi_ifindex as u32;
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    about.ifindex = data.cast::<libc::in6_pktinfo>().read_unaligned().ipi6_ifindex;
                }
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    about.hops = number() as u8;
                }
                // One byte.
                (libc::IPPROTO_IP, libc::IP_TOS) => about.class = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => about.class = number() as u8,
                _ => {}
            }
            next = libc::CMSG_NXTHDR(message, next);
        }
    }
    about
}

/// Writes with what hop limit and class a datagram leaves: how many bytes that takes.
fn write_control(control: &mut Control, six: bool, about: &About) -> usize {
    let (level, kinds) = match six {
        true => (libc::IPPROTO_IPV6, [libc::IPV6_HOPLIMIT, libc::IPV6_TCLASS]),
        false => (libc::IPPROTO_IP, [libc::IP_TTL, libc::IP_TOS]),
    };
    let values = [about.hops.saturating_sub(1), about.class].map(libc::c_int::from);
    // SAFETY: pure arithmetic.
    let (length, space) = unsafe {
        let bytes = size_of::<libc::c_int>() as libc::c_uint;
        (libc::CMSG_LEN(bytes) as usize, libc::CMSG_SPACE(bytes) as usize)
    };
    control.0 = [0; CONTROL];
    for (place, (kind, value)) in
        control.0.chunks_exact_mut(space).zip(kinds.into_iter().zip(values))
    {
        let head = libc::cmsghdr { cmsg_len: length, cmsg_level: level, cmsg_type: kind };
        // SAFETY: the place holds a header and an integer, and is aligned for both: it begins at a
        // multiple of the alignment that the macros keep.
        unsafe {
            let start = place.as_mut_ptr().cast::<libc::cmsghdr>();
            start.write(head);
            libc::CMSG_DATA(start).cast::<libc::c_int>().write_unaligned(value);
        }
    }
    2 * space
}

/// An address as the kernel takes it.
fn name(to: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeros is a value of this plain C structure.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let length = match to {
        SocketAddr::V4(to) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: to.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is large enough and aligned for every kind of address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(name) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(to) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                sin6_scope_id: to.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(name) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The index of the loopback device.
    fn loopback() -> u32 {
        crate::firewall::sys::ifindex("lo").unwrap()
    }

    fn eventually(mut check: impl FnMut() -> bool) {
        // The kernel delivers over the loopback device at once; only a busy machine takes longer.
        for _ in 0..20_000 {
            if check() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("never");
    }

    #[test]
    fn datagrams_go_on_with_their_class_and_a_hop_less_and_only_from_devices_that_are_ours() {
        let addresses = ["127.0.0.1:0", "[::1]:0"].map(|at| at.parse::<SocketAddr>().unwrap());
        for (at, from_at) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let (inward, outward) = (addresses[at], addresses[from_at]);
            let receive = Socket::bind(inward).unwrap();
            let by = Socket::bind(outward).unwrap();
            let far = Socket::bind(outward).unwrap();
            let to = far.socket.local_addr().unwrap();
            let sender = UdpSocket::bind(inward).unwrap();
            sender.set_ttl(9).unwrap();
            let local = receive.socket.local_addr().unwrap();
            let mut batch = Batch::new();
            let mut forwarded = |devices: &[u32], count: usize| {
                for number in 0..count {
                    sender.send_to(&[number as u8; 172], local).unwrap();
                }
                let (mut read, mut sent) = (0, 0);
                eventually(|| {
                    let moved = batch.forward(&receive, devices, &by, to).unwrap_or_default();
                    (read, sent) = (read + moved.read, sent + moved.sent);
                    read == count
                });
                sent
            };
            assert_eq!(forwarded(&[loopback() + 1], 3), 0, "from elsewhere");
            assert_eq!(forwarded(&[7, loopback()], 40), 40);
            let mut heard = 0;
            let mut batch = Batch::new();
            eventually(|| {
                for about in batch.read(&far).unwrap_or_default() {
                    assert_eq!((about.length, about.cut), (172, false));
                    // `set_ttl` is for IPv4 alone.
                    assert_eq!(about.hops, if at == 0 { 8 } else { 63 }, "{at} {from_at}");
                    assert_eq!(about.ifindex, loopback());
                    heard += 1;
                }
                heard == 40
            });
            sender.set_ttl(1).unwrap();
            if at == 0 {
                assert_eq!(forwarded(&[loopback()], 2), 0, "its last hop");
            }
        }
    }

    #[test]
    fn what_is_too_long_does_not_go_on_and_what_waits_can_be_thrown_away() {
        let at: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (receive, by) = (Socket::bind(at).unwrap(), Socket::bind(at).unwrap());
        let sender = UdpSocket::bind(at).unwrap();
        let local = receive.socket.local_addr().unwrap();
        let mut batch = Batch::new();
        sender.send_to(&[1; SIZE + 1], local).unwrap();
        let mut moved = Moved::default();
        eventually(|| {
            moved = batch.forward(&receive, &[loopback()], &by, at).unwrap_or_default();
            moved.read == 1
        });
        assert_eq!(moved.sent, 0);
        for _ in 0..3 {
            sender.send_to(&[1; 10], local).unwrap();
        }
        // All three are there, also on a machine that is busy.
        std::thread::sleep(Duration::from_millis(500));
        batch.drain(&receive);
        assert!(batch.read(&receive).is_err(), "nothing waits");
    }
}
