//! Remote users over TLS on 443, by IPv4 and IPv6, with Kamailio as the registrar inside that asks
//! for their passwords: they register, are called, call, and guessing a password is a ban.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use edge_ebpf::verdict::Reason;
use edge_tests::{
    demo::world::{contoso_config, fabrikam_config},
    lab::{
        Lab,
        config::EdgeConfig,
        counters::Counters,
        daemon::Edge,
        dialogue::{audio, media_address, sdp_of},
        kamailio::Kamailio,
        layout::Site,
        links::Forwarding,
        phone::{PATIENCE, Phone, headers, status},
        rtp::{self, RtpEnd},
        sip_user::SipUser,
        tls_client::{Caller, SipClient},
    },
    patience::eventually,
};

const PASSWORD: &str = "correct horse";
const ALICE: &str = "alice@contoso.example";
/// Another, so that what befalls the one user does not befall the other.
const CAROL: &str = "carol@contoso.example";
const DESK: &str = "desk@contoso.example";

fn config(lab: &Lab) -> EdgeConfig {
    let listen = Site::Contoso.outside().map(|address| format!("\"{}\"", at(address)));
    let mut config = contoso_config(lab);
    config.log_filter = "debug".to_owned();
    config.more = format!(
        "[service.remote]\nlisten = [{}]\n\n\
         [[user_policy]]\nusers = [\"{ALICE}\", \"{CAROL}\"]\noutside = true\n",
        listen.join(", ")
    );
    config
}

fn at(address: std::net::IpAddr) -> SocketAddr {
    SocketAddr::new(address, 443)
}

struct World {
    lab: Lab,
    edge: Edge,
    _kamailio: Kamailio,
}

impl World {
    fn raise(tag: &str) -> Self {
        Self::raise_with(tag, |config| config)
    }

    fn raise_with(tag: &str, change: impl FnOnce(EdgeConfig) -> EdgeConfig) -> Self {
        let lab = Lab::raise(tag).unwrap();
        let edge = Edge::start(&lab, change(config(&lab))).unwrap();
        let kamailio = Kamailio::start_registrar(&lab, PASSWORD).unwrap();
        Self { lab, edge, _kamailio: kamailio }
    }

    fn caller(&self, from: Site) -> Caller<'_> {
        let trust = &self.lab.identities.trust;
        Caller { namespace: self.lab.site(from), from: None, identity: None, trust }
    }

    /// A connection from a site, by one of the families.
    fn connect(&self, from: Site, family: usize) -> anyhow::Result<SipClient> {
        let caller = self.caller(from);
        caller.tls(at(Site::Contoso.outside()[family]), &Site::Contoso.host())
    }

    /// Packets of blocked addresses that the driver dropped.
    fn dropped(&self) -> u64 {
        Counters::open(self.edge.pins()).unwrap().packets(Reason::BlockedAddress).unwrap()
    }

    fn remote(&self, from: Site, family: usize, user: &str, password: &str) -> Phone {
        Phone::new(self.connect(from, family).unwrap(), user, password, "TLS")
    }

    /// A telephone in the organisation; nobody asks it for a password.
    fn desk(&self) -> Phone {
        let caller = Caller {
            namespace: self.lab.inside(Site::Contoso),
            from: None,
            identity: None,
            trust: &self.lab.identities.trust,
        };
        let registrar = SocketAddr::new(Site::Contoso.server4().into(), 5060);
        let mut desk = Phone::new(caller.plain(registrar).unwrap(), DESK, "", "TCP");
        assert_eq!(desk.register().unwrap(), 200);
        desk
    }
}

#[test]
fn a_remote_user_registers_is_called_and_calls() {
    let world = World::raise("remote");
    let mut desk = world.desk();
    for family in [0, 1] {
        let mut alice = world.remote(Site::Stranger, family, ALICE, PASSWORD);
        assert_eq!(alice.register().unwrap(), 200, "{}", world.edge.log());
        let remote = world.edge.json(&["remote", "list"]).unwrap();
        assert_eq!(remote[0]["users"][0], ALICE, "{remote}");
        alice.client.write(b"\r\n\r\n").unwrap();

        // Called: through Path, to the connection that she registered on.
        called(&mut desk, &mut alice);
        // Calling, with the password; the callee hangs up.
        calls(&mut alice, &mut desk);
        drop(alice);
    }
    let log = world.edge.log();
    for word in ["Digest", "response=", PASSWORD] {
        assert!(!log.contains(word), "{word} in the log");
    }
    let status = world.edge.status().unwrap();
    assert!(status["remote"]["bans"] == 0, "{status}");
}

