//! Every rule in virtual time: what is blocked, what is refused and why, and when DNS is asked.

use std::time::{Duration, Instant};

use super::{
    watch::{ANSWER_WITHIN, CEILING, FLOOR, IN_FLIGHT, RETRY, RETRY_CEILING},
    *,
};
use crate::{
    config::{AllowedDomain, Federation, tests_support::config},
    federation::AddressFault,
    firewall::BlockOwner,
    proxy::ResolvedHost,
};

pub(super) fn name(text: &str) -> Domain {
    text.parse().unwrap()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn ask(domain: &str) -> Question {
    Question::Federation(name(domain))
}

pub(super) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A machine with virtual time; remembers what came out.
pub(super) struct World {
    pub blocks: DomainBlocks,
    pub now: Instant,
    pub outputs: Vec<Output>,
    pub setting: Setting,
}

impl World {
    /// Blocked (with subdomains) and allowed domains; DNS has answered nothing yet.
    pub fn new(blocked: &[&str], allowed: &[&str]) -> Self {
        let config = config();
        let federation = Federation {
            enabled: true,
            allowed_domains: allowed.iter().map(|d| allow(d)).collect(),
            blocked_domains: blocked.iter().map(|d| block(d, true)).collect(),
            ..Federation::default()
        };
        let mut setting = Setting::new(&config, federation);
        setting.next_hops.clear();
        let blocks = DomainBlocks::new();
        let mut world = Self { blocks, now: Instant::now(), outputs: vec![], setting };
        world.set(|_| {});
        world
    }

    pub fn set(&mut self, change: impl FnOnce(&mut Setting)) {
        change(&mut self.setting);
        self.put(Input::Setting(Box::new(self.setting.clone())));
    }

    pub fn put(&mut self, input: Input) {
        self.blocks.handle(self.now, input);
        self.outputs.extend(std::iter::from_fn(|| self.blocks.poll()));
    }

    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.blocks.next_timeout().filter(|at| *at <= end) {
            assert!(at >= self.now, "a timeout in the past");
            self.now = at;
            self.blocks.handle_timeout(at);
            self.outputs.extend(std::iter::from_fn(|| self.blocks.poll()));
        }
        self.now = end;
    }

    pub fn answer(&mut self, question: Question, addresses: &[&str], ttl: u64) {
        let host = ResolvedHost {
            host: name("sip.some.example"),
            port: 5061,
            addresses: addresses.iter().map(|a| ip(a)).collect(),
        };
        let valid_until = self.now + seconds(ttl);
        let result = Ok(Resolved { hosts: vec![host], valid_until });
        self.put(Input::Resolved { question, result });
    }

    /// Lets time pass until a question is asked anew.
    pub fn until_asked(&mut self, question: &Question) {
        self.asked();
        for _ in 0..100_000 {
            self.pass(seconds(1));
            if self.asked().contains(question) {
                return;
            }
        }
        panic!("{question:?} is never asked");
    }

    pub fn fail(&mut self, question: Question, error: ResolveError) {
        self.put(Input::Resolved { question, result: Err(error) });
    }

    pub fn proved(&mut self, connection: u64, domain: &str, remote: &str) {
        let connection = ConnectionId(connection);
        self.put(Input::Proved { connection, domain: name(domain), remote: ip(remote) });
    }

    /// Questions asked since the last look.
    pub fn asked(&mut self) -> Vec<Question> {
        let (asked, rest) = std::mem::take(&mut self.outputs)
            .into_iter()
            .partition(|output| matches!(output, Output::Query { .. }));
        self.outputs = rest;
        let question = |o| match o {
            Output::Query { question, .. } => question,
            _ => unreachable!(),
        };
        asked.into_iter().map(question).collect()
    }

    /// What the firewall was told since the last look: domain and addresses.
    pub fn told(&mut self) -> Vec<(String, Vec<IpAddr>)> {
        let is_query = |o: &Output| matches!(o, Output::Query { .. });
        let (queries, outputs): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.outputs).into_iter().partition(is_query);
        self.outputs = queries;
        let told = outputs.into_iter().filter_map(|output| match output {
            Output::Apply(Intent::SetOwnerBlocks { owner: BlockOwner::Domain(d), blocks }) => {
                Some((d.to_string(), blocks.iter().map(|b| b.prefix.addr()).collect()))
            }
            _ => None,
        });
        told.collect()
    }

    pub fn blocked(&self, domain: &str) -> Vec<IpAddr> {
        self.report(domain).blocked
    }

    pub fn refused(&self, domain: &str) -> Vec<String> {
        let refused = self.report(domain).refused;
        refused.iter().map(|r| format!("{} {}", r.address, r.why)).collect()
    }

    fn report(&self, domain: &str) -> DomainReport {
        self.blocks.report().into_iter().find(|r| r.domain.domain == name(domain)).unwrap()
    }
}

