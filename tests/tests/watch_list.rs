//! Discovered partners that send too much, seen from outside: slowed down, watched, listed, blocked
//! in the kernel, kept over a restart, forgiven.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use edge_ebpf::verdict::Reason;
use edge_tests::{
    demo::world::{contoso_access, contoso_config, user},
    lab::{
        Lab,
        certs::Identity,
        counters::Counters,
        daemon::Edge,
        layout::Site,
        netns::Namespace,
        sipp::{self, Agent, Carrier, Dialogue, Play, SERVER_PORT},
        stunnel::{Stunnel, Tunnel},
        tls_client::{Caller, SipClient, request},
    },
    patience::{BUSY, eventually},
};
use serde_json::Value;

/// What the tests wait for happens at once or after a disk and a task; a busy machine is slow.
const PATIENCE: Duration = BUSY;

/// Contoso's edge, which discovers everybody but Fabrikam, and a server inside that knows no user.
struct World {
    contoso: Edge,
    lab: Lab,
}

impl World {
    fn raise(tag: &str) -> Self {
        let lab = Lab::raise(tag).unwrap();
        let mut config = contoso_config(&lab);
        config.allowed = vec![Site::Fabrikam.domain()];
        let lines = ["discovery = true", "[federation.throttle]", "distinct_users = 10"];
        config.federation.extend(lines.map(str::to_owned));
        nobody_home(lab.inside(Site::Contoso));
        let contoso = Edge::start(&lab, config).unwrap();
        Self { contoso, lab }
    }

    fn identity(&self, site: Site) -> &Identity {
        match site {
            Site::Adatum => &self.lab.identities.adatum,
            Site::Northwind => &self.lab.identities.northwind,
            _ => &self.lab.identities.fabrikam,
        }
    }

    /// Somebody at this site, with the certificate of that one.
    fn session(&self, at: Site, with: Site, to: SocketAddr) -> SipClient {
        let caller = Caller {
            namespace: self.lab.site(at),
            from: None,
            identity: Some(self.identity(with)),
            trust: &self.lab.identities.trust,
        };
        caller.tls(to, &Site::Contoso.host()).unwrap()
    }

    fn show(&self, site: Site) -> Value {
        self.contoso.json(&["partner", "show", &site.domain()]).unwrap()
    }

    fn watch_list(&self) -> Vec<Value> {
        let list = self.contoso.json(&["partner", "list", "--watch"]).unwrap();
        list.as_array().unwrap().clone()
    }

    fn partner(&self, arguments: &[&str]) -> String {
        let mut all = vec!["partner"];
        all.extend(arguments);
        let answer = self.contoso.command(&all).unwrap();
        assert_eq!(answer.code, 0, "{all:?}: {}", answer.stderr);
        answer.stdout
    }

    /// Packets of Adatum's edge are dropped as a blocked partner's.
    fn dropped(&self, to: SocketAddr) -> bool {
        !self.answered(Site::Adatum, to)
    }

    /// Somebody at this site gets a connection. That nobody does is certain only when the program
    /// has counted the drop: on a machine that is busy an answer may be late.
    fn answered(&self, at: Site, to: SocketAddr) -> bool {
        let counters = Counters::open(self.contoso.pins()).unwrap();
        let counted = || counters.packets(Reason::BlockedDomain).unwrap();
        let (before, began) = (counted(), Instant::now());
        let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(700)).is_ok();
        while !self.lab.site(at).run(connect).unwrap() {
            if counted() > before {
                return false;
            }
            assert!(began.elapsed() < PATIENCE, "{to}: no answer, and nobody counts a drop");
        }
        true
    }

    /// Adatum writes to one user more than it may; says what the last answer was.
    fn enumerate(&self, to: SocketAddr, users: u32) -> (SipClient, u16) {
        let mut session = self.session(Site::Adatum, Site::Adatum, to);
        let mut last = 0;
        for number in 0..users {
            last = message(&mut session, Site::Adatum, &format!("user{number}@contoso.example")).0;
            assert!(last == 404 || number == users - 1, "{number}: {last}");
        }
        (session, last)
    }
}

