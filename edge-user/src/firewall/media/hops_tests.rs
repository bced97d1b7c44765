use super::*;

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

    fn links(&mut self) -> io::Result<Vec<Link>> {
        Ok(self.links.clone())
    }

    fn changes(&mut self) -> io::Result<Changes> {
        Ok(self.changes.pop().unwrap_or_default())
    }
}

fn link(ifindex: u32, name: &str, vlan: Option<(u32, u16)>) -> Link {
    let address = Some([2, 0, 0, 0, 0, ifindex as u8]);
    Link { ifindex, name: name.to_owned(), address, up: true, vlan }
}

fn hops() -> Hops<Kernel> {
    let links = vec![
        link(OUT, "eth0", None),
        link(IN, "eth1", None),
        link(TRUNK, "eth2", None),
        link(TAGGED, "eth2.7", Some((TRUNK, 7))),
        link(9, "other", None),
    ];
    let sides = [
        (("eth0".to_owned(), None), MediaSide::Outside),
        (("eth1".to_owned(), None), MediaSide::Inside),
        (("eth2".to_owned(), Some(7)), MediaSide::Inside),
    ];
    Hops::new(Kernel { links, ..Kernel::default() }, Sides(sides.into_iter().collect()))
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
        hops.ask.routes.insert(ip(text), route);
        hops.ask.neighbours.insert((OUT, ip(gateway)), known(MAC));
        let hop = hops.take(outside(text), now).unwrap();
        assert_eq!(hop, Hop { ifindex: OUT, vlan: 0, device: [2, 0, 0, 0, 0, 2], next_hop: MAC });
        assert_eq!(hops.neighbour(outside(text)), Some(ip(gateway)));
        assert_eq!(hops.take(inside(text), now), None, "it would leave by the wrong side");
    }
    let mut hops = hops();
    hops.ask.routes.insert(ip("10.0.0.9"), Route { ifindex: IN, gateway: None });
    hops.ask.neighbours.insert((IN, ip("10.0.0.9")), known(MAC));
    assert_eq!(hops.take(inside("10.0.0.9"), now).unwrap().ifindex, IN);
    hops.ask.routes.insert(ip("10.0.0.8"), Route { ifindex: 9, gateway: None });
    hops.ask.neighbours.insert((9, ip("10.0.0.8")), known(MAC));
    assert_eq!(hops.take(inside("10.0.0.8"), now), None, "a device that is not configured");
    assert_eq!(hops.take(inside("10.0.0.7"), now), None, "no route");
}

#[test]
fn a_vlan_is_a_tag_on_the_device_below() {
    let now = Instant::now();
    let mut hops = hops();
    hops.ask.routes.insert(ip("10.7.0.9"), Route { ifindex: TAGGED, gateway: None });
    hops.ask.neighbours.insert((TAGGED, ip("10.7.0.9")), known(MAC));
    let hop = hops.take(inside("10.7.0.9"), now).unwrap();
    assert_eq!((hop.ifindex, hop.vlan, hop.device), (TRUNK, 7, [2, 0, 0, 0, 0, 5]));
}

#[test]
fn a_link_local_target_goes_by_the_only_device_of_its_side() {
    let now = Instant::now();
    let mut hops = hops();
    hops.ask.neighbours.insert((OUT, ip("fe80::9")), known(MAC));
    assert_eq!(hops.take(outside("fe80::9"), now).unwrap().ifindex, OUT);
    assert_eq!(hops.take(inside("fe80::9"), now), None, "two devices are inside: which?");
}

#[test]
fn an_unknown_neighbour_is_asked_for_and_looked_at_soon_then_seldom() {
    let start = Instant::now();
    let mut hops = hops();
    let target = inside("10.0.0.9");
    hops.ask.routes.insert(target.address, Route { ifindex: IN, gateway: None });
    assert_eq!(hops.take(target, start), None);
    assert_eq!(hops.ask.asked, [(IN, target.address)]);
    assert!(hops.is_waiting());
    let mut now = start;
    for _ in 0..25 {
        now += SOON;
        assert_eq!(hops.tick(now), []);
    }
    assert!(!hops.is_waiting(), "it is not there: once in a second must do");
    let looks = hops.ask.looks;
    hops.tick(now + SOON);
    assert_eq!(hops.ask.looks, looks);
    hops.ask.neighbours.insert((IN, target.address), known(MAC));
    assert_eq!(hops.tick(now + LATER), [target]);
    assert_eq!(hops.get(target).unwrap().next_hop, MAC);
}

