//! Media flows through the real programs and maps, between network namespaces: UDP both ways, a
//! gateway that changes, neighbours that are not known yet, and a daemon that goes and comes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod by_daemon;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use edge_tests::{
    lab::media::{
        FAR4, FAR6, INSIDE_DEVICE, INSIDE4, INSIDE6, MediaLab, PHONE4, PHONE6, PORTS, PUBLIC4,
        PUBLIC6, rtp,
    },
    patience::{BUSY, patience},
    wire::{EDGE4, EDGE6, never_cut},
};
use edge_user::{
    admin::call::{CallCommand, call},
    config::{Config, MediaMode, Paths},
    firewall::{
        FirewallHandle, Intent, inspect,
        media::{self, MediaTable},
    },
    media::flow::{CallId, Component, Flow, FlowContent, FlowId, MediaChange, MediaSide, Way},
};

const CALL: CallId = CallId(0x1234_5678);
const FAR_PORT: u16 = 4000;
const PHONE_PORT: u16 = 30_000;
const PORT: u16 = 50_000;

/// One end of a call, with the edge's address towards it.
#[derive(Clone, Copy)]
struct Leg {
    end: IpAddr,
    port: u16,
    edge: IpAddr,
}

fn far(six: bool) -> Leg {
    let (end, edge) = if six { (FAR6.into(), EDGE6.into()) } else { (FAR4.into(), EDGE4.into()) };
    Leg { end, port: FAR_PORT, edge }
}

fn phone(six: bool) -> Leg {
    let (end, edge) =
        if six { (PHONE6.into(), INSIDE6.into()) } else { (PHONE4.into(), INSIDE4.into()) };
    Leg { end, port: PHONE_PORT, edge }
}

/// The flow from one end to the other.
fn relay(id: u32, side: MediaSide, from: Leg, to: Leg) -> Flow {
    Flow {
        id: FlowId(id),
        call: CALL,
        line: 0,
        component: Component::Rtp,
        side,
        way: Way::Relay {
            local: SocketAddr::new(from.edge, PORT),
            from: SocketAddr::new(to.edge, PORT),
        },
        source: from.end.into(),
        source_port: Some(from.port),
        learn: Duration::from_secs(60),
        learned_anew: 0,
        to: SocketAddr::new(to.end, to.port),
        content: FlowContent::Media,
        clock: Some(8000),
        packets_per_second: 10_000,
        bytes_per_second: 10_000_000,
        expires: Duration::from_secs(3600),
        held: false,
        timed: false,
        turns: false,
    }
}

fn both_ways(out: Leg, inside: Leg) -> [Flow; 2] {
    [relay(1, MediaSide::Outside, out, inside), relay(2, MediaSide::Inside, inside, out)]
}

fn apply(table: &mut MediaTable, changes: &[MediaChange]) {
    let done = table.apply(changes);
    assert!(done.fault.is_none(), "{:?}", done.fault);
}

fn open(table: &mut MediaTable, flows: &[Flow]) {
    apply(table, &flows.iter().cloned().map(MediaChange::Open).collect::<Vec<_>>());
}

/// One packet arrives, as long as that may take: from where.
fn comes(from: &UdpSocket, to: SocketAddr, at: &UdpSocket, sequence: u16) -> Option<SocketAddr> {
    let moment = at.read_timeout().unwrap();
    at.set_read_timeout(Some(patience(BUSY))).unwrap();
    let seen = arrives(from, to, at, sequence);
    at.set_read_timeout(moment).unwrap();
    seen
}

/// Whether one packet arrives within a moment, and from where.
fn arrives(from: &UdpSocket, to: SocketAddr, at: &UdpSocket, sequence: u16) -> Option<SocketAddr> {
    let packet = rtp(sequence, 7);
    from.send_to(&packet, to).unwrap();
    let mut buffer = [0; 2000];
    loop {
        let (length, source) = at.recv_from(&mut buffer).ok()?;
        // One that was late is not this one.
        if buffer[..length] == packet {
            return Some(source);
        }
    }
}

