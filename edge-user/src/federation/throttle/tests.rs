//! Rates, suspicion, lists, evidence and what a restart keeps, in virtual time.

use super::*;

fn domain(text: &str) -> Domain {
    text.parse().unwrap()
}

struct World {
    throttle: Throttle,
    settings: ThrottleSettings,
    start: Instant,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let (throttle, settings) = (Throttle::default(), ThrottleSettings::default());
        let now = Instant::now();
        Self { throttle, settings, start: now, now }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    fn time(&self) -> Time {
        Time { now: self.now, unix: 1_800_000_000 + self.now.duration_since(self.start).as_secs() }
    }

    fn say(&mut self, from: &str, source: &str, to: &str) -> Ruling {
        self.say_as(from, source, to, "one").0
    }

    fn say_as(&mut self, from: &str, source: &str, to: &str, certificate: &str) -> (Ruling, News) {
        let (ours, from) = (domain("contoso.example"), domain(from));
        let user = UserName::new(Some(to), &ours);
        let sender = Sender { domain: &from, source: source.parse().unwrap() };
        let names = CertificateNames {
            description: certificate.to_owned(),
            expires_at: Some(2_000_000_000),
            ..CertificateNames::default()
        };
        self.throttle.request(self.time(), &self.settings, sender, &names, Some(&user))
    }

    fn answer(&mut self, from: &str, source: &str, status: u16) -> Option<Change> {
        self.answer_to(from, source, "ann", status).change
    }

    fn answer_to(&mut self, from: &str, source: &str, to: &str, status: u16) -> News {
        let (ours, from) = (domain("contoso.example"), domain(from));
        let user = UserName::new(Some(to), &ours);
        let sender = Sender { domain: &from, source: source.parse().unwrap() };
        let (time, settings) = (self.time(), &self.settings);
        self.throttle.outcome(time, settings, sender, "MESSAGE", Some(&user), status)
    }

    fn report(&self, of: &str) -> Vec<Report> {
        self.throttle.report(self.now, &self.settings, Some(&domain(of)))
    }
}

#[test]
fn twenty_in_a_second_pass_from_ipv4_and_from_ipv6() {
    for source in ["192.0.2.1", "2001:db8::1"] {
        let mut world = World::new();
        for second in 0..3 {
            let passed =
                (0..100).filter(|_| world.say("p.example", source, "ann") == Ruling::Pass).count();
            assert_eq!(passed, 20, "{source} in second {second}");
            world.pass(1000);
        }
        // Nothing is saved up beyond a second.
        world.pass(60_000);
        let all: Vec<_> = (0..30).map(|_| world.say("p.example", source, "ann")).collect();
        assert_eq!(all.iter().filter(|ruling| **ruling == Ruling::Pass).count(), 20);
        assert_eq!(all.last(), Some(&Ruling::Slow));
        world.pass(50);
        assert_eq!(world.say("p.example", source, "ann"), Ruling::Pass);
        assert_eq!(world.say("p.example", source, "ann"), Ruling::Slow);
    }
}

/// Several in a millisecond gain as much as one.
#[test]
fn however_fast_they_come_twenty_a_second_pass() {
    for every in [Duration::from_micros(100), Duration::from_micros(1700)] {
        let mut world = World::new();
        let (mut passed, mut time) = (0, Duration::ZERO);
        while time < Duration::from_secs(5) {
            let ruling = world.say("p.example", "192.0.2.1", "ann");
            passed += usize::from(ruling == Ruling::Pass);
            world.now += every;
            time += every;
        }
        assert!((119..=120).contains(&passed), "{passed} with one each {every:?}");
    }
}

#[test]
fn more_prefixes_or_more_domains_give_four_times_the_room_and_no_more() {
    let mut world = World::new();
    let sources = (0..50).filter(|n| {
        (0..20).all(|_| world.say("p.example", &format!("192.0.2.{n}"), "ann") == Ruling::Pass)
    });
    assert_eq!(sources.count(), 4);
    let mut world = World::new();
    let domains = (0..50).filter(|n| {
        (0..20).all(|_| world.say(&format!("d{n}.example"), "192.0.2.1", "ann") == Ruling::Pass)
    });
    assert_eq!(domains.count(), 4);
    // Addresses of one /64 are one source.
    let mut world = World::new();
    let passed = (0..100)
        .filter(|n| world.say("p.example", &format!("2001:db8::{n:x}"), "ann") == Ruling::Pass)
        .count();
    assert_eq!(passed, 20);
}

