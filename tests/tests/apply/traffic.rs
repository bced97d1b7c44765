//! The program is replaced while frames never stop: not one is judged wrongly.

use std::{
    net::IpAddr,
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use edge_tests::{
    bench::{
        raw::{self, Tiny},
        upgrade::{self, Load},
    },
    packets,
    wire::{DEVICE, EDGE4, EDGE6, PEER4, Wire, ifindex},
};

use super::{
    faults::{BLOCKED6, BOTH, former_pins, new},
    start,
};

/// Programs that follow each other at least.
const PROGRAMS: usize = 5;
/// Frames that must at least be judged meanwhile.
const FRAMES: u64 = 300_000;

#[test]
fn the_program_is_replaced_under_traffic_and_not_one_packet_is_judged_wrongly() {
    let time = Duration::from_secs(3);
    let load = Load { passed: 4096, dropped: 65_536, programs: PROGRAMS, time };
    let outcome = upgrade::run("at", load).unwrap();
    eprintln!("{outcome:?}");
    assert!(outcome.wrong.is_empty(), "{outcome:?}");
    assert!(outcome.programs >= PROGRAMS, "{outcome:?}");
    assert!(outcome.judged > FRAMES, "{outcome:?}");
}

/// Ends the sender when it goes.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Datagrams that reached the stack, by both families: whether anybody listens or not.
fn reached_the_stack(wire: &Wire) -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let (four, six) = wire
        .edge
        .run(|| (read("/proc/thread-self/net/snmp"), read("/proc/thread-self/net/snmp6")))
        .unwrap();
    let mut udp = four.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (udp.next().unwrap(), udp.next().unwrap());
    let of_four = names
        .split(' ')
        .zip(values.split(' '))
        .filter(|(name, _)| ["InDatagrams", "NoPorts"].contains(name))
        .map(|(_, value)| value.parse::<u64>().unwrap());
    let of_six = six
        .lines()
        .filter(|line| line.starts_with("Udp6InDatagrams") || line.starts_with("Udp6NoPorts"))
        .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap());
    of_four.chain(of_six).sum()
}

/// A datagram that a stack accepts.
fn sound(from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    packets::summed(packets::frame(
        from,
        to,
        17,
        &packets::udp(40_000, port, b"0123456789abcdefgh"),
    ))
}

#[test]
fn no_packet_of_a_blocked_source_slips_through_a_migration() {
    let wire = Wire::new("av").unwrap();
    let pass = raw::load(Tiny::Pass).unwrap();
    let _far = wire.peer.run(|| raw::attach(&pass, ifindex("peer0").unwrap())).unwrap().unwrap();
    let from6: IpAddr = BLOCKED6.parse().unwrap();
    // Where the frames are addressed to.
    wire.edge.ip_batch(&format!("link set {DEVICE} address 02:00:00:00:00:01\n")).unwrap();
    let frames = [(PEER4.into(), EDGE4.into()), (from6, EDGE6.into())]
        .map(|(from, to)| sound(from, to, BOTH));
    for _ in 0..3 {
        former_pins(&wire);
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let before = reached_the_stack(&wire);
        let send = || {
            let generator = raw::load(Tiny::Transmit).unwrap();
            let peer = ifindex("peer0").unwrap();
            while !stop.load(Ordering::Relaxed) {
                for frame in &frames {
                    raw::send(generator.as_fd(), frame, peer, 50_000).unwrap();
                    sent.fetch_add(50_000, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            // A test that fails stops sending, too.
            let end = Stop(&stop);
            let (peer, send) = (&wire.peer, &send);
            let sender = scope.spawn(move || peer.run(send).unwrap());
            super::eventually("frames come", || sent.load(Ordering::Relaxed) > 200_000);
            let (_handle, report) = start(&wire, wire.config_with(new)).unwrap();
            assert!(report.migrated);
            let so_far = sent.load(Ordering::Relaxed);
            super::eventually("more", || sent.load(Ordering::Relaxed) > so_far + 200_000);
            drop(end);
            sender.join().unwrap();
        });
        assert_eq!(reached_the_stack(&wire), before, "of {sent:?} frames");
        wire.wait_lock_free();
        edge_user::firewall::detach(&wire.pins, false).unwrap();
    }
    // The count would have told: with a program that passes everything they reach the stack.
    let _near = super::faults::attach_soon(&wire, &pass);
    let generator = raw::load(Tiny::Transmit).unwrap();
    for frame in &frames {
        let before = reached_the_stack(&wire);
        super::eventually("they reach the stack", || {
            let one = || raw::send(generator.as_fd(), frame, ifindex("peer0").unwrap(), 64);
            wire.peer.run(one).unwrap().unwrap();
            reached_the_stack(&wire) > before
        });
    }
}
