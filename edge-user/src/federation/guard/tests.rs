//! The guard in virtual time.

use super::*;
use crate::domain::Domain;

const V4: &str = "198.51.100.7";
const V6: &str = "2001:db8:7::1";
const V6_NEIGHBOUR: &str = "2001:db8:7::ffff";
const MINUTE: Duration = Duration::from_secs(60);

struct World {
    guard: Guard,
    settings: GuardSettings,
    now: Instant,
    ours: Domain,
}

impl World {
    fn new() -> Self {
        Self {
            guard: Guard::default(),
            settings: GuardSettings::default(),
            now: Instant::now(),
            ours: "contoso.example".parse().unwrap(),
        }
    }

    /// A try; `None` when it does not even go on.
    fn attempt(&mut self, from: &str, user: &str, login: Login) -> Result<Option<Ban>, Entry> {
        let (from, user) = (ip(from), UserName::new(Some(user), &self.ours));
        match self.guard.request(self.now, &self.settings, from, &user) {
            Entry::Pass => Ok(self.guard.outcome(self.now, &self.settings, from, &user, login)),
            other => Err(other),
        }
    }

    fn fails(&mut self, times: usize, from: &str, user: &str) -> Result<Option<Ban>, Entry> {
        let mut last = Ok(None);
        for _ in 0..times {
            last = self.attempt(from, user, Login::Failed);
        }
        last
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn ten_wrong_passwords_in_five_minutes_are_a_ban_of_ten() {
    for (from, source, other) in [(V4, V4, "198.51.100.8"), (V6, "2001:db8:7::", "2001:db8:8::1")] {
        let mut w = World::new();
        assert_eq!(w.fails(9, from, "alice"), Ok(None));
        assert!(!w.guard.is_banned(w.now, ip(from)));
        let ban = w.fails(1, from, "alice").unwrap().unwrap();
        assert_eq!((ban.source, ban.left, ban.times), (ip(source), 10 * MINUTE, 1));
        assert_eq!(w.fails(1, from, "alice"), Err(Entry::Banned));
        assert_eq!(w.fails(1, from, "somebody else"), Err(Entry::Banned));
        assert!(!w.guard.is_banned(w.now, ip(other)));
        assert_eq!(w.guard.bans(w.now).len(), 1);
        w.now += 10 * MINUTE - Duration::from_secs(1);
        assert!(w.guard.is_banned(w.now, ip(from)));
        w.now += Duration::from_secs(1);
        assert!(!w.guard.is_banned(w.now, ip(from)));
        assert_eq!(w.guard.bans(w.now), []);
    }
}

#[test]
fn an_ipv6_source_is_its_64() {
    let mut w = World::new();
    w.fails(5, V6, "alice").unwrap();
    assert!(w.fails(5, V6_NEIGHBOUR, "alice").unwrap().is_some());
    assert!(w.guard.is_banned(w.now, ip(V6)));
    assert!(w.guard.is_banned(w.now, ip("2001:db8:7::abcd")));
    assert!(!w.guard.is_banned(w.now, ip("2001:db8:7:1::1")));
    // A mapped address is the IPv4 one.
    w.fails(10, "::ffff:198.51.100.7", "carol").unwrap();
    assert!(w.guard.is_banned(w.now, ip(V4)));
}

#[test]
fn failures_of_long_ago_do_not_count() {
    let mut w = World::new();
    for _ in 0..40 {
        assert_eq!(w.fails(1, V4, "alice"), Ok(None));
        w.now += Duration::from_secs(34);
    }
    assert_eq!(w.guard.bans(w.now), []);
}

#[test]
fn each_ban_is_six_times_longer_up_to_a_day_and_a_quiet_day_ends_the_row() {
    let mut w = World::new();
    for minutes in [10, 60, 360, 1440, 1440] {
        let mut ban = None;
        // About many users: none of them is slowed down.
        for user in 0..10 {
            ban = w.attempt(V4, &format!("user{user}"), Login::Failed).unwrap();
        }
        let ban = ban.unwrap();
        assert_eq!(ban.left, minutes * MINUTE);
        w.now += ban.left + 6 * MINUTE;
    }
    w.now += REPETITION;
    let ban = w.fails(10, V4, "alice").unwrap().unwrap();
    assert_eq!((ban.left, ban.times), (10 * MINUTE, 1));
}

#[test]
fn who_mistypes_and_then_gets_in_has_guessed_nothing() {
    let mut w = World::new();
    for _ in 0..20 {
        assert_eq!(w.fails(5, V4, "alice"), Ok(None));
        assert_eq!(w.attempt(V4, "alice", Login::Good), Ok(None));
        w.now += Duration::from_secs(40);
    }
    assert_eq!(w.guard.bans(w.now), []);
}

#[test]
fn one_s_own_password_makes_up_for_no_guess_at_another_s() {
    let mut w = World::new();
    let mut ban = None;
    for _ in 0..10 {
        assert_eq!(w.attempt(V4, "eve", Login::Good), Ok(None));
        ban = w.attempt(V4, "alice", Login::Failed).unwrap();
    }
    assert!(ban.is_some());
}

#[test]
fn a_user_is_slowed_from_everywhere_but_shut_out_from_nowhere() {
    let mut w = World::new();
    // She signed in from home before.
    w.attempt("192.0.2.50", "alice", Login::Good).unwrap();
    // Many sources, a few tries each.
    for n in 0..10 {
        assert_eq!(w.fails(1, &format!("203.0.113.{n}"), "alice"), Ok(None));
    }
    assert_eq!(w.guard.slowed(w.now, &w.settings), 1);
    let fresh = "198.51.100.99";
    assert_eq!(w.attempt(fresh, "alice", Login::Failed), Ok(None), "the first");
    assert_eq!(w.attempt(fresh, "alice", Login::Failed), Err(Entry::Slow));
    // Each of a few sources has a pace of its own: none takes the turn of another. The rest share one.
    for n in 1..=PACED {
        let from = format!("203.0.113.{}", 100 + n);
        assert_eq!(w.attempt(&from, "ALICE", Login::Failed), Ok(None), "{n}");
        assert_eq!(w.attempt(&from, "ALICE", Login::Failed), Err(Entry::Slow), "{n}");
    }
    assert_eq!(w.attempt("203.0.113.200", "ALICE", Login::Failed), Err(Entry::Slow));
    assert_eq!(w.attempt("203.0.113.200", "bob", Login::Failed), Ok(None), "another user");
    assert_eq!(w.attempt("192.0.2.50", "alice", Login::Good), Ok(None), "where she was before");
    w.now += PACE;
    assert_eq!(w.attempt(fresh, "alice", Login::Good), Ok(None), "the right password gets in");
    assert_eq!(w.attempt(fresh, "alice", Login::Good), Ok(None), "and stays in");
    w.now += w.settings.period;
    assert_eq!(w.guard.slowed(w.now, &w.settings), 0);
    assert_eq!(w.fails(3, "203.0.113.201", "alice"), Ok(None));
    // An administrator may end it sooner.
    for n in 0..10 {
        let _ = w.fails(1, &format!("203.0.113.{n}"), "alice");
        w.now += PACE;
    }
    assert_eq!(w.guard.slowed(w.now, &w.settings), 1);
    assert!(w.guard.forgive_user(&UserName::new(Some("alice"), &w.ours)));
    assert_eq!(w.guard.slowed(w.now, &w.settings), 0);
}

#[test]
fn who_does_not_wait_is_banned() {
    let mut w = World::new();
    for n in 0..10 {
        w.fails(1, &format!("203.0.113.{n}"), "alice").unwrap();
    }
    assert_eq!(w.attempt(V4, "alice", Login::Failed), Ok(None));
    for _ in 0..9 {
        assert_eq!(w.guard.take_ban(), None);
        assert_eq!(w.attempt(V4, "alice", Login::Failed), Err(Entry::Slow));
    }
    let ban = w.guard.take_ban().unwrap();
    assert_eq!((ban.source, w.guard.take_ban()), (ip(V4), None));
    assert_eq!(w.attempt(V4, "alice", Login::Failed), Err(Entry::Banned));
}

#[test]
fn where_a_user_got_in_is_known_for_a_month_and_for_longer_than_names_thought_up() {
    let mut w = World::new();
    let knows = |w: &World| w.guard.knows(w.now, ip(V4), &UserName::new(Some("alice"), &w.ours));
    w.attempt(V4, "alice", Login::Good).unwrap();
    for n in 0..(2 * MAX_RECORDS as u32) {
        let from = IpAddr::V4((0x0a00_0000 + n).into()).to_string();
        let _ = w.fails(1, &from, &format!("user{n}"));
    }
    assert!(knows(&w));
    w.now += GOOD_FOR - Duration::from_secs(1);
    assert!(knows(&w));
    w.now += Duration::from_secs(1);
    assert!(!knows(&w));
}

#[test]
fn listed_prefixes_are_never_banned() {
    let mut w = World::new();
    w.settings.never = vec!["198.51.100.0/24".parse().unwrap(), "2001:db8:7::/48".parse().unwrap()];
    for from in [V4, V6] {
        for user in 0..100 {
            assert_eq!(w.fails(1, from, &format!("user{user}")), Ok(None));
        }
    }
    assert_eq!(w.guard.bans(w.now), []);
}

#[test]
fn a_ban_is_forgiven_by_address_and_by_prefix() {
    let mut w = World::new();
    for (forgiven, ends) in [
        (V4, 1),
        ("198.51.100.0/24", 1),
        ("2001:db8:7::1", 1),
        ("2001:db8:7::/48", 1),
        ("0.0.0.0/0", 1),
        ("198.51.101.0/24", 0),
        ("2001:db8:8::/48", 0),
    ] {
        let six = forgiven.contains(':');
        let from = if six { V6 } else { V4 };
        w.guard = Guard::default();
        assert!(w.fails(10, from, "alice").unwrap().is_some());
        let prefix = forgiven.parse().unwrap_or_else(|_| ip(forgiven).into());
        assert_eq!(w.guard.forgive(w.now, &prefix), ends, "{forgiven}");
        assert_eq!(w.guard.is_banned(w.now, ip(from)), ends == 0, "{forgiven}");
    }
}

#[test]
fn what_was_under_way_when_the_ban_came_makes_it_no_longer() {
    let mut w = World::new();
    let user = UserName::new(Some("alice"), &w.ours);
    w.guard.request(w.now, &w.settings, ip(V4), &user);
    let outcome = |w: &mut World| {
        let user = UserName::new(Some("alice"), &w.ours);
        w.guard.outcome(w.now, &w.settings, ip(V4), &user, Login::Failed)
    };
    for _ in 0..9 {
        assert_eq!(outcome(&mut w), None);
    }
    assert!(outcome(&mut w).is_some());
    for _ in 0..50 {
        assert_eq!(outcome(&mut w), None);
    }
    assert_eq!(w.guard.bans(w.now)[0].left, 10 * MINUTE);
}

#[test]
fn what_is_remembered_is_bounded_and_a_flood_of_sources_ends_no_ban() {
    let mut w = World::new();
    assert!(w.fails(10, V4, "alice").unwrap().is_some());
    for n in 0..(3 * MAX_RECORDS as u32) {
        let from = IpAddr::V4((0x0a00_0000 + n).into()).to_string();
        let _ = w.fails(1, &from, &format!("user{n}"));
        w.now += Duration::from_millis(1);
    }
    assert!(w.guard.sources.len() <= MAX_RECORDS && w.guard.users.len() <= MAX_RECORDS);
    assert!(w.guard.is_banned(w.now, ip(V4)));
}

#[test]
fn bans_outlive_a_restart_by_the_wall_clock() {
    let mut world = World::new();
    let settings = world.settings.clone();
    let (first, most) = (settings.ban_first, settings.ban_most);
    world.fails(10, V4, "ann").unwrap();
    world.fails(3, V6, "bob").unwrap();
    let restored = |saved: SavedBans, unix: u64| {
        let mut world = World::new();
        // Since boot more time has passed than any of it takes.
        world.now += Duration::from_secs(7 * 86_400);
        world.guard.restore(world.now, unix, &settings, saved);
        world
    };
    let saved = world.guard.save(world.now, 1_800_000_000);
    assert_eq!(saved.bans.len(), 1, "what is no ban is not kept: {saved:?}");
    assert!(saved.is_within_bounds());
    let after = restored(saved.clone(), 1_800_000_100);
    let ban = &after.guard.bans(after.now)[0];
    assert_eq!((ban.left, ban.times, ban.failures), (first - Duration::from_secs(100), 1, 10));
    assert_eq!(after.guard.save(after.now, 1_800_000_100), saved, "the same again");
    // A wall clock that was set back makes none longer than it can be.
    let after = restored(saved.clone(), 0);
    assert_eq!(after.guard.bans(after.now)[0].left, most);
    // One that ended meanwhile has ended, and makes the next longer, within a day.
    let end = 1_800_000_000 + first.as_secs();
    for (late, times) in [(0, 2), (86_000, 2), (86_400, 1)] {
        let mut after = restored(saved.clone(), end + late);
        assert_eq!(after.guard.bans(after.now), [], "{late}");
        let ban = after.fails(10, V4, "ann").unwrap().unwrap();
        assert_eq!(ban.times, times, "{late}");
    }
    // Whom the administrator spares by now is not banned.
    let mut spared = settings.clone();
    spared.never = vec!["198.51.100.0/24".parse().unwrap()];
    let mut guard = Guard::default();
    guard.restore(world.now, 1_800_000_000, &spared, saved.clone());
    assert_eq!(guard.bans(world.now), []);
    // What this program cannot have written.
    for (source, times) in [("2001:db8:7::1", 1), ("192.0.2.1", 0)] {
        let ban = SavedBan { source: ip(source), times, ..saved.bans[0].clone() };
        assert!(!SavedBans { bans: vec![ban] }.is_within_bounds(), "{source}");
    }
}
