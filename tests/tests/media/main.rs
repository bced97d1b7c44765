//! Media of real calls: flows that open with the answer and close with the call, forwarded by the
//! kernel, with both ends' real packets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agents;
mod bundles;

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use edge_tests::{
    demo::world::{contoso_access, contoso_config, user},
    lab::{
        Lab,
        config::EdgeConfig,
        daemon::Edge,
        dialogue::{End, HandCall, InsideServer, Parties, audio, head, media_address},
        layout::{INTERNET, Site},
        links::Forwarding,
        netns::Namespace,
        rtp::{self, RtpEnd},
        sipp::SERVER_PORT,
        tls_client::{Caller, SipClient, request},
    },
    patience::BUSY,
};
use serde_json::Value;

/// For a machine that is busy with other work; nothing here waits for time to pass.
const PATIENCE: Duration = BUSY;
/// Packets that are sent to see whether they come.
const PACKETS: u16 = 50;
/// How long is looked for one that must not come.
const NOTHING: Duration = Duration::from_millis(200);

/// Contoso's edge with media, a partner outside and a server inside that the test plays itself.
struct World {
    edge: Edge,
    inside: InsideServer,
    _forwarding: Forwarding,
    lab: Lab,
}

impl World {
    fn raise(tag: &str) -> Self {
        Self::raise_with(tag, |config| config.media("relay", "50000-50199"))
    }

    fn raise_with(tag: &str, change: impl FnOnce(EdgeConfig) -> EdgeConfig) -> Self {
        let lab = Lab::raise(tag).unwrap();
        let forwarding = Forwarding::prepare(&lab, &[Site::Contoso, Site::Fabrikam]).unwrap();
        let server = SocketAddr::new(Site::Contoso.server4().into(), SERVER_PORT);
        let inside = InsideServer::start(lab.inside(Site::Contoso), server).unwrap();
        let edge = Edge::start(&lab, change(contoso_config(&lab))).unwrap();
        Self { edge, inside, _forwarding: forwarding, lab }
    }

    fn partner(&self) -> Caller<'_> {
        Caller {
            namespace: self.lab.site(Site::Fabrikam),
            from: None,
            identity: Some(&self.lab.identities.fabrikam),
            trust: &self.lab.identities.trust,
        }
    }

    /// The partner's connection.
    fn session(&self, six: bool) -> SipClient {
        let to = contoso_access()[usize::from(six)];
        self.partner().tls(to, &Site::Contoso.host()).unwrap()
    }

    /// A call that nobody has begun; the partner's connection comes by this family.
    fn call(&self, caller: End, six: bool) -> HandCall {
        let (partner, mut outside) = (self.partner(), self.session(six));
        let server = SocketAddr::new(Site::Contoso.server4().into(), SERVER_PORT);
        // The partner is known once it has said something, and the edge connects to the server
        // when it has something for it.
        let options =
            request("OPTIONS", &user(Site::Fabrikam), &user(Site::Contoso), &Site::Fabrikam.host());
        outside.write(options.as_bytes()).unwrap();
        let mut accepted = self.inside.accept().unwrap();
        let asked = accepted.message(PATIENCE).unwrap();
        accepted.write(plain_ok(&asked).as_bytes()).unwrap();
        assert_eq!(outside.response().unwrap().status, 200);
        let (inside, spare) = match caller {
            End::Outside => (accepted, None),
            End::Inside => {
                let server = Caller { namespace: self.lab.inside(Site::Contoso), ..partner };
                (server.plain(self.edge.config.inside_address()).unwrap(), Some(accepted))
            }
        };
        let parties = Parties {
            outside,
            outside_user: user(Site::Fabrikam),
            outside_host: Site::Fabrikam.host(),
            inside,
            inside_user: user(Site::Contoso),
            inside_host: server,
            spare,
        };
        HandCall::new(parties, caller)
    }

    fn outside_end(&self, six: bool, port: u16, ssrc: u32) -> RtpEnd {
        let address = Site::Fabrikam.outside()[usize::from(six)];
        RtpEnd::bind(self.lab.site(Site::Fabrikam), SocketAddr::new(address, port), ssrc).unwrap()
    }

    fn inside_end(&self, six: bool, port: u16, ssrc: u32) -> RtpEnd {
        let address = if six {
            IpAddr::V6(Site::Contoso.server6())
        } else {
            IpAddr::V4(Site::Contoso.server4())
        };
        RtpEnd::bind(self.lab.inside(Site::Contoso), SocketAddr::new(address, port), ssrc).unwrap()
    }

    fn open_flows(&self) -> usize {
        flows(&self.edge).len()
    }

    fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}\n{}", self.edge.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn plain_ok(request: &str) -> String {
    let mut text = "SIP/2.0 200 OK\r\n".to_owned();
    for line in request.lines().take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if ["via", "from", "to", "call-id", "cseq"].contains(&name.as_str()) {
            let tag = if name == "to" { ";tag=x" } else { "" };
            text.push_str(&format!("{line}{tag}\r\n"));
        }
    }
    text + "Content-Length: 0\r\n\r\n"
}