pub(super) fn allow(domain: &str) -> AllowedDomain {
    AllowedDomain::new(name(domain))
}

pub(super) fn block(domain: &str, subdomains: bool) -> BlockedDomain {
    BlockedDomain { domain: name(domain), subdomains }
}

pub(super) const BAD: &str = "bad.example";
pub(super) const A: &str = "8.8.4.1";
pub(super) const B: &str = "2a00:1450::2";

#[test]
fn a_blocked_domains_addresses_become_its_blocks_and_go_with_it() {
    let mut w = World::new(&[BAD], &[]);
    assert_eq!(w.asked(), [ask(BAD)]);
    assert_eq!(w.told(), []);
    w.answer(ask(BAD), &[A, B, A], 300);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A), ip(B)])]);
    w.pass(seconds(270));
    w.answer(ask(BAD), &[B, A], 300);
    assert_eq!(w.told(), [], "the same addresses in another order are no news");
    w.pass(seconds(270));
    w.answer(ask(BAD), &[B], 300);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(B)])]);
    w.set(|s| s.federation.blocked_domains.clear());
    assert_eq!(w.told(), [(BAD.to_owned(), vec![])]);
    assert!(w.blocks.report().is_empty());
}

#[test]
fn addresses_that_others_use_or_that_are_no_unicast_are_refused_with_the_reason() {
    let mut w = World::new(&[BAD], &["fabrikam.example"]);
    w.set(|s| {
        s.own.push(ip("8.8.4.9"));
        for (net, protection) in [
            ("8.8.5.0/24", Protection::Management),
            ("8.8.6.1/32", Protection::DnsServer),
            ("8.8.6.2/32", Protection::NextHop),
            ("2a00:7::/32", Protection::Inside),
        ] {
            s.fixed.push((net.parse().unwrap(), protection));
        }
        s.federation.allow_addresses.push("10.9.0.0/16".parse().unwrap());
    });
    w.answer(ask("fabrikam.example"), &["8.8.7.1"], 300);
    let addresses = [
        A,
        "8.8.4.9",
        "8.8.5.77",
        "8.8.6.1",
        "8.8.6.2",
        "2a00:7::1",
        "8.8.7.1",
        "127.0.0.1",
        "10.9.1.1",
        "10.8.1.1",
        "::ffff:8.8.7.1",
        "224.0.0.1",
    ];
    w.answer(ask(BAD), &addresses, 300);
    assert_eq!(w.blocked(BAD), [ip(A), ip("10.9.1.1")]);
    let expected = [
        "8.8.4.9 an address of this appliance",
        "8.8.5.77 in a management prefix",
        "8.8.6.1 also a DNS server of ours",
        "8.8.6.2 also a next hop of ours",
        "8.8.7.1 also an edge of allowed partner fabrikam.example",
        "10.8.1.1 a private address (RFC 1918)",
        "127.0.0.1 a loopback address",
        "224.0.0.1 a multicast address",
        "2a00:7::1 also a server inside",
    ];
    assert_eq!(w.refused(BAD), expected);
    let notices = w.outputs.iter().filter(|o| matches!(o, Output::NotBlocked { .. })).count();
    assert_eq!(notices, expected.len(), "each refusal is told once");
}

