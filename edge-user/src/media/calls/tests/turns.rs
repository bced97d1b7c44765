//! Two calls that a server inside joins.

use super::*;

/// Who calls from outside, and who is called there.
const FIRST: &str = "198.41.0.4";
const SECOND: &str = "198.41.0.5";

/// A call from outside, and another out again; the server inside hands on what it is told.
struct Two {
    bench: Bench,
    first: Say<'static>,
    second: Say<'static>,
}

fn call(caller: &'static str) -> Say<'static> {
    Say { caller, ..Say::invite(if caller == "a" { 1 } else { 2 }) }
}

impl Two {
    fn offered() -> (Self, String) {
        let mut two = Self { bench: Bench::new(), first: call("a"), second: call("c") };
        let inside = two.bench.ask(&two.first, &audio(FIRST, 4000)).unwrap();
        two.bench.inbound = false;
        let outside = two.bench.ask(&two.second, &inside).unwrap();
        assert!(!outside.contains(FIRST) && !outside.contains("10.0.0."), "{outside}");
        (two, inside)
    }

    fn up() -> Self {
        let (mut two, _) = Self::offered();
        let inside = two.answer(200, &audio(SECOND, 5000));
        assert_eq!(two.bench.ways(), two.inside_only(), "the caller was told of nothing yet");
        two.answer_first(200, &inside);
        assert_eq!(two.turned().len(), 4);
        two
    }

    /// The second call is answered: what the server inside is told.
    fn answer(&mut self, status: u16, text: &str) -> String {
        self.bench.inbound = false;
        self.bench.reply(&self.second, status, "b", text).unwrap().unwrap()
    }

    fn answer_first(&mut self, status: u16, text: &str) {
        self.bench.inbound = true;
        let told = self.bench.reply(&self.first, status, "b", text).unwrap().unwrap();
        assert!(!told.contains(SECOND) && !told.contains("10.0.0."), "{told}");
    }

    fn hang_up(&mut self, inbound: bool, say: Say<'static>) {
        let partner = self.bench.partner.clone();
        let say = Say { to_tag: Some("b"), ..say };
        let names = say.names(inbound, &partner);
        self.bench.act(|calls, _, effects| calls.bye(&names, effects));
    }

    /// Flows of which no packet ever comes: they say what is known of the inside.
    fn inside_only(&self) -> Vec<String> {
        self.bench.ways().into_iter().filter(|way| way.contains(" in: ")).collect()
    }

    /// From where to where media goes that never sees the inside, by component.
    fn turned(&self) -> Vec<(Component, String, SocketAddr)> {
        let turned = self.bench.open.values().filter(|flow| flow.turns);
        let mut all: Vec<_> = turned
            .map(|flow| {
                let Way::Relay { local, from } = flow.way else { panic!() };
                assert_eq!((flow.side, flow.leaves()), (OUT, OUT));
                let outside = self.bench.calls.settings.outside.v4.unwrap().local;
                assert_eq!((local.ip(), from.ip()), (outside, outside));
                assert_ne!(local, from);
                (flow.component, flow.source.addr().to_string(), flow.to)
            })
            .collect();
        all.sort_by_key(|(component, source, _)| (*component == Component::Rtcp, source.clone()));
        all
    }
}

#[test]
fn media_between_two_ends_outside_never_sees_the_inside() {
    let mut two = Two::up();
    let expected = |first: u16, second: u16| {
        let to = |who: &str, port: u16| at(&format!("{who}:{port}"));
        vec![
            (Component::Rtp, FIRST.to_owned(), to(SECOND, second)),
            (Component::Rtp, SECOND.to_owned(), to(FIRST, first)),
            (Component::Rtcp, FIRST.to_owned(), to(SECOND, second + 1)),
            (Component::Rtcp, SECOND.to_owned(), to(FIRST, first + 1)),
        ]
    };
    assert_eq!(two.turned(), expected(4000, 5000));
    // It comes from the port that the other call was told.
    let ours: Vec<_> = two.bench.open.values().filter(|flow| flow.turns).collect();
    for flow in &ours {
        let Way::Relay { from, .. } = flow.way else { panic!() };
        let back = |other: &&&Flow| matches!(other.way, Way::Relay { local, .. } if local == from);
        let other = ours.iter().find(back).unwrap();
        assert_eq!(flow.to.ip(), other.source.addr());
    }
    // A source that is learned is followed by the other call's media.
    let of_first =
        |flow: &&&Flow| flow.source.addr() == ip(FIRST) && flow.component == Component::Rtp;
    let flow = ours.iter().find(of_first).unwrap().id;
    let learned = at(&format!("{FIRST}:4444"));
    two.bench.act(|calls, now, effects| calls.learned(now, flow, learned, effects));
    assert_eq!(two.turned()[1].2, learned);
    // So is another address that it says.
    two.bench.inbound = true;
    let again = Say { exchange: 3, cseq: 3, to_tag: Some("b"), ..two.first };
    two.bench.ask(&again, &audio(FIRST, 4100)).unwrap();
    let inside = two.bench.calls.all.values().find(|call| call.parties.inbound).unwrap();
    let inside = audio("10.0.0.1", inside.session.inside[0].rtp.unwrap().port());
    two.bench.reply(&again, 200, "b", &inside).unwrap();
    assert_eq!(two.turned(), expected(4100, 5000));
}

#[test]
fn when_one_of_them_ends_nothing_goes_out_by_it() {
    for inbound in [true, false] {
        let mut two = Two::up();
        two.bench.inbound = inbound;
        let say = if inbound { two.first } else { two.second };
        two.hang_up(inbound, say);
        assert_eq!(two.turned(), vec![]);
        // Whoever has its ports then has nothing to do with the other call.
        two.bench.inbound = true;
        let third = Say { caller: "x", ..Say::invite(7) };
        two.bench.ask(&third, &audio("198.41.0.6", 6000)).unwrap();
        two.bench.reply(&third, 200, "b", &audio("10.0.0.20", 7000)).unwrap();
        assert_eq!(two.turned(), vec![]);
        two.hang_up(true, third);
        let other = if inbound { two.second } else { two.first };
        two.hang_up(!inbound, other);
        two.bench.assert_nothing_left();
    }
}

#[test]
fn a_port_of_ours_is_taken_from_inside_only_and_only_when_its_call_names_the_other() {
    let (mut two, inside) = Two::offered();
    let own = ports(&inside)[0];
    // Not from outside, not one that no call has, and not a call's own.
    two.bench.inbound = true;
    for (address, port) in [("10.0.0.1", own), ("203.0.113.1", own)] {
        let say = Say { caller: "o", ..Say::invite(5) };
        let asked = two.bench.ask(&say, &audio(address, port));
        assert_eq!(asked, Err(MediaFault::Address { line: 0 }), "{address}");
    }
    let answered = two.bench.reply(&two.first, 200, "b", &inside);
    assert_eq!(answered, Err(MediaFault::Address { line: 0 }), "its own");
    two.bench.inbound = false;
    for port in [own + 1, own + 100, 5060] {
        let say = Say { caller: "p", ..Say::invite(6) };
        let asked = two.bench.ask(&say, &audio("10.0.0.1", port));
        assert_eq!(asked, Err(MediaFault::Address { line: 0 }), "{port}");
    }
    // Another call names the first one's port, which knows nothing of it, before the first is up and
    // after: nothing goes out.
    let other = |two: &mut Two, caller: &'static str, exchange: u64| {
        let say = Say { caller, ..Say::invite(exchange) };
        two.bench.inbound = false;
        two.bench.ask(&say, &inside).unwrap();
        two.bench.reply(&say, 200, "b", &audio("198.41.0.7", 7000)).unwrap();
    };
    other(&mut two, "t", 8);
    assert_eq!(two.turned(), vec![]);
    let answer = two.answer(200, &audio(SECOND, 5000));
    two.answer_first(200, &answer);
    other(&mut two, "u", 9);
    let turned = two.turned();
    assert_eq!(turned.len(), 4);
    assert!(turned.iter().all(|(_, source, to)| source != "198.41.0.7" && to.port() < 7000));
}