/// The port above.
fn above(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port() + 1)
}

/// Both ends of a call that was set up: what each was told of the other.
struct Talk {
    call: HandCall,
    outside: RtpEnd,
    inside: RtpEnd,
    /// Where the partner was told to send.
    to_inside: SocketAddr,
    /// Where the server was told to send.
    to_outside: SocketAddr,
}

impl Talk {
    fn begin(world: &World, caller: End, outside_six: bool, inside_six: bool, port: u16) -> Self {
        Self::begin_with(world, caller, [outside_six, inside_six], port, "")
    }

    /// With these lines in both descriptions.
    fn begin_with(
        world: &World,
        caller: End,
        [outside_six, inside_six]: [bool; 2],
        port: u16,
        more: &str,
    ) -> Self {
        let mut call = world.call(caller, outside_six);
        let outside = world.outside_end(outside_six, port, 0x0a0a_0000 + u32::from(port));
        let inside = world.inside_end(inside_six, port + 2, 0x0b0b_0000 + u32::from(port));
        let of = |end: &RtpEnd| audio(end.address().unwrap(), more);
        let (offer, answer) = match caller {
            End::Outside => (of(&outside), of(&inside)),
            End::Inside => (of(&inside), of(&outside)),
        };
        let [seen, got] = call
            .exchange(caller, &offer, &answer)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", world.edge.log()));
        let (to_outside, to_inside) = match caller {
            End::Outside => (seen, got),
            End::Inside => (got, seen),
        };
        Self {
            call,
            outside,
            inside,
            to_inside: media_address(&to_inside).unwrap(),
            to_outside: media_address(&to_outside).unwrap(),
        }
    }

    /// Packets go both ways, and come from the address that each was told.
    fn both_ways(&mut self, world: &World) {
        let say = |error| panic!("{error:#}\n{}", world.edge.log());
        let from = rtp::reaches(&mut self.outside, self.to_inside, &self.inside, PATIENCE)
            .unwrap_or_else(say);
        assert_eq!(from, self.to_outside, "the inside hears the edge");
        let from = rtp::reaches(&mut self.inside, self.to_outside, &self.outside, PATIENCE)
            .unwrap_or_else(say);
        assert_eq!(from, self.to_inside, "the partner hears the edge");
    }

    /// RTCP goes by the ports above those of the media, both ways (RFC 3550 section 11): its ends.
    fn reports_go_both_ways(
        &self,
        world: &World,
        six: bool,
        inside_six: bool,
        port: u16,
    ) -> [RtpEnd; 2] {
        let outside = world.outside_end(six, port + 1, 0);
        let inside = world.inside_end(inside_six, port + 3, 0);
        let (to_inside, to_outside) = (above(self.to_inside), above(self.to_outside));
        self.report_crosses(world, &outside, to_inside, &inside, to_outside);
        self.report_crosses(world, &inside, to_outside, &outside, to_inside);
        [outside, inside]
    }

    fn report_crosses(
        &self,
        world: &World,
        sender: &RtpEnd,
        to: SocketAddr,
        receiver: &RtpEnd,
        seems: SocketAddr,
    ) {
        let report = rtp::sender_report(0x0c0c_0000 + u32::from(to.port()));
        let from = rtp::crosses(sender, to, receiver, &report, PATIENCE)
            .unwrap_or_else(|error| panic!("RTCP: {error:#}\n{}", world.edge.log()));
        assert_eq!(from, seems, "RTCP comes from the port above that of the media");
    }

