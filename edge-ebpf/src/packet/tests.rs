use proptest::prelude::*;

use super::*;
use crate::abi::Event;

/// What a frame was read as.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    link: Link,
    ports: Option<(u8, u16, u16)>,
    fragment: bool,
}

struct Reader;

impl Handler for Reader {
    type Output = Read;

    fn link(self, link: &Link) -> Read {
        Read { link: *link, ports: None, fragment: false }
    }

    fn ipv4(self, link: &Link, ip: &Ip<'_, [u8; 4]>) -> Read {
        let _ = quoted::<[u8; 4]>(ip.upper);
        let ports = (ip.protocol, ip.transport.source_port, ip.transport.destination_port);
        Read { link: *link, ports: Some(ports), fragment: ip.fragment }
    }

    fn ipv6(self, link: &Link, ip: &Ip<'_, [u8; 16]>) -> Read {
        let _ = quoted::<[u8; 16]>(ip.upper);
        let ports = (ip.protocol, ip.transport.source_port, ip.transport.destination_port);
        Read { link: *link, ports: Some(ports), fragment: ip.fragment }
    }

    fn piece4(self, link: &Link, piece: &Piece<[u8; 4]>) -> Read {
        Self::piece(link, piece.protocol, piece.offset, piece.length)
    }

    fn piece6(self, link: &Link, piece: &Piece<[u8; 16]>) -> Read {
        Self::piece(link, piece.protocol, piece.offset, piece.length)
    }
}

impl Reader {
    fn piece(link: &Link, protocol: u8, offset: u32, length: u32) -> Read {
        let ports = Some((protocol, offset as u16, length as u16));
        Read { link: *link, ports, fragment: true }
    }
}

fn read(bytes: &[u8]) -> Result<Read, Reason> {
    parse(&Frame::new(bytes), &bytes, Reader)
}

const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
const TCP: [u8; 20] = [0, 80, 1, 187, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0];

fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = ETHERNET.to_vec();
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// An IPv4 header of 20 bytes in front of a payload of `length`.
fn ipv4(protocol: u8, fragment: u16, length: u16) -> Vec<u8> {
    let [total, flags] = [(length + 20).to_be_bytes(), fragment.to_be_bytes()];
    let mut header =
        vec![0x45, 0, total[0], total[1], 0, 1, flags[0], flags[1], 64, protocol, 0, 0];
    header.extend_from_slice(&[203, 0, 113, 9, 192, 0, 2, 1]);
    header
}

fn ipv6(next: u8, length: u16) -> Vec<u8> {
    let length = length.to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    header.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    header.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    header
}

#[test]
fn a_sound_segment_is_read_whatever_the_tags() {
    let tags: [(&[u8], u16, u16); 3] =
        [(&[], 0, 0), (&[0x81, 0, 0, 7], 7, 0), (&[0x88, 0xa8, 0, 7, 0x81, 0, 0x20, 9], 7, 9)];
    for (tag, outer, inner) in tags {
        for (kind, header) in [([8, 0], ipv4(6, 0, 20)), ([0x86, 0xdd], ipv6(6, 20))] {
            let read = read(&frame(&[tag, &kind, &header, &TCP])).unwrap();
            assert_eq!(read.ports, Some((6, 80, 443)));
            assert_eq!((read.link.outer, read.link.inner), (outer, inner));
        }
    }
}

#[test]
fn a_frame_cut_anywhere_is_refused() {
    for (kind, header) in [([8, 0], ipv4(6, 0, 20)), ([0x86, 0xdd], ipv6(6, 20))] {
        let whole = frame(&[&kind, &header, &TCP]);
        for length in 0..whole.len() {
            let reason = read(&whole[..length]).unwrap_err();
            assert!(matches!(reason, Reason::Truncated | Reason::BadLength), "{length} {reason:?}");
        }
    }
}

#[test]
fn padding_after_the_packet_is_no_fault_and_no_payload() {
    let mut padded = frame(&[&[8, 0], &ipv4(17, 0, 8), &[0, 53, 0, 99, 0, 8, 0, 0]]);
    padded.resize(60, 0);
    assert!(read(&padded).is_ok());
    // A datagram that is longer than its packet, though the frame would hold it.
    padded[14 + 20 + 5] = 12;
    assert_eq!(read(&padded), Err(Reason::BadLength));
}

#[test]
fn lengths_may_reach_into_other_pieces_of_the_frame() {
    struct Pieces;
    impl Environment for Pieces {
        fn total_length(&self) -> usize {
            14 + 20 + 5000
        }
    }
    let first = frame(&[&[8, 0], &ipv4(6, 0, 5000), &TCP]);
    assert_eq!(read(&first), Err(Reason::BadLength));
    assert!(parse(&Frame::new(&first), &Pieces, Reader).is_ok());
    let longer = frame(&[&[8, 0], &ipv4(6, 0, 5001), &TCP]);
    assert_eq!(parse(&Frame::new(&longer), &Pieces, Reader), Err(Reason::BadLength));
}

