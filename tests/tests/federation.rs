//! Two organisations federate through two daemons: the demo's steps, who is refused, and what
//! an administrator may change while the daemon runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{SocketAddr, UdpSocket},
    sync::MutexGuard,
    time::Duration,
};

use edge_tests::{
    demo::{
        self,
        world::{Shared, World, contoso_access, user},
    },
    lab::{
        certs::Identity,
        dns::Record,
        impostor::Impostor,
        layout::Site,
        recorder::Recorder,
        sipp::{self, Carrier, Dialogue, Play, SERVER_PORT},
        tls_client::{SipClient, request},
    },
    patience::{BUSY, eventually},
};

static WORLD: Shared = Shared::new();

fn world() -> MutexGuard<'static, World> {
    WORLD.lock(|| World::raise("fed"))
}

/// A partner's connection to Contoso, from the site's own place.
fn connect(world: &World, site: Site, identity: &Identity) -> SipClient {
    let caller = world.caller(site, Some(identity));
    caller.tls(contoso_access()[0], &Site::Contoso.host()).unwrap()
}

#[test]
fn every_step_of_the_demo_holds() {
    // A world of its own: what the other tests allow at runtime is no part of the demo.
    let report = demo::play(&mut World::raise("steps").unwrap(), |_, _| {});
    assert!(report.ok(), "\n{}", report.to_table());
}

#[test]
fn either_side_may_hang_up_and_a_caller_may_give_up() {
    let world = world();
    for (from, to) in [(Site::Contoso, Site::Fabrikam), (Site::Fabrikam, Site::Contoso)] {
        for play in [Play::HangUp, Play::Cancel] {
            let result = world.play(play, from, to, Carrier::Tcp);
            assert!(result.is_ok(), "{play:?} from {}: {result:?}", from.name());
        }
    }
}

#[test]
fn any_method_passes_and_foreign_headers_and_bodies_arrive_byte_for_byte() {
    let world = world();
    let at = SocketAddr::new(Site::Contoso.server4().into(), SERVER_PORT);
    let recorder = Recorder::start(world.lab.inside(Site::Contoso), at).unwrap();
    let mut partner = connect(&world, Site::Fabrikam, &world.lab.identities.fabrikam);
    let foreign = "X-Odd :  two  spaces\tand a tab \r\nms-thing: a;b=\"c, d\"\r\n";
    let body = b"\x00\xff\r\n\r\nno text \x80 at all";
    for method in ["SERVICE", "BENOTIFY", "XYZZY", "INFO"] {
        let text =
            request(method, &user(Site::Fabrikam), &user(Site::Contoso), &Site::Fabrikam.host());
        let (head, _) = text.split_once("Content-Length").unwrap();
        let mut message = format!("{head}{foreign}Content-Length: {}\r\n\r\n", body.len());
        message = message.replace("text/plain", "application/octet-stream");
        partner.write(message.as_bytes()).unwrap();
        partner.write(body).unwrap();
        let received = recorder.next(BUSY).unwrap();
        let shown = String::from_utf8_lossy(&received).into_owned();
        let has = |part: &[u8]| received.windows(part.len()).any(|window| window == part);
        assert!(received.starts_with(format!("{method} ").as_bytes()), "{shown:?}");
        assert!(has(foreign.as_bytes()) && received.ends_with(body), "{shown:?}");
        // BENOTIFY is the one that is never answered (MS-SIP section 2.2.1).
        if method != "BENOTIFY" {
            assert_eq!(partner.response().unwrap().status, 200, "{method}");
        }
    }
    // What two neighbours agree on is not passed on: the peer goes on uncompressed.
    let (ours, theirs) = (user(Site::Contoso), user(Site::Fabrikam));
    let negotiate = request("NEGOTIATE", &theirs, &ours, &Site::Fabrikam.host());
    assert_eq!(partner.ask(&negotiate).unwrap().status, 405);
}