    /// Of [`PACKETS`] of the partner's, how many the inside hears.
    fn heard_inside(&mut self) -> u16 {
        rtp::heard(&mut self.outside, self.to_inside, &self.inside, PACKETS, PATIENCE).unwrap()
    }

    fn nothing_comes_in(&mut self) {
        let heard =
            rtp::heard(&mut self.outside, self.to_inside, &self.inside, PACKETS, NOTHING).unwrap();
        assert_eq!(heard, 0, "media from outside of a call that is over");
        let heard =
            rtp::heard(&mut self.inside, self.to_outside, &self.outside, PACKETS, NOTHING).unwrap();
        assert_eq!(heard, 0, "media from inside of a call that is over");
    }
}

#[test]
fn a_relayed_call_has_media_both_ways_and_only_while_it_lasts() {
    relayed("mrelay", false, |config| config.media("relay", "50000-50199"));
}

#[test]
fn a_relay_with_ipv6_inside_serves_both_families_outside() {
    relayed("msix", true, |config| {
        let mut config = config.media("relay", "50000-50199");
        let four = format!("\"{}\", ", config.site.edge_inside4());
        config.more = config.more.replace(&four, "");
        config
    });
}

fn relayed(tag: &str, inside_six: bool, change: impl FnOnce(EdgeConfig) -> EdgeConfig) {
    let world = World::raise_with(tag, change);
    assert_eq!(world.open_flows(), 0);
    for (caller, outside_six, port) in [(End::Outside, false, 41_000), (End::Outside, true, 41_010)]
    {
        let mut talk = Talk::begin(&world, caller, outside_six, inside_six, port);
        let ours = Site::Contoso.outside()[usize::from(outside_six)];
        assert_eq!(talk.to_inside.ip(), ours, "the partner sees our own address");
        talk.both_ways(&world);
        assert_eq!(talk.heard_inside(), PACKETS, "{}", world.edge.log());
        let reports = talk.reports_go_both_ways(&world, outside_six, inside_six, port);

        // Somebody else, even at the partner's own address, is not heard.
        let mut thief = world.outside_end(outside_six, port + 100, 7);
        let stolen = rtp::heard(&mut thief, talk.to_inside, &talk.inside, PACKETS, NOTHING);
        assert_eq!(stolen.unwrap(), 0, "another source");
        let listed = world.edge.json(&["call", "list"]).unwrap();
        assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");

        talk.call.hang_up(caller).unwrap();
        talk.nothing_comes_in();
        let [outside, inside] = reports;
        outside.send_raw(above(talk.to_inside), &rtp::sender_report(1)).unwrap();
        let late = inside.receive(NOTHING).unwrap();
        assert_eq!(late, None, "RTCP of a call that is over");
        world.wait_until("flows stay open", || world.open_flows() == 0);
    }
}

#[test]
fn reports_go_by_the_port_of_the_media_where_both_say_so() {
    let world = World::raise("mmux");
    for (six, port) in [(false, 41_200), (true, 41_210)] {
        let mut talk = Talk::begin_with(&world, End::Outside, [six, false], port, "a=rtcp-mux\r\n");
        talk.both_ways(&world);
        talk.report_crosses(&world, &talk.outside, talk.to_inside, &talk.inside, talk.to_outside);
        talk.report_crosses(&world, &talk.inside, talk.to_outside, &talk.outside, talk.to_inside);
        talk.call.hang_up(End::Inside).unwrap();
    }
}