#[test]
fn the_configuration_s_addresses_are_protected() {
    let config = config();
    let setting = Setting::new(&config, config.federation.clone());
    assert_eq!(setting.own, [ip("203.0.113.10"), ip("10.0.0.10")]);
    let fixed: Vec<String> = setting.fixed.iter().map(|(n, p)| format!("{n} {p:?}")).collect();
    assert_eq!(fixed, ["192.0.2.0/28 Management", "192.0.2.53/32 DnsServer"]);
    assert_eq!(setting.next_hops.len(), 1);
    // At boot there is no more to go by than that.
    let mut setting = setting;
    setting.federation.allow_addresses = vec!["192.0.2.0/24".parse().unwrap()];
    for (address, may) in [
        ("8.8.8.8", true),
        ("2600::1", true),
        ("192.0.2.99", true),
        ("192.0.2.5", false),
        ("192.0.2.53", false),
        ("203.0.113.10", false),
        ("10.1.2.3", false),
    ] {
        assert_eq!(setting.may_block(ip(address)), may, "{address}");
    }
}

#[test]
fn a_shared_address_is_judged_again_at_every_change_on_either_side() {
    let mut w = World::new(&[BAD], &["fabrikam.example"]);
    let partner = ask("fabrikam.example");
    w.answer(partner.clone(), &["8.8.7.1"], 300);
    w.answer(ask(BAD), &[A], 300);
    w.asked();
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A)])]);
    // The partner moves to the address: it is freed at once.
    w.until_asked(&partner);
    w.answer(partner.clone(), &[A], 300);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![])]);
    // The partner moves away: blocked again.
    w.until_asked(&partner);
    w.answer(partner.clone(), &["8.8.7.1"], 300);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A)])]);
    // The blocked domain points at the partner: nothing is dropped.
    w.until_asked(&ask(BAD));
    w.answer(ask(BAD), &["8.8.7.1"], 300);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![])]);
    // The partner is no partner any more.
    w.set(|s| s.federation.allowed_domains.clear());
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip("8.8.7.1")])]);
    // One of our own listeners takes the address.
    w.set(|s| s.own.push(ip("8.8.7.1")));
    assert_eq!(w.told(), [(BAD.to_owned(), vec![])]);
}

#[test]
fn a_partner_proven_on_a_live_connection_protects_its_address_while_it_lives() {
    let mut w = World::new(&[BAD], &["fabrikam.example"]);
    w.answer(ask("fabrikam.example"), &[], 300);
    w.answer(ask(BAD), &[A], 300);
    w.told();
    w.proved(1, "fabrikam.example", A);
    w.proved(2, "fabrikam.example", A);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![])]);
    assert_eq!(w.refused(BAD), [format!("{A} partner fabrikam.example is connected from there")]);
    w.set(|_| {});
    w.put(Input::Closed { connection: ConnectionId(1) });
    assert_eq!(w.told(), []);
    w.put(Input::Closed { connection: ConnectionId(2) });
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A)])]);
    // A stranger proves something, and protects nothing.
    w.proved(3, "stranger.example", A);
    assert_eq!(w.told(), []);
    w.put(Input::InsideOpened { connection: ConnectionId(4), remote: ip(A) });
    assert_eq!(w.told(), [(BAD.to_owned(), vec![])]);
    w.put(Input::Closed { connection: ConnectionId(4) });
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A)])]);
}

#[test]
fn where_a_remote_user_is_signed_in_nothing_is_blocked() {
    let mut w = World::new(&[BAD], &[]);
    w.answer(ask(BAD), &[A], 300);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A)])]);
    w.put(Input::SignedIn { connection: ConnectionId(4), remote: ip(A) });
    assert_eq!(w.told(), [(BAD.to_owned(), vec![])]);
    w.put(Input::Closed { connection: ConnectionId(4) });
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A)])]);
    // Told after the connection went, it protects nothing.
    w.put(Input::SignedIn { connection: ConnectionId(4), remote: ip(A) });
    assert_eq!(w.told(), []);
}

