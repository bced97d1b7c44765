//! The table over maps in memory: after every single write, whatever a packet may find is whole.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use edge_ebpf::abi::{MEDIA_BEHIND_NAT, MEDIA_RTP, MediaFlow, media_home};
use ipnet::IpNet;

use super::{
    entry::{self, Door},
    hops::{Hop, Target},
    status,
    table::{MediaWrites, Opened, Table},
};
use crate::{
    firewall::{FirewallError, blocks::Moment},
    media::flow::{CallId, Component, Flow, FlowContent, FlowId, MediaSide, Way},
};

/// Seconds since boot.
const NOW: u64 = 1000;

fn moment() -> Moment {
    Moment { wall: SystemTime::UNIX_EPOCH, monotonic: Duration::from_secs(NOW) }
}
const HOP: Hop =
    Hop { ifindex: 4, vlan: 7, mtu: 1500, device: [2; 6], next_hop: [3; 6], by_daemon: false };

/// The kernel's maps, and what they must never be.
#[derive(Debug, Default)]
struct Memory {
    slots: HashMap<u32, MediaFlow>,
    doors: HashMap<Door, u32>,
    cleared: Vec<FlowId>,
    writes: usize,
    fails_at: Option<usize>,
}

impl Memory {
    fn write(&mut self) -> Result<(), FirewallError> {
        self.writes += 1;
        if self.fails_at == Some(self.writes) {
            return Err(FirewallError::map("MEDIA_PORTS", "full"));
        }
        Ok(())
    }

    /// Every door leads to flows that are its own, and to each once.
    fn check(&self) {
        for (door, first) in &self.doors {
            let mut names = HashSet::new();
            for (slot, flow) in self.behind(*first) {
                assert_eq!(entry::door_of(&flow), *door, "and to its own");
                assert!(flow.call != 0 && slot != 0);
                assert!(names.insert(flow.state), "twice");
            }
            assert!(names.len() <= edge_ebpf::abi::MEDIA_SHARED as usize);
        }
    }

    /// The flows that share a door.
    fn behind(&self, first: u32) -> Vec<(u32, MediaFlow)> {
        let mut all = Vec::new();
        let mut slot = first;
        while slot != 0 {
            let flow = self.slots.get(&slot).expect("a door leads to a slot that is written");
            all.push((slot, *flow));
            assert!(all.len() < 100, "it has an end");
            slot = flow.next.into();
        }
        all
    }
}

impl MediaWrites for Memory {
    fn flow(&mut self, slot: u32, flow: &MediaFlow) -> Result<(), FirewallError> {
        self.write()?;
        let used = self.doors.values().flat_map(|first| self.behind(*first));
        assert!(!used.into_iter().any(|(used, _)| used == slot), "slot {slot} is in use");
        self.slots.insert(slot, *flow);
        self.check();
        Ok(())
    }

    fn clear_state(&mut self, id: FlowId) -> Result<(), FirewallError> {
        self.write()?;
        self.cleared.push(id);
        Ok(())
    }