#[test]
fn a_call_is_shown_with_its_parties_and_what_its_flows_carry() {
    let world = World::raise("mshow");
    let mut talk = Talk::begin(&world, End::Outside, false, false, 41_300);
    talk.both_ways(&world);
    let listed = world.edge.json(&["call", "list"]).unwrap();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    let over = AtomicBool::new(false);
    let (told, text) = std::thread::scope(|scope| {
        let Talk { outside, inside, to_inside, to_outside, .. } = &mut talk;
        // Both speak; of what the partner says every tenth packet is lost.
        for (end, to, lost) in [(outside, *to_inside, 1), (inside, *to_outside, 0)] {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    for _ in 0..9 {
                        end.send(to).unwrap();
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    end.lose(lost);
                }
            });
        }
        // Long enough that the first of them was passed over.
        world.wait_until("they speak", || {
            let flows = flows(&world.edge);
            ["outside", "inside"].iter().all(|side| {
                let from = flows.iter().filter(|flow| flow["from"] == *side);
                from.filter_map(|flow| flow["packets"].as_u64()).sum::<u64>() > 40
            })
        });
        let told = world.edge.json(&["call", "show", &id]);
        let text = world.edge.command(&["call", "show", &id]);
        over.store(true, Ordering::Relaxed);
        (told.unwrap(), text.unwrap())
    });
    for (name, value) in [
        ("caller", user(Site::Fabrikam)),
        ("callee", user(Site::Contoso)),
        ("partner", Site::Fabrikam.domain()),
        ("direction", "inbound".to_owned()),
        ("state", "up".to_owned()),
    ] {
        assert!(told[name].as_str().is_some_and(|told| told.contains(&value)), "{name}: {told:#}");
        assert!(text.stdout.contains(&value) || name == "direction", "{}", text.stdout);
    }
    let flow = |side: &str| {
        let flows = told["lines"][0]["flows"].as_array().unwrap();
        let is = |flow: &&Value| flow["from"] == side && flow["component"] == "rtp";
        flows.iter().find(is).cloned().unwrap_or_else(|| panic!("{side}: {told:#}"))
    };
    let (partners, ours) = (flow("outside"), flow("inside"));
    let learned = talk.outside.address().unwrap().to_string();
    assert_eq!(partners["learned"], *learned, "{told:#}");
    for (flow, loses) in [(&partners, true), (&ours, false)] {
        assert!(flow["packets"].as_u64() > Some(20), "{told:#}");
        assert!(flow["packets_per_second"].as_f64() > Some(1.0), "{told:#}");
        // 172 bytes of RTP in each packet, and the headers around them.
        let bits = flow["bits_per_second"].as_f64().unwrap();
        assert!(bits > 172.0 * 8.0, "{told:#}");
        assert_eq!(flow["lost"].as_u64() > Some(0), loses, "{told:#}");
        assert_eq!(flow["lost_percent"].as_f64() > Some(2.0), loses, "{told:#}");
        assert!(flow["jitter_milliseconds"].is_number(), "{told:#}");
    }
    talk.call.hang_up(End::Outside).unwrap();
}

#[test]
fn a_call_from_inside_is_relayed_too_and_hold_changes_nothing() {
    let world = World::raise("mout");
    // The partner's connection is there; the edge uses it for what goes to the partner.
    let mut talk = Talk::begin(&world, End::Inside, false, false, 42_000);
    talk.both_ways(&world);
    let hold = audio(talk.inside.address().unwrap(), "a=sendonly\r\n");
    let answer = audio(talk.outside.address().unwrap(), "a=recvonly\r\n");
    let [seen, got] = talk.call.exchange(End::Inside, &hold, &answer).unwrap();
    assert_eq!(media_address(&seen).unwrap(), talk.to_inside, "the same ports");
    assert_eq!(media_address(&got).unwrap(), talk.to_outside, "the same ports");
    talk.both_ways(&world);
    talk.call.hang_up(End::Outside).unwrap();
    talk.nothing_comes_in();
}

#[test]
fn media_goes_on_while_the_daemon_is_dead_and_the_call_ends_under_the_next() {
    let mut world = World::raise("mkill");
    let mut talk = Talk::begin(&world, End::Outside, false, false, 43_000);
    talk.both_ways(&world);
    world.edge.kill().unwrap();
    assert_eq!(talk.heard_inside(), PACKETS, "without the daemon");
    world.edge.run().unwrap();
    talk.both_ways(&world);
    world.wait_until("the call is not known again", || world.open_flows() > 0);
    let calls = world.edge.json(&["call", "list"]).unwrap();
    let id = calls[0]["id"].as_str().unwrap().to_owned();
    world.edge.json(&["call", "end", &id]).unwrap();
    talk.nothing_comes_in();
}

