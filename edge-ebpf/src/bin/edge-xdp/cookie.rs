//! Answers a SYN with a SYN cookie (RFC 4987 section 3.6): the frame itself becomes the SYN-ACK and
//! goes back by the device it came in on. The cookie is the kernel's own, made for the listening
//! socket, so that the kernel takes the ACK that brings it back (`net.ipv4.tcp_syncookies` is 2).
//! The SYN-ACK offers a segment size and nothing else: no window scale, no timestamps.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, xdp_md},
    helpers::{
        bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie,
        bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    },
    programs::XdpContext,
};
use edge_ebpf::{
    decide::{Family, Tuple},
    packet::{Handler, Ip, Kind, Link, Piece, parse},
};

use crate::{context::frame_of, tables::KernelTables};

/// `TCP_LISTEN`.
const STATE_LISTEN: u32 = 10;
/// A TCP header with a segment size.
const ANSWER_LENGTH: u32 = 24;

/// Where the SYN's headers lie.
#[derive(Clone, Copy)]
struct Place {
    network: u32,
    six: bool,
}

/// Finds the place of a SYN that can be answered: without IPv4 options or extension headers.
struct Finder;

impl Finder {
    #[inline(always)]
    fn place<A: Family>(link: &Link, ip: &Ip<'_, A>, plain: u16) -> Option<Place> {
        let plain = ip.header_length == plain && !ip.fragment && ip.transport.kind == Kind::Tcp;
        plain.then_some(Place { network: u32::from(link.length), six: plain && A::ICMP == 58 })
    }
}

impl Handler for Finder {
    type Output = Option<Place>;

    fn link(self, _link: &Link) -> Self::Output {
        None
    }

    #[inline(always)]
    fn ipv4(self, link: &Link, ip: &Ip<'_, [u8; 4]>) -> Self::Output {
        Self::place(link, ip, 20)
    }

    #[inline(always)]
    fn ipv6(self, link: &Link, ip: &Ip<'_, [u8; 16]>) -> Self::Output {
        Self::place(link, ip, 40)
    }

    fn piece4(self, _link: &Link, _piece: &Piece<[u8; 4]>) -> Self::Output {
        None
    }

    fn piece6(self, _link: &Link, _piece: &Piece<[u8; 16]>) -> Self::Output {
        None
    }
}

/// Makes the frame the answer. `None`: it cannot be answered, and may be damaged by now.
#[inline(always)]
pub fn answer(context: &XdpContext) -> Option<()> {
    let frame = frame_of(context.ctx);
    let place = parse(&frame, &KernelTables::new(context.ctx), Finder).ok()??;
    if edge_answer(context.as_ptr().cast(), place.network | u32::from(place.six) << 8) == 0 {
        Some(())
    } else {
        None
    }
}

/// Proved by itself; 0 when the frame is the answer.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_answer(context: *mut aya_ebpf::bindings::xdp_md, place: u32) -> u64 {
    let context = XdpContext::new(context);
    let network = place & 0x1f;
    let done = if place >> 8 != 0 {
        answer_family::<[u8; 16]>(&context, network, 40)
    } else {
        answer_family::<[u8; 4]>(&context, network, 20)
    };
    u64::from(done.is_none())
}

#[inline(always)]
fn answer_family<A: Back>(context: &XdpContext, network: u32, header: u32) -> Option<()> {
    let frame = frame_of(context.ctx);
    let (source, destination) = A::addresses(&frame, network as usize)?;
    let mut cursor = frame.cursor();
    cursor.skip((network + header) as usize);
    let tcp = cursor.take::<20>()?;
    let (source_port, destination_port) = (tcp.number::<0>(), tcp.number::<2>());
    let sequence = u32::from_be_bytes(tcp.four::<4>());
    // Options beyond the twenty bytes; written so that the verifier sees both ends of the length.
    let tcp_options = (u32::from(tcp.byte::<12>() >> 4).wrapping_sub(5) & 0xf) * 4;
    let tuple = Tuple::new(source, source_port, destination, destination_port);
    let (cookie, segment) = cookie(context, network, header, tcp_options, tuple)?;

    // SAFETY: the context is the program's own.
    let length = unsafe { bpf_xdp_get_buff_len(context.ctx) as i32 };
    let wanted = (network + header + ANSWER_LENGTH) as i32;
    // SAFETY: as above; every look at the packet before this is over.
    if unsafe { bpf_xdp_adjust_tail(context.ctx, wanted - length) } != 0 {
        return None;
    }
    let (start, end) = frame_of(context.ctx).bounds();
    let start = start.cast_mut();
    let ip = start.wrapping_add(network as usize);
    // One look for the hardware addresses and one for the rest: the verifier adds nothing up.
    if start.wrapping_add(12).cast_const() > end
        || ip.wrapping_add((header + ANSWER_LENGTH) as usize).cast_const() > end
    {
        return None;
    }
    let segment = segment.to_be_bytes();
    let mut answer = [0_u8; ANSWER_LENGTH as usize];
    answer[0..2].copy_from_slice(&destination_port.to_be_bytes());
    answer[2..4].copy_from_slice(&source_port.to_be_bytes());
    answer[4..8].copy_from_slice(&cookie.to_be_bytes());
    answer[8..12].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
    answer[12] = 0x60;
    answer[13] = 0x12;
    answer[14] = 0xff;
    answer[15] = 0xff;
    answer[20] = 2;
    answer[21] = 4;
    answer[22] = segment[0];
    answer[23] = segment[1];
    let sum = A::sum(source) + A::sum(destination) + 6 + ANSWER_LENGTH + sum(&answer);
    let check = folded(sum).to_be_bytes();
    answer[16] = check[0];
    answer[17] = check[1];
    // SAFETY: all of it lies before the end that was just looked at.
    unsafe {
        swap_hardware_addresses(start);
        A::write(ip, source, destination);
        ip.wrapping_add(header as usize).cast::<[u8; 24]>().write_unaligned(answer);
    }
    Some(())
}

