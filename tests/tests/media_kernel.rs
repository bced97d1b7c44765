//! Media of real sockets, forwarded between namespaces by the driver alone: outside, edge, inside.
//! The flows are written into the pinned maps as the daemon writes them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use aya::{
    Pod,
    maps::{Array, Map, MapData},
};
use edge_ebpf::abi::{
    CONTENT_MEDIA, MEDIA_OUT_IPV6, MEDIA_REWRITE, MEDIA_RTP, MediaFlow, MediaState, SCHEMA,
    ZONE_EXTERNAL, ZONE_INTERNAL, map_names, mapped, media_port_index,
};
use edge_tests::{
    bench::raw::{self, Tiny},
    lab::netns::Namespace,
    patience::{BUSY, eventually, patience},
    wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire, ifindex, never_cut, open_port},
};
use edge_user::{
    config::{AvService, Config, Interface, Line, MediaMode, Rates, Zone},
    firewall::{FirewallHandle, Owner, OwnerOptions, inspect},
};

/// The device of the inside.
const INSIDE: &str = "in0";
const OURS4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OURS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1);
const PHONE4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 7);
const PHONE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 7);
/// A port that a rule opens, which names no address of ours.
const OPEN: u16 = 4000;
const PORTS: (u16, u16) = (50_000, 50_099);
/// How long it may take until a datagram is there, on the busiest machine.
const PATIENCE: Duration = BUSY;

/// The last byte of a device's address tells which it is.
const EDGE_OUT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const EDGE_IN: [u8; 6] = [2, 0, 0, 0, 0, 3];
const PHONE: [u8; 6] = [2, 0, 0, 0, 0, 4];

struct World {
    wire: Wire,
    inside: Namespace,
    handle: Option<FirewallHandle>,
    _programs: [OwnedFd; 2],
}

impl Drop for World {
    fn drop(&mut self) {
        Namespace::delete(self.inside.name());
    }
}

impl World {
    fn new(tag: &str) -> Self {
        Self::with(tag, |_| {})
    }

    /// With something done in our namespace before the firewall is there.
    fn with(tag: &str, prepare: impl FnOnce(&Namespace)) -> Self {
        let wire = Wire::new(tag).unwrap();
        let inside = Namespace::create(&format!("{}-in", wire.edge.name())).unwrap();
        wire.edge
            .ip_batch(&format!(
                "link add {INSIDE} address 02:00:00:00:00:03 type veth \
                     peer name eth0 address 02:00:00:00:00:04 netns {}\n\
                 addr add {OURS4}/24 dev {INSIDE}\n\
                 addr add {OURS6}/64 dev {INSIDE} nodad\n\
                 link set {INSIDE} up\n",
                inside.name()
            ))
            .unwrap();
        inside
            .ip_batch(&format!(
                "addr add {PHONE4}/24 dev eth0\naddr add {PHONE6}/64 dev eth0 nodad\n\
                 link set eth0 up\n"
            ))
            .unwrap();
        // The way of somebody who knows what lies behind us.
        wire.peer
            .ip_batch(&format!(
                "route add 10.9.0.0/24 via {EDGE4}\nroute add fd00:9::/64 via {EDGE6}\n"
            ))
            .unwrap();
        inside.wait_links();
        wire.edge.wait_links();
        // Frames that a local socket sent carry partial checksums, and a frame that is redirected
        // arrives only where a program runs.
        let far = [(&wire.peer, "peer0"), (&inside, "eth0")].map(|(namespace, device)| {
            let off = ["-K", device, "tx", "off"];
            assert!(namespace.command("ethtool").args(off).output().unwrap().status.success());
            let pass = raw::load(Tiny::Pass).unwrap();
            namespace.run(|| raw::attach(&pass, ifindex(device).unwrap())).unwrap().unwrap()
        });
        prepare(&wire.edge);
        let config = wire.config_with(relay);
        let options = OwnerOptions::new(&config);
        let start = move || Owner::start(options, Arc::clone(&config));
        let (handle, _) = wire.edge.run(start).unwrap().unwrap();
        Self { wire, inside, handle: Some(handle), _programs: far }
    }