#[test]
fn a_pinhole_lets_the_calls_own_packets_through_unchanged() {
    let world = World::raise_with("mpin", |config| config.media("pinhole", "50000-50199"));
    outside_knows_the_way(&world.lab, Site::Fabrikam);
    for (six, port) in [(false, 44_000), (true, 44_010)] {
        let mut early = world.outside_end(six, port + 50, 9);
        let target = world.inside_end(six, port + 60, 10);
        let to = target.address().unwrap();
        let before = rtp::heard(&mut early, to, &target, PACKETS, NOTHING).unwrap();
        assert_eq!(before, 0, "nothing of a call passes");
        let mut talk = Talk::begin(&world, End::Outside, six, six, port);
        assert_eq!(talk.to_inside, talk.inside.address().unwrap(), "SDP is not changed");
        talk.both_ways(&world);
        let other = rtp::heard(&mut talk.outside, to, &target, PACKETS, NOTHING);
        assert_eq!(other.unwrap(), 0, "another port of the same host");
        talk.call.hang_up(End::Inside).unwrap();
        talk.nothing_comes_in();
    }
}

/// Outside has a way to the addresses inside contoso, as in a network without translation.
fn outside_knows_the_way(lab: &Lab, partner: Site) {
    let internet = Namespace::existing(&format!("{}-{INTERNET}", lab.prefix()));
    let hops = [
        (lab.site(partner), partner.router4(), partner.router6()),
        (&internet, Site::Contoso.v4(), Site::Contoso.v6()),
    ];
    for (namespace, four, six) in hops {
        namespace
            .ip_batch(&format!(
                "route add 10.1.0.0/24 via {four}\nroute add fd00:1::/64 via {six}\n"
            ))
            .unwrap();
    }
}

#[test]
fn what_sdp_may_not_say_is_refused_and_the_next_call_is_not_disturbed() {
    let world = World::raise("mbad");
    let ours = SocketAddr::new(Site::Contoso.v4().into(), 40_000);
    let many: String = (0..40).map(|n| format!("m=audio {} RTP/AVP 0\r\n", 40_000 + n)).collect();
    let bomb = format!("{}{many}", head(Site::Fabrikam.v4().into()));
    for (name, offer) in [
        ("our own address", audio(ours, "")),
        ("loopback", audio("127.0.0.1:40000".parse().unwrap(), "")),
        ("multicast", audio("224.1.1.1:40000".parse().unwrap(), "")),
        ("private, outside", audio("192.168.7.7:40000".parse().unwrap(), "")),
        ("port 65536", audio(ours, "").replace("40000", "65536")),
        ("too many m-lines", bomb),
        ("no SDP at all", "v=0\r\nhello\r\n".to_owned()),
    ] {
        let mut call = world.call(End::Outside, false);
        call.ask(End::Outside, "INVITE", &offer).unwrap();
        let answer = call.answered(End::Outside).unwrap();
        let status: u16 = answer[8..11].parse().unwrap();
        assert!((400..500).contains(&status), "{name}: {answer}");
        assert_eq!(world.open_flows(), 0, "{name}");
    }
    let mut talk = Talk::begin(&world, End::Outside, false, false, 45_000);
    talk.both_ways(&world);
}

#[test]
fn when_a_partners_share_of_the_ports_is_used_up_its_next_call_is_told_and_the_others_go_on() {
    let world = World::raise_with("mfull", |config| config.media("relay", "50000-50099"));
    // 50 pairs of ports on each side, of which a quarter is for one partner.
    let mut refused = None;
    let mut first = Talk::begin(&world, End::Outside, false, false, 46_000);
    for number in 0..12_u16 {
        first.call.next();
        let offer = audio(SocketAddr::new(Site::Fabrikam.v4().into(), 30_000 + number * 2), "");
        first.call.ask(End::Outside, "INVITE", &offer).unwrap();
        if number == 11 {
            refused = Some(first.call.answered(End::Outside).unwrap());
        } else {
            first.call.asked(End::Inside).unwrap();
        }
    }
    let refused = refused.expect("the ports never end");
    assert!(refused.starts_with("SIP/2.0 503"), "{refused}");
    assert!(refused.to_ascii_lowercase().contains("retry-after:"), "{refused}");
    first.both_ways(&world);
    // The ports of one that is not accepted are there for the next.
    first.call.answer(End::Inside, 486, "", "").unwrap();
    assert!(first.call.answered(End::Outside).unwrap().starts_with("SIP/2.0 486"));
    first.call.next();
    let offer = audio(SocketAddr::new(Site::Fabrikam.v4().into(), 30_100), "");
    first.call.ask(End::Outside, "INVITE", &offer).unwrap();
    while !first.call.asked(End::Inside).unwrap().starts_with("INVITE") {}
    first.both_ways(&world);
}