/// Through the driver, which takes what cannot be SIP off the ports in the clear.
#[test]
fn odd_methods_and_schemes_of_rfc_4475_reach_the_daemon_and_are_answered() {
    let world = world();
    let server = SocketAddr::new(Site::Contoso.server4().into(), 0);
    let socket = world.lab.inside(Site::Contoso).run(|| UdpSocket::bind(server)).unwrap().unwrap();
    socket.set_read_timeout(Some(BUSY)).unwrap();
    for (start, expected) in [
        ("OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0", "416"),
        ("OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0", "416"),
        ("INVITE <sip:bob@nobody.example> SIP/2.0", "400"),
        ("INVITE  sip:bob@nobody.example  SIP/2.0", "400"),
        ("!interesting-Method0123456789_*+`.%indeed'~ sip:bob@nobody.example SIP/2.0", "403"),
        ("RE%47IST%45R sip:bob@nobody.example SIP/2.0", "403"),
    ] {
        let method = start.split(' ').next().unwrap();
        let text = request(method, &user(Site::Contoso), "bob@nobody.example", "server.example");
        let (_, rest) = text.split_once("\r\n").unwrap();
        let text = format!("{start}\r\n{rest}").replacen("SIP/2.0/TLS", "SIP/2.0/UDP", 1);
        let text = text.replacen(";branch=", ";rport;branch=", 1);
        socket.send_to(text.as_bytes(), world.contoso.config.inside_address()).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{start}: {error}"));
        let answer = String::from_utf8_lossy(&buffer[..length]);
        assert!(answer.starts_with(&format!("SIP/2.0 {expected} ")), "{start}: {answer}");
    }
}

#[test]
fn a_user_agent_on_udp_reaches_a_partner() {
    let world = world();
    for play in [Play::Message, Play::Call] {
        world.play(play, Site::Contoso, Site::Fabrikam, Carrier::Udp).unwrap();
    }
}

#[test]
fn a_trusted_certificate_that_does_not_prove_the_from_domain_is_refused() {
    let world = world();
    let ids = &world.lab.identities;
    let message = || request("MESSAGE", &user(Site::Fabrikam), &user(Site::Contoso), "edge");
    for (what, identity) in [
        ("a host of another domain that begins alike", &ids.evil),
        ("a domain that ends alike", &ids.look_alike),
        ("a host of the domain that no SRV record names", &ids.other_host),
    ] {
        let before = world.contoso.refusals("identity-not-proved").unwrap();
        let answer = connect(&world, Site::Evil, identity).ask(&message()).unwrap();
        assert_eq!(answer.status, 403, "{what}: {}", answer.text);
        let after = world.contoso.refusals("identity-not-proved").unwrap();
        assert_eq!(after, before + 1, "{what}");
    }
}

#[test]
fn a_certificate_that_does_not_validate_gets_no_session() {
    let world = world();
    let ids = &world.lab.identities;
    for (what, identity, count) in [
        ("expired", &ids.expired, "handshake.certificate-expired"),
        ("self-signed", &ids.self_signed, "handshake.unknown-authority"),
        ("of an unknown authority", &ids.unknown_authority, "handshake.unknown-authority"),
    ] {
        let before = world.contoso.count(count).unwrap();
        for to in contoso_access() {
            let caller = world.caller(Site::Fabrikam, Some(identity));
            let message = request("MESSAGE", &user(Site::Fabrikam), &user(Site::Contoso), "edge");
            let outcome =
                caller.tls(to, &Site::Contoso.host()).and_then(|mut tls| tls.ask(&message));
            assert!(outcome.is_err(), "{what}: {outcome:?}");
        }
        // Each is counted a moment after it was told.
        let counted = || world.contoso.count(count).unwrap() - before;
        eventually(what, || counted() >= 2);
        assert_eq!(counted(), 2, "{what}");
    }
}

#[test]
fn what_a_partner_may_not_say_is_refused_with_its_reason() {
    let world = world();
    let ids = &world.lab.identities;
    let (contoso, fabrikam) = (user(Site::Contoso), user(Site::Fabrikam));
    let other = user(Site::Adatum);
    let rows: [(Site, &Identity, &str, &str, &str); 4] = [
        (Site::Fabrikam, &ids.fabrikam, &contoso, &contoso, "spoofed"),
        (Site::Fabrikam, &ids.fabrikam, &other, &contoso, "identity-not-proved"),
        (Site::Fabrikam, &ids.fabrikam, &fabrikam, &other, "transit"),
        (Site::Evil, &ids.evil, "mallory@evil.example", &contoso, "domain-not-allowed"),
    ];
    for (site, identity, from, to, reason) in rows {
        let before = world.contoso.refusals(reason).unwrap();
        let message = request("MESSAGE", from, to, &site.host());
        let answer = connect(&world, site, identity).ask(&message).unwrap();
        assert_eq!(answer.status, 403, "{from} to {to}: {}", answer.text);
        assert_eq!(world.contoso.refusals(reason).unwrap(), before + 1, "{from} to {to}");
    }
}

