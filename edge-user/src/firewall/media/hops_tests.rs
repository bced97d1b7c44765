use std::io;

use super::{
    super::finder::{Ask, Finder, Link, Neighbour, Route, Sender, Sides},
    *,
};

const OUT: u32 = 2;
const IN: u32 = 3;
const TRUNK: u32 = 4;
const TAGGED: u32 = 5;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A kernel that says what the test wants.
#[derive(Debug, Default)]
struct Kernel {
    routes: HashMap<IpAddr, Route>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    links: Vec<Link>,
    changes: Vec<Changes>,
    asked: Vec<(u32, IpAddr)>,
    cannot_ask: bool,
    cannot_send: Vec<u32>,
    looks: usize,
}

impl Ask for Kernel {
    fn route(&mut self, to: IpAddr, ifindex: Option<u32>) -> io::Result<Option<Route>> {
        self.looks += 1;
        if let Some(ifindex) = ifindex {
            return Ok(Some(Route { ifindex, gateway: None }));
        }
        Ok(self.routes.get(&to).copied())
    }

    fn neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Neighbour> {
        let none = Neighbour { address: None, confirmed: false };
        Ok(self.neighbours.get(&(ifindex, address)).copied().unwrap_or(none))
    }

    fn solicit(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        self.asked.push((ifindex, address));
        if self.cannot_ask { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }

    fn can_send(&mut self, ifindex: u32) -> io::Result<Option<bool>> {
        Ok((ifindex != TRUNK).then(|| !self.cannot_send.contains(&ifindex)))
    }

    fn links(&mut self) -> io::Result<Vec<Link>> {
        Ok(self.links.clone())
    }

    fn changes(&mut self) -> io::Result<Changes> {
        Ok(self.changes.pop().unwrap_or_default())
    }
}

fn link(ifindex: u32, name: &str, vlan: Option<(u32, u16)>) -> Link {
    let address = Some([2, 0, 0, 0, 0, ifindex as u8]);
    // A tagged one takes less than the one below.
    let mtu = if vlan.is_some() { 1496 } else { 1500 };
    Link { ifindex, name: name.to_owned(), address, up: true, mtu, vlan }
}

/// Ways, and who looks them up.
struct Ways {
    hops: Hops,
    finder: Finder<Kernel>,
}

impl std::ops::Deref for Ways {
    type Target = Hops;

    fn deref(&self) -> &Hops {
        &self.hops
    }
}

impl Ways {
    /// A flow more goes there, and somebody looks when nobody has.
    fn take(&mut self, target: Target, now: Instant) -> Option<Hop> {
        let known = self.hops.take(target, now);
        if !self.hops.is_new(target) {
            return known;
        }
        assert_eq!(known, None, "nobody has looked");
        self.hops.found(target, self.finder.look(target), now);
        self.hops.get(target)
    }

    fn set_sides(&mut self, sides: Sides, now: Instant) {
        if self.finder.set(sides, Sender::default()) {
            self.hops.all_due(now);
        }
    }