    fn door(&mut self, door: Door, slot: u32, id: FlowId) -> Result<(), FirewallError> {
        self.write()?;
        let state = self.slots.get(&slot).map_or(0, |flow| flow.state);
        assert_eq!(id.0, state, "the state that a door names is its flow's");
        if slot == 0 {
            self.doors.remove(&door);
        } else {
            self.doors.insert(door, slot);
        }
        self.check();
        Ok(())
    }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A relay flow from outside over IPv4.
fn flow(id: u32, call: u64, port: u16) -> Flow {
    Flow {
        id: FlowId(id),
        call: CallId(call),
        line: 1,
        component: Component::Rtp,
        side: MediaSide::Outside,
        way: Way::Relay {
            local: SocketAddr::new([203, 0, 113, 10].into(), port),
            from: SocketAddr::new([10, 1, 0, 10].into(), port),
        },
        source: "198.51.100.7/32".parse().unwrap(),
        source_port: Some(4000),
        learn: Duration::from_secs(10),
        learned_anew: 0,
        to: socket("10.1.0.20:30000"),
        content: FlowContent::Media,
        clock: Some(8000),
        packets_per_second: 100,
        bytes_per_second: 33_333,
        expires: Duration::from_secs(7200),
        held: false,
        timed: false,
        turns: false,
    }
}

fn six(flow: Flow) -> Flow {
    Flow {
        way: Way::Relay { local: socket("[2001:db8::10]:50002"), from: socket("[fd00::10]:50002") },
        source: "2001:db8:7::/64".parse().unwrap(),
        source_port: None,
        to: socket("[fd00::20]:30000"),
        ..flow
    }
}

fn table() -> Table<Memory> {
    Table::new(Memory::default())
}

fn open(table: &mut Table<Memory>, flow: &Flow, now: Instant) -> Result<Opened, FirewallError> {
    table.open(flow, Some(&HOP), moment(), now)
}

/// The flow that a packet at this flow's door finds.
fn found(table: &Table<Memory>, flow: &Flow) -> Option<MediaFlow> {
    let slot = table.writes.doors.get(&entry::door(flow))?;
    table.writes.slots.get(slot).copied()
}

#[test]
fn every_field_of_a_flow_can_be_read_back_from_the_kernel() {
    let plain = flow(1, 9, 50_000);
    let flows = [
        plain.clone(),
        Flow { side: MediaSide::Inside, component: Component::Rtcp, held: true, ..plain.clone() },
        Flow { way: Way::Pinhole, content: FlowContent::Any, clock: None, ..plain.clone() },
        Flow { source: "198.51.100.0/24".parse().unwrap(), source_port: None, ..plain.clone() },
        Flow { packets_per_second: u32::MAX, bytes_per_second: u32::MAX, ..plain.clone() },
        Flow { packets_per_second: 1, bytes_per_second: 1, line: 255, ..plain.clone() },
        Flow { learned_anew: 31, side: MediaSide::Inside, ..plain.clone() },
        Flow { timed: true, ..plain.clone() },
        Flow { turns: true, to: socket("198.51.100.8:5000"), ..plain.clone() },
        six(plain.clone()),
        Flow { way: Way::Pinhole, ..six(plain.clone()) },
        // From IPv4 to IPv6.
        Flow {
            way: Way::Relay {
                local: socket("203.0.113.10:50000"),
                from: socket("[fd00::10]:50000"),
            },
            to: socket("[fd00::20]:30000"),
            ..plain
        },
    ];
    for flow in flows {
        let kernel = entry::to_kernel(&flow, moment(), Some(&HOP));
        assert_eq!(entry::from_kernel(&kernel, NOW).as_ref(), Some(&flow));
        assert_eq!(entry::door_of(&kernel), entry::door(&flow));
        assert_eq!(entry::leaves(&kernel), flow.leaves());
        let later = entry::from_kernel(&kernel, NOW + 8).unwrap();
        assert_eq!(later.learn, Duration::from_secs(2), "what is left");
        let is_prefix = flow.source.prefix_len() < flow.source.max_prefix_len();
        assert_eq!(kernel.flags & MEDIA_BEHIND_NAT != 0, is_prefix);
        let rtp = flow.component == Component::Rtp && flow.content == FlowContent::Media;
        assert_eq!(kernel.flags & MEDIA_RTP != 0, rtp);
        assert_eq!((kernel.ifindex, kernel.vlan), (4, 7));
    }
    let none = Flow { packets_per_second: 0, bytes_per_second: 0, ..flow(1, 9, 50_000) };
    let kernel = entry::to_kernel(&none, moment(), None);
    assert!(kernel.packets.increment > 0 && kernel.bytes.increment > 0, "0 is not unlimited");
    assert_eq!(kernel.ifindex, 0);
}

#[test]
fn a_flow_that_cannot_be_is_refused_and_nothing_is_written() {
    let good = flow(1, 9, 50_000);
    let relay = |local: &str, from: &str| Way::Relay { local: socket(local), from: socket(from) };
    let bad = [
        Flow { id: FlowId(0), ..good.clone() },
        Flow { id: FlowId(edge_ebpf::abi::MEDIA_STATE_SLOTS), ..good.clone() },
        Flow { call: CallId(0), ..good.clone() },
        Flow { to: socket("10.1.0.20:0"), ..good.clone() },
        Flow { to: socket("0.0.0.0:1"), ..good.clone() },
        Flow { to: socket("239.1.1.1:9000"), ..good.clone() },
        Flow { to: socket("[fd00::20]:30000"), ..good.clone() },
        Flow { to: socket("[::ffff:10.1.0.20]:30000"), ..good.clone() },
        Flow { way: relay("203.0.113.10:0", "10.1.0.10:5"), ..good.clone() },
        Flow { way: relay("203.0.113.10:5", "[fd00::10]:5"), ..good.clone() },
        Flow { way: relay("[2001:db8::10]:5", "10.1.0.10:5"), ..good.clone() },
        Flow { way: Way::Pinhole, source: "2001:db8::/64".parse().unwrap(), ..good },
    ];
    for flow in bad {
        let mut table = table();
        let refused = open(&mut table, &flow, Instant::now());
        assert!(matches!(refused, Err(FirewallError::MediaFlow { .. })), "{flow:?}");
        assert_eq!(table.writes.writes, 0, "{flow:?}");
    }
}

#[test]
fn a_flow_is_written_whole_before_its_door_opens_and_its_door_closes_first() {
    let now = Instant::now();
    let mut table = table();
    let one = flow(1, 9, 50_000);
    assert_eq!(open(&mut table, &one, now).unwrap(), Opened::New);
    assert_eq!(table.writes.cleared, [FlowId(1)], "nothing of a former flow is left");
    assert_eq!(entry::from_kernel(&found(&table, &one).unwrap(), NOW), Some(one.clone()));
    let target = Target { address: one.to.ip(), side: MediaSide::Inside };
    assert_eq!(table.close(FlowId(1), now).unwrap(), Some(target));
    assert_eq!(found(&table, &one), None);
    assert_eq!(table.close(FlowId(1), now).unwrap(), None, "closed already");
    assert_eq!(table.open_now(), (0, 0));
}

#[test]
fn what_was_learned_stays_unless_the_source_is_another() {
    let now = Instant::now();
    let mut table = table();
    let one = flow(1, 9, 50_000);
    open(&mut table, &one, now).unwrap();
    let before = found(&table, &one).unwrap();
    let slot = table.get(FlowId(1)).unwrap().slot;
    let held = Flow { held: true, expires: Duration::from_secs(60), ..one.clone() };
    let target = Target { address: one.to.ip(), side: MediaSide::Inside };
    assert_eq!(open(&mut table, &held, now).unwrap(), Opened::Changed(target));
    let after = found(&table, &one).unwrap();
    assert_eq!((after.epoch, after.state), (before.epoch, before.state));
    assert_ne!(table.get(FlowId(1)).unwrap().slot, slot, "another slot");
    for other in [
        Flow { source_port: Some(4002), ..held.clone() },
        Flow { source: "198.51.100.8/32".parse().unwrap(), ..held.clone() },
        Flow { source: "198.51.100.0/24".parse::<IpNet>().unwrap(), ..held.clone() },
        Flow { source: "198.51.100.0/24".parse::<IpNet>().unwrap(), learned_anew: 1, ..held },
    ] {
        let before = found(&table, &one).unwrap().epoch;
        open(&mut table, &other, now).unwrap();
        assert_ne!(found(&table, &one).unwrap().epoch, before, "{other:?}");
    }
    assert_eq!(table.writes.cleared, [FlowId(1)], "packets go on being counted");
    // The same name in another call is another flow.
    let other = flow(1, 10, 50_002);
    let opened = open(&mut table, &other, now).unwrap();
    assert_eq!(opened, Opened::Replaced(CallId(9), target));
    assert_eq!(table.writes.cleared, [FlowId(1), FlowId(1)]);
    assert_eq!(found(&table, &one), None);
    assert_eq!((table.of_call(CallId(9)), table.of_call(CallId(10))), (vec![], vec![FlowId(1)]));
}

#[test]
fn a_door_that_moves_is_open_before_the_former_closes() {
    let now = Instant::now();
    let mut table = table();
    let one = flow(1, 9, 50_000);
    open(&mut table, &one, now).unwrap();
    for moved in [flow(1, 9, 50_010), six(one.clone()), Flow { way: Way::Pinhole, ..one.clone() }] {
        open(&mut table, &moved, now).unwrap();
        assert_eq!(table.writes.doors.len(), 1);
        assert!(found(&table, &moved).is_some());
    }
    open(&mut table, &flow(2, 9, 50_000), now).unwrap();
    let refused = open(&mut table, &flow(1, 9, 50_000), now);
    assert!(matches!(refused, Err(FirewallError::MediaFlow { .. })), "somebody else's port");
    assert_eq!(table.of_call(CallId(9)).len(), 2);
}

/// A pinhole of this call to one and the same endpoint's port.
fn shared(id: u32, call: u64, source: &str) -> Flow {
    let source = source.parse().unwrap();
    Flow { way: Way::Pinhole, source, ..flow(id, call, 1) }
}

/// Names of the flows behind the door of this one.
fn behind(table: &Table<Memory>, flow: &Flow) -> Vec<u32> {
    let Some(first) = table.writes.doors.get(&entry::door(flow)) else { return Vec::new() };
    table.writes.behind(*first).iter().map(|(_, flow)| flow.state).collect()
}

#[test]
fn calls_that_share_an_endpoints_port_have_a_flow_each_and_none_closes_anothers() {
    let now = Instant::now();
    let sources = ["198.51.100.7/32", "198.51.100.8/32", "198.51.100.0/24"];
    for first in 0..3 {
        let mut table = table();
        let flows: Vec<Flow> =
            (1..).zip(sources).map(|(id, s)| shared(id, 9 + u64::from(id), s)).collect();
        for flow in &flows {
            assert_eq!(open(&mut table, flow, now).unwrap(), Opened::New);
        }
        assert_eq!(behind(&table, &flows[0]), [1, 2, 3]);
        // One that changes, or goes another way, stays where it is, and the others what they are.
        let before: Vec<MediaFlow> =
            (1..=3).map(|id| table.get(FlowId(id)).unwrap().kernel).collect();
        let held = Flow { held: true, ..flows[first].clone() };
        assert!(matches!(open(&mut table, &held, now).unwrap(), Opened::Changed(_)));
        assert!(table.reroute(held.id, None, now).unwrap());
        assert_eq!(behind(&table, &held), [1, 2, 3]);
        for (at, before) in before.iter().enumerate().filter(|(at, _)| *at != first) {
            let after = table.get(flows[at].id).unwrap().kernel;
            assert_eq!(MediaFlow { next: 0, ..after }, MediaFlow { next: 0, ..*before });
        }
        // Wherever it stands, its end is its own.
        table.close(held.id, now).unwrap();
        let mut left = vec![1, 2, 3];
        left.remove(first);
        assert_eq!(behind(&table, &held), left);
        // One that moves away leaves the rest.
        let moves = flows.iter().find(|flow| flow.id.0 == left[0]).unwrap();
        let moved = Flow { to: socket("10.1.0.20:30008"), ..moves.clone() };
        open(&mut table, &moved, now).unwrap();
        assert_eq!((behind(&table, &held), behind(&table, &moved)), (vec![left[1]], vec![left[0]]));
        table.close(FlowId(left[0]), now).unwrap();
        table.close(FlowId(left[1]), now).unwrap();
        assert!(table.writes.doors.is_empty() && table.open_now() == (0, 0));
        table.tidy(now + Duration::from_secs(1)).unwrap();
        assert!(table.writes.slots.values().all(|flow| *flow == MediaFlow::default()));
    }
}

#[test]
fn there_is_a_bound_to_those_who_share_a_door_and_what_fails_changes_nothing() {
    let now = Instant::now();
    let mut table = table();
    for id in 1..=8 {
        open(&mut table, &shared(id, 9, "198.51.100.7/32"), now).unwrap();
    }
    let refused = open(&mut table, &shared(9, 9, "198.51.100.7/32"), now);
    assert!(matches!(refused, Err(FirewallError::MediaFlow { .. })));
    for fails_at in 1..=9 {
        table.writes.fails_at = Some(table.writes.writes + fails_at);
        let changed = Flow { held: true, ..shared(8, 9, "198.51.100.7/32") };
        assert!(open(&mut table, &changed, now).is_err());
        assert_eq!(behind(&table, &changed), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(table.get(FlowId(8)).unwrap().kernel.about & 4, 0);
    }
    for fails_at in 1..=8 {
        table.writes.fails_at = Some(table.writes.writes + fails_at);
        assert!(table.close(FlowId(8), now).is_err());
        assert_eq!(table.open_now(), (1, 8));
    }
    table.close(FlowId(8), now).unwrap();
    open(&mut table, &shared(9, 9, "198.51.100.7/32"), now).unwrap();
}

#[test]
fn a_new_daemon_takes_over_those_who_share_a_door() {
    let now = Instant::now();
    let mut first = table();
    let flows = [1, 2, 3].map(|id| shared(id, 9 + u64::from(id), "198.51.100.7/32"));
    for flow in &flows {
        open(&mut first, flow, now).unwrap();
    }
    let doors: Vec<_> = first.writes.doors.iter().map(|(door, slot)| (*door, *slot)).collect();
    let told = status::behind_all(&doors, &first.writes.slots);
    assert_eq!(told.iter().map(|flow| flow.state).collect::<Vec<_>>(), [1, 2, 3]);
    // One of them is at another door too, and newer there: a change was broken off.
    let moved = Flow { to: socket("10.1.0.20:30008"), source_port: Some(9), ..flows[1].clone() };
    let kernel = MediaFlow { epoch: 99, ..entry::to_kernel(&moved, moment(), Some(&HOP)) };
    first.writes.slots.insert(20, kernel);
    first.writes.doors.insert(entry::door(&moved), 20);
    let memory = std::mem::take(&mut first.writes);
    let doors: Vec<_> = memory.doors.iter().map(|(door, slot)| (*door, *slot)).collect();
    let slots = memory.slots.clone();
    let mut second = Table::new(memory);
    second.adopt(doors, &slots, now).unwrap();
    assert_eq!((behind(&second, &flows[0]), behind(&second, &moved)), (vec![1, 3], vec![2]));
    assert_eq!(second.open_now(), (3, 3));
    for slot in second.entries().map(|(_, entry)| entry.slot) {
        assert!(second.writes.slots[&slot].call != 0);
    }
    for id in [3, 1, 2] {
        second.close(FlowId(id), now).unwrap();
    }
    assert!(second.writes.doors.is_empty());
}

#[test]
fn a_slot_rests_and_when_all_are_taken_the_next_is_refused() {
    let start = Instant::now();
    let mut table = table();
    table.slots_left(4);
    for id in 1..=3 {
        open(&mut table, &flow(id, 9, 50_000 + id as u16), start).unwrap();
    }
    let full = open(&mut table, &flow(4, 9, 50_004), start);
    assert!(matches!(full, Err(FirewallError::MediaFull { flows: 3 })), "{full:?}");
    let change = open(&mut table, &flow(1, 9, 50_001), start);
    assert!(matches!(change, Err(FirewallError::MediaFull { .. })));
    assert!(found(&table, &flow(1, 9, 50_001)).is_some(), "what was open is open");
    table.close(FlowId(2), start).unwrap();
    let soon = start + Duration::from_millis(100);
    assert!(open(&mut table, &flow(4, 9, 50_004), soon).is_err(), "a packet may be in there");
    let later = start + Duration::from_secs(1);
    open(&mut table, &flow(4, 9, 50_004), later).unwrap();
    assert_eq!(table.writes.doors.len(), 3);
}

#[test]
fn a_flow_lives_at_home_and_comes_back_once_its_slot_has_rested() {
    let start = Instant::now();
    let mut table = table();
    let slot_of = |table: &Table<Memory>| table.get(FlowId(1)).unwrap().slot;
    open(&mut table, &flow(1, 9, 50_000), start).unwrap();
    let home = slot_of(&table);
    let Door::Port(index) = entry::door_of(&table.get(FlowId(1)).unwrap().kernel) else {
        panic!("a relay has a port");
    };
    assert_eq!(home, media_home(index).0);
    let mut changed = flow(1, 9, 50_000);
    changed.to.set_port(7000);
    open(&mut table, &changed, start).unwrap();
    assert_ne!(slot_of(&table), home, "a packet may be in there");
    table.tidy(start + Duration::from_millis(499)).unwrap();
    assert_ne!(slot_of(&table), home);
    table.tidy(start + Duration::from_secs(1)).unwrap();
    assert_eq!(slot_of(&table), home);
    assert_eq!(found(&table, &changed).unwrap().to_port, 7000_u16.to_be_bytes());
    // It stays there, and what it left is empty.
    table.tidy(start + Duration::from_secs(9)).unwrap();
    assert_eq!(slot_of(&table), home);
    assert_eq!(
        table.writes.slots.values().filter(|flow| **flow != MediaFlow::default()).count(),
        1
    );
    // Somebody else is at home: it lives elsewhere.
    table.close(FlowId(1), start + Duration::from_secs(9)).unwrap();
    open(&mut table, &flow(2, 9, 50_000), start + Duration::from_secs(9)).unwrap();
    assert_ne!(table.get(FlowId(2)).unwrap().slot, home);
}

#[test]
fn slots_are_used_in_turn() {
    let mut now = Instant::now();
    let mut table = table();
    table.slots_left(5);
    let mut last = HashMap::new();
    for round in 0..40u32 {
        now += Duration::from_secs(1);
        table.tidy(now).unwrap();
        open(&mut table, &flow(1, 9, 50_000), now).unwrap();
        let slot = table.get(FlowId(1)).unwrap().slot;
        if let Some(before) = last.insert(slot, round) {
            assert!(round - before >= 3, "slot {slot} again after {} rounds", round - before);
        }
    }
    assert_eq!(last.len(), 4);
    assert_eq!(table.writes.slots.values().filter(|flow| flow.call != 0).count(), 2);
}

#[test]
fn a_write_that_fails_leaves_what_was_open_and_nothing_else() {
    let now = Instant::now();
    for fails_at in 1..=3 {
        let mut table = table();
        table.writes.fails_at = Some(fails_at);
        assert!(open(&mut table, &flow(1, 9, 50_000), now).is_err());
        assert!(table.writes.doors.is_empty());
        assert_eq!(table.open_now(), (0, 0));
        open(&mut table, &flow(1, 9, 50_000), now).unwrap();
    }
    for fails_at in 1..=2 {
        let mut table = table();
        open(&mut table, &flow(1, 9, 50_000), now).unwrap();
        table.writes.fails_at = Some(table.writes.writes + fails_at);
        assert!(open(&mut table, &Flow { held: true, ..flow(1, 9, 50_000) }, now).is_err());
        assert!(found(&table, &flow(1, 9, 50_000)).is_some_and(|kernel| kernel.about & 4 == 0));
    }
}

#[test]
fn a_way_that_changes_is_written_as_a_whole_and_keeps_what_was_learned() {
    let now = Instant::now();
    let mut table = table();
    let one = flow(1, 9, 50_000);
    table.open(&one, None, moment(), now).unwrap();
    let before = found(&table, &one).unwrap();
    assert_eq!(before.ifindex, 0, "no way");
    assert!(table.reroute(FlowId(1), Some(&HOP), now).unwrap());
    let after = found(&table, &one).unwrap();
    assert_eq!(after, entry::with_hop(before, Some(&HOP)));
    assert!(!table.reroute(FlowId(1), Some(&HOP), now).unwrap(), "nothing to write");
    assert!(table.reroute(FlowId(1), None, now).unwrap());
    assert_eq!(found(&table, &one), Some(before));
    assert!(!table.reroute(FlowId(2), Some(&HOP), now).unwrap());
}

#[test]
fn a_new_daemon_takes_over_what_is_open_and_closes_what_is_nonsense() {
    let now = Instant::now();
    let mut first = table();
    let flows =
        [flow(1, 9, 50_000), Flow { way: Way::Pinhole, ..flow(2, 9, 50_002) }, six(flow(7, 10, 0))];
    let flows = flows.map(|flow| Flow { learned_anew: 7, ..flow });
    for flow in &flows {
        open(&mut first, flow, now).unwrap();
    }
    // A change that was broken off: the flow is at two doors, the newer counts.
    let moved = Flow { source_port: Some(9), ..flow(1, 9, 50_020) };
    let kernel = MediaFlow { epoch: 99, ..entry::to_kernel(&moved, moment(), Some(&HOP)) };
    first.writes.slots.insert(20, kernel);
    first.writes.doors.insert(entry::door(&moved), 20);
    // A flow without a door, and a door to somebody else's flow.
    first.writes.slots.insert(21, entry::to_kernel(&flow(5, 11, 50_040), moment(), None));
    first.writes.doors.insert(Door::Port(77), 3);
    first.writes.doors.insert(Door::Port(78), 30);
    let memory = std::mem::take(&mut first.writes);
    let doors: Vec<_> = memory.doors.iter().map(|(door, slot)| (*door, *slot)).collect();
    let slots = memory.slots.clone();
    let mut second = Table::new(Memory { doors: HashMap::new(), ..memory });
    // In the kernel they are there; the check of each write sees them when all is done.
    let real: HashMap<Door, u32> = slots_of(&doors);
    second.adopt(doors, &slots, now).unwrap();
    let mut left = real;
    left.retain(|door, _| ![Door::Port(77), Door::Port(78)].contains(door));
    left.remove(&entry::door(&flow(1, 9, 50_000)));
    second.writes.doors = left;
    second.writes.check();
    let mut found: Vec<Flow> =
        second.entries().filter_map(|(_, e)| entry::from_kernel(&e.kernel, NOW)).collect();
    found.sort_by_key(|flow| flow.id);
    assert_eq!(found, [moved.clone(), flows[1].clone(), flows[2].clone()]);
    assert_eq!(second.open_now(), (2, 3));
    assert_eq!(second.writes.slots[&21].call, 0, "nothing leads there");
    let used: HashSet<u32> = second.entries().map(|(_, entry)| entry.slot).collect();
    assert!(used.contains(&20));
    // What is opened now disturbs nothing of it, and is newer than all.
    open(&mut second, &flow(8, 12, 50_050), now).unwrap();
    assert_eq!(second.get(FlowId(8)).unwrap().kernel.epoch, 100);
    // What was learned of it still counts, until it is to be forgotten.
    let epoch = |table: &Table<Memory>| table.get(FlowId(7)).unwrap().kernel.epoch;
    let before = epoch(&second);
    open(&mut second, &flows[2], now).unwrap();
    assert_eq!(epoch(&second), before);
    let anew = Flow { learned_anew: 8, ..flows[2].clone() };
    open(&mut second, &anew, now).unwrap();
    assert_eq!(epoch(&second), 101);
    second.close(FlowId(1), now).unwrap();
    assert!(!second.writes.doors.contains_key(&entry::door(&moved)));
}

fn slots_of(doors: &[(Door, u32)]) -> HashMap<Door, u32> {
    doors.iter().copied().collect()
}
