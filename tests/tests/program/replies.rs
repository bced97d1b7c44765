//! Answers to what this appliance began, against real sockets in a namespace of the test.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use edge_ebpf::{
    abi::{FLOW_SECONDS, FlowKey},
    verdict::Reason,
};
use edge_tests::packets::*;

use crate::fixture::*;

fn segment(from: SocketAddr, to: SocketAddr, flags: u8) -> Vec<u8> {
    frame(from.ip(), to.ip(), 6, &tcp(from.port(), to.port(), flags))
}

fn datagram(from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
    frame(from.0, to.0, 17, &udp(from.1, to.1, &[0; 12]))
}

#[test]
fn a_listening_socket_proves_nothing() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let listener = TcpListener::bind((side.me, 0)).unwrap();
            let local = listener.local_addr().unwrap();
            let from = SocketAddr::new(side.stranger, 5061);
            for flags in [SYN, SYN_ACK, ACK, 0x04] {
                bench.kernel_says(&segment(from, local, flags), Reason::NoRule);
            }
        }
    });
}

#[test]
fn both_ends_of_a_connection_are_known_and_a_bare_syn_never_is() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let listener = TcpListener::bind((side.second, 0)).unwrap();
            let server = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(server).unwrap();
            let local = client.local_addr().unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            bench.kernel_says(&segment(server, local, ACK), Reason::ReplyTcp);
            bench.kernel_says(&segment(local, server, ACK), Reason::ReplyTcp);
            bench.kernel_says(&segment(server, local, SYN), Reason::NoRule);
            let stranger = SocketAddr::new(side.stranger, server.port());
            bench.kernel_says(&segment(stranger, local, ACK), Reason::NoRule);
            // The client closes first and stays in TIME-WAIT: its peer's last segments are
            // answers, a new connection to that port is none.
            // By words and not by closing: a child that another test starts may have a copy.
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
            accepted.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            bench.kernel_says(&segment(server, local, ACK), Reason::ReplyTcp);
            bench.kernel_says(&segment(server, local, SYN), Reason::NoRule);
        }
    });
}

#[test]
fn the_answer_to_our_own_syn_passes() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let remote = SocketAddr::new(side.stranger, 443);
            let (socket, local) = connecting(side.me, remote).unwrap();
            bench.kernel_says(&segment(remote, local, SYN_ACK), Reason::ReplyTcp);
            let other = SocketAddr::new(side.stranger, 444);
            bench.kernel_says(&segment(other, local, SYN_ACK), Reason::NoRule);
            drop(socket);
        }
    });
}

/// A socket that has sent its SYN and heard nothing.
fn connecting(from: IpAddr, to: SocketAddr) -> io::Result<(rustix::fd::OwnedFd, SocketAddr)> {
    use rustix::net::{
        AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, ipproto,
    };
    let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    bind(&socket, &SocketAddr::new(from, 0))?;
    match connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let local = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, local))
}

#[test]
fn an_unsolicited_packet_to_a_resolvers_port_is_dropped() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let connected = UdpSocket::bind((side.me, 0)).unwrap();
            connected.connect((side.stranger, 53)).unwrap();
            let port = connected.local_addr().unwrap().port();
            bench.kernel_says(&datagram((side.stranger, 53), (side.me, port)), Reason::ReplyUdp);
            bench.kernel_says(&datagram((side.stranger, 54), (side.me, port)), Reason::NoRule);
            bench.kernel_says(&datagram((side.partner, 53), (side.me, port)), Reason::NoRule);
            bench.kernel_says(&datagram((side.stranger, 53), (side.second, port)), Reason::NoRule);
        }
    });
}

#[test]
fn an_unconnected_socket_gets_answers_only_to_what_left() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let socket = UdpSocket::bind((side.me, 0)).unwrap();
            let port = socket.local_addr().unwrap().port();
            let answer = datagram((side.stranger, 53), (side.me, port));
            bench.kernel_says(&answer, Reason::NoRule);
            bench.kernel.send(&datagram((side.me, port), (side.stranger, 53))).unwrap();
            bench.kernel_says(&answer, Reason::ReplyRemembered);
            bench.kernel_says(&datagram((side.partner, 53), (side.me, port)), Reason::NoRule);
        }
        assert_eq!(bench.kernel.flows().unwrap().len(), 2);
    });
}