#[test]
fn who_fails_too_often_is_slowed_and_a_clean_period_later_is_not() {
    let mut world = World::new();
    for _ in 0..10 {
        world.say("p.example", "192.0.2.1", "ann");
        assert_eq!(world.answer("p.example", "192.0.2.1", 200), None);
    }
    for number in 0..10 {
        world.say("p.example", "192.0.2.1", "x");
        let change = world.answer("p.example", "192.0.2.1", 404);
        assert_eq!(change.is_some(), number == 9, "{number}");
    }
    world.pass(1000);
    assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Pass);
    assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Slow);
    world.pass(3_600_000);
    let passed =
        (0..100).filter(|_| world.say("p.example", "192.0.2.1", "ann") == Ruling::Pass).count();
    assert_eq!(passed, 20);
}

#[test]
fn too_many_users_of_ours_and_it_is_listed_longer_each_time() {
    let mut world = World::new();
    let enumerate = |world: &mut World| {
        for number in 0..=1000 {
            let ruling = world.say("p.example", "192.0.2.1", &format!("u{number}"));
            let expected = if number < 1000 { Ruling::Pass } else { Ruling::Listed };
            assert_eq!(ruling, expected, "{number}");
            // The same one again is no other user.
            world.pass(1000);
            if number < 1000 {
                let again = world.say("p.example", "192.0.2.1", &format!("U{number}"));
                assert_eq!(again, Ruling::Pass);
            }
            world.pass(1000);
        }
    };
    for minutes in [10, 60, 360, 1440, 1440] {
        enumerate(&mut world);
        world.pass(minutes * 60_000 - 3000);
        assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Listed, "{minutes}");
        // Others are not.
        assert_eq!(world.say("q.example", "192.0.2.9", "ann"), Ruling::Pass);
        world.pass(3000);
        assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Pass, "{minutes}");
        world.pass(3_600_000);
    }
}

#[test]
fn what_is_remembered_is_bounded_and_who_is_listed_stays() {
    let mut world = World::new();
    world.settings.distinct_users = 1;
    world.say("bad.example", "192.0.2.1", "a");
    assert_eq!(world.say("bad.example", "192.0.2.1", "b"), Ruling::Listed);
    for number in 0..20_000u32 {
        world.pass(1);
        let source = IpAddr::from((0x2001_0db8_0000_0000u128 + u128::from(number)).to_be_bytes());
        world.say(&format!("d{number}.example"), &source.to_string(), "ann");
    }
    assert!(world.throttle.records.len() <= MAX_RECORDS + 3);
    let kept: usize = world.throttle.records.values().map(|record| record.users.len()).sum();
    assert_eq!(world.throttle.users, kept);
    assert_eq!(world.say("bad.example", "192.0.2.1", "a"), Ruling::Listed);
}

/// Writes to one user more than it may.
fn enumerate(world: &mut World, from: &str, source: &str) -> News {
    world.settings.distinct_users = 3;
    for number in 0..3 {
        assert_eq!(world.say_as(from, source, &format!("u{number}"), "one").0, Ruling::Pass);
    }
    let (ruling, news) = world.say_as(from, source, "u3", "one");
    assert_eq!(ruling, Ruling::Listed);
    news
}

#[test]
fn an_offender_is_told_once_for_each_prefix_and_each_list() {
    let mut world = World::new();
    let news = enumerate(&mut world, "p.example", "192.0.2.1");
    let until = world.now + Duration::from_secs(600);
    assert_eq!(news.change, Some(Change::Listed(Duration::from_secs(600))));
    assert_eq!(news.offender, Some(until));
    world.pass(1000);
    let silent = (Ruling::Listed, News::default());
    assert_eq!(world.say_as("p.example", "192.0.2.1", "u0", "one"), silent);
    // Another prefix of the same domain is another sender.
    assert_eq!(world.say("p.example", "192.0.2.2", "ann"), Ruling::Pass);
    // The next list is told again.
    world.pass(700_000);
    world.pass(3_600_000);
    assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Pass);
    world.pass(3_600_000);
    let news = enumerate(&mut world, "p.example", "192.0.2.1");
    assert_eq!(news.offender, Some(world.now + Duration::from_secs(3600)));
}

