//! Frames made up by a seed: sound ones, near misses, and damaged ones.

use std::net::IpAddr;

use super::{
    random::{PORTS, PROTOCOLS, Random, any_source, own_addresses},
    world::{Flow, Service, World, four, six},
};
use crate::packets::{ethernet, extension, icmp, ip, ipv4, ipv6, tcp, udp};

/// A frame that has something to do with this world.
pub fn any_frame(random: &mut Random, world: &World) -> Vec<u8> {
    let v4 = random.once_in(2);
    let mut ends = Ends {
        source: source(random, world, v4),
        destination: if random.once_in(12) {
            any_source(random, v4)
        } else {
            random.pick(&own_addresses(v4))
        },
        from: random.pick(&PORTS),
        to: port(random, world),
        protocol: random.pick(&[6, 6, 6, 17, 17, 17, 1, 58, 0]),
        of_flow: None,
    };
    let known: Vec<Flow> = world.flows.iter().chain(&world.sockets).copied().collect();
    let of_family: Vec<Flow> =
        known.into_iter().filter(|flow| flow.local.is_ipv4() == v4).collect();
    if !of_family.is_empty() && random.once_in(5) {
        ends.answers(random.pick(&of_family), random);
    }
    if ends.protocol == 0 {
        ends.protocol = random.pick(&PROTOCOLS);
    }
    let payload = payload(random, &ends);
    let packet = network(random, &ends, payload);
    let mut frame = ethernet(&tags(random), ether_type(random, v4), &packet);
    if random.once_in(8) {
        // Ethernet pads short frames.
        frame.resize(frame.len() + random.below(20), random.pick(&[0, 0xff]));
    }
    damage(random, &mut frame);
    frame
}

/// Who speaks to whom.
struct Ends {
    source: IpAddr,
    destination: IpAddr,
    from: u16,
    to: u16,
    protocol: u8,
    of_flow: Option<Flow>,
}

impl Ends {
    /// A packet that answers a flow of ours, or nearly.
    fn answers(&mut self, flow: Flow, random: &mut Random) {
        (self.source, self.destination) = (flow.remote, flow.local);
        (self.from, self.to) = (flow.remote_port, flow.local_port);
        self.protocol = flow.protocol;
        self.of_flow = Some(flow);
        match random.below(12) {
            0 => self.from ^= 1,
            1 => self.to ^= 1,
            2 => self.protocol = random.pick(&[6, 17]),
            // An error about it.
            3..=5 => self.protocol = if flow.local.is_ipv4() { 1 } else { 58 },
            _ => {}
        }
    }
}

fn port(random: &mut Random, world: &World) -> u16 {
    let named = [&world.management[..], &world.federation, &world.remote].concat();
    let port = match random.below(6) {
        0 if !named.is_empty() => random.pick(&named).2,
        1 | 2 if !world.rules.is_empty() => match random.pick(&world.rules).to {
            Service::Ports(_, first, last) => random.pick(&[first, last]),
            Service::Protocol(_) => random.pick(&PORTS),
        },
        _ => random.pick(&PORTS),
    };
    if random.once_in(6) { port.wrapping_add(random.pick(&[1, 2, 65_535])) } else { port }
}

fn source(random: &mut Random, world: &World, v4: bool) -> IpAddr {
    if random.once_in(10) {
        return if v4 {
            four(random.pick(&[
                [0; 4],
                [127, 0, 0, 1],
                [224, 0, 0, 1],
                [255; 4],
                [0, 1, 2, 3],
                [223, 255, 255, 255],
                [192, 0, 2, 1],
                [169, 254, 1, 1],
            ]))
        } else {
            six(random.pick(&[
                [0; 8],
                [0, 0, 0, 0, 0, 0, 0, 1],
                [0, 0, 0, 0, 0, 0xffff, 0xc612, 1],
                [0, 0, 0, 0, 0, 0, 0xc612, 1],
                [0xff02, 0, 0, 0, 0, 0, 0, 1],
                [0xfe80, 0, 0, 0, 0, 0, 0, 9],
                [0xfe80, 0, 0, 0, 0, 0, 0, 9],
                [0xfec0, 0, 0, 0, 0, 0, 0, 9],
                [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1],
            ]))
        };
    }
    if !world.blocks.is_empty() && random.once_in(5) {
        let prefix = world.blocks[random.below(world.blocks.len())].prefix;
        if prefix.address.is_ipv4() == v4 {
            return prefix.address;
        }
    }
    let known = &world.sources[random.below(world.sources.len())];
    if !known.is_empty() && random.once_in(2) {
        let prefix = random.pick(known);
        if prefix.address.is_ipv4() == v4 {
            return prefix.address;
        }
    }
    any_source(random, v4)
}