#[test]
fn an_inside_server_speaks_for_our_domains_only() {
    let world = world();
    let caller = edge_tests::lab::tls_client::Caller {
        namespace: world.lab.inside(Site::Contoso),
        ..world.caller(Site::Contoso, None)
    };
    let mut client = caller.plain(world.contoso.config.inside_address()).unwrap();
    let before = world.contoso.refusals("not-our-user").unwrap();
    let message =
        request("MESSAGE", &user(Site::Northwind), &user(Site::Fabrikam), "server.contoso.example")
            .replace("SIP/2.0/TLS", "SIP/2.0/TCP");
    assert_eq!(client.ask(&message).unwrap().status, 403);
    assert_eq!(world.contoso.refusals("not-our-user").unwrap(), before + 1);
}

#[test]
fn an_impostor_at_a_partners_address_is_told_nothing() {
    let mut world = world();
    let (domain, host) = ("wingtip.example", "sip.wingtip.example");
    let address = Site::Evil.v4().into();
    let records = vec![Record::federation(domain, host, 5061), Record::address(host, address)];
    world.lab.dns.replace(records).unwrap();
    world.contoso.json(&["domain", "allow", domain]).unwrap();
    let at = SocketAddr::new(address, 5061);
    let evil = world.lab.site(Site::Evil);
    let impostor = Impostor::start(evil, at, &world.lab.identities.evil).unwrap();

    let caller = edge_tests::lab::tls_client::Caller {
        namespace: world.lab.inside(Site::Contoso),
        ..world.caller(Site::Contoso, None)
    };
    let message = request("MESSAGE", &user(Site::Contoso), "erin@wingtip.example", "server")
        .replace("SIP/2.0/TLS", "SIP/2.0/TCP");
    let before = world.contoso.refusals("tls-failed").unwrap();
    let mut client = caller.plain(world.contoso.config.inside_address()).unwrap();
    let answer = client.ask(&message).unwrap();
    assert!(answer.status >= 400, "{}", answer.text);
    assert_eq!(world.contoso.refusals("tls-failed").unwrap(), before + 1);
    assert_eq!(String::from_utf8_lossy(&impostor.told().unwrap()), "");
    world.contoso.json(&["domain", "remove", domain]).unwrap();
}