/// The cookie and the segment size that the listening socket of this connection offers.
#[inline(always)]
fn cookie<A: Family>(
    context: &XdpContext,
    network: u32,
    header: u32,
    tcp_options: u32,
    mut tuple: Tuple<A>,
) -> Option<(u32, u16)> {
    // The helper wants whole headers, options included, in one piece of known size.
    let (mut ip, mut tcp) = ([0_u8; 40], [0_u8; 60]);
    if tcp_options > 40 {
        return None;
    }
    let tcp_length = 20 + tcp_options;
    // SAFETY: the context is the program's own, and the buffers hold as many bytes.
    unsafe {
        if bpf_xdp_load_bytes(context.ctx, network, ip.as_mut_ptr().cast(), header) != 0
            || bpf_xdp_load_bytes(
                context.ctx,
                network + header,
                tcp.as_mut_ptr().cast(),
                tcp_length,
            ) != 0
        {
            return None;
        }
        let size = size_of::<Tuple<A>>() as u32;
        let at = core::ptr::from_mut(&mut tuple).cast::<bpf_sock_tuple>();
        let socket = bpf_skc_lookup_tcp(context.as_ptr(), at, size, BPF_F_CURRENT_NETNS as u64, 0);
        if socket.is_null() {
            return None;
        }
        let made = if (*socket).state == STATE_LISTEN {
            bpf_tcp_gen_syncookie(
                socket.cast(),
                ip.as_mut_ptr().cast(),
                header,
                tcp.as_mut_ptr().cast(),
                tcp_length,
            )
        } else {
            -1
        };
        bpf_sk_release(socket.cast());
        (made >= 0).then_some((made as u32, (made >> 32) as u16))
    }
}

/// # Safety
/// The Ethernet header is there.
#[inline(always)]
unsafe fn swap_hardware_addresses(start: *mut u8) {
    let (to, from) = (start.cast::<[u8; 6]>(), start.wrapping_add(6).cast::<[u8; 6]>());
    // SAFETY: as the caller promises.
    unsafe {
        let ours = *to;
        *to = *from;
        *from = ours;
    }
}

/// The ones' complement sum of big-endian words (RFC 1071), not folded.
#[inline(always)]
fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut sum = 0;
    for at in 0..N / 2 {
        sum += u32::from(u16::from_be_bytes([bytes[at * 2], bytes[at * 2 + 1]]));
    }
    sum
}

#[inline(always)]
const fn folded(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The way back, in each family.
trait Back: Family {
    /// The sum of an address.
    fn sum(address: Self) -> u32;
    /// Writes the IP header of the answer.
    ///
    /// # Safety
    /// There is room for it at `ip`.
    unsafe fn write(ip: *mut u8, source: Self, destination: Self);
}

impl Back for [u8; 4] {
    #[inline(always)]
    fn sum(address: Self) -> u32 {
        sum(&address)
    }

    #[inline(always)]
    unsafe fn write(ip: *mut u8, source: Self, destination: Self) {
        let mut header = [0_u8; 20];
        header[0] = 0x45;
        header[3] = 20 + ANSWER_LENGTH as u8;
        header[6] = 0x40;
        header[8] = 64;
        header[9] = 6;
        header[12..16].copy_from_slice(&destination);
        header[16..20].copy_from_slice(&source);
        let check = folded(sum(&header)).to_be_bytes();
        header[10] = check[0];
        header[11] = check[1];
        // SAFETY: as the caller promises.
        unsafe { ip.cast::<[u8; 20]>().write_unaligned(header) };
    }
}

impl Back for [u8; 16] {
    #[inline(always)]
    fn sum(address: Self) -> u32 {
        sum(&address)
    }

    #[inline(always)]
    unsafe fn write(ip: *mut u8, source: Self, destination: Self) {
        let start = [0x60, 0, 0, 0, 0, ANSWER_LENGTH as u8, 6, 64];
        // SAFETY: as the caller promises.
        unsafe {
            ip.cast::<[u8; 8]>().write_unaligned(start);
            ip.wrapping_add(8).cast::<[u8; 16]>().write_unaligned(destination);
            ip.wrapping_add(24).cast::<[u8; 16]>().write_unaligned(source);
        }
    }
}

/// Whether a segment for a listening socket brings a good SYN cookie.
///
/// # Safety
/// `socket` was found by a look-up and is not released yet.
#[inline(always)]
pub(super) unsafe fn brings_cookie(
    context: *mut xdp_md,
    socket: *mut bpf_sock,
    network: u32,
    upper: u32,
    six: bool,
) -> bool {
    let length = if six { 40 } else { 20 };
    // The helper knows headers without options only.
    if upper.wrapping_sub(network) != length {
        return false;
    }
    let frame = frame_of(context);
    let (start, end) = frame.bounds();
    let ip = start.wrapping_add(network as usize & 0x1f);
    let tcp = ip.wrapping_add(if six { 40 } else { 20 });
    if tcp.wrapping_add(20) > end {
        return false;
    }
    // SAFETY: both headers were just found to be there; the socket is the caller's.
    unsafe {
        bpf_tcp_check_syncookie(
            socket.cast(),
            ip.cast_mut().cast(),
            length,
            tcp.cast_mut().cast(),
            20,
        ) == 0
    }
}