fn payload(random: &mut Random, ends: &Ends) -> Vec<u8> {
    let v4 = ends.source.is_ipv4();
    match ends.protocol {
        6 => {
            let flags =
                [2, 2, 2, 2, 16, 16, 16, 18, 4, 0x14, 0x18, 0x11, 0, 1, 3, 6, 0x29, 0xff, 0xc2];
            let mut segment = tcp(ends.from, ends.to, random.pick(&flags));
            let words = random.pick(&[5, 5, 5, 5, 5, 5, 5, 6, 15, 4]);
            segment[12] = words << 4;
            // Connections begin with sequence number 1, and their first byte is the second.
            segment[7] = random.pick(&[1, 2, 2, 2, 3]);
            segment.resize(random.pick(&[20, 20, 20, 20, 20, 24, 60, 80]), 0);
            if random.once_in(2) {
                segment.extend(content(random));
            }
            segment
        }
        17 => {
            let data = if random.once_in(2) {
                content(random)
            } else {
                vec![random.byte(); random.pick(&[0, 0, 4, 12, 20, 48])]
            };
            udp(ends.from, ends.to, &data)
        }
        number if number == if v4 { 1 } else { 58 } => message(random, ends, v4),
        _ => vec![random.byte(); random.pick(&[0, 8, 12, 40])],
    }
}

/// What payloads on ports for SIP and media begin with, or nearly.
fn content(random: &mut Random) -> Vec<u8> {
    let text: &[&[u8]] = &[
        b"OPTIONS sip:a@b SIP/2.0\r\nVia: x\r\n\r\n",
        b"INVITE tel:+1 SIP/2.0\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        b"SIP/2.0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"REGISTER",
        b"REGISTER ",
        b"MESSAGE im:a@b SIP/2.0\r\n",
        b"-X sip:a SIP/2.0\r\n",
        b"ANAMETHATISLONGERTHANANY sip:a SIP/2.0\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nUser-Agent: friendly-scanner\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nUser-Agent: friendly-scanne\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nFrom: sipvicious\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nX: y\r\n\r\nsipvicious",
        b"OPTIONS sip:a SIP/2.0\r\nUser-Agent: sipcli/v1\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nUser-Agent: sundaydd",
        b"\r\n\r\n",
        b"\0\x01\0\0\x21\x12\xa4\x42aaaabbbbcccc",
        b"\0\x01\0\0\x21\x12\xa4\x43aaaabbbbcccc",
        b"\x80\x60aaaabbbbcccc",
        b"\x16\xfe\xfd",
        b"\x40\x01\0\x04aaaa",
        b"\x50",
        b"\xff",
    ];
    let mut bytes = random.pick(text).to_vec();
    if random.once_in(6) {
        let long = vec![b'x'; 470 + random.below(30)];
        let at = bytes.len().min(24);
        bytes.splice(at..at, long);
    }
    if random.once_in(8) {
        let at = random.below(bytes.len());
        bytes[at] = random.byte();
    }
    if random.once_in(12) {
        bytes.truncate(random.below(bytes.len()));
    }
    bytes
}

fn message(random: &mut Random, ends: &Ends, v4: bool) -> Vec<u8> {
    let four = [0, 0, 3, 3, 3, 5, 8, 8, 11, 12, 13, 17];
    let six = [1, 2, 3, 4, 100, 128, 128, 129, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143];
    let kind = random.pick(if v4 { &four[..] } else { &six[..] });
    let identifier = ends.of_flow.map_or(ends.to, |flow| flow.local_port);
    // The packet that an error quotes: one of ours, or nearly.
    let mut about = ends.of_flow.map_or(6, |flow| flow.protocol);
    if random.once_in(6) {
        about = random.pick(&[6, 17, 47, 1, 58]);
    }
    let (mut local, mut remote) = (ends.destination, ends.source);
    if random.once_in(8) {
        (local, remote) = (remote, local);
    }
    let upper = match about {
        17 => udp(ends.to, ends.from, &[0; 4]),
        1 => icmp(8, identifier, &[]),
        58 => icmp(128, identifier, &[]),
        _ => tcp(ends.to, ends.from, 16),
    };
    let mut quoted = match random.below(4) {
        // The first piece of a datagram that was cut, or a later one.
        0 if !v4 => {
            let place = random.pick(&[1, 1, 0, 9]);
            ip(local, remote, 44, &extension(about, [0, place, 0, 0, 0, 1], &upper))
        }
        _ => ip(local, remote, about, &upper),
    };
    if random.once_in(6) {
        quoted.truncate(random.below(quoted.len()));
    }
    if random.once_in(6) {
        let at = random.below(quoted.len().max(1));
        if let Some(byte) = quoted.get_mut(at) {
            *byte = random.byte();
        }
    }
    icmp(kind, identifier, &quoted)
}