fn called(desk: &mut Phone, alice: &mut Phone) {
    let call = call(desk, alice, ALICE);
    // The caller hangs up.
    let routes: Vec<&str> = headers(&call.ok, "Record-Route").into_iter().rev().collect();
    let parties = (headers(&call.ok, "From")[0], headers(&call.ok, "To")[0]);
    let id = headers(&call.ok, "Call-ID")[0];
    desk.within("BYE", &target(&call.ok), parties, id, &routes).unwrap();
    let bye = alice.expect("BYE").unwrap();
    alice.reply(&bye, "200 OK", "").unwrap();
    assert_eq!(status(&desk.answer().unwrap()), 200);
}

fn calls(alice: &mut Phone, desk: &mut Phone) {
    let call = call(alice, desk, DESK);
    let routes = headers(&call.got, "Record-Route");
    let parties = (headers(&call.ok, "To")[0], headers(&call.ok, "From")[0]);
    let id = headers(&call.got, "Call-ID")[0];
    desk.within("BYE", &target(&call.got), parties, id, &routes).unwrap();
    let bye = alice.expect("BYE").unwrap();
    alice.reply(&bye, "200 OK", "").unwrap();
    assert_eq!(status(&desk.answer().unwrap()), 200);
}

#[test]
fn users_at_home_hear_each_other_while_their_server_stays_out_of_their_media() {
    let mut world = World::raise_with("athome", |config| {
        let mut config = config.media("relay", "50000-50199");
        config.more = config.more.replace("media_ports", "tcp_port = 444\nmedia_ports");
        config
    });
    let sites = [Site::Contoso, Site::Stranger, Site::Evil];
    let _forwarding = Forwarding::prepare(&world.lab, &sites).unwrap();
    for (family, port) in [(0, 41_000), (1, 41_100)] {
        let mut alice = world.remote(Site::Stranger, family, ALICE, PASSWORD);
        // The other is at the other family's address.
        let mut carol = world.remote(Site::Evil, 1 - family, CAROL, PASSWORD);
        let mut ends =
            [(Site::Stranger, family), (Site::Evil, 1 - family)].map(|(site, family)| {
                let at = SocketAddr::new(site.outside()[family], port);
                RtpEnd::bind(world.lab.site(site), at, port.into()).unwrap()
            });
        for (phone, end) in [&mut alice, &mut carol].into_iter().zip(&ends) {
            phone.sdp = audio(end.address().unwrap(), "");
            assert_eq!(phone.register().unwrap(), 200, "{}", world.edge.log());
        }
        let call = call(&mut alice, &mut carol, CAROL);
        let told = [&call.ok, &call.got].map(|text| media_address(&sdp_of(text)).unwrap());
        let ours = [family, 1 - family].map(|family| Site::Contoso.outside()[family]);
        assert_eq!(told.map(|at| at.ip()), ours, "each is told of our address of its own family");
        let both = |ends: &mut [RtpEnd; 2], edge: &Edge| {
            for (from, to) in [(0, 1), (1, 0)] {
                let [one, other] = ends;
                let (from_end, to_end) = if from == 0 { (one, &*other) } else { (other, &*one) };
                let heard = rtp::reaches(from_end, told[from], to_end, PATIENCE);
                let heard = heard.unwrap_or_else(|error| panic!("{error:#}\n{}", edge.log()));
                assert_eq!(heard, told[to], "it comes from where the other one sends to");
            }
        };
        both(&mut ends, &world.edge);
        world.edge.kill().unwrap();
        both(&mut ends, &world.edge);
        world.edge.run().unwrap();
        both(&mut ends, &world.edge);
        // With either of the two calls it is over.
        let calls = world.edge.json(&["call", "list"]).unwrap();
        assert_eq!(calls.as_array().map(Vec::len), Some(2), "{calls:#}");
        let end = |at: usize| {
            let id = calls[at]["id"].as_str().unwrap();
            world.edge.json(&["call", "end", id]).unwrap();
        };
        end(0);
        let [one, other] = &mut ends;
        let moment = Duration::from_millis(200);
        let heard = [
            rtp::heard(one, told[0], other, 20, moment).unwrap(),
            rtp::heard(other, told[1], one, 20, moment).unwrap(),
        ];
        assert_eq!(heard, [0, 0], "a call that is over");
        end(1);
    }
}