#[test]
fn egress_remembers_echo_requests_and_nothing_but_those_and_udp() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let number = icmp_protocol(side.me);
            let (request, reply) = if side.me.is_ipv4() { (8, 0) } else { (128, 129) };
            let answer = frame(side.stranger, side.me, number, &icmp(reply, 321, &[0; 8]));
            bench.kernel_says(&answer, Reason::IcmpUnsolicited);
            let asked = frame(side.me, side.stranger, number, &icmp(request, 321, &[0; 8]));
            bench.kernel.send(&asked).unwrap();
            bench.kernel_says(&answer, Reason::IcmpReply);
            let other = frame(side.stranger, side.me, number, &icmp(reply, 322, &[0; 8]));
            bench.kernel_says(&other, Reason::IcmpUnsolicited);
            // An error about our own echo request is ours, one about a stranger's is not.
            let too_big = if side.me.is_ipv4() { 3 } else { 2 };
            let request_of = |identifier| {
                let quoted = icmp(request, identifier, &[]);
                icmp(too_big, 0, &ip(side.me, side.stranger, number, &quoted))
            };
            let error = |body: &[u8]| frame(side.partner, side.me, number, body);
            bench.kernel_says(&error(&request_of(321)), Reason::IcmpError);
            bench.kernel_says(&error(&request_of(322)), Reason::IcmpUnsolicited);
        }
        let before = bench.kernel.flows().unwrap().len();
        for side in sides() {
            let syn = frame(side.me, side.stranger, 6, &tcp(5000, 443, SYN));
            bench.kernel.send(&syn).unwrap();
        }
        bench.kernel.send(&ethernet(&[], 0x0806, &[0; 28])).unwrap();
        assert_eq!(bench.kernel.flows().unwrap().len(), before);
    });
}

#[test]
fn a_remembered_flow_is_forgotten_in_time() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [side, _] = sides();
        let key = FlowKey {
            local: sixteen(side.me),
            remote: sixteen(side.stranger),
            local_port: 700_u16.to_be_bytes(),
            remote_port: 53_u16.to_be_bytes(),
            protocol: 17,
            reserved: [0; 3],
        };
        let answer = datagram((side.stranger, 53), (side.me, 700));
        bench.kernel.set_flow(key, now_seconds() - FLOW_SECONDS + 5).unwrap();
        bench.kernel_says(&answer, Reason::ReplyRemembered);
        bench.kernel.set_flow(key, now_seconds() - FLOW_SECONDS - 1).unwrap();
        bench.kernel_says(&answer, Reason::NoRule);
        // Our next datagram writes it anew, an entry of this second is left alone.
        let query = datagram((side.me, 700), (side.stranger, 53));
        bench.kernel.send(&query).unwrap();
        bench.kernel_says(&answer, Reason::ReplyRemembered);
        let written = now_seconds() + 1;
        bench.kernel.set_flow(key, written).unwrap();
        bench.kernel.send(&query).unwrap();
        assert_eq!(bench.kernel.flows().unwrap(), vec![(key, written)]);
    });
}

/// The errors that may quote a packet of ours, IPv4 or IPv6.
fn errors(address: IpAddr) -> &'static [u8] {
    if address.is_ipv4() { &[3, 11, 12] } else { &[1, 2, 3, 4] }
}

#[test]
fn errors_about_datagrams_pass_for_sockets_and_flows_of_ours_only() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let number = icmp_protocol(side.me);
            let connected = UdpSocket::bind((side.me, 0)).unwrap();
            connected.connect((side.stranger, 53)).unwrap();
            let bound = UdpSocket::bind((side.me, 0)).unwrap();
            let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
            for kind in errors(side.me) {
                let about = |from: (IpAddr, u16), to: (IpAddr, u16)| {
                    let quoted = ip(from.0, to.0, 17, &udp(from.1, to.1, &[0; 8]));
                    frame(side.partner, side.me, number, &icmp(*kind, 0, &quoted))
                };
                let ours = (side.me, port(&connected));
                bench.kernel_says(&about(ours, (side.stranger, 53)), Reason::IcmpError);
                bench.kernel_says(&about(ours, (side.stranger, 54)), Reason::IcmpUnsolicited);
                bench.kernel_says(&about(ours, (side.partner, 53)), Reason::IcmpUnsolicited);
                let second = (side.second, ours.1);
                bench.kernel_says(&about(second, (side.stranger, 53)), Reason::IcmpUnsolicited);
                // One that is only bound has sent nothing yet.
                let ours = (side.me, port(&bound));
                let to = (side.stranger, 7000 + u16::from(*kind));
                bench.kernel_says(&about(ours, to), Reason::IcmpUnsolicited);
                let sent = ip(ours.0, to.0, 17, &udp(ours.1, to.1, &[0; 8]));
                let kind = if side.me.is_ipv4() { 0x0800 } else { 0x86dd };
                bench.kernel.send(&ethernet(&[], kind, &sent)).unwrap();
                bench.kernel_says(&about(ours, to), Reason::IcmpError);
            }
        }
    });
}