#[test]
fn what_is_not_sound_is_refused_under_its_own_reason() {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut header = ipv4(6, 0, 20);
        change(&mut header);
        frame(&[&[8, 0], &header, &TCP])
    };
    let tcp = |at: usize, value: u8| {
        let mut segment = TCP;
        segment[at] = value;
        frame(&[&[8, 0], &ipv4(6, 0, 20), &segment])
    };
    let table = [
        (with(&|header| header[0] = 0x65), Reason::IpHeader),
        (with(&|header| header[0] = 0x44), Reason::IpHeader),
        (with(&|header| header[3] = 19), Reason::BadLength),
        (with(&|header| header[3] = 200), Reason::BadLength),
        (with(&|header| header[0] = 0x4f), Reason::BadLength),
        (with(&|header| header[3] = 39), Reason::Truncated),
        // A fragment that ends beyond the longest packet, and one that is no multiple of eight.
        (with(&|header| (header[6], header[7]) = (0x1f, 0xff)), Reason::BadLength),
        (with(&|header| (header[6], header[7]) = (0x20, 1)), Reason::BadLength),
        (with(&|header| header[12] = 127), Reason::BadSource),
        (with(&|header| header[12] = 0), Reason::BadSource),
        (with(&|header| header[12] = 224), Reason::BadSource),
        (with(&|header| header[12..16].fill(255)), Reason::BadSource),
        (tcp(12, 0x40), Reason::BadLength),
        (tcp(12, 0x60), Reason::BadLength),
        (tcp(13, 0), Reason::TcpFlags),
        (tcp(13, 0x01), Reason::TcpFlags),
        (tcp(13, 0x28), Reason::TcpFlags),
        (tcp(13, 0x03), Reason::TcpFlags),
        (tcp(13, 0x06), Reason::TcpFlags),
        (frame(&[&[8, 0], &ipv4(17, 0, 8), &[0, 1, 0, 2, 0, 7, 0, 0]]), Reason::BadLength),
        (frame(&[&[8, 0], &ipv4(6, 0x2000, 16), &TCP[..16]]), Reason::Fragment),
        (frame(&[&[0x86, 0xdd], &ipv6(59, 0)[..39]]), Reason::Truncated),
        (frame(&[&[0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3]]), Reason::VlanDepth),
    ];
    for (number, (bytes, reason)) in table.into_iter().enumerate() {
        assert_eq!(read(&bytes).map(|_| ()), Err(reason), "row {number}");
    }
}

#[test]
fn sources_that_no_packet_has_are_refused_in_ipv6_too() {
    let from = |source: &str| {
        let mut header = ipv6(6, 20);
        header[8..24].copy_from_slice(&source.parse::<std::net::Ipv6Addr>().unwrap().octets());
        read(&frame(&[&[0x86, 0xdd], &header, &TCP])).map(|_| ())
    };
    for source in ["::", "::1", "ff02::1", "::ffff:192.0.2.1"] {
        assert_eq!(from(source), Err(Reason::BadSource), "{source}");
    }
    assert_eq!(from("::2"), Ok(()));
    assert_eq!(from("fe80::1"), Ok(()));
}