#[test]
fn a_domain_that_is_listed_over_all_its_prefixes_is_told_for_each() {
    let mut world = World::new();
    world.settings.distinct_users = 1;
    for number in 0..4 {
        let source = format!("192.0.2.{number}");
        assert_eq!(world.say("p.example", &source, &format!("u{number}")), Ruling::Pass);
    }
    let (ruling, news) = world.say_as("p.example", "2001:db8::5", "u5", "one");
    assert_eq!((ruling, news.offender.is_some()), (Ruling::Listed, true));
    for source in ["192.0.2.1", "2001:db8:1::9"] {
        let (ruling, news) = world.say_as("p.example", source, "u1", "one");
        assert_eq!((ruling, news.offender.is_some()), (Ruling::Listed, true), "{source}");
        assert_eq!(
            world.say_as("p.example", source, "u1", "one"),
            (Ruling::Listed, News::default())
        );
    }
    assert_eq!(world.report("p.example").iter().filter(|r| r.held_as == "domain").count(), 6);
}

#[test]
fn evidence_says_what_it_did_without_naming_users() {
    let mut world = World::new();
    for number in 0..10u64 {
        let user = format!("User{number}");
        world.say_as("p.example", "2001:db8::1", &user, &format!("certificate {number}"));
        world.answer_to("p.example", "2001:db8::1", &user, if number < 4 { 200 } else { 404 });
        world.pass(1000);
    }
    world.say_as("p.example", "2001:db8::2", "User1", "certificate 9");
    let [report] = &world.report("p.example")[..] else { panic!() };
    assert_eq!(report.source, Some("2001:db8::/64".parse().unwrap()));
    assert_eq!((report.standing, report.held_as), (Standing::Standard, "sender"));
    let evidence = &report.evidence;
    assert_eq!((evidence.first_seen, evidence.last_seen), (1_800_000_000, 1_800_000_010));
    assert_eq!((evidence.messages, evidence.distinct_users), (11, 10));
    assert_eq!(evidence.finals, [4, 0, 6, 0, 0]);
    let certificates: Vec<&str> =
        evidence.certificates.iter().map(|seen| seen.description.as_str()).collect();
    let last = ["certificate 6", "certificate 7", "certificate 8", "certificate 9"];
    assert_eq!(certificates, last);
    assert_eq!(evidence.samples.len(), 8);
    let sample = &evidence.samples[7];
    assert_eq!((sample.at, &*sample.method, sample.status), (1_800_000_009, "MESSAGE", 404));
    assert_eq!(sample.user.len(), 16);
    assert!(sample.user.bytes().all(|b| b.is_ascii_hexdigit()), "{}", sample.user);
    world.settings.plain_users = true;
    world.answer_to("p.example", "2001:db8::1", "Ann%0a;x=1", 200);
    let [report] = &world.report("p.example")[..] else { panic!() };
    assert_eq!(report.evidence.samples[7].user, "ann@contoso.example");
}

#[test]
fn who_is_forgiven_passes_at_once_and_begins_anew() {
    let mut world = World::new();
    enumerate(&mut world, "p.example", "192.0.2.1");
    enumerate(&mut world, "p.example", "198.51.100.1");
    let prefix: IpNet = "192.0.2.0/24".parse().unwrap();
    assert_eq!(world.throttle.forgive(&domain("q.example"), None), 0);
    assert!(world.throttle.forgive(&domain("p.example"), Some(&prefix)) > 0);
    world.pass(1000);
    assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Pass);
    assert_eq!(world.say("p.example", "198.51.100.1", "ann"), Ruling::Listed);
    assert!(world.throttle.forgive(&domain("p.example"), None) > 0);
    world.pass(1000);
    assert_eq!(world.say("p.example", "198.51.100.1", "ann"), Ruling::Pass);
    // The next list is a first one.
    world.throttle.forgive(&domain("p.example"), None);
    world.pass(1000);
    let news = enumerate(&mut world, "p.example", "198.51.100.1");
    assert_eq!(news.change, Some(Change::Listed(Duration::from_secs(600))));
}