#[test]
fn domains_changed_at_runtime_stay_changed_after_a_restart() {
    let mut world = world();
    let edge = &world.contoso;
    edge.json(&["domain", "allow", "new.example", "--server", "sip.new.example"]).unwrap();
    edge.json(&["domain", "block", "adatum.example"]).unwrap();
    edge.json(&["domain", "remove", "fabrikam.example"]).unwrap();
    let told = edge.json(&["status"]).unwrap()["differences"].to_string();
    for name in ["new.example", "adatum.example", "fabrikam.example"] {
        assert!(told.contains(name), "status lists what is not as in the file: {told}");
    }
    world.contoso.stop().unwrap();
    // Without a daemon the pins can be read, and nothing can be changed.
    for (command, code) in [
        (&["status"][..], 3),
        (&["map", "list"], 0),
        (&["map", "dump", "BLOCKED4"], 0),
        (&["rule", "list"], 0),
        (&["block", "list"], 0),
        (&["domain", "block", "x.example"], 3),
        (&["block", "add", "203.0.113.9"], 3),
        (&["reload"], 3),
    ] {
        let answer = world.contoso.command(command).unwrap();
        assert_eq!(answer.code, code, "{command:?}: {}", answer.stderr);
    }
    let status = world.contoso.command(&["status"]).unwrap().stdout;
    assert!(status.contains("not running") && status.contains("enforcing"), "{status}");
    // Every change is in the log with who asked for it; questions are not.
    let log = world.contoso.log();
    let changes = || log.lines().filter(|line| line.contains("an administrator changed"));
    for change in ["DomainAllow", "DomainBlock", "DomainRemove"] {
        assert!(changes().any(|l| l.contains("uid 0 pid ") && l.contains(change)), "{log}");
    }
    assert!(!changes().any(|line| line.contains("Status")), "{log}");
    world.contoso.run().unwrap();

    let edge = &world.contoso;
    let new = edge.domain("new.example").unwrap().unwrap();
    assert_eq!((&new["state"], &new["server"]), (&"allowed".into(), &"sip.new.example".into()));
    assert!(edge.domain_is("adatum.example", "blocked").unwrap());
    assert!(!edge.domain_is("fabrikam.example", "allowed").unwrap());
    let dump = edge.json(&["map", "dump", "BLOCKED4"]).unwrap().to_string();
    assert!(dump.contains(&Site::Adatum.v4().to_string()), "{dump}");

    edge.json(&["domain", "unblock", "adatum.example"]).unwrap();
    edge.json(&["domain", "remove", "new.example"]).unwrap();
    edge.json(&["domain", "allow", "fabrikam.example"]).unwrap();
    assert!(edge.domain("new.example").unwrap().is_none());
    assert!(!edge.domain_is("adatum.example", "blocked").unwrap());
    world.play(Play::Message, Site::Fabrikam, Site::Contoso, Carrier::Tcp).unwrap();
}

#[test]
fn a_reload_drops_no_connection_and_a_bad_file_changes_nothing() {
    let mut world = world();
    let fabrikam = world.lab.identities.fabrikam.clone();
    let mut partner = connect(&world, Site::Fabrikam, &fabrikam);
    let dialogue = Dialogue {
        count: 3,
        ..Dialogue::once(Play::Message, &user(Site::Fabrikam), &user(Site::Contoso))
    };
    let agent = world.agent(Site::Contoso, Carrier::Tcp);
    let receiver = sipp::receiver(&agent, world.lab.dir(), &dialogue).unwrap();
    let say = |partner: &mut SipClient| {
        let message =
            request("MESSAGE", &user(Site::Fabrikam), &user(Site::Contoso), &Site::Fabrikam.host());
        partner.ask(&message).unwrap().status
    };
    assert_eq!(say(&mut partner), 200);

    let plain = world.contoso.config.clone();
    world.contoso.config = plain.clone().allow("later.example");
    world.contoso.write_config().unwrap();
    world.contoso.json(&["reload"]).unwrap();
    assert!(world.contoso.domain_is("later.example", "allowed").unwrap());
    assert_eq!(say(&mut partner), 200, "after a good reload");

    std::fs::write(world.contoso.file(), "[edge\nfqdn = 1").unwrap();
    let answer = world.contoso.command(&["reload"]).unwrap();
    assert_ne!(answer.code, 0);
    world.contoso.write_config().unwrap();
    assert!(world.contoso.domain_is("later.example", "allowed").unwrap());
    assert_eq!(say(&mut partner), 200, "after a bad reload");
    receiver.finish(BUSY).unwrap();

    world.contoso.config = plain;
    world.contoso.write_config().unwrap();
    world.contoso.json(&["reload"]).unwrap();
    assert!(world.contoso.domain("later.example").unwrap().is_none());
}