#[test]
fn extension_headers_go_by_the_table() {
    let after = |headers: &[u8], first: u8| {
        let length = u16::try_from(headers.len() + 20).unwrap();
        read(&frame(&[&[0x86, 0xdd], &ipv6(first, length), headers, &TCP]))
    };
    let one = |next: u8, a: u8, b: u8| [next, 0, a, b, 0, 0, 0, 0];
    assert!(after(&one(6, 0, 0), 0).is_ok());
    assert!(after(&one(6, 0, 0), 60).is_ok());
    assert!(after(&one(6, 2, 0), 43).is_ok());
    assert!(!after(&one(6, 0, 0), 44).unwrap().fragment);
    assert!(after(&one(6, 0, 1), 44).unwrap().fragment);
    assert_eq!(after(&one(6, 0, 0), 43), Err(Reason::ExtensionHeader));
    assert_eq!(after(&one(6, 2, 1), 43), Err(Reason::ExtensionHeader));
    assert_eq!(after(&one(6, 0, 8), 44).unwrap().ports, Some((0, 8, 20)));
    let twice = [one(44, 0, 1), one(6, 0, 1)].concat();
    assert_eq!(after(&twice, 44), Err(Reason::Fragment));
    for refused in [135, 139, 140, 253, 254] {
        assert_eq!(after(&one(6, 0, 0), refused), Err(Reason::ExtensionHeader), "{refused}");
    }
    let twice = [one(0, 0, 0), one(6, 0, 0)].concat();
    assert_eq!(after(&twice, 60), Err(Reason::ExtensionHeader));
    let mut many = one(60, 0, 0).repeat(4);
    many.extend_from_slice(&one(6, 0, 0));
    assert!(after(&many, 60).is_ok());
    assert_eq!(after(&[&one(60, 0, 0)[..], &many].concat(), 60), Err(Reason::ExtensionDepth));
    // A header that says it is longer than the packet.
    assert_eq!(after(&[6, 255, 0, 0, 0, 0, 0, 0], 60), Err(Reason::Truncated));
    // AH and ESP are protocols of their own, never looked through.
    assert_eq!(after(&[], 51).unwrap().ports, Some((51, 0, 0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_whatever_make_the_parser_panic(
        start in 0_usize..6,
        bytes in proptest::collection::vec(any::<u8>(), 0..160),
    ) {
        let kinds: [&[u8]; 6] =
            [&[], &[8, 0, 0x45], &[0x86, 0xdd, 0x60], &[0x81, 0, 0, 1, 8, 0, 0x46], &[8, 6], &[8, 0]];
        let whole = frame(&[kinds[start], &bytes]);
        for frame in [&whole[..], &bytes[..]] {
            let _ = read(frame);
            // SAFETY: an event of zeroes is an event.
            let mut event: Event = unsafe { core::mem::zeroed() };
            describe(&Frame::new(frame), &mut event);
        }
    }

    #[test]
    fn a_sound_packet_with_damaged_bytes_never_makes_the_parser_panic(
        at in 0_usize..80, value: u8, cut in 0_usize..80, six: bool,
    ) {
        let (kind, header) = if six { ([0x86, 0xdd], ipv6(0, 28)) } else { ([8, 0], ipv4(6, 0, 28)) };
        let mut bytes = frame(&[&kind, &header, &[6, 0, 0, 0, 0, 0, 0, 0], &TCP]);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        let _ = read(&bytes);
    }
}

#[test]
fn options_that_steer_the_way_are_refused_wherever_they_stand() {
    let with = |options: &[u8]| {
        let mut header = ipv4(6, 0, 20 + u16::try_from(options.len()).unwrap());
        header[0] = 0x45 + u8::try_from(options.len() / 4).unwrap();
        read(&frame(&[&[8, 0], &header, options, &TCP])).map(|_| ())
    };
    assert_eq!(with(&[1, 1, 1, 1]), Ok(()));
    assert_eq!(with(&[148, 4, 0, 0]), Ok(()));
    assert_eq!(with(&[0, 131, 3, 4]), Ok(()));
    for route in [131, 137] {
        assert_eq!(with(&[route, 3, 4, 0]), Err(Reason::SourceRoute));
        assert_eq!(with(&[1, 1, 1, route]), Err(Reason::SourceRoute));
        assert_eq!(with(&[148, 4, 0, 0, 1, route, 3, 4]), Err(Reason::SourceRoute));
        assert_eq!(with(&[7, 4, route, 0]), Ok(()), "inside another option");
    }
    for broken in [[7, 1, 0, 0], [7, 0, 0, 0], [1, 1, 1, 7], [1, 7, 4, 0]] {
        assert_eq!(with(&broken), Err(Reason::IpHeader), "{broken:?}");
    }
}

#[test]
fn a_later_fragment_is_read_as_one() {
    let header = ipv4(17, 2, 24);
    let read4 = read(&frame(&[&[8, 0], &header, &[0; 24]])).unwrap();
    assert_eq!((read4.ports, read4.fragment), (Some((17, 16, 24)), true));
    let six =
        read(&frame(&[&[0x86, 0xdd], &ipv6(44, 32), &[17, 0, 0, 0x11, 0, 0, 0, 9], &[0; 24]]));
    assert_eq!(six.unwrap().ports, Some((0, 16, 24)));
}

/// Family, protocol and destination port of a plain packet.
fn plain(bytes: &[u8]) -> Option<(bool, u8, u16)> {
    let frame = Frame::new(bytes);
    let six = is_plain6(&frame);
    if !six && !is_plain4(&frame) {
        return None;
    }
    let (transport, _) = plain_transport(&frame, six).unwrap();
    Some((six, if transport.kind == Kind::Udp { 17 } else { 6 }, transport.destination_port))
}

/// A packet with nothing unusual.
fn plain_frame(six: bool, udp: bool) -> Vec<u8> {
    const DATAGRAM: [u8; 20] = [0, 80, 1, 187, 0, 20, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let (payload, protocol) = if udp { (DATAGRAM, 17) } else { (TCP, 6) };
    let (kind, header) =
        if six { ([0x86, 0xdd], ipv6(protocol, 20)) } else { ([8, 0], ipv4(protocol, 0, 20)) };
    frame(&[&kind, &header, &payload])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_is_plain_is_read_alike_by_the_parser(
        six: bool, udp: bool, at in 12_usize..74, value: u8, cut in 0_usize..24, damaged: bool,
    ) {
        let mut bytes = plain_frame(six, udp);
        let protocol = if udp { 17 } else { 6 };
        prop_assert_eq!(plain(&bytes), Some((six, protocol, 443)));
        if damaged && let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        if let Some((_, protocol, port)) = plain(&bytes) {
            let read = read(&bytes).unwrap();
            prop_assert_eq!((read.link.outer, read.fragment), (0, false));
            let (upper, _, destination) = read.ports.unwrap();
            prop_assert_eq!((upper, destination), (protocol, port));
        }
    }
}
