//! Flows that the daemon sends on, because XDP cannot or may not.

use edge_tests::patience::{kernel_version, left_out};
use edge_user::config::MediaPath;

use super::*;

/// The first kernel whose drivers say whether XDP can send by them.
const DRIVERS_TELL: (u32, u32) = (6, 3);

/// The firewall with the daemon as the sender of every flow.
fn by_daemon(lab: &MediaLab) -> (FirewallHandle, MediaTable) {
    let mut config = Config::clone(&lab.config(MediaMode::Relay));
    config.media.path = MediaPath::Daemon;
    lab.start_with(Arc::new(config)).unwrap()
}

/// Packets that were given to the daemon, and those that the kernel forwarded.
fn passed(lab: &MediaLab) -> [u64; 2] {
    let reasons = inspect::reasons(&lab.wire.pins).unwrap();
    let count = |name| reasons.iter().find(|reason| reason.name == name).unwrap().packets;
    ["media-to-daemon", "media-relayed"].map(count)
}

#[test]
fn the_daemon_relays_both_ways_over_both_families_and_between_them_what_the_kernel_let_pass() {
    let lab = MediaLab::new("mfg").unwrap();
    let (_handle, mut table) = by_daemon(&lab);
    for (out6, in6) in [(false, false), (true, true), (false, true), (true, false)] {
        let (out, inside) = (far(out6), phone(in6));
        let before = passed(&lab);
        lab.forget_neighbours().unwrap();
        open(&mut table, &both_ways(out, inside));
        talk(&lab, &mut table, out, inside);
        assert!(table.next_hop(FlowId(2)).unwrap().by_daemon);
        assert_eq!(table.numbers().by_daemon, 2);
        let status = table.status().unwrap();
        let counted: u64 = status.iter().map(|flow| flow.packets).sum();
        for flow in &status {
            assert!(flow.packets >= 50 && flow.routed && flow.last_seen.is_some(), "{flow:?}");
            assert_eq!(flow.ssrc, Some(7));
        }
        let after = passed(&lab);
        assert_eq!([after[0] - before[0], after[1] - before[1]], [counted, 0]);
        // Another port of the far end is nobody; nor is RTP's place one for anything else.
        let phone = lab.phone(inside.end, inside.port).unwrap();
        let to = SocketAddr::new(out.edge, PORT);
        let other = lab.outside(out.end, out.port + 2).unwrap();
        assert_eq!(arrives(&other, to, &phone, 2000), None, "another source");
        let far = lab.outside(out.end, out.port).unwrap();
        far.send_to(&[0xff; 172], to).unwrap();
        assert!(phone.recv(&mut [0; 2000]).is_err(), "not what media begins with");
        apply(&mut table, &[MediaChange::CloseCall(CALL)]);
        assert_eq!(arrives(&far, to, &phone, 2001), None, "after its end");
        assert_eq!(table.numbers().by_daemon, 0);
    }
    assert!(table.numbers().daemon_packets >= 400);
}

#[test]
fn a_flow_by_the_daemon_goes_where_it_is_sent_anew_and_to_nobody_while_one_way_is_closed() {
    let lab = MediaLab::new("mfh").unwrap();
    let (_handle, mut table) = by_daemon(&lab);
    let (out, inside) = (far(false), phone(false));
    let [inward, outward] = both_ways(out, inside);
    open(&mut table, &[inward.clone(), outward]);
    talk(&lab, &mut table, out, inside);
    let far = lab.outside(out.end, out.port).unwrap();
    let to = SocketAddr::new(out.edge, PORT);
    // Another port of the endpoint, as a re-INVITE names it.
    let next = lab.phone(inside.end, inside.port + 2).unwrap();
    let moved = Flow { to: SocketAddr::new(inside.end, inside.port + 2), ..inward.clone() };
    open(&mut table, &[moved]);
    assert!(comes(&far, to, &next, 3000).is_some());
    // One way only: what comes to the port that is only sent from goes nowhere, then or later.
    apply(&mut table, &[MediaChange::Close(FlowId(1))]);
    assert_eq!(arrives(&far, to, &next, 3001), None);
    open(&mut table, &[inward]);
    let phone = lab.phone(inside.end, inside.port).unwrap();
    let mut buffer = [0; 2000];
    let mut sequence = 4000;
    with_ticks(&mut table, "again", |_| {
        sequence += 1;
        far.send_to(&rtp(sequence, 7), to).unwrap();
        match phone.recv(&mut buffer) {
            Ok(length) => {
                let heard = u16::from_be_bytes([buffer[2], buffer[3]]);
                assert!(length == 172 && heard > 4000, "{heard} waited while it was closed");
                true
            }
            Err(_) => false,
        }
    });
}