    fn device(&self, name: &str) -> u32 {
        self.wire.edge.run(|| ifindex(name)).unwrap().unwrap()
    }

    fn set<V: Pod>(&self, name: &str, index: u32, value: V) {
        self.map::<V>(name).set(index, value, 0).unwrap();
    }

    fn map<V: Pod>(&self, name: &str) -> Array<MapData, V> {
        let path = self.wire.pins.join(format!("v{SCHEMA}")).join(name);
        Array::try_from(Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap()).unwrap()
    }

    fn open(&self, zone: u8, slot: u32, flow: MediaFlow) {
        self.set(map_names::MEDIA_STATES, slot, MediaState::default());
        self.set(map_names::MEDIA_FLOWS, slot, MediaFlow { state: slot, ..flow });
        self.port(zone, &flow, slot);
    }

    fn port(&self, zone: u8, flow: &MediaFlow, slot: u32) {
        let six = flow.local[..12] != mapped([0; 4])[..12];
        let port = u16::from_be_bytes(flow.local_port);
        self.set(map_names::MEDIA_PORTS, media_port_index(zone, six, port), slot);
    }

    /// What the stack has refused to forward, of one family.
    fn refused(&self, six: bool) -> u64 {
        let read = move || match six {
            true => std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap(),
            false => std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap(),
        };
        let text = self.wire.edge.run(read).unwrap();
        if six {
            let line = text.lines().find(|line| line.starts_with("Ip6InAddrErrors")).unwrap();
            return line.split_whitespace().nth(1).unwrap().parse().unwrap();
        }
        let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let place = names.split_whitespace().position(|name| name == "InAddrErrors").unwrap();
        values.split_whitespace().nth(place).unwrap().parse().unwrap()
    }

    fn counted(&self, reason: &str) -> u64 {
        let rows = inspect::reasons(&self.wire.pins).unwrap();
        rows.iter().find(|row| row.name == reason).unwrap().packets
    }
}

/// The configuration: both zones, and an av service that relays.
fn relay(config: &mut Config) {
    config.interfaces.push(Interface {
        device: INSIDE.to_owned(),
        vlan: None,
        zone: Zone::Internal,
        optional: false,
    });
    config.firewall.rules.push(open_port("open", OPEN));
    config.media.mode = MediaMode::Relay;
    config.services.av = Some(AvService {
        listen: vec![EDGE4.into(), EDGE6.into()],
        advertise: Vec::new(),
        inside: vec![OURS4.into(), OURS6.into()],
        stun_port: 3478,
        tcp_port: 443,
        media_ports: PORTS,
        legacy_partners: false,
        authentication_port: 5062,
        rates: Rates::default(),
        line: Line::default(),
    });
}

fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// One direction: what `source` sends to `local` goes to `to`, from `from`.
fn flow(
    source: SocketAddr,
    local: SocketAddr,
    (from, to): (SocketAddr, SocketAddr),
    (ifindex, device, next_hop): (u32, [u8; 6], [u8; 6]),
) -> MediaFlow {
    MediaFlow {
        call: 1,
        source: sixteen(source.ip()),
        source_port: source.port().to_be_bytes(),
        source_bits: 128,
        local: sixteen(local.ip()),
        local_port: local.port().to_be_bytes(),
        from: sixteen(from.ip()),
        from_port: from.port().to_be_bytes(),
        to: sixteen(to.ip()),
        to_port: to.port().to_be_bytes(),
        ifindex,
        device,
        next_hop,
        flags: MEDIA_REWRITE | MEDIA_RTP | if to.is_ipv6() { MEDIA_OUT_IPV6 } else { 0 },
        content: CONTENT_MEDIA,
        epoch: 1,
        clock: 8000,
        expires_at_seconds: u32::MAX,
        learn_until_seconds: u32::MAX,
        ..MediaFlow::default()
    }
}

fn rtp(sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
    packet.extend_from_slice(&[1, 2, 3, 4]);
    packet.extend((0..160 + sequence % 2).map(|byte| byte as u8));
    packet
}

fn socket(namespace: &Namespace, address: IpAddr) -> UdpSocket {
    let socket = namespace.udp((address, 0).into()).unwrap();
    socket.set_read_timeout(Some(patience(PATIENCE))).unwrap();
    socket
}