#[test]
fn a_reload_whose_listener_cannot_be_had_changes_nothing() {
    let world = world();
    let ids = &world.lab.identities;
    let shown = || connect(&world, Site::Fabrikam, &ids.fabrikam).server_certificate();
    let old = shown();
    let renewed = ids.authority.issue("unused", &["sip.contoso.example", "contoso.example"], &[]);
    let renewed = renewed.unwrap();
    let good = std::fs::read_to_string(world.contoso.file()).unwrap();
    let path = |path: &std::path::Path| path.display().to_string();
    let bad = good
        .replace(&format!("\"{}:5061\"", Site::Contoso.v4()), "\"192.0.2.77:5061\"")
        .replace(&path(&ids.contoso.certificate), &path(&renewed.certificate))
        .replace(&path(&ids.contoso.key), &path(&renewed.key))
        + "\n[[firewall.rule]]\nname = \"never\"\nzone = \"external\"\nprotocol = \"tcp\"\n\
           ports = [4444]\n[[federation.allowed_domain]]\ndomain = \"never.example\"\n";
    std::fs::write(world.contoso.file(), bad).unwrap();
    let answer = world.contoso.command(&["reload"]).unwrap();
    world.contoso.write_config().unwrap();
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("192.0.2.77:5061"), "{}", answer.stderr);
    assert_eq!(shown(), old, "the certificate is the old one, at the old address");
    let rules = world.contoso.json(&["rule", "list"]).unwrap().to_string();
    assert!(rules.contains("5061") && !rules.contains("never"), "{rules}");
    assert!(world.contoso.domain("never.example").unwrap().is_none());
}

#[test]
fn a_reload_shows_a_new_certificate_and_keeps_the_old_when_the_new_is_bad() {
    let world = world();
    let ids = &world.lab.identities;
    let shown = || connect(&world, Site::Fabrikam, &ids.fabrikam).server_certificate();
    let old = shown();
    // The daemon's own files, so that the shared identities stay as they are.
    let renewed = ids.authority.issue("renewed", &["sip.contoso.example", "contoso.example"], &[]);
    let renewed = renewed.unwrap();
    let keep = [&ids.contoso.certificate, &ids.contoso.key].map(|f| std::fs::read(f).unwrap());
    std::fs::copy(&renewed.certificate, &ids.contoso.certificate).unwrap();
    assert_ne!(world.contoso.command(&["reload"]).unwrap().code, 0, "key and certificate differ");
    assert_eq!(shown(), old);
    std::fs::copy(&renewed.key, &ids.contoso.key).unwrap();
    world.contoso.json(&["reload"]).unwrap();
    assert_ne!(shown(), old);
    for (file, bytes) in [&ids.contoso.certificate, &ids.contoso.key].iter().zip(keep) {
        std::fs::write(file, bytes).unwrap();
    }
    world.contoso.json(&["reload"]).unwrap();
    assert_eq!(shown(), old);
}

/// Who was let in before is no exception, nor is what DNS said before.
#[test]
fn what_a_reload_takes_back_holds_for_what_stands() {
    let mut world = world();
    let at = SocketAddr::new(Site::Contoso.server4().into(), SERVER_PORT);
    let server = Recorder::start(world.lab.inside(Site::Contoso), at).unwrap();
    let fabrikam = world.lab.identities.fabrikam.clone();
    let (ours, theirs) = (user(Site::Contoso), user(Site::Fabrikam));
    let say = |partner: &mut SipClient| {
        let message = request("MESSAGE", &theirs, &ours, &Site::Fabrikam.host());
        partner.ask(&message).unwrap().status
    };
    let plain = world.contoso.config.clone();
    // The authority of its certificate is trusted no longer.
    let mut partner = connect(&world, Site::Fabrikam, &fabrikam);
    assert_eq!(say(&mut partner), 200);
    world.contoso.config.trust = world.lab.identities.dir.join("stranger-trust.pem");
    world.contoso.write_config().unwrap();
    world.contoso.json(&["reload"]).unwrap();
    // At once, not when all are judged again, each minute.
    let closed = partner.closed_within(Duration::from_secs(20));
    world.contoso.config = plain;
    world.contoso.write_config().unwrap();
    world.contoso.json(&["reload"]).unwrap();
    assert!(closed, "{}", world.contoso.log());
    let mut partner = connect(&world, Site::Fabrikam, &fabrikam);
    assert_eq!(say(&mut partner), 200);

    // Its addresses may be used no longer.
    let caller = edge_tests::lab::tls_client::Caller {
        namespace: world.lab.inside(Site::Contoso),
        ..world.caller(Site::Contoso, None)
    };
    let write = || {
        let message = request("MESSAGE", &ours, &theirs, "server");
        let mut server = caller.plain(world.contoso.config.inside_address()).unwrap();
        server.ask(&message.replace("SIP/2.0/TLS", "SIP/2.0/TCP")).unwrap().status
    };
    drop(partner);
    let at = SocketAddr::new(Site::Fabrikam.server4().into(), SERVER_PORT);
    let their_server = Recorder::start(world.lab.inside(Site::Fabrikam), at).unwrap();
    let before = write();
    let good = std::fs::read_to_string(world.contoso.file()).unwrap();
    let (head, rest) = good.split_once("allow_addresses = [").unwrap();
    let (_, rest) = rest.split_once(']').unwrap();
    // What is there may keep its size, and it is said.
    let room = "[firewall]\nmax_blocked_addresses = 4096\n";
    let file = format!("{head}allow_addresses = []{rest}\n{room}");
    std::fs::write(world.contoso.file(), file).unwrap();
    let answer = world.contoso.command(&["reload"]).unwrap();
    let after = write();
    world.contoso.write_config().unwrap();
    world.contoso.json(&["reload"]).unwrap();
    drop((server, their_server));
    assert_eq!((before, after), (200, 504));
    assert!(answer.stdout.contains("block tables keep their size"), "{}", answer.stdout);
    world.play(Play::Message, Site::Fabrikam, Site::Contoso, Carrier::Tcp).unwrap();
}