#[test]
fn a_neighbour_that_is_not_confirmed_is_used_and_asked() {
    let now = Instant::now();
    let mut hops = hops();
    let target = inside("10.0.0.9");
    hops.ask.routes.insert(target.address, Route { ifindex: IN, gateway: None });
    let stale = Neighbour { address: Some(MAC), confirmed: false };
    hops.ask.neighbours.insert((IN, target.address), stale);
    assert!(hops.take(target, now).is_some());
    assert_eq!(hops.ask.asked.len(), 1);
    hops.ask.cannot_ask = true;
    assert_eq!(hops.tick(now + REFRESH), [], "what is known is used all the same");
    hops.ask.neighbours.insert((IN, target.address), known(MAC));
    hops.tick(now + REFRESH * 2);
    assert_eq!(hops.ask.asked.len(), 2, "confirmed");
}

#[test]
fn what_the_kernel_tells_is_looked_at_at_once() {
    let now = Instant::now();
    let mut hops = hops();
    let target = outside("192.0.2.9");
    let gateway = ip("203.0.113.1");
    hops.ask.routes.insert(target.address, Route { ifindex: OUT, gateway: Some(gateway) });
    hops.ask.neighbours.insert((OUT, gateway), known(MAC));
    hops.take(target, now).unwrap();
    assert_eq!(hops.tick(now), [], "nothing happened");
    // Another MAC.
    hops.ask.neighbours.insert((OUT, gateway), known([7; 6]));
    let of = |neighbours: Vec<(u32, IpAddr)>| Changes { neighbours, ..Changes::default() };
    hops.ask.changes.push(of(vec![(IN, gateway), (OUT, ip("203.0.113.2"))]));
    assert_eq!(hops.tick(now), [], "of others");
    hops.ask.changes.push(of(vec![(OUT, gateway)]));
    assert_eq!(hops.tick(now), [target]);
    assert_eq!(hops.get(target).unwrap().next_hop, [7; 6]);
    // Another gateway.
    let other = ip("203.0.113.2");
    hops.ask.routes.insert(target.address, Route { ifindex: OUT, gateway: Some(other) });
    hops.ask.neighbours.insert((OUT, other), known([8; 6]));
    hops.ask.changes.push(Changes { routes: true, ..Changes::default() });
    assert_eq!(hops.tick(now), [target]);
    assert_eq!(hops.get(target).unwrap().next_hop, [8; 6]);
    // The device goes down.
    hops.ask.links[0].up = false;
    hops.ask.changes.push(Changes { links: true, ..Changes::default() });
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
    hops.release(target);
    assert_eq!(hops.known.len(), 1);
    hops.release(target);
    hops.release(target);
    assert!(hops.known.is_empty() && !hops.is_waiting());
}

#[test]
fn another_configuration_takes_effect_on_what_is_open() {
    let now = Instant::now();
    let mut hops = hops();
    let target = outside("192.0.2.9");
    hops.ask.routes.insert(target.address, Route { ifindex: 9, gateway: None });
    hops.ask.neighbours.insert((9, target.address), known(MAC));
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
        hops.ask.routes.insert(target.address, Route { ifindex: IN, gateway: None });
        hops.ask.neighbours.insert((IN, target.address), known(MAC));
        hops.take(*target, now);
    }
    hops.ask.neighbours.values_mut().for_each(|neighbour| *neighbour = known([7; 6]));
    hops.ask.changes.push(Changes { routes: true, ..Changes::default() });
    let mut changed = Vec::new();
    for (round, is_behind) in [(1, true), (2, true), (3, false)] {
        changed.extend(hops.tick(now));
        assert_eq!(hops.is_waiting(), is_behind, "round {round}");
    }
    assert_eq!(changed.into_iter().collect::<HashSet<_>>().len(), targets.len());
}