/// Runs the table's clockwork until the check holds.
#[track_caller]
fn with_ticks(table: &mut MediaTable, what: &str, mut check: impl FnMut(&MediaTable) -> bool) {
    let (began, limit) = (Instant::now(), patience(BUSY));
    while !check(table) {
        assert!(began.elapsed() < limit, "not in time: {what}");
        table.tick().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every way of a call works: payload whole, from the right address.
fn talk(lab: &MediaLab, table: &mut MediaTable, out: Leg, inside: Leg) {
    let far = lab.outside(out.end, out.port).unwrap();
    let phone = lab.phone(inside.end, inside.port).unwrap();
    for (from, to, at, seen) in [
        (&far, SocketAddr::new(out.edge, PORT), &phone, SocketAddr::new(inside.edge, PORT)),
        (&phone, SocketAddr::new(inside.edge, PORT), &far, SocketAddr::new(out.edge, PORT)),
    ] {
        let mut sequence = 0;
        with_ticks(table, "the first packet", |_| {
            sequence += 1;
            arrives(from, to, at, sequence) == Some(seen)
        });
        for sequence in 1000..1050 {
            assert_eq!(comes(from, to, at, sequence), Some(seen), "{to} packet {sequence}");
        }
    }
}

#[test]
fn packets_are_relayed_both_ways_over_both_families_and_between_them() {
    let lab = MediaLab::new("mfa").unwrap();
    let (_handle, mut table) = lab.start(MediaMode::Relay).unwrap();
    for (out6, in6) in [(false, false), (true, true), (false, true), (true, false)] {
        let (out, inside) = (far(out6), phone(in6));
        // Nobody has spoken to anybody: the neighbours are found by the table.
        lab.forget_neighbours().unwrap();
        open(&mut table, &both_ways(out, inside));
        talk(&lab, &mut table, out, inside);
        let status = table.status().unwrap();
        assert_eq!(status.len(), 2);
        for flow in &status {
            assert!(flow.packets >= 50 && flow.routed && flow.last_seen.is_some(), "{flow:?}");
            assert_eq!(flow.ssrc, Some(7));
        }
        let learned = table.learned();
        let expected = SocketAddr::new(out.end, out.port);
        assert!(learned.contains(&(FlowId(1), expected)), "{learned:?}");
        let hop = table.next_hop(FlowId(2)).unwrap();
        assert!(hop.link_address.is_some() && hop.device.as_deref() == Some("edge0"), "{hop:?}");
        apply(&mut table, &[MediaChange::CloseCall(CALL)]);
        assert_eq!(table.numbers().flows, 0);
    }
    let forward = lab.wire.edge.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward"));
    assert_eq!(forward.unwrap().unwrap().trim(), "0", "the stack forwards nothing");
}

#[test]
fn a_closed_flow_lets_nothing_through_from_that_moment_on() {
    let lab = MediaLab::new("mfb").unwrap();
    let (_handle, mut table) = lab.start(MediaMode::Relay).unwrap();
    for six in [false, true] {
        let (out, inside) = (far(six), phone(six));
        let far = lab.outside(out.end, out.port).unwrap();
        let phone = lab.phone(inside.end, inside.port).unwrap();
        let to = SocketAddr::new(out.edge, PORT);
        assert_eq!(arrives(&far, to, &phone, 1), None, "before");
        open(&mut table, &both_ways(out, inside));
        let mut sequence = 1;
        with_ticks(&mut table, "open", |_| {
            sequence += 1;
            arrives(&far, to, &phone, sequence).is_some()
        });
        let mut quickest = Duration::MAX;
        for again in 0..5 {
            let began = Instant::now();
            apply(&mut table, &[MediaChange::Close(FlowId(1))]);
            quickest = quickest.min(began.elapsed());
            assert_eq!(arrives(&far, to, &phone, 900 + again), None, "after");
            open(&mut table, &both_ways(out, inside)[..1]);
        }
        assert!(quickest < patience(Duration::from_millis(50)), "{quickest:?}");
        apply(&mut table, &[MediaChange::Close(FlowId(1))]);
        assert_eq!(arrives(&far, to, &phone, 910), None, "after");
        apply(&mut table, &[MediaChange::CloseCall(CALL)]);
    }
}

#[test]
fn a_way_that_was_expected_is_there_with_the_flow_and_another_when_it_was_looked_for() {
    let lab = MediaLab::new("mfw").unwrap();
    let (_handle, mut table) = lab.start(MediaMode::Relay).unwrap();
    let (out, inside) = (far(false), phone(false));
    let flows = both_ways(out, inside);
    let is_routed = |table: &MediaTable, id| {
        table.next_hop(FlowId(id)).is_some_and(|hop| hop.link_address.is_some())
    };
    // From here on the neighbours are known.
    open(&mut table, &flows);
    talk(&lab, &mut table, out, inside);
    apply(&mut table, &[MediaChange::CloseCall(CALL)]);
    apply(&mut table, &[MediaChange::Expect(out.end, MediaSide::Outside)]);
    assert!(table.is_waiting());
    table.tick().unwrap();
    open(&mut table, &flows);
    assert!(is_routed(&table, 2), "the way to who offered is known");
    assert!(!is_routed(&table, 1) && table.is_fresh(), "nobody has looked for the other");
    let (ways, table) = (table.ways(), Mutex::new(table));
    ways.settle(&table).unwrap();
    let mut table = table.into_inner().unwrap();
    assert!(is_routed(&table, 1) && !table.is_fresh());
    talk(&lab, &mut table, out, inside);
}

#[test]
fn a_gateway_that_changes_its_link_address_is_followed() {
    let lab = MediaLab::new("mfc").unwrap();
    let (_handle, mut table) = lab.start(MediaMode::Relay).unwrap();
    // As a gateway that takes over for another does: it tells its link.
    lab.wire
        .peer
        .run(|| {
            std::fs::write("/proc/sys/net/ipv4/conf/peer0/arp_notify", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/peer0/ndisc_notify", "1").unwrap();
        })
        .unwrap();
    for (six, address) in [(false, "02:00:00:00:0a:04"), (true, "02:00:00:00:0a:06")] {
        let (out, inside) = (far(six), phone(six));
        open(&mut table, &both_ways(out, inside));
        talk(&lab, &mut table, out, inside);
        let before = table.next_hop(FlowId(2)).unwrap().link_address.unwrap();
        lab.wire.peer.ip_batch(&format!("link set peer0 address {address}\n")).unwrap();
        let far = lab.outside(out.end, out.port).unwrap();
        let phone = lab.phone(inside.end, inside.port).unwrap();
        let to = SocketAddr::new(inside.edge, PORT);
        let mut sequence = 3000;
        with_ticks(&mut table, "the new address", |_| {
            sequence += 1;
            arrives(&phone, to, &far, sequence).is_some()
        });
        let after = table.next_hop(FlowId(2)).unwrap().link_address.unwrap();
        assert_ne!(after, before);
        assert_eq!(after.map(|byte| format!("{byte:02x}")).join(":"), address);
        apply(&mut table, &[MediaChange::CloseCall(CALL)]);
    }
}

#[test]
fn a_route_that_changes_is_followed_and_one_out_of_the_wrong_side_is_no_way() {
    let lab = MediaLab::new("mfd").unwrap();
    let (_handle, mut table) = lab.start(MediaMode::Relay).unwrap();
    let (out, inside) = (far(false), phone(false));
    open(&mut table, &both_ways(out, inside));
    talk(&lab, &mut table, out, inside);
    let routed = |table: &MediaTable| {
        let all = table.status().unwrap();
        all.iter().find(|flow| flow.id == FlowId(2)).unwrap().routed
    };
    let ways = format!("route add {FAR4}/32 via {PHONE4}\n");
    lab.wire.edge.ip_batch(&ways).unwrap();
    with_ticks(&mut table, "it would leave inside", |table| !routed(table));
    lab.wire.edge.ip_batch(&format!("route del {FAR4}/32\n")).unwrap();
    with_ticks(&mut table, "a way again", routed);
    talk(&lab, &mut table, out, inside);
}

/// What the command says when nobody answers at the control socket.
fn without_a_daemon(lab: &MediaLab, command: &CallCommand) -> serde_json::Value {
    let paths = Paths {
        state: lab.wire.state.clone(),
        run: lab.wire.state.join("nobody"),
        pins: lab.wire.pins.clone(),
    };
    call(&paths, command).unwrap().json
}

#[test]
fn media_goes_on_while_the_daemon_is_away_and_the_next_one_takes_it_over() {
    let lab = MediaLab::new("mfe").unwrap();
    let (handle, mut table) = lab.start(MediaMode::Relay).unwrap();
    let (out, inside) = (far(false), phone(false));
    let flows = both_ways(out, inside);
    open(&mut table, &flows);
    talk(&lab, &mut table, out, inside);
    let far = lab.outside(out.end, out.port).unwrap();
    let phone = lab.phone(inside.end, inside.port).unwrap();
    let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
    let (stop, all_sent) = (AtomicBool::new(false), AtomicBool::new(false));
    let to = SocketAddr::new(out.edge, PORT);
    let mut table = std::thread::scope(|scope| {
        scope.spawn(|| {
            for sequence in 2000u16.. {
                if stop.load(Ordering::Relaxed) {
                    return all_sent.store(true, Ordering::Release);
                }
                far.send_to(&rtp(sequence, 7), to).unwrap();
                let sent = sent.fetch_add(1, Ordering::Relaxed) + 1;
                std::thread::sleep(Duration::from_millis(1));
                // Who hears may be slower, and its socket has room for some hundreds.
                while sent > received.load(Ordering::Relaxed) + 100 && !stop.load(Ordering::Relaxed)
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        scope.spawn(|| {
            let is_last = || {
                let over = all_sent.load(Ordering::Acquire);
                over && received.load(Ordering::Relaxed) >= sent.load(Ordering::Relaxed)
            };
            let began = Instant::now();
            while !is_last() && began.elapsed() < 2 * BUSY {
                let heard = phone.recv(&mut [0; 2000]).is_ok();
                received.fetch_add(u64::from(heard), Ordering::Relaxed);
            }
        });
        drop((handle, table));
        lab.wire.wait_lock_free();
        let told = without_a_daemon(&lab, &CallCommand::List);
        assert_eq!(told[0]["id"], CALL.to_string());
        assert_eq!(told[0]["lines"][0]["flows"].as_array().unwrap().len(), 2);
        let told = without_a_daemon(&lab, &CallCommand::Show { id: CALL.to_string() });
        let rate = told["lines"][0]["flows"][0]["packets_per_second"].as_f64().unwrap();
        assert!(rate > 10.0, "{told}");
        let (handle, table) = lab.start(MediaMode::Relay).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        (handle, table)
    });
    let (sent, received) = (sent.into_inner(), received.into_inner());
    assert!(sent > 100, "{sent}");
    assert_eq!(received, sent, "none is lost");
    let mut found = table.1.flows();
    found.sort_by_key(|flow| flow.id);
    for (found, flow) in found.iter().zip(&flows) {
        let same = Flow { expires: flow.expires, learn: flow.learn, ..found.clone() };
        assert_eq!(same, *flow);
        assert!(found.expires <= flow.expires + Duration::from_secs(1));
    }
    assert_eq!(found.len(), 2);
    assert!(table.1.status().unwrap().iter().any(|flow| flow.packets > sent));
    apply(&mut table.1, &[MediaChange::CloseCall(CALL)]);
    assert_eq!(arrives(&far, to, &phone, 900), None, "the next one can close it");
}

#[test]
fn a_pinhole_lets_a_call_through_to_its_endpoint_and_nothing_else() {
    let lab = MediaLab::new("mff").unwrap();
    let (_handle, mut table) = lab.start(MediaMode::Pinhole).unwrap();
    for (far_end, public) in
        [(IpAddr::V4(FAR4), IpAddr::V4(PUBLIC4)), (FAR6.into(), PUBLIC6.into())]
    {
        let out = Leg { end: far_end, port: FAR_PORT, edge: far_end };
        let inside = Leg { end: public, port: PHONE_PORT, edge: public };
        let flows = both_ways(out, inside).map(|flow| Flow { way: Way::Pinhole, ..flow });
        let far = lab.outside(out.end, out.port).unwrap();
        let phone = lab.phone(inside.end, inside.port).unwrap();
        let (to_phone, to_far) =
            (SocketAddr::new(public, PHONE_PORT), SocketAddr::new(far_end, FAR_PORT));
        assert_eq!(arrives(&far, to_phone, &phone, 1), None, "before");
        open(&mut table, &flows);
        let mut sequence = 1;
        with_ticks(&mut table, "in", |_| {
            sequence += 1;
            arrives(&far, to_phone, &phone, sequence) == Some(to_far)
        });
        with_ticks(&mut table, "out", |_| {
            sequence += 1;
            arrives(&phone, to_far, &far, sequence) == Some(to_phone)
        });
        let other = lab.outside(out.end, out.port + 2).unwrap();
        let next = lab.phone(inside.end, inside.port + 2).unwrap();
        let to_next = SocketAddr::new(public, PHONE_PORT + 2);
        assert_eq!(arrives(&other, to_next, &next, 5), None, "a port beside it");
        apply(&mut table, &[MediaChange::CloseCall(CALL)]);
        assert_eq!(arrives(&far, to_phone, &phone, 900), None, "after");
    }
}

#[test]
fn what_does_not_fit_the_way_out_is_dropped_and_the_devices_new_bound_is_followed() {
    let lab = MediaLab::new("mfm").unwrap();
    let (_handle, mut table) = lab.start(MediaMode::Relay).unwrap();
    let bound = |bytes: u32| {
        lab.wire.edge.ip_batch(&format!("link set {INSIDE_DEVICE} mtu {bytes}\n")).unwrap();
    };
    for (out6, in6) in [(false, false), (false, true), (true, true)] {
        let (out, inside) = (far(out6), phone(in6));
        open(&mut table, &both_ways(out, inside));
        talk(&lab, &mut table, out, inside);
        let (far, phone) =
            (lab.outside(out.end, out.port).unwrap(), lab.phone(inside.end, inside.port).unwrap());
        // It is told, and goes on all the same.
        never_cut(&far, libc::IP_PMTUDISC_PROBE).unwrap();
        let header = if in6 { 48 } else { 28 };
        let mut long = rtp(9, 7);
        long.resize(1400 - header, 0);
        let mut arrive = |bytes: usize| {
            long.resize(bytes, 0);
            far.send_to(&long, (out.edge, PORT)).unwrap();
            phone.recv_from(&mut [0; 2000]).ok().map(|(length, _)| length)
        };
        bound(1400);
        let dropped = |table: &MediaTable| {
            let all = table.status().unwrap();
            all.iter().find(|flow| flow.id == FlowId(1)).unwrap().dropped
        };
        let before = dropped(&table);
        with_ticks(&mut table, "a smaller bound", |table| {
            arrive(1401 - header);
            dropped(table) > before
        });
        let (before, packets) = (dropped(&table), 1400 - header);
        phone.set_read_timeout(Some(patience(BUSY))).unwrap();
        assert_eq!(arrive(packets), Some(packets), "as long as it may be");
        phone.set_read_timeout(Some(patience(Duration::from_millis(300)))).unwrap();
        assert_eq!(arrive(packets + 1), None);
        with_ticks(&mut table, "it is counted", |table| dropped(table) > before);
        assert_eq!(dropped(&table), before + 1);
        bound(1500);
        with_ticks(&mut table, "the former bound", |_| arrive(packets + 1) == Some(packets + 1));
        apply(&mut table, &[MediaChange::CloseCall(CALL)]);
    }
}

#[test]
fn calls_go_on_when_a_reload_changes_the_ports_or_the_way_of_media() {
    let lab = MediaLab::new("mfr").unwrap();
    let (handle, mut table) = lab.start(MediaMode::Relay).unwrap();
    for six in [false, true] {
        let (out, inside) = (far(six), phone(six));
        open(&mut table, &both_ways(out, inside));
        talk(&lab, &mut table, out, inside);
        let other = |mode, ports| {
            let mut config = Config::clone(&lab.config(mode));
            config.services.av.as_mut().unwrap().media_ports = ports;
            vec![Intent::SetConfig(Arc::new(config))]
        };
        // Twice: what calls could have before the first is forgotten with the second.
        for (mode, ports) in [
            (MediaMode::Relay, (52_000, 52_099)),
            (MediaMode::Relay, (53_000, 53_099)),
            (MediaMode::Pinhole, PORTS),
            (MediaMode::Off, PORTS),
            (MediaMode::Off, (52_000, 52_099)),
        ] {
            handle.apply_blocking(other(mode, ports)).unwrap();
            talk(&lab, &mut table, out, inside);
        }
        // The new ports are open to those that begin.
        handle.apply_blocking(other(MediaMode::Relay, (52_000, 52_099))).unwrap();
        let new = |flow: Flow| {
            let Way::Relay { local, from } = flow.way else { panic!("{flow:?}") };
            let at = |address: SocketAddr| SocketAddr::new(address.ip(), 52_000);
            let way = Way::Relay { local: at(local), from: at(from) };
            Flow { id: FlowId(flow.id.0 + 2), call: CallId(9), way, ..flow }
        };
        open(&mut table, &both_ways(out, inside).map(new));
        let socket = lab.outside(out.end, out.port).unwrap();
        let heard = lab.phone(inside.end, inside.port).unwrap();
        let mut sequence = 0;
        with_ticks(&mut table, "a call of the new range", |_| {
            sequence += 1;
            arrives(&socket, SocketAddr::new(out.edge, 52_000), &heard, sequence).is_some()
        });
        // A pinhole, too.
        apply(&mut table, &[MediaChange::CloseCall(CALL), MediaChange::CloseCall(CallId(9))]);
        handle.apply_blocking(other(MediaMode::Relay, PORTS)).unwrap();
    }
    handle.apply_blocking(vec![Intent::SetConfig(lab.config(MediaMode::Pinhole))]).unwrap();
    let out = Leg { edge: FAR4.into(), ..far(false) };
    let inside = Leg { end: PUBLIC4.into(), port: PHONE_PORT, edge: PUBLIC4.into() };
    let flows = both_ways(out, inside).map(|flow| Flow { way: Way::Pinhole, ..flow });
    open(&mut table, &flows);
    let (socket, heard) =
        (lab.outside(out.end, out.port).unwrap(), lab.phone(inside.end, inside.port).unwrap());
    let to = SocketAddr::new(inside.end, inside.port);
    for mode in [MediaMode::Pinhole, MediaMode::Relay, MediaMode::Off, MediaMode::Off] {
        handle.apply_blocking(vec![Intent::SetConfig(lab.config(mode))]).unwrap();
        let mut sequence = 0;
        with_ticks(&mut table, "a pinhole", |_| {
            sequence += 1;
            arrives(&socket, to, &heard, sequence).is_some()
        });
    }
    apply(&mut table, &[MediaChange::CloseCall(CALL)]);
    assert_eq!(arrives(&socket, to, &heard, 900), None, "after");
}