#[test]
fn a_proof_told_after_its_connection_went_protects_nothing() {
    let mut w = World::new(&[BAD], &["fabrikam.example"]);
    w.answer(ask("fabrikam.example"), &[], 300);
    w.answer(ask(BAD), &[A], 300);
    w.told();
    w.put(Input::Closed { connection: ConnectionId(1) });
    w.proved(1, "fabrikam.example", A);
    assert_eq!(w.told(), []);
    // What a blocked domain gave away counts all the same.
    w.proved(1, BAD, "8.8.4.7");
    assert_eq!(w.blocked(BAD), [ip("8.8.4.7"), ip(A)]);
}

#[test]
fn addresses_and_subdomains_seen_in_certificates_are_taken_in_for_a_while() {
    let mut w = World::new(&[BAD], &[]);
    w.set(|s| s.federation.blocked_domains.push(block("only.example", false)));
    w.asked();
    w.answer(ask(BAD), &[A], 300);
    w.told();
    w.proved(1, "x.bad.example", "8.8.4.7");
    assert_eq!(w.asked(), [ask("x.bad.example")]);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip("8.8.4.7"), ip(A)])]);
    w.answer(ask("x.bad.example"), &["8.8.4.8"], 300);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip("8.8.4.7"), ip(A), ip("8.8.4.8")])]);
    for stranger in ["xbad.example", "x.only.example", "example.org"] {
        w.proved(2, stranger, "8.8.4.99");
        assert_eq!(w.told(), [], "{stranger}");
    }
    w.proved(1, "only.example", "8.8.4.50");
    assert_eq!(w.told(), [("only.example".to_owned(), vec![ip("8.8.4.50")])]);
    w.put(Input::Closed { connection: ConnectionId(1) });
    w.pass(SEEN_FOR);
    assert_eq!(w.blocked(BAD), [ip(A), ip("8.8.4.8")]);
    assert!(w.blocked("only.example").is_empty());
}

#[test]
fn who_is_connected_when_its_domain_is_blocked_gives_its_address_away() {
    let mut w = World::new(&[], &["fabrikam.example"]);
    w.answer(ask("fabrikam.example"), &[A], 300);
    w.proved(1, "fabrikam.example", "8.8.4.7");
    w.told();
    w.set(|s| {
        s.federation.allowed_domains.clear();
        s.federation.blocked_domains.push(block("fabrikam.example", true));
    });
    // At once, with what DNS said about it as a partner.
    assert_eq!(w.told().last(), Some(&("fabrikam.example".to_owned(), vec![ip("8.8.4.7"), ip(A)])));
    w.set(|s| {
        s.federation.blocked_domains.clear();
        s.federation.allowed_domains.push(allow("fabrikam.example"));
    });
    assert_eq!(w.told(), [("fabrikam.example".to_owned(), vec![])]);
}