/// Both ends of a relayed call, its two flows, and the addresses that each end knows.
struct Call {
    outside: UdpSocket,
    inside: UdpSocket,
    flows: [(u8, u32, MediaFlow); 2],
    ours_outside: SocketAddr,
    ours_inside: SocketAddr,
}

impl Call {
    fn new(world: &World, number: u16, (out_six, in_six): (bool, bool)) -> Self {
        let port = PORTS.0 + number * 2;
        let choose = |six: bool, four: Ipv4Addr, other: Ipv6Addr| -> IpAddr {
            if six { other.into() } else { four.into() }
        };
        let ours_outside = SocketAddr::new(choose(out_six, EDGE4, EDGE6), port);
        let ours_inside = SocketAddr::new(choose(in_six, OURS4, OURS6), port);
        let outside = socket(&world.wire.peer, choose(out_six, PEER4, PEER6));
        let inside = socket(&world.inside, choose(in_six, PHONE4, PHONE6));
        let (remote, phone) = (outside.local_addr().unwrap(), inside.local_addr().unwrap());
        let way_in = (world.device(INSIDE), EDGE_IN, PHONE);
        let way_out = (world.device(DEVICE), EDGE_OUT, PEER);
        let inward = flow(remote, ours_outside, (ours_inside, phone), way_in);
        let outward = flow(phone, ours_inside, (ours_outside, remote), way_out);
        let slot = u32::from(number) * 2 + 1;
        let flows = [(ZONE_EXTERNAL, slot, inward), (ZONE_INTERNAL, slot + 1, outward)];
        for (zone, slot, flow) in flows {
            world.open(zone, slot, flow);
        }
        Self { outside, inside, flows, ours_outside, ours_inside }
    }

    /// Sends some datagrams both ways; each arrives whole, from the address that its end knows.
    fn talk(&self) {
        let mut buffer = [0; 2048];
        for sequence in 0..20 {
            let sent = rtp(sequence);
            self.outside.send_to(&sent, self.ours_outside).unwrap();
            let (length, from) = received(&self.inside, &mut buffer).expect("media from outside");
            assert_eq!((&buffer[..length], from), (&sent[..], self.ours_inside));
            self.inside.send_to(&sent, self.ours_inside).unwrap();
            let (length, from) = received(&self.outside, &mut buffer).expect("media from inside");
            assert_eq!((&buffer[..length], from), (&sent[..], self.ours_outside));
        }
    }
}

const WAYS: [(bool, bool); 4] = [(false, false), (true, true), (false, true), (true, false)];

#[test]
fn media_passes_both_ways_between_all_families_and_goes_on_without_the_daemon() {
    let mut world = World::new("mk");
    let calls = Vec::from_iter((0..).zip(WAYS).map(|(number, way)| Call::new(&world, number, way)));
    for call in &calls {
        call.talk();
    }
    for call in &calls {
        for (_, slot, _) in call.flows {
            let state = world.map::<MediaState>(map_names::MEDIA_STATES).get(&slot, 0).unwrap();
            assert_eq!((state.packets, state.received, state.dropped), (20, 20, 0));
        }
    }
    assert_eq!(world.counted("media-relayed"), 160);
    // The daemon goes; media does not.
    drop(world.handle.take());
    world.wire.wait_lock_free();
    for call in &calls {
        call.talk();
    }
    // Closed, nothing passes.
    for call in &calls {
        let [(zone, _, flow), _] = call.flows;
        world.port(zone, &flow, 0);
        let before = world.counted("no-rule");
        call.outside.send_to(&rtp(1), call.ours_outside).unwrap();
        eventually("the datagram is dropped", || world.counted("no-rule") > before);
        call.inside.set_nonblocking(true).unwrap();
        assert!(call.inside.recv(&mut [0; 16]).is_err());
    }
    // The stack has forwarded nothing, and was never told to.
    assert_eq!(["ipv4/conf/all", "ipv6/conf/all"].map(|name| forwards(&world, name)), [false; 2]);
}