#[test]
fn a_device_that_xdp_cannot_send_by_is_served_by_the_daemon_and_by_the_kernel_when_it_can() {
    let mut lab = MediaLab::new("mfi").unwrap();
    lab.without_xdp_behind();
    let (handle, mut table) = lab.start(MediaMode::Relay).unwrap();
    let (out, inside) = (far(false), phone(true));
    open(&mut table, &both_ways(out, inside));
    talk(&lab, &mut table, out, inside);
    let by_daemon = table.next_hop(FlowId(2)).unwrap().by_daemon;
    assert_eq!(by_daemon, DRIVERS_TELL <= kernel_version());
    if !by_daemon {
        return left_out("no driver says what it can");
    }
    drop((handle, table));
    lab.wire.wait_lock_free();
    // The next daemon takes the call over, its sockets too.
    let (_handle, mut table) = lab.start(MediaMode::Relay).unwrap();
    assert_eq!(table.numbers().by_daemon, 2);
    talk(&lab, &mut table, out, inside);
    lab.with_xdp_behind().unwrap();
    with_ticks(&mut table, "by the kernel", |table| {
        [1, 2].into_iter().all(|id| !table.next_hop(FlowId(id)).unwrap().by_daemon)
    });
    let before = passed(&lab);
    talk(&lab, &mut table, out, inside);
    let after = passed(&lab);
    assert!(after[0] == before[0] && after[1] > before[1], "{before:?} {after:?}");
    assert_eq!(table.numbers().by_daemon, 0);
}

#[test]
fn what_the_daemon_cannot_send_is_said_when_it_begins_and_has_no_way() {
    let mut lab = MediaLab::new("mfj").unwrap();
    lab.without_xdp_behind();
    let mut monitor = Config::clone(&lab.config(MediaMode::Relay));
    monitor.firewall.monitor = true;
    let pinhole = lab.config(MediaMode::Pinhole);
    for (config, word) in [(pinhole, "of a pinhole"), (Arc::new(monitor), "firewall.monitor")] {
        let mut warnings = Vec::new();
        lab.wire.edge.run(|| warnings = media::warnings(&config)).unwrap();
        if kernel_version() < DRIVERS_TELL {
            assert_eq!(warnings, Vec::<String>::new());
            return left_out("no driver says what it can");
        }
        assert!(warnings.len() == 2 && warnings.iter().all(|w| w.contains(word)), "{warnings:?}");
        let pinholes = config.media.mode == MediaMode::Pinhole;
        let (handle, mut table) = lab.start_with(config).unwrap();
        let flows = if pinholes {
            let out = Leg { edge: FAR4.into(), ..far(false) };
            let inside = Leg { end: PUBLIC4.into(), port: PHONE_PORT, edge: PUBLIC4.into() };
            both_ways(out, inside).map(|flow| Flow { way: Way::Pinhole, ..flow })
        } else {
            both_ways(far(false), phone(false))
        };
        open(&mut table, &flows);
        for _ in 0..20 {
            table.tick().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        with_ticks(&mut table, "nothing sends them", |table| {
            (table.numbers().without_way, table.numbers().by_daemon) == (2, 0)
        });
        apply(&mut table, &[MediaChange::CloseCall(CALL)]);
        drop((handle, table));
        lab.wire.wait_lock_free();
    }
}