    /// Looks at what changed and at what is due. Gives where the way is another one now.
    fn tick(&mut self, now: Instant) -> Vec<Target> {
        let Self { hops, finder } = self;
        hops.heard(&finder.changes(), now);
        let due = hops.due(now);
        due.into_iter().filter(|target| hops.found(*target, finder.look(*target), now)).collect()
    }
}

fn hops() -> Ways {
    let links = vec![
        link(OUT, "eth0", None),
        link(IN, "eth1", None),
        link(TRUNK, "eth2", None),
        link(TAGGED, "eth2.7", Some((TRUNK, 7))),
        link(9, "other", None),
    ];
    let kernel = Kernel { links, ..Kernel::default() };
    let finder = Finder::new(kernel, sides(), Sender::default());
    Ways { hops: Hops::default(), finder }
}

fn sides() -> Sides {
    let sides = [
        (("eth0".to_owned(), None), MediaSide::Outside),
        (("eth1".to_owned(), None), MediaSide::Inside),
        (("eth2".to_owned(), Some(7)), MediaSide::Inside),
    ];
    Sides(sides.into_iter().collect())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn known(address: [u8; 6]) -> Neighbour {
    Neighbour { address: Some(address), confirmed: true }
}

fn outside(text: &str) -> Target {
    Target { address: ip(text), side: MediaSide::Outside }
}

fn inside(text: &str) -> Target {
    Target { address: ip(text), side: MediaSide::Inside }
}

#[test]
fn the_way_goes_by_the_gateway_or_the_host_itself_and_by_a_device_of_the_right_side() {
    let now = Instant::now();
    for (text, gateway) in
        [("192.0.2.9", "203.0.113.1"), ("2001:db8:9::9", "fe80::1"), ("192.0.2.9", "fe80::1")]
    {
        let mut hops = hops();
        let route = Route { ifindex: OUT, gateway: Some(ip(gateway)) };
        hops.finder.ask.routes.insert(ip(text), route);
        hops.finder.ask.neighbours.insert((OUT, ip(gateway)), known(MAC));
        let hop = hops.take(outside(text), now).unwrap();
        assert_eq!(
            hop,
            Hop {
                ifindex: OUT,
                vlan: 0,
                mtu: 1500,
                device: [2, 0, 0, 0, 0, 2],
                next_hop: MAC,
                by_daemon: false
            }
        );
        assert_eq!(hops.neighbour(outside(text)), Some(ip(gateway)));
        assert_eq!(hops.take(inside(text), now), None, "it would leave by the wrong side");
    }
    let mut hops = hops();
    hops.finder.ask.routes.insert(ip("10.0.0.9"), Route { ifindex: IN, gateway: None });
    hops.finder.ask.neighbours.insert((IN, ip("10.0.0.9")), known(MAC));
    assert_eq!(hops.take(inside("10.0.0.9"), now).unwrap().ifindex, IN);
    hops.finder.ask.routes.insert(ip("10.0.0.8"), Route { ifindex: 9, gateway: None });
    hops.finder.ask.neighbours.insert((9, ip("10.0.0.8")), known(MAC));
    assert_eq!(hops.take(inside("10.0.0.8"), now), None, "a device that is not configured");
    assert_eq!(hops.take(inside("10.0.0.7"), now), None, "no route");
}

#[test]
fn a_vlan_is_a_tag_on_the_device_below() {
    let now = Instant::now();
    let mut hops = hops();
    hops.finder.ask.routes.insert(ip("10.7.0.9"), Route { ifindex: TAGGED, gateway: None });
    hops.finder.ask.neighbours.insert((TAGGED, ip("10.7.0.9")), known(MAC));
    let hop = hops.take(inside("10.7.0.9"), now).unwrap();
    assert_eq!((hop.ifindex, hop.vlan, hop.device), (TRUNK, 7, [2, 0, 0, 0, 0, 5]));
    assert_eq!(hop.mtu, 1496);
}

#[test]
fn a_link_local_target_goes_by_the_only_device_of_its_side() {
    let now = Instant::now();
    let mut hops = hops();
    hops.finder.ask.neighbours.insert((OUT, ip("fe80::9")), known(MAC));
    assert_eq!(hops.take(outside("fe80::9"), now).unwrap().ifindex, OUT);
    assert_eq!(hops.take(inside("fe80::9"), now), None, "two devices are inside: which?");
}

#[test]
fn an_unknown_neighbour_is_asked_for_and_looked_at_soon_then_seldom() {
    let start = Instant::now();
    let mut hops = hops();
    let target = inside("10.0.0.9");
    hops.finder.ask.routes.insert(target.address, Route { ifindex: IN, gateway: None });
    assert_eq!(hops.take(target, start), None);
    assert_eq!(hops.finder.ask.asked, [(IN, target.address)]);
    assert!(hops.is_waiting());
    let mut now = start;
    for _ in 0..25 {
        now += SOON;
        assert_eq!(hops.tick(now), []);
    }
    assert!(!hops.is_waiting(), "it is not there: once in a second must do");
    let looks = hops.finder.ask.looks;
    hops.tick(now + SOON);
    assert_eq!(hops.finder.ask.looks, looks);
    hops.finder.ask.neighbours.insert((IN, target.address), known(MAC));
    assert_eq!(hops.tick(now + LATER), [target]);
    assert_eq!(hops.get(target).unwrap().next_hop, MAC);
}

#[test]
fn a_neighbour_that_is_not_confirmed_is_used_and_asked() {
    let now = Instant::now();
    let mut hops = hops();
    let target = inside("10.0.0.9");
    hops.finder.ask.routes.insert(target.address, Route { ifindex: IN, gateway: None });
    let stale = Neighbour { address: Some(MAC), confirmed: false };
    hops.finder.ask.neighbours.insert((IN, target.address), stale);
    assert!(hops.take(target, now).is_some());
    assert_eq!(hops.finder.ask.asked.len(), 1);
    hops.finder.ask.cannot_ask = true;
    assert_eq!(hops.tick(now + REFRESH), [], "what is known is used all the same");
    hops.finder.ask.neighbours.insert((IN, target.address), known(MAC));
    hops.tick(now + REFRESH * 2);
    assert_eq!(hops.finder.ask.asked.len(), 2, "confirmed");
}

#[test]
fn what_the_kernel_tells_is_looked_at_at_once() {
    let now = Instant::now();
    let mut hops = hops();
    let target = outside("192.0.2.9");
    let gateway = ip("203.0.113.1");
    hops.finder.ask.routes.insert(target.address, Route { ifindex: OUT, gateway: Some(gateway) });
    hops.finder.ask.neighbours.insert((OUT, gateway), known(MAC));
    hops.take(target, now).unwrap();
    assert_eq!(hops.tick(now), [], "nothing happened");
    // Another MAC.
    hops.finder.ask.neighbours.insert((OUT, gateway), known([7; 6]));
    let of = |neighbours: Vec<(u32, IpAddr)>| Changes { neighbours, ..Changes::default() };
    hops.finder.ask.changes.push(of(vec![(IN, gateway), (OUT, ip("203.0.113.2"))]));
    assert_eq!(hops.tick(now), [], "of others");
    hops.finder.ask.changes.push(of(vec![(OUT, gateway)]));
    assert_eq!(hops.tick(now), [target]);
    assert_eq!(hops.get(target).unwrap().next_hop, [7; 6]);
    // Another gateway.
    let other = ip("203.0.113.2");
    hops.finder.ask.routes.insert(target.address, Route { ifindex: OUT, gateway: Some(other) });
    hops.finder.ask.neighbours.insert((OUT, other), known([8; 6]));
    hops.finder.ask.changes.push(Changes { routes: true, ..Changes::default() });
    assert_eq!(hops.tick(now), [target]);
    assert_eq!(hops.get(target).unwrap().next_hop, [8; 6]);
    // The device goes down.
    hops.finder.ask.links[0].up = false;
    hops.finder.ask.changes.push(Changes { links: true, ..Changes::default() });
    assert_eq!(hops.tick(now), [target]);
    assert_eq!(hops.get(target), None);
}

#[test]
fn a_target_is_forgotten_with_its_last_flow() {
    let now = Instant::now();
    let mut hops = hops();
    let target = outside("192.0.2.9");
    hops.take(target, now);
    hops.take(target, now);
    hops.hops.release(target);
    assert_eq!(hops.known.len(), 1);
    hops.hops.release(target);
    hops.hops.release(target);
    assert!(hops.known.is_empty() && !hops.is_waiting());
}

#[test]
fn a_way_that_was_expected_is_there_when_the_flow_comes_and_nobody_is_asked_for_it() {
    let now = Instant::now();
    let mut hops = hops();
    let target = inside("10.0.0.9");
    hops.finder.ask.routes.insert(target.address, Route { ifindex: IN, gateway: None });
    hops.finder.ask.neighbours.insert((IN, target.address), known(MAC));
    hops.hops.expect(target, now);
    assert!(hops.is_waiting(), "it is looked for at once");
    assert_eq!(hops.tick(now), [target]);
    assert!(!hops.is_waiting());
    let looks = hops.finder.ask.looks;
    assert_eq!(hops.hops.take(target, now).unwrap().next_hop, MAC);
    assert_eq!(hops.finder.ask.looks, looks);
    // It stays while there is a flow, however long.
    hops.hops.expect(target, now);
    hops.tick(now + EXPECTED);
    assert!(hops.get(target).is_some());
    hops.hops.release(target);
    assert!(hops.known.is_empty());
}

#[test]
fn what_is_expected_in_vain_is_forgotten_and_there_is_a_bound_to_it() {
    let now = Instant::now();
    let mut hops = hops();
    let address = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
    let target = |number| Target { address: address(number), side: MediaSide::Inside };
    for number in 0..5000 {
        hops.hops.expect(target(number), now);
    }
    assert_eq!(hops.known.len(), MOST_EXPECTED);
    // Flows have room all the same, and make some.
    assert_eq!(hops.hops.take(target(9000), now), None);
    hops.hops.take(target(0), now);
    hops.hops.expect(target(9001), now);
    hops.hops.expect(target(9002), now);
    assert_eq!((hops.known.len(), hops.expected), (MOST_EXPECTED + 2, MOST_EXPECTED));
    hops.hops.due(now + EXPECTED);
    assert_eq!((hops.known.len(), hops.expected), (2, 0));
    assert!(hops.known.contains_key(&target(0)) && hops.known.contains_key(&target(9000)));
}

#[test]
fn another_configuration_takes_effect_on_what_is_open() {
    let now = Instant::now();
    let mut hops = hops();
    let target = outside("192.0.2.9");
    hops.finder.ask.routes.insert(target.address, Route { ifindex: 9, gateway: None });
    hops.finder.ask.neighbours.insert((9, target.address), known(MAC));
    assert_eq!(hops.take(target, now), None);
    let sides = [(("other".to_owned(), None), MediaSide::Outside)];
    hops.set_sides(Sides(sides.into_iter().collect()), now);
    assert_eq!(hops.tick(now), [target]);
}

#[test]
fn many_ways_are_looked_at_in_turn_and_soon() {
    let now = Instant::now();
    let mut hops = hops();
    let targets: Vec<Target> = (0..300u32)
        .map(|number| Target {
            address: IpAddr::from((0x0a00_0000 + number).to_be_bytes()),
            side: MediaSide::Inside,
        })
        .collect();
    for target in &targets {
        hops.finder.ask.routes.insert(target.address, Route { ifindex: IN, gateway: None });
        hops.finder.ask.neighbours.insert((IN, target.address), known(MAC));
        hops.take(*target, now);
    }
    hops.finder.ask.neighbours.values_mut().for_each(|neighbour| *neighbour = known([7; 6]));
    hops.finder.ask.changes.push(Changes { routes: true, ..Changes::default() });
    let mut changed = Vec::new();
    for (round, is_behind) in [(1, true), (2, true), (3, false)] {
        changed.extend(hops.tick(now));
        assert_eq!(hops.is_waiting(), is_behind, "round {round}");
    }
    assert_eq!(changed.into_iter().collect::<HashSet<_>>().len(), targets.len());
}

#[test]
fn the_daemon_sends_where_xdp_cannot_or_where_it_is_told_to_and_never_while_all_passes() {
    use crate::config::MediaPath::{Auto, Daemon, Kernel};
    // (path, monitor, XDP cannot send, the way)
    let cases = [
        (Auto, false, false, Some(false)),
        (Auto, false, true, Some(true)),
        (Auto, true, true, None),
        (Auto, true, false, Some(false)),
        (Kernel, false, true, Some(false)),
        (Kernel, true, true, Some(false)),
        (Daemon, false, false, Some(true)),
        (Daemon, true, false, None),
    ];
    for (path, monitor, cannot, expected) in cases {
        let mut finder = hops().finder;
        assert!(!finder.set(sides(), Sender::default()), "it is so");
        let other = Sender { path, monitor };
        assert_eq!(finder.set(sides(), other), other != Sender::default());
        let (end, tagged) = ("10.0.0.9", "10.0.7.9");
        for (text, device) in [(end, IN), (tagged, TAGGED)] {
            finder.ask.routes.insert(ip(text), Route { ifindex: device, gateway: None });
            finder.ask.neighbours.insert((device, ip(text)), known(MAC));
        }
        finder.ask.cannot_send.extend(cannot.then_some(IN));
        let mut by_daemon = |text| finder.look(inside(text)).hop.map(|hop| hop.by_daemon);
        assert_eq!(by_daemon(end), expected, "{path} {monitor} {cannot}");
        // The trunk's driver says nothing.
        let expected = (!(path == Daemon && monitor)).then_some(path == Daemon);
        assert_eq!(by_daemon(tagged), expected, "{path} {monitor}");
    }
}

#[test]
fn devices_of_ours_are_known_by_side() {
    assert_eq!(hops().finder.devices(), [vec![OUT], vec![IN, TAGGED]]);
}