/// The modalities a partner may have, as its entry names them.
const MODALITIES: [&str; 6] =
    ["im", "presence", "audio", "video", "web-conferencing", "file-transfer"];

/// Contoso's edge, whose entry for fabrikam names these modalities.
fn with_modalities(tag: &str, allowed: &[&str]) -> World {
    World::raise_with(tag, |config| {
        let mut config = config.media("relay", "50000-50199");
        config.allowed.retain(|domain| *domain != Site::Fabrikam.domain());
        config.more.push_str(&format!(
            "[[federation.allowed_domain]]\ndomain = \"{}\"\nmodalities = {allowed:?}\n\n",
            Site::Fabrikam.domain()
        ));
        config
    })
}

#[test]
fn each_modality_is_refused_when_the_partners_entry_does_not_name_it() {
    // (modality, what is asked, a header or the m-line, the answer)
    let cases = [
        ("im", "MESSAGE", "", 403),
        ("presence", "SUBSCRIBE", "Event: presence\r\n", 403),
        ("audio", "INVITE", "m=audio 47010 RTP/AVP 0\r\n", 488),
        ("video", "INVITE", "m=video 47010 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n", 488),
        ("web-conferencing", "INVITE", "m=applicationsharing 47010 RTP/AVP 127\r\n", 488),
        (
            "file-transfer",
            "INVITE",
            "m=message 47010 TCP/MSRP *\r\na=file-selector:name:\"x\"\r\n",
            488,
        ),
    ];
    for (number, (modality, method, line, status)) in cases.into_iter().enumerate() {
        let others: Vec<&str> = MODALITIES.into_iter().filter(|other| *other != modality).collect();
        let world = with_modalities(&format!("mone{number}"), &others);
        for six in [false, true] {
            let from = Site::Fabrikam;
            let asked = request(method, &user(from), &user(Site::Contoso), &from.host());
            let asked = match method {
                "INVITE" => {
                    let (top, _) = asked.split_once("Content-Type").unwrap();
                    let offer = head(from.outside()[usize::from(six)]) + line;
                    let contact = format!("Contact: <sip:{}:5061>\r\n", from.host());
                    format!(
                        "{top}{contact}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{offer}",
                        offer.len()
                    )
                }
                _ => asked.replace("Content-Type", &format!("{line}Content-Type")),
            };
            let mut session = world.session(six);
            let mut answer = session.ask(&asked).unwrap();
            if answer.status == 100 {
                answer = session.response().unwrap();
            }
            assert_eq!(answer.status, status, "{modality}: {}", answer.text);
            assert!(answer.text.contains("ms-diagnostics-public"), "{modality}: {}", answer.text);
            assert_eq!(world.open_flows(), 0, "{modality}");
        }
        assert_eq!(world.edge.refusals("modality-forbidden").unwrap(), 2, "{modality}");
    }
}

#[test]
fn what_is_forbidden_of_a_mixed_offer_goes_on_with_port_0() {
    let world = with_modalities("mmixed", &["im", "presence", "audio"]);
    let at = SocketAddr::new(Site::Fabrikam.v4().into(), 47_000);
    let own = SocketAddr::new(Site::Contoso.server4().into(), 47_002);
    let video = |port: u16| format!("m=video {port} RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n");
    let mut call = world.call(End::Outside, false);
    let offer = audio(at, &video(47_010));
    let answer = audio(own, &video(0));
    let [seen, got] = call.exchange(End::Outside, &offer, &answer).unwrap();
    assert!(seen.contains("m=video 0 "), "{seen}");
    assert!(got.contains("m=video 0 "), "{got}");
}

/// The flows of all calls, as `edge call list` tells them.
fn flows(edge: &Edge) -> Vec<Value> {
    let calls = edge.json(&["call", "list"]).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let lines = list(&calls).into_iter().flat_map(|call| list(&call["lines"]));
    lines.flat_map(|line| list(&line["flows"])).collect()
}