#[test]
fn the_next_next_hop_is_tried_when_one_fails() {
    let mut world = world();
    let plain = world.contoso.config.clone();
    let dead = format!("sip:{}:5999;transport=tcp", Site::Contoso.server4());
    world.contoso.config.next_hops.insert(0, dead);
    world.contoso.write_config().unwrap();
    world.contoso.json(&["reload"]).unwrap();
    let outcome = world.play(Play::Message, Site::Fabrikam, Site::Contoso, Carrier::Tcp);
    world.contoso.config = plain;
    world.contoso.write_config().unwrap();
    world.contoso.json(&["reload"]).unwrap();
    outcome.unwrap();
}

#[test]
fn a_drained_edge_takes_nothing_new_and_its_dialogs_go_on() {
    let world = world();
    let mut partner = connect(&world, Site::Fabrikam, &world.lab.identities.fabrikam);
    let invite = || {
        let text = request("INVITE", &user(Site::Fabrikam), &user(Site::Contoso), "sip.fabrikam");
        text.replace("Content-Type", "Contact: <sip:a@sip.fabrikam.example>\r\nContent-Type")
    };
    let drained = world.contoso.json(&["drain"]);
    let refused = partner.ask(&invite());
    let status = world.contoso.json(&["status"]);
    let off = world.contoso.json(&["drain", "--off"]);
    assert_eq!(drained.unwrap()["draining"], true);
    let refused = refused.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.text.contains("\r\nRetry-After: 30\r\n"), "{}", refused.text);
    assert_eq!(status.unwrap()["drain"]["draining"], true);
    assert_eq!(off.unwrap()["draining"], false);
    world.play(Play::HangUp, Site::Fabrikam, Site::Contoso, Carrier::Tcp).unwrap();
}

#[test]
fn a_blocked_domain_is_refused_in_both_directions_and_let_in_again_after_unblock() {
    let world = world();
    let name = Site::Fabrikam.domain();
    world.contoso.json(&["domain", "block", &name]).unwrap();
    let caller = edge_tests::lab::tls_client::Caller {
        namespace: world.lab.inside(Site::Contoso),
        ..world.caller(Site::Contoso, None)
    };
    let inside: SocketAddr = world.contoso.config.inside_address();
    let message = request("MESSAGE", &user(Site::Contoso), &user(Site::Fabrikam), "server")
        .replace("SIP/2.0/TLS", "SIP/2.0/TCP");
    let out = caller.plain(inside).and_then(|mut client| client.ask(&message));
    let partner = world.caller(Site::Fabrikam, Some(&world.lab.identities.fabrikam));
    let tls = partner.tls(contoso_access()[0], &Site::Contoso.host());
    world.contoso.json(&["domain", "unblock", &name]).unwrap();
    assert_eq!(out.unwrap().status, 403);
    assert!(tls.is_err(), "a blocked domain's edge must not reach the port");
    world.play(Play::Message, Site::Fabrikam, Site::Contoso, Carrier::Tcp).unwrap();
    assert_eq!(inside.port(), SERVER_PORT);
}