struct Call {
    /// The INVITE as the callee got it.
    got: String,
    /// The 200 as the caller got it.
    ok: String,
}

/// INVITE, 200, ACK.
fn call(caller: &mut Phone, callee: &mut Phone, to: &str) -> Call {
    let contact = format!("Contact: <sip:caller@{}>\r\n", caller.client.local().unwrap());
    let (got, ok) = std::thread::scope(|scope| {
        let calling = scope.spawn(|| caller.ask("INVITE", &format!("sip:{to}"), to, &contact));
        let got = callee.expect("INVITE").unwrap();
        callee.reply(&got, "200 OK", "callee").unwrap();
        (got, calling.join().unwrap().unwrap())
    });
    assert_eq!(status(&ok), 200, "{ok}");
    let routes: Vec<&str> = headers(&ok, "Record-Route").into_iter().rev().collect();
    let parties = (headers(&ok, "From")[0], headers(&ok, "To")[0]);
    caller.within("ACK", &target(&ok), parties, headers(&ok, "Call-ID")[0], &routes).unwrap();
    callee.expect("ACK").unwrap();
    Call { got, ok }
}

/// The other end's Contact.
fn target(message: &str) -> String {
    let contact = headers(message, "Contact")[0];
    contact.trim_start_matches('<').split('>').next().unwrap().to_owned()
}

#[test]
fn guessing_a_password_is_a_ban_and_others_go_on() {
    let mut world = World::raise("guess");
    for (family, user) in [ALICE, CAROL].into_iter().enumerate() {
        let mut good = world.remote(Site::Stranger, family, user, PASSWORD);
        assert_eq!(good.register().unwrap(), 200);
        let mut bad = world.remote(Site::Evil, family, user, "wrong");
        for number in 1..=9 {
            assert_eq!(bad.register().unwrap(), 401, "try {number}");
        }
        assert_eq!(world.edge.json(&["remote", "bans"]).unwrap().as_array().unwrap().len(), family);
        assert_eq!(bad.register().unwrap(), 401, "the last one is told so, too");
        assert!(bad.client.closed_within(PATIENCE), "the ban closes its connection");
        let bans = world.edge.json(&["remote", "bans"]).unwrap();
        assert_eq!(bans.as_array().unwrap().len(), family + 1, "{bans}");
        let banned = Site::Evil.outside()[family].to_string();
        let about = world.edge.json(&["explain", "address", &banned]).unwrap();
        assert_eq!(about["daemon"]["ban"]["times"], 1, "{about:#}");
        let about = Site::Stranger.outside()[family].to_string();
        let about = world.edge.json(&["explain", "address", &about]).unwrap();
        assert_eq!(about["daemon"]["users"][0], user, "{about:#}");
        assert!(about["daemon"]["ban"].is_null(), "{about:#}");
        // In the driver, too, and at this port alone.
        eventually("dropped in the driver", || {
            let blocks = world.edge.json(&["block", "list"]).unwrap().to_string();
            blocks.matches("wrong-passwords").count() > family
        });
        let dropped = world.dropped();
        assert!(world.connect(Site::Evil, family).is_err(), "nor is it let in again");
        assert!(world.dropped() > dropped);
        let outside = Site::Contoso.outside()[family];
        world.caller(Site::Evil).plain(SocketAddr::new(outside, 5061)).unwrap();
        // Who signed in before goes on, and comes again.
        assert_eq!(good.register().unwrap(), 200);
        let mut again = world.remote(Site::Stranger, family, user, PASSWORD);
        assert_eq!(again.register().unwrap(), 200);
    }
    assert_eq!(world.edge.status().unwrap()["remote"]["bans"], 2);
    // Each is counted a moment after its end has seen it.
    eventually("both are counted", || world.edge.count("closed.banned").unwrap() >= 2);
    // An administrator lets the first of them in again.
    let forgiven = Site::Evil.v4().to_string();
    let answer = world.edge.json(&["remote", "forgive", &forgiven]).unwrap();
    assert_eq!(answer["bans_ended"], 1, "{answer}");
    eventually("let in by the driver", || {
        let blocks = world.edge.json(&["block", "list"]).unwrap().to_string();
        blocks.matches("wrong-passwords").count() == 1
    });
    let mut bad = world.remote(Site::Evil, 0, ALICE, PASSWORD);
    assert_eq!(bad.register().unwrap(), 200);
    assert!(world.connect(Site::Evil, 1).is_err(), "the other one stays out");
    // After a restart, too.
    world.edge.kill().unwrap();
    world.edge.run().unwrap();
    assert!(world.connect(Site::Evil, 1).is_err(), "the other one stays out");
    let blocks = world.edge.json(&["block", "list"]).unwrap().to_string();
    assert_eq!(blocks.matches("wrong-passwords").count(), 1, "{blocks}");
    // Until nobody from there is to be banned.
    let never = format!("never_ban = [\"{}\"]\n\n[[user_policy]]", Site::Evil.v6());
    world.edge.config.more = world.edge.config.more.replacen("[[user_policy]]", &never, 1);
    world.edge.write_config().unwrap();
    world.edge.json(&["reload"]).unwrap();
    let began = Instant::now();
    eventually("let in by the driver", || world.connect(Site::Evil, 1).is_ok());
    // Not when the bans are looked through again, a minute after the start.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(world.edge.json(&["remote", "bans"]).unwrap().as_array().unwrap().len(), 0);
}