#[test]
fn who_sends_too_long_packets_is_told_and_its_stack_knows() {
    let world = World::new("ml");
    // IPv4 leaves as IPv6, whose header is longer; IPv6 meets a device that takes less.
    for (number, way, mtu, told) in
        [(0, (false, true), 1500, 1480_u16), (1, (true, true), 1400, 1400)]
    {
        let call = Call::new(&world, number, way);
        let [(_, slot, flow), _] = call.flows;
        world.set(map_names::MEDIA_FLOWS, slot, MediaFlow { state: slot, mtu, ..flow });
        call.outside.connect(call.ours_outside).unwrap();
        let header = if way.0 { 48 } else { 28 };
        never_cut(&call.outside, libc::IP_PMTUDISC_DO).unwrap();
        let mut packet = rtp(1);
        packet.resize(usize::from(told) - header + 1, 0);
        let too_long = || match call.outside.send(&packet) {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
                true
            }
        };
        eventually("the sender is told", too_long);
        // What was told is one thing, what its stack has kept of it another.
        call.outside.take_error().unwrap();
        assert!(too_long());
        assert!(world.counted("media-too-long") > 0);
        packet.pop();
        call.outside.send(&packet).unwrap();
        let (length, _) = received(&call.inside, &mut [0; 2048]).expect("what is not too long");
        assert_eq!(length, packet.len());
    }
}

#[test]
fn what_is_for_somebody_behind_us_is_dropped() {
    let world = World::new("mb");
    for (from, to) in
        [(IpAddr::from(PEER4), IpAddr::from(PHONE4)), (IpAddr::from(PEER6), IpAddr::from(PHONE6))]
    {
        let (outside, inside) = (socket(&world.wire.peer, from), socket(&world.inside, to));
        let before = world.counted("no-rule");
        outside.send_to(&rtp(1), inside.local_addr().unwrap()).unwrap();
        eventually("the datagram is dropped", || world.counted("no-rule") > before);
        inside.set_nonblocking(true).unwrap();
        assert!(inside.recv(&mut [0; 16]).is_err());
    }
}

#[test]
fn an_open_port_is_ours_alone_whoever_switches_forwarding_on() {
    // As other software, or a file for sysctl, leaves it.
    let world = World::with("mf", |edge| {
        edge.run(|| ["ipv4/conf/all", "ipv6/conf/all"].map(switch_on)).unwrap();
    });
    let nobody_behind_us_hears = || {
        for (from, to) in [
            (IpAddr::from(PEER4), IpAddr::from(PHONE4)),
            (IpAddr::from(PEER6), IpAddr::from(PHONE6)),
        ] {
            let outside = socket(&world.wire.peer, from);
            let inside = world.inside.udp((to, OPEN).into()).unwrap();
            let (let_in, refused) = (world.counted("rule"), world.refused(to.is_ipv6()));
            outside.send_to(&rtp(1), (to, OPEN)).unwrap();
            inside.set_nonblocking(true).unwrap();
            eventually("the stack refuses the datagram", || {
                assert!(inside.recv(&mut [0; 16]).is_err(), "{to} has heard");
                world.counted("rule") > let_in && world.refused(to.is_ipv6()) > refused
            });
        }
    };
    nobody_behind_us_hears();
    let device = |family: &str| format!("{family}/conf/{DEVICE}");
    let switches = ["ipv4/conf/all", "ipv6/conf/all", &device("ipv4"), &device("ipv6")];
    for name in switches {
        assert!(!forwards(&world, name), "{name}");
        world.wire.edge.run(|| switch_on(name)).unwrap();
        eventually("it is switched off again", || {
            switches.iter().all(|name| !forwards(&world, name))
        });
        nobody_behind_us_hears();
    }
}

fn switch(name: &str) -> String {
    format!("/proc/sys/net/{name}/forwarding")
}

fn switch_on(name: &str) {
    std::fs::write(switch(name), "1").unwrap();
}

fn forwards(world: &World, name: &str) -> bool {
    let read = || std::fs::read_to_string(switch(name)).unwrap();
    world.wire.edge.run(read).unwrap().trim() != "0"
}

/// What comes next. A wait with an end is not begun again by itself (signal(7)).
fn received(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