#[test]
fn a_restart_keeps_who_is_listed_and_why() {
    let mut world = World::new();
    enumerate(&mut world, "p.example", "192.0.2.1");
    enumerate(&mut world, "six.example", "2001:db8::1");
    for _ in 0..20 {
        world.say("sus.example", "192.0.2.3", "ann");
        world.answer("sus.example", "192.0.2.3", 404);
    }
    world.say("good.example", "192.0.2.4", "ann");
    let saved = world.throttle.save(world.now, world.time().unix);
    assert!(saved.is_within_bounds());
    let text = serde_json::to_string(&saved).unwrap();
    assert!(!text.contains("good.example"), "{text}");
    let saved: Saved = serde_json::from_str(&text).unwrap();

    // A minute later, another process.
    let mut other = World::new();
    other.settings = world.settings.clone();
    other.throttle.restore(other.now, world.time().unix + 60, &other.settings, saved);
    let offenders = other.throttle.offenders(other.now);
    let until = other.now + Duration::from_secs(540);
    let one = |name: &str, source: &str| (domain(name), source.parse().unwrap(), until);
    assert_eq!(offenders, [one("p.example", "192.0.2.1"), one("six.example", "2001:db8::")]);
    let silent = (Ruling::Listed, News::default());
    assert_eq!(other.say_as("p.example", "192.0.2.1", "ann", "new"), silent);
    assert_eq!(other.say("six.example", "2001:db8::99", "ann"), Ruling::Listed);
    assert_eq!(other.say("sus.example", "192.0.2.3", "ann"), Ruling::Pass);
    assert_eq!(other.say("sus.example", "192.0.2.3", "ann"), Ruling::Slow);
    let [report] = &other.report("p.example")[..] else { panic!() };
    assert_eq!(report.evidence.messages, 5);
    // The repetition is longer.
    other.pass(540_000);
    assert_eq!(other.say("p.example", "192.0.2.1", "ann"), Ruling::Pass);
    other.pass(3_600_000);
    let news = enumerate(&mut other, "p.example", "192.0.2.1");
    assert_eq!(news.change, Some(Change::Listed(Duration::from_secs(3600))));
}

#[test]
fn without_its_list_whoever_is_new_is_suspicious_for_a_period() {
    let mut world = World::new();
    world.throttle.distrust_until(world.now + world.settings.report_period);
    assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Pass);
    assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Slow);
    world.pass(3_600_000);
    assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Pass);
    assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Pass);
}

#[test]
fn what_is_saved_is_bounded() {
    let mut world = World::new();
    world.settings.distinct_users = 1;
    for number in 0..2000 {
        let from = format!("d{number}.example");
        let source = format!("2001:db8:{number:x}::1");
        world.pass(1);
        world.say(&from, &source, "a");
        assert_eq!(world.say(&from, &source, "b"), Ruling::Listed);
    }
    let saved = world.throttle.save(world.now, world.time().unix);
    assert_eq!(saved.records.len(), 1024);
    assert!(saved.is_within_bounds());
}

#[test]
fn users_of_who_is_silent_are_freed_and_nobody_suffers_for_the_one_who_holds_most() {
    let mut world = World::new();
    let fill = |world: &mut World| {
        let rate = world.settings.messages_per_second;
        for number in 0..600u16 {
            let source = IpAddr::from([10, 0, (number >> 8) as u8, number as u8]);
            let who = Who::Pair(domain(&format!("d{number}.example")), source);
            let mut record = Record::new(world.now, rate, State::Standard);
            record.users = (0..if number == 7 { 950 } else { 900 }).collect();
            world.throttle.users += record.users.len();
            world.throttle.records.insert(who, record);
        }
    };
    fill(&mut world);
    assert!(world.throttle.users >= MAX_USERS);
    for number in 0..50 {
        world.pass(100);
        let ruling = world.say("honest.example", "192.0.2.1", &format!("u{number}"));
        assert_eq!(ruling, Ruling::Pass, "{number}");
    }
    assert_eq!(world.report("honest.example")[0].standing, Standing::Standard);
    assert_eq!(world.report("d7.example")[0].standing, Standing::Suspicious);
    assert_eq!(world.report("d8.example")[0].standing, Standing::Standard);
    // A silent period later all of it is free, whoever asks.
    world.pass(3_600_000);
    assert_eq!(world.say("honest.example", "192.0.2.1", "ann"), Ruling::Pass);
    assert_eq!(world.throttle.users, 3);
    let kept: usize = world.throttle.records.values().map(|record| record.users.len()).sum();
    assert_eq!(world.throttle.users, kept);
}