#[test]
fn errors_about_echo_requests_pass_for_those_of_ours_only() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let number = icmp_protocol(side.me);
            let (request, reply) = if side.me.is_ipv4() { (8, 0) } else { (128, 129) };
            let asked = frame(side.me, side.stranger, number, &icmp(request, 55, &[0; 8]));
            bench.kernel.send(&asked).unwrap();
            for kind in errors(side.me) {
                let about = |to: IpAddr, what: u8, identifier: u16| {
                    let quoted = ip(side.me, to, number, &icmp(what, identifier, &[]));
                    frame(side.partner, side.me, number, &icmp(*kind, 0, &quoted))
                };
                bench.kernel_says(&about(side.stranger, request, 55), Reason::IcmpError);
                bench.kernel_says(&about(side.stranger, request, 56), Reason::IcmpUnsolicited);
                bench.kernel_says(&about(side.partner, request, 55), Reason::IcmpUnsolicited);
                // A reply of ours, or an error, says nothing of what we asked.
                bench.kernel_says(&about(side.stranger, reply, 55), Reason::IcmpUnsolicited);
                bench.kernel_says(&about(side.stranger, *kind, 55), Reason::IcmpUnsolicited);
            }
        }
    });
}

#[test]
fn errors_about_the_first_piece_of_a_datagram_of_ours_pass() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let sends = |bench: &mut Bench, side: Side, packet: &[u8]| {
            let kind = if side.me.is_ipv4() { 0x0800 } else { 0x86dd };
            bench.kernel.send(&ethernet(&[], kind, packet)).unwrap();
        };
        for side in sides() {
            let number = icmp_protocol(side.me);
            let too_big = if side.me.is_ipv4() { 3 } else { 2 };
            let datagram = |port| udp(port, 53, &[0; 64]);
            let cut = |port, offset: u16| match (side.me, side.stranger) {
                (IpAddr::V4(me), IpAddr::V4(to)) => {
                    ipv4(me, to, 17, 0x2000 | offset, &[], &datagram(port))
                }
                _ => {
                    let [high, low] = (offset << 3 | 1).to_be_bytes();
                    let piece = extension(17, [high, low, 0, 0, 0, 9], &datagram(port));
                    ip(side.me, side.stranger, 44, &piece)
                }
            };
            let about =
                |packet: &[u8]| frame(side.partner, side.me, number, &icmp(too_big, 0, packet));
            bench.kernel_says(&about(&cut(700, 0)), Reason::IcmpUnsolicited);
            sends(&mut bench, side, &cut(700, 0));
            bench.kernel_says(&about(&cut(700, 0)), Reason::IcmpError);
            bench.kernel_says(&about(&cut(701, 0)), Reason::IcmpUnsolicited);
            // A later piece has no ports, and two headers no sense.
            bench.kernel_says(&about(&cut(700, 1)), Reason::IcmpUnsolicited);
            if side.me.is_ipv6() {
                let inner = extension(17, [0, 1, 0, 0, 0, 9], &datagram(700));
                let two = extension(44, [0, 1, 0, 0, 0, 9], &inner);
                let two = ip(side.me, side.stranger, 44, &two);
                bench.kernel_says(&about(&two), Reason::IcmpUnsolicited);
            }
        }
    });
}

#[test]
fn path_mtu_errors_pass_for_our_connections_only() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let remote = SocketAddr::new(side.stranger, 443);
            let (socket, local) = connecting(side.me, remote).unwrap();
            let number = icmp_protocol(side.me);
            let too_big = if side.me.is_ipv4() { 3 } else { 2 };
            let about = |from: IpAddr, source_port, to: IpAddr| {
                let quoted = ip(from, side.stranger, 6, &tcp(source_port, 443, ACK));
                frame(side.partner, to, number, &icmp(too_big, 0, &quoted))
            };
            bench.kernel_says(&about(side.me, local.port(), side.me), Reason::IcmpError);
            let other = local.port() ^ 1;
            bench.kernel_says(&about(side.me, other, side.me), Reason::IcmpUnsolicited);
            // Sent to another of our addresses than the one that is quoted.
            let astray = about(side.me, local.port(), side.second);
            bench.kernel_says(&astray, Reason::IcmpUnsolicited);
            drop(socket);
        }
    });
}