/// Status and text of what a message is answered with.
fn message(session: &mut SipClient, from: Site, to: &str) -> (u16, String) {
    let answer = session.ask(&request("MESSAGE", &user(from), to, &from.host())).unwrap();
    (answer.status, answer.text)
}

/// A server inside that answers every request with 404.
fn nobody_home(inside: &Namespace) {
    let at = SocketAddr::new(IpAddr::V4(Site::Contoso.server4()), SERVER_PORT);
    let listener = inside.listen(at).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let mut reader = BufReader::new(stream);
                while let Some(answer) = not_found(&mut reader) {
                    if writer.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn not_found(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut answer = "SIP/2.0 404 Not Found\r\n".to_owned();
    let mut body = 0;
    let mut first = true;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() && first {
            continue;
        }
        if line.is_empty() {
            break;
        }
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        match name.as_str() {
            "via" | "from" | "call-id" | "cseq" => answer += &format!("{line}\r\n"),
            "to" => answer += &format!("{line};tag=nobody\r\n"),
            "content-length" => body = line.split(':').nth(1)?.trim().parse().ok()?,
            _ => {}
        }
        first = false;
    }
    reader.read_exact(&mut vec![0; body]).ok()?;
    Some(answer + "Content-Length: 0\r\n\r\n")
}

#[test]
fn a_domain_is_explained_with_what_dns_says_of_it() {
    let world = World::raise("wex");
    let explain = |domain: &str| {
        let answer = world.contoso.command(&["explain", "domain", domain]).unwrap();
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        answer.stdout
    };
    let known = explain(&Site::Adatum.domain());
    let line = format!("dns        {} port 5061 at ", Site::Adatum.host());
    let told = known.lines().find(|said| said.starts_with(&line));
    let both = [Site::Adatum.v4().to_string(), Site::Adatum.v6().to_string()];
    assert!(told.is_some_and(|told| both.iter().all(|one| told.contains(one))), "{known}");
    let nobody = explain("nobody.example");
    assert!(nobody.starts_with("nobody.example federates as discovered"), "{nobody}");
    assert!(nobody.contains("no DNS record (_sipfederationtls._tcp.nobody.example"), "{nobody}");
}

#[test]
fn one_that_enumerates_users_is_listed_and_blocked_until_it_is_forgiven() {
    let mut world = World::raise("wen");
    let [to4, to6] = contoso_access();
    let name = Site::Adatum.domain();
    let (mut session, last) = world.enumerate(to4, 11);
    assert_eq!(last, 403, "{}", world.contoso.log());
    assert!(session.closed_within(PATIENCE), "its connection stays open");
    eventually("its packets are not dropped", || world.dropped(to4));
    assert!(world.answered(Site::Adatum, to6), "only where it sent from is blocked");
    assert!(world.answered(Site::Fabrikam, to4), "only it is blocked");

    // Its end sees that the connection is closed a moment before it is taken off the list.
    eventually("its connection is listed", || {
        world.show(Site::Adatum)["connections"] == Value::Array(vec![])
    });
    let told = world.show(Site::Adatum);
    assert_eq!(told["kind"], "discovered-domain", "{told:#}");
    assert_eq!((&told["messages_in"], &told["messages_out"]), (&10.into(), &10.into()), "{told:#}");
    assert_eq!(told["refusals"][0]["reason"], "watch-listed", "{told:#}");
    let watched = &told["watch"][0];
    assert_eq!(watched["standing"], "listed", "{told:#}");
    assert_eq!(watched["source"], format!("{}/32", Site::Adatum.v4()));
    assert_eq!(watched["blocked_in_kernel"], true, "{told:#}");
    let evidence = &watched["evidence"];
    assert_eq!((&evidence["messages"], &evidence["distinct_users"]), (&11.into(), &11.into()));
    assert_eq!(evidence["finals"], serde_json::json!([0, 0, 11, 0, 0]), "{told:#}");
    let samples = evidence["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 8);
    assert_eq!((&samples[0]["status"], &samples[7]["status"]), (&404.into(), &403.into()));
    assert!(!told.to_string().contains("user3@"), "users of ours are not named");
    let certificates = evidence["certificates"].as_array().unwrap();
    assert_eq!(certificates.len(), 1, "{told:#}");
    assert!(certificates[0]["description"].as_str().unwrap().contains("adatum"), "{told:#}");
    let text = world.partner(&["show", &name]);
    assert!(text.contains("listed for") && text.contains("kernel: blocked"), "{text}");
    assert!(world.partner(&["list", "--watch"]).contains(&name));
    let blocks = world.contoso.json(&["block", "list"]).unwrap().to_string();
    assert!(blocks.contains(r#""watch":"adatum.example""#), "{blocks}");

    // It outlives an orderly stop and a sudden end, also while nobody runs.
    world.contoso.stop().unwrap();
    assert!(world.dropped(to4), "the kernel let go of it");
    world.contoso.run().unwrap();
    assert_eq!(world.watch_list()[0]["standing"], "listed");
    assert_eq!(world.watch_list()[0]["evidence"]["messages"], 11);
    assert!(world.dropped(to4), "the next run let go of it");
    world.contoso.kill().unwrap();
    world.contoso.run().unwrap();
    eventually("the block is not claimed", || {
        world.watch_list()[0]["blocked_in_kernel"] == true && world.dropped(to4)
    });

    assert!(world.partner(&["forgive", &name]).contains("is forgiven"));
    assert!(world.answered(Site::Adatum, to4), "forgiven, and still dropped");
    assert!(world.watch_list().is_empty());
    let mut session = world.session(Site::Adatum, Site::Adatum, to4);
    assert_eq!(message(&mut session, Site::Adatum, "ann@contoso.example").0, 404);
    assert!(world.partner(&["forgive", &name]).contains("nothing was held"));
}

#[test]
fn an_entry_ends_the_record_and_a_block_takes_the_domain() {
    let world = World::raise("wal");
    let [to4, to6] = contoso_access();
    let name = Site::Adatum.domain();
    // From its /64 this time.
    let (_, last) = world.enumerate(to6, 11);
    assert_eq!(last, 403);
    eventually("its packets are not dropped", || world.dropped(to6));
    assert_eq!(world.watch_list()[0]["source"], "2001:db8:4::/64", "{:#?}", world.watch_list());

    assert!(world.partner(&["allow", &name]).contains("is allowed"));
    assert!(world.answered(Site::Adatum, to6), "allowed, and still dropped");
    assert!(world.watch_list().is_empty());
    // And it is not watched any more.
    let (_session, last) = world.enumerate(to6, 15);
    assert_eq!(last, 404);
    assert_eq!(world.show(Site::Adatum)["kind"], "allowed-domain");
    let list = world.partner(&["list", "--kind", "allowed-domain"]);
    assert!(list.contains(&name) && list.contains("fabrikam.example"), "{list}");

    world.partner(&["block", &name]);
    eventually("the blocked domain's packets pass", || world.dropped(to4) && world.dropped(to6));
    assert_eq!(world.show(Site::Adatum)["reason"], "domain-blocked");
}

#[test]
fn a_flood_is_slowed_down_and_said_why() {
    let world = World::raise("wfl");
    let [to4, _] = contoso_access();
    let mut session = world.session(Site::Northwind, Site::Northwind, to4);
    // The first message finds out who it is.
    assert_eq!(message(&mut session, Site::Northwind, "ann@contoso.example").0, 404);
    let one = || {
        request("MESSAGE", &user(Site::Northwind), "ann@contoso.example", &Site::Northwind.host())
    };
    let flood: String = (0..200).map(|_| one()).collect();
    let began = Instant::now();
    session.write(flood.as_bytes()).unwrap();
    let answers: Vec<_> = (0..200).map(|_| session.response().unwrap()).collect();
    let took = began.elapsed();
    let slowed: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    // 20 at once, and 20 a second for as long as it took.
    let most = 20 + took.as_secs() as usize * 20 + 20;
    let passed = 200 - slowed.len();
    assert!((15..=most).contains(&passed), "{passed} of 200 in {took:?}");
    for answer in slowed {
        let wait = answer.text.lines().find_map(|line| line.strip_prefix("Retry-After: ")).unwrap();
        assert!((5..=15).contains(&wait.parse::<u32>().unwrap()), "{wait}");
        assert!(answer.text.contains("throttled"), "{}", answer.text);
    }
    let told = world.show(Site::Northwind);
    let watched = &told["watch"][0];
    // Twenty answers, and most of them failures.
    assert_eq!(watched["standing"], "suspicious", "{told:#}");
    assert_eq!(watched["blocked_in_kernel"], false);
    assert_eq!(watched["evidence"]["messages"], 201);
    assert_eq!(told["refusals"].as_array().unwrap().len(), 8);
    assert_eq!(told["refusals"][7]["reason"], "throttled");
    assert_eq!(told["connections"][0]["proved"][0], Site::Northwind.domain(), "{told:#}");
    assert!(told["connections"][0]["expires_at"].as_u64().unwrap() > 0, "{told:#}");
    assert!(!world.dropped(to4), "who is slowed down is not blocked");
    // An allowed partner is not slowed, however much it sends.
    let mut fabrikam = world.session(Site::Fabrikam, Site::Fabrikam, to4);
    for _ in 0..50 {
        assert_eq!(message(&mut fabrikam, Site::Fabrikam, "ann@contoso.example").0, 404);
    }
}

#[test]
fn sipp_behind_stunnel_that_floods_is_slowed_down() {
    let world = World::raise("wsi");
    let site = Site::Adatum;
    let inside = SocketAddr::new(IpAddr::V4(site.edge_inside4()), SERVER_PORT);
    let tunnel = Tunnel { accept: inside, connect: contoso_access()[0], client: true };
    let (lab, ids) = (&world.lab, &world.lab.identities);
    let dir = lab.dir().join("stunnel");
    let _stunnel =
        Stunnel::start(lab.site(site), &dir, &ids.adatum, &ids.trust, &[tunnel]).unwrap();
    let agent = Agent {
        namespace: lab.inside(site),
        address: IpAddr::V4(site.server4()),
        carrier: Carrier::Tcp,
    };
    // Of 300 a second twenty may come.
    let count = 600;
    let once = Dialogue::once(Play::Message, &user(site), &user(Site::Contoso));
    let flood = Dialogue { count, rate: 300, ..once };
    let sender = sipp::sender(&agent, lab.dir(), &flood, inside).unwrap();
    assert!(sender.finish(PATIENCE * 3).is_err(), "nobody is at home, and sipp was content");
    let told = world.show(site);
    let watched = &told["watch"][0];
    assert_eq!(watched["standing"], "suspicious", "{told:#}");
    let finals = &watched["evidence"]["finals"];
    let of = |class: usize| finals[class - 2].as_u64().unwrap();
    assert!(of(4) >= 20 && of(5) >= u64::from(count) / 3, "{told:#}");
    assert_eq!(told["refusals"][7]["reason"], "throttled", "{told:#}");
}

#[test]
fn an_address_that_another_partner_uses_is_not_blocked_nor_when_it_has_just_left() {
    let world = World::raise("wsh");
    let [to4, _] = contoso_access();
    // Northwind is at Adatum's address too, as behind one host.
    let mut honest = world.session(Site::Adatum, Site::Northwind, to4);
    assert_eq!(message(&mut honest, Site::Northwind, "ann@contoso.example").0, 404);
    let (mut session, last) = world.enumerate(to4, 11);
    assert_eq!(last, 403);
    assert!(session.closed_within(PATIENCE), "its connection stays open");
    eventually("why it is not blocked is not said", || {
        let told = world.show(Site::Adatum);
        told["watch"][0]["not_blocked"] == "partner northwind.example is connected from there"
    });
    assert!(world.answered(Site::Adatum, to4), "a shared address is blocked");
    assert!(world.partner(&["show", &Site::Adatum.domain()]).contains("kernel: not blocked: "));
    // The proxy refuses it all the same, and the honest one passes.
    let mut again = world.session(Site::Adatum, Site::Adatum, to4);
    assert_eq!(message(&mut again, Site::Adatum, "ann@contoso.example").0, 403);
    assert_eq!(message(&mut honest, Site::Northwind, "ann@contoso.example").0, 404);
    // It hangs up between two messages, and comes again: the driver lets it in.
    drop(honest);
    eventually("that it has left is not told", || {
        world.show(Site::Adatum)["watch"][0]["not_blocked"]
            == "partner northwind.example was connected from there within the last day"
    });
    assert!(!world.dropped(to4), "who left a moment ago is shut out");
    let mut honest = world.session(Site::Adatum, Site::Northwind, to4);
    assert_eq!(message(&mut honest, Site::Northwind, "ann@contoso.example").0, 404);
    drop(honest);
    // The administrator's own block does not wait for it.
    world.partner(&["block", &Site::Adatum.domain()]);
    eventually("a blocked domain's packets pass", || world.dropped(to4));
}

#[test]
fn a_corrupt_watch_list_is_an_alarm_nothing_else_is_lost_and_strangers_are_slowed() {
    let mut world = World::raise("wco");
    let [to4, _] = contoso_access();
    world.enumerate(to4, 11);
    world.contoso.json(&["domain", "block", "else.example"]).unwrap();
    let file = world.contoso.dir().join("state/watch.json");
    eventually("the list is not on disk", || file.exists());
    world.contoso.stop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    world.contoso.run().unwrap();
    let alarms = world.contoso.status().unwrap()["alarms"].to_string();
    assert!(alarms.contains("watch.json is corrupt"), "{alarms}");
    assert!(alarms.contains("slowed down"), "{alarms}");
    assert!(world.contoso.domain_is("else.example", "blocked").unwrap());
    // Who was listed is not known: whoever is not known may send one message a second.
    let mut session = world.session(Site::Northwind, Site::Northwind, to4);
    let one = || {
        request("MESSAGE", &user(Site::Northwind), "ann@contoso.example", &Site::Northwind.host())
    };
    let burst: String = (0..20).map(|_| one()).collect();
    session.write(burst.as_bytes()).unwrap();
    let burst: Vec<u16> = (0..20).map(|_| session.response().unwrap().status).collect();
    let slowed = burst.iter().filter(|status| **status == 503).count();
    assert!(burst.contains(&404) && slowed >= 5, "{burst:?}");
    // Partners with an entry are not concerned.
    let mut fabrikam = world.session(Site::Fabrikam, Site::Fabrikam, to4);
    for _ in 0..8 {
        assert_eq!(message(&mut fabrikam, Site::Fabrikam, "ann@contoso.example").0, 404);
    }
}

/// `edge partner reset`: a partner's connections end, over both families, and it may come again.
#[test]
fn a_reset_ends_a_partners_connections_and_nobody_elses() {
    let world = World::raise("wreset");
    for to in contoso_access() {
        let mut other = world.session(Site::Fabrikam, Site::Fabrikam, to);
        let mut session = world.session(Site::Adatum, Site::Adatum, to);
        for (session, site) in [(&mut other, Site::Fabrikam), (&mut session, Site::Adatum)] {
            assert_eq!(message(session, site, "user1@contoso.example").0, 404);
        }
        let name = Site::Adatum.domain();
        let reset = world.contoso.json(&["partner", "reset", &name]).unwrap();
        assert_eq!(reset["connections"], 1, "{reset}\n{}", world.contoso.log());
        eventually("its connections have ended", || {
            world.show(Site::Adatum)["connections"].as_array().map(Vec::len) == Some(0)
        });
        drop(session);
        assert_eq!(message(&mut other, Site::Fabrikam, "user2@contoso.example").0, 404);
        let mut again = world.session(Site::Adatum, Site::Adatum, to);
        assert_eq!(message(&mut again, Site::Adatum, "user1@contoso.example").0, 404);
        let text = world.partner(&["reset", &name]);
        assert!(text.contains("1 connections ended"), "{text}");
    }
}