fn network(random: &mut Random, ends: &Ends, mut payload: Vec<u8>) -> Vec<u8> {
    match (ends.source, ends.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let fragment = random.pick(&[
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0x4000, 0x4000, 0x2000, 0x2000, 0x2000, 1, 2, 3, 4,
                0x2003, 0x2005, 0x8000, 185, 0x1fff,
            ]);
            let options = options(random);
            let mut packet = ipv4(source, destination, ends.protocol, fragment, &options, &payload);
            packet[5] = random.byte() & 3;
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut next = ends.protocol;
            for _ in 0..random.pick(&[0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 5, 6]) {
                let kind = random
                    .pick(&[0, 43, 43, 44, 44, 44, 60, 60, 60, 60, 60, 60, 60, 135, 140, 253]);
                payload = extension_header(random, kind, next, &payload);
                next = kind;
            }
            if random.once_in(8) {
                payload = extension_header(random, 0, next, &payload);
                next = 0;
            }
            ipv6(source, destination, next, random.pick(&[1, 64, 64, 254, 255, 255]), &payload)
        }
        _ => Vec::new(),
    }
}

fn extension_header(random: &mut Random, kind: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    let rest = match kind {
        43 => [random.pick(&[4, 4, 4, 2, 0]), random.pick(&[0, 0, 0, 0, 1]), 0, 0, 0, 0],
        44 => {
            let [high, low] = random
                .pick(&[0_u16, 0, 0, 1, 1, 1, 8, 16, 24, 25, 32, 33, 0xfff8, 2, 7])
                .to_be_bytes();
            [high, low, 0, 0, random.below(2) as u8, 7]
        }
        _ => [random.byte(), 0, 0, 0, 0, 0],
    };
    let mut header = extension(next, rest, payload);
    if kind == 44 {
        // The second byte of a fragment header is reserved; anything may stand there.
        header[1] = random.pick(&[0, 0, 0, 9]);
    } else if random.once_in(6) {
        let longer = random.pick(&[1, 2, 200]);
        header[1] = longer;
        if longer < 10 {
            let at = 8;
            header.splice(at..at, vec![0; usize::from(longer) * 8]);
        }
    }
    header
}

fn options(random: &mut Random) -> Vec<u8> {
    match random.below(24) {
        0 => vec![1, 1, 1, 0],
        1 => vec![1; 40],
        // Router alert (RFC 2113).
        2 => vec![148, 4, 0, 0],
        // Record route.
        3 => vec![7, 7, 4, 0, 0, 0, 0, 0],
        // Loose and strict source route, alone and behind others.
        4 => vec![131, 7, 4, 10, 0, 0, 1, 0],
        5 => vec![1, 148, 4, 0, 0, 137, 3, 4],
        // Behind the end of the list.
        6 => vec![0, 131, 3, 4],
        // Inside another option.
        7 => vec![7, 8, 4, 131, 7, 4, 0, 0],
        8 => {
            let mut bytes = [0; 12];
            bytes.fill_with(|| random.pick(&[0, 1, 2, 3, 7, 131, 137, 4]));
            bytes[..4 * random.pick(&[1, 2, 3])].to_vec()
        }
        _ => Vec::new(),
    }
}

fn tags(random: &mut Random) -> Vec<(u16, u16)> {
    let count =
        random.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3]);
    let tag = |random: &mut Random| {
        let priority = random.pick(&[0, 0, 0xe000, 0x1000]);
        (random.pick(&[0x8100, 0x8100, 0x88a8, 0x9100]), priority | random.below(5) as u16)
    };
    (0..count).map(|_| tag(random)).collect()
}

fn ether_type(random: &mut Random, v4: bool) -> u16 {
    let kind = if v4 { 0x0800 } else { 0x86dd };
    if random.once_in(24) {
        return random.pick(&[0x0800, 0x86dd, 0x0806, 0x88cc, 0x8809, 0x1234, 0x9200, 0x0030]);
    }
    kind
}

/// Damages some: a byte here and there, or the end cut off.
fn damage(random: &mut Random, frame: &mut Vec<u8>) {
    if random.once_in(8) {
        for _ in 0..=random.below(2) {
            let at = 12 + random.below(frame.len() - 12);
            frame[at] = match random.below(3) {
                0 => random.byte(),
                1 => frame[at] ^ (1 << random.below(8)),
                _ => frame[at].wrapping_add(random.pick(&[1, 255])),
            };
        }
    }
    if random.once_in(16) {
        // The kernel takes no frame without an Ethernet header.
        frame.truncate(14 + random.below(frame.len() - 13));
    }
}