#[test]
fn at_most_so_many_addresses_names_and_sightings_a_domain() {
    let mut w = World::new(&[BAD], &[]);
    let many: Vec<String> = (0..1000).map(|n| format!("8.9.{}.{}", n / 250, n % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    w.answer(ask(BAD), &many, 300);
    assert_eq!(w.blocked(BAD).len(), MAX_ADDRESSES);
    assert_eq!(w.report(BAD).refused.len(), MAX_ANSWER - MAX_ADDRESSES);
    assert!(w.report(BAD).refused.iter().all(|r| r.why == Why::Limit));
    for n in 0..100 {
        w.proved(n, &format!("x{n}.bad.example"), &format!("8.10.0.{n}"));
    }
    let report = w.report(BAD);
    assert_eq!((report.blocked.len(), report.names.len()), (MAX_ADDRESSES, MAX_SUBDOMAINS + 1));
    assert_eq!(report.blocked[0], ip("8.10.0.99"), "what was proved comes before what is claimed");
    assert_eq!(
        report.blocked.iter().filter(|a| a.to_string().starts_with("8.10.")).count(),
        MAX_SEEN
    );
}

#[test]
fn dns_is_asked_again_before_the_answer_ends_within_floor_and_ceiling() {
    for (ttl, wait) in [(300, seconds(270)), (0, FLOOR), (5, FLOOR), (90_000, CEILING)] {
        let mut w = World::new(&[BAD], &[]);
        w.asked();
        w.answer(ask(BAD), &[A], ttl);
        w.pass(wait - Duration::from_millis(1));
        assert_eq!(w.asked(), [], "TTL {ttl}");
        w.pass(Duration::from_millis(1));
        assert_eq!(w.asked(), [ask(BAD)], "TTL {ttl}");
    }
}

#[test]
fn while_dns_fails_the_last_good_answer_holds_and_questions_become_rarer() {
    let mut w = World::new(&[BAD], &[]);
    w.answer(ask(BAD), &[A], 300);
    w.pass(seconds(270));
    w.told();
    let mut wait = RETRY;
    for _ in 0..12 {
        w.asked();
        w.fail(ask(BAD), ResolveError::Unavailable);
        w.pass(wait - Duration::from_millis(1));
        assert_eq!(w.asked(), []);
        w.pass(Duration::from_millis(1));
        assert_eq!(w.asked(), [ask(BAD)], "after {wait:?}");
        wait = (wait * 2).min(RETRY_CEILING);
    }
    assert_eq!(w.report(BAD).dns_error.as_deref(), Some("no DNS server answered"));
    assert_eq!((w.blocked(BAD), w.told()), (vec![ip(A)], vec![]));
    w.answer(ask(BAD), &[A], 300);
    assert_eq!(w.report(BAD).dns_error, None);
    // A question that nobody answers has failed.
    w.pass(seconds(270) + ANSWER_WITHIN + RETRY);
    assert_eq!(w.asked(), [ask(BAD), ask(BAD)]);
}

#[test]
fn a_domain_that_takes_its_records_out_stays_blocked_for_a_day() {
    for error in [ResolveError::NotFound, ResolveError::NoService, ResolveError::ForeignTarget] {
        let mut w = World::new(&[BAD], &[]);
        w.answer(ask(BAD), &[A], 300);
        w.pass(seconds(270));
        let end = w.now + ABSENT_FOR;
        let mut turn = 0;
        w.told();
        w.fail(ask(BAD), error);
        while w.now < end {
            assert_eq!(w.blocked(BAD), [ip(A)]);
            w.until_asked(&ask(BAD));
            // Now and then DNS fails altogether: that neither ends the time nor begins it anew.
            turn += 1;
            let silent = w.now < end && turn % 3 == 0;
            w.fail(ask(BAD), if silent { ResolveError::Unavailable } else { error });
        }
        assert_eq!(w.told(), [(BAD.to_owned(), vec![])]);
    }
}

#[test]
fn at_start_blocks_wait_for_those_who_must_not_be_hit_but_not_for_long() {
    let last_good = || Input::LastGood { domain: name(BAD), addresses: vec![ip(A), ip("8.8.7.1")] };
    let mut w = World::new(&[BAD], &["fabrikam.example"]);
    w.put(last_good());
    assert_eq!(w.told(), []);
    w.answer(ask("fabrikam.example"), &["8.8.7.1"], 300);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A)])]);

    let mut w = World::new(&[BAD], &["fabrikam.example"]);
    w.put(last_good());
    w.pass(START_WAIT - Duration::from_millis(1));
    assert_eq!(w.told(), []);
    w.pass(Duration::from_millis(1));
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A), ip("8.8.7.1")])]);
    // Later changes wait for nothing.
    w.set(|s| s.federation.allowed_domains.push(allow("another.example")));
    w.proved(1, BAD, "8.8.4.7");
    assert_eq!(w.told().len(), 1);
}