#[test]
fn a_restart_ends_flows_and_users_register_anew() {
    let mut world = World::raise("reflow");
    let mut alice = world.remote(Site::Stranger, 0, ALICE, PASSWORD);
    assert_eq!(alice.register().unwrap(), 200);
    world.edge.kill().unwrap();
    world.edge.run().unwrap();
    let mut desk = world.desk();
    let contact = format!("Contact: <sip:desk@{}>\r\n", desk.client.local().unwrap());
    let uri = format!("sip:{ALICE}");
    let gone = desk.ask("INVITE", &uri, ALICE, &contact).unwrap();
    assert_eq!(status(&gone), 430, "{gone}");
    let mut alice = world.remote(Site::Stranger, 0, ALICE, PASSWORD);
    assert_eq!(alice.register().unwrap(), 200);
}

/// Over the edge to the server inside, and from there over the same edge to the partner.
#[test]
fn a_remote_user_writes_to_a_partner_and_calls_it() {
    let world = World::raise("spiral");
    let fabrikam = Edge::start(&world.lab, fabrikam_config(&world.lab)).unwrap();
    let server = SocketAddr::new(Site::Fabrikam.server4().into(), 5060);
    let inside = world.lab.inside(Site::Fabrikam);
    let to = "bob@fabrikam.example";
    let mut bob = SipUser::start(inside, to, server, fabrikam.config.inside_address()).unwrap();
    let mut alice = world.remote(Site::Stranger, 0, ALICE, PASSWORD);
    assert_eq!(alice.register().unwrap(), 200);
    let contact = format!("Contact: <sip:alice@{}>\r\n", alice.client.local().unwrap());
    let mut ask = |alice: &mut Phone, method: &str| {
        let (came, answer) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| alice.ask(method, &format!("sip:{to}"), to, &contact));
            let came = bob.expect_request(method).unwrap();
            bob.reply(&came, "200 OK", "", "").unwrap();
            (came, asking.join().unwrap().unwrap())
        });
        assert_eq!(status(&answer), 200, "{answer}");
        (came, answer)
    };
    ask(&mut alice, "MESSAGE");
    let (invite, ok) = ask(&mut alice, "INVITE");
    let routes: Vec<&str> = headers(&ok, "Record-Route").into_iter().rev().collect();
    let parties = (headers(&ok, "From")[0], headers(&ok, "To")[0]);
    let id = headers(&ok, "Call-ID")[0];
    alice.within("ACK", &target(&ok), parties, id, &routes).unwrap();
    bob.expect_request("ACK").unwrap();
    let dialog = bob.dialog_of_request(&invite.text);
    let bye = std::thread::scope(|scope| {
        let ending = scope.spawn(|| bob.within(&dialog, "BYE", "", ""));
        let bye = alice.expect("BYE").unwrap();
        alice.reply(&bye, "200 OK", "").unwrap();
        ending.join().unwrap().unwrap()
    });
    assert_eq!(status(&bye), 200, "{bye}");
}

#[test]
fn a_drained_edge_sends_its_users_elsewhere_and_finds_them_until_then() {
    let world = World::raise("leave");
    let mut alice = world.remote(Site::Stranger, 1, ALICE, PASSWORD);
    assert_eq!(alice.register().unwrap(), 200);
    let mut desk = world.desk();
    world.edge.json(&["drain"]).unwrap();
    assert_eq!(alice.register().unwrap(), 503);
    called(&mut desk, &mut alice);
    world.edge.json(&["drain", "--off"]).unwrap();
    assert_eq!(alice.register().unwrap(), 200);
}