#[test]
fn who_listens_is_no_silence_and_a_restart_changes_nothing() {
    let mut two = Two::up();
    let (before, ways) = (two.bench.open.clone(), two.bench.ways());
    // Only the first speaks.
    for number in 1..20_u64 {
        two.bench.now += Duration::from_secs(60);
        let seen: Vec<FlowStatus> = two
            .bench
            .open
            .values()
            .map(|flow| FlowStatus {
                packets: if flow.source.addr() == ip(FIRST) { number } else { 0 },
                source: Some(at(&format!("{}:{}", flow.source.addr(), flow.source_port.unwrap()))),
                ..FlowStatus::counted(flow, 0)
            })
            .collect();
        two.bench.act(|calls, now, effects| calls.seen(now, &seen, effects));
    }
    assert_eq!(two.turned().len(), 4, "{:?}", two.bench.events);

    let mut next = Bench::new();
    next.open.clone_from(&before);
    let flows = before.values().cloned().collect();
    next.act(|calls, now, effects| calls.adopt(now, flows, effects));
    assert_eq!(next.ways(), ways);
    let mut two = Two { bench: next, ..two };
    assert_eq!(two.turned().len(), 4);
    two.bench.inbound = false;
    let second = two.second;
    two.hang_up(false, second);
    assert_eq!(two.turned(), vec![]);
}

#[test]
fn nobody_looks_for_the_way_to_a_port_of_ours() {
    let (two, _) = Two::offered();
    let own = &two.bench.calls.settings.own;
    assert!(!two.bench.expected.iter().any(|(address, _)| own.contains(address)));
}