#[test]
fn one_domain_that_fails_until_it_is_listed_takes_nobody_at_its_address_with_it() {
    for source in ["192.0.2.1", "2001:db8::1"] {
        let mut world = World::new();
        let mut offenders = 0;
        for _ in 0..3 {
            for _ in 0..40 {
                world.pass(1100);
                world.say("bad.example", source, "x");
                let news = world.answer_to("bad.example", source, "x", 404);
                offenders += usize::from(news.offender.is_some());
            }
            world.pass(3_700_000);
            if world
                .throttle
                .listed(world.now, &domain("bad.example"), source.parse().unwrap())
                .is_some()
            {
                break;
            }
        }
        assert_eq!(offenders, 1);
        world.pass(1000);
        let good = domain("good.example");
        let address: IpAddr = source.parse().unwrap();
        // While it is listed again, and after refusals of ours.
        let bad = Who::all(&domain("bad.example"), address)[0].0.clone();
        let until = world.now + Duration::from_secs(600);
        world.throttle.records.get_mut(&bad).unwrap().state = State::Listed(until);
        for number in 0..200 {
            world.pass(1000);
            assert_eq!(world.say("bad.example", source, "x"), Ruling::Listed);
            assert_eq!(world.answer("bad.example", source, 403), None);
            let silent = (Ruling::Pass, News::default());
            for _ in 0..3 {
                assert_eq!(world.say_as("good.example", source, "ann", "g"), silent, "{number}");
                assert_eq!(world.answer_to("good.example", source, "ann", 200), News::default());
            }
        }
        assert_eq!(world.throttle.listed(world.now, &good, address), None);
        assert!(world.throttle.offenders(world.now).iter().all(|(domain, ..)| *domain != good));
    }
}

#[test]
fn a_prefix_where_several_fail_is_slowed_down_and_never_more() {
    let mut world = World::new();
    world.settings.messages_per_second = 100;
    for round in 0..5 {
        for number in 0..100 {
            world.pass(100);
            let from = format!("d{}-{round}.example", number % 10);
            world.say(&from, "192.0.2.1", "x");
            let news = world.answer_to(&from, "192.0.2.1", "x", 404);
            assert_eq!(news.offender, None);
        }
        let prefix = &world.throttle.records[&Who::Source("192.0.2.1".parse().unwrap())];
        assert!(matches!(prefix.state, State::Suspicious(_)), "{round}");
        world.pass(3_700_000);
    }
    // What a prefix is refused for blocks nobody.
    let prefix = Who::Source("192.0.2.1".parse().unwrap());
    let until = world.now + Duration::from_secs(600);
    world.throttle.records.get_mut(&prefix).unwrap().state = State::Listed(until);
    let refused = (Ruling::Listed, News::default());
    assert_eq!(world.say_as("good.example", "192.0.2.1", "ann", "g"), refused);
    assert!(world.throttle.offenders(world.now).is_empty());
}

#[test]
fn addresses_behind_nat64_are_senders_of_their_own() {
    let mut world = World::new();
    enumerate(&mut world, "p.example", "64:ff9b::192.0.2.1");
    assert_eq!(world.say("p.example", "64:ff9b::192.0.2.1", "ann"), Ruling::Listed);
    assert_eq!(world.say("p.example", "64:ff9b::192.0.2.2", "ann"), Ruling::Pass);
    let report = world.report("p.example");
    assert!(report.iter().any(|r| r.source == Some("64:ff9b::c000:201/128".parse().unwrap())));
}

#[test]
fn a_wall_clock_that_was_set_makes_no_list_longer_than_it_can_be() {
    let mut world = World::new();
    enumerate(&mut world, "p.example", "192.0.2.1");
    let mut saved = world.throttle.save(world.now, world.time().unix);
    let record = saved.records.iter_mut().find(|record| record.listed_until.is_some()).unwrap();
    for far in [4_000_000_000, u64::MAX] {
        record.listed_until = Some(far);
        let saved = Saved { records: vec![record.clone()] };
        let mut other = World::new();
        other.throttle.restore(other.now, 1_800_000_000, &other.settings, saved);
        assert_eq!(other.say("p.example", "192.0.2.1", "ann"), Ruling::Listed);
        other.now += other.settings.block_most;
        assert_eq!(other.say("p.example", "192.0.2.1", "ann"), Ruling::Pass);
    }
}

#[test]
fn what_is_suspicious_once_in_a_fortnight_is_never_listed() {
    let mut world = World::new();
    for _ in 0..6 {
        for _ in 0..20 {
            world.say("p.example", "192.0.2.1", "x");
            assert_ne!(
                world.answer("p.example", "192.0.2.1", 404),
                Some(Change::Listed(Duration::from_secs(600)))
            );
        }
        assert_eq!(world.report("p.example")[0].standing, Standing::Suspicious);
        world.pass(14 * 24 * 3_600_000);
    }
}