#[test]
fn before_anything_is_known_the_pins_of_a_former_run_are_left_alone() {
    let mut w = World::new(&[BAD], &[]);
    w.fail(ask(BAD), ResolveError::Unavailable);
    w.pass(seconds(3600));
    assert_eq!(w.told(), []);
    w.put(Input::LastGood { domain: name(BAD), addresses: vec![ip(A)] });
    assert_eq!(w.told(), [(BAD.to_owned(), vec![ip(A)])]);
    let mut w = World::new(&[BAD], &[]);
    w.answer(ask(BAD), &["127.0.0.1"], 300);
    assert_eq!(w.told(), [(BAD.to_owned(), vec![])], "a definite answer is put in force");
}

#[test]
fn good_answers_are_kept_for_the_next_start() {
    let mut w = World::new(&[BAD], &["fabrikam.example"]);
    w.answer(ask("fabrikam.example"), &["8.8.7.1"], 300);
    w.answer(ask(BAD), &[A], 300);
    let persisted = |w: &mut World| -> Vec<(Domain, Vec<IpAddr>)> {
        let one = |o| match o {
            Output::Persist { domain, addresses } => Some((domain, addresses)),
            _ => None,
        };
        std::mem::take(&mut w.outputs).into_iter().filter_map(one).collect()
    };
    assert_eq!(persisted(&mut w), [(name(BAD), vec![ip(A)])]);
    w.pass(seconds(270));
    w.answer(ask(BAD), &[A], 300);
    assert_eq!(persisted(&mut w), [], "nothing new");
}

#[test]
fn questions_are_bounded_at_one_time_and_blocked_domains_have_a_lane_of_their_own() {
    let partners: Vec<String> = (0..500).map(|n| format!("p{n}.example")).collect();
    let partners: Vec<&str> = partners.iter().map(String::as_str).collect();
    let mut w = World::new(&[], &partners);
    let first = w.asked();
    assert_eq!(first.len(), IN_FLIGHT);
    w.set(|s| s.federation.blocked_domains.push(block(BAD, true)));
    assert_eq!(w.asked(), [ask(BAD)], "a new block does not wait for the partners");
    let mut asked: std::collections::HashSet<Question> = first.iter().cloned().collect();
    let mut open = first;
    while let Some(question) = open.pop() {
        w.answer(question, &["8.8.7.1"], 86_400);
        for next in w.asked() {
            assert!(asked.insert(next.clone()), "{next:?} asked twice");
            open.push(next);
        }
    }
    assert_eq!(asked.len(), 500);
}

#[test]
fn answers_nobody_waits_for_change_nothing() {
    let mut w = World::new(&[BAD], &[]);
    w.answer(ask("other.example"), &[A], 300);
    w.answer(ask(BAD), &[A], 300);
    w.told();
    w.answer(ask(BAD), &[B], 300);
    assert_eq!((w.told(), w.blocked(BAD)), (vec![], vec![ip(A)]));
}

#[test]
fn pinned_servers_and_next_hops_are_asked_for_and_protected() {
    let config = config();
    let mut w = World::new(&[BAD], &[]);
    w.asked();
    let hop = config.inside.next_hops[0].clone();
    let pinned =
        AllowedDomain { proxy_fqdn: Some(name("sip.n.example")), port: 5062, ..allow("n.example") };
    w.set(|s| {
        s.next_hops.push(hop.clone());
        s.federation.allowed_domains.push(pinned);
    });
    let host = Question::Host(name("sip.n.example"), 5062);
    assert_eq!(w.asked(), [Question::NextHop(hop.clone()), host.clone()]);
    w.answer(Question::NextHop(hop), &["8.8.6.1"], 300);
    w.answer(host, &["8.8.6.2"], 300);
    w.answer(ask(BAD), &["8.8.6.1", "8.8.6.2"], 300);
    assert!(w.blocked(BAD).is_empty());
    assert_eq!(
        w.refused(BAD),
        ["8.8.6.1 also a next hop of ours", "8.8.6.2 also an edge of allowed partner n.example"]
    );
    assert_eq!(w.report(BAD).refused[0].why, Why::Shared(Protection::NextHop));
    assert_ne!(w.report(BAD).refused[0].why, Why::Fault(AddressFault::Ours));
}
