//! Foreign peers and a partner's misfortunes, seen from outside and in what the daemon tells.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use edge_tests::{
    demo::world::{FEDERATION_PORT, contoso_access, contoso_config, user},
    lab::{
        Lab,
        certs::Identity,
        config::EdgeConfig,
        daemon::Edge,
        dialogue::InsideServer,
        dns::Record,
        kamailio::Kamailio,
        layout::Site,
        openssl_peer::{self, BLOCK_CHAINING},
        phone::headers,
        sipp::{self, Agent, Carrier, Dialogue, Play, SERVER_PORT},
        stunnel::{Stunnel, Tunnel},
        tls_client::{Caller, SipClient, request},
    },
    patience::{BUSY, eventually},
};
use serde_json::Value;

/// Everything that is played with a peer: both directions of each.
const PLAYS: [Play; 4] = [Play::Message, Play::Call, Play::HangUp, Play::Cancel];
/// How long answers of DNS may be old, their shortest life and as long again, on a machine that is
/// busy.
const FOLLOWED: Duration = Duration::from_secs(150);
/// Where Contoso's user is when Kamailio is in front of it.
const BEHIND: u16 = 5070;

/// Contoso's edge, and Adatum, whose edge is stunnel.
struct Peers {
    contoso: Edge,
    lab: Lab,
}

impl Peers {
    fn raise(tag: &str) -> Self {
        Self::raise_with(tag, Vec::new())
    }

    /// With these records in place of what DNS says of their owners.
    fn raise_with(tag: &str, records: Vec<Record>) -> Self {
        Self::configured(tag, records, |config| config)
    }

    /// And with a changed configuration.
    fn configured(
        tag: &str,
        records: Vec<Record>,
        change: impl FnOnce(EdgeConfig) -> EdgeConfig,
    ) -> Self {
        let mut lab = Lab::raise(tag).unwrap();
        lab.dns.replace(records).unwrap();
        let contoso = Edge::start(&lab, change(contoso_config(&lab))).unwrap();
        Self { contoso, lab }
    }

    /// What `edge partner show` tells of a domain.
    fn shown(&self, domain: &str) -> Value {
        self.contoso.json(&["partner", "show", domain]).unwrap()
    }

    /// How it stands with an address of Adatum's, as `edge partner show` has it: `alive`, or what it
    /// failed by; none: it is no address of Adatum's.
    fn health(&self, address: IpAddr) -> Option<String> {
        let shown = self.shown("adatum.example");
        let at = SocketAddr::new(address, FEDERATION_PORT).to_string();
        let targets = shown["targets"].as_array().unwrap();
        let target = targets.iter().find(|target| target["address"] == *at)?;
        let told = if target["health"] == "alive" { "health" } else { "cause" };
        Some(target[told].as_str().unwrap().to_owned())
    }

    fn agent(&self, site: Site) -> Agent<'_> {
        let address = IpAddr::V4(site.server4());
        Agent { namespace: self.lab.inside(site), address, carrier: Carrier::Tcp }
    }

    /// Adatum's edge at this address of its own, with a certificate.
    fn edge_at(&self, address: IpAddr, identity: &Identity) -> Stunnel {
        let inside = |ip| SocketAddr::new(IpAddr::V4(ip), SERVER_PORT);
        let site = Site::Adatum;
        let tunnels = [
            Tunnel {
                accept: SocketAddr::new(address, FEDERATION_PORT),
                connect: inside(site.server4()),
                client: false,
            },
            Tunnel {
                accept: inside(site.edge_inside4()),
                connect: contoso_access()[0],
                client: true,
            },
        ];
        let ids = &self.lab.identities;
        let dir = self.lab.dir().join("stunnel");
        Stunnel::start(self.lab.site(site), &dir, identity, &ids.trust, &tunnels).unwrap()
    }

    fn out(&self, play: Play) -> Result<(), String> {
        let dialogue = Dialogue::once(play, &user(Site::Contoso), &user(Site::Adatum));
        let server = self.contoso.config.inside_address();
        let (from, to) = (self.agent(Site::Contoso), self.agent(Site::Adatum));
        sipp::play(&from, server, &to, self.lab.dir(), &dialogue)
            .map_err(|error| format!("{play:?} out: {error:#}"))
    }

    fn inward(&self, play: Play) -> Result<(), String> {
        let dialogue = Dialogue::once(play, &user(Site::Adatum), &user(Site::Contoso));
        let (from, to) = (self.agent(Site::Adatum), self.agent(Site::Contoso));
        sipp::play(&from, Kamailio::inside_address(), &to, self.lab.dir(), &dialogue)
            .map_err(|error| format!("{play:?} in: {error:#}"))
    }

    /// Until a message to Adatum arrives; how long that took.
    fn followed(&self) -> Duration {
        let began = Instant::now();
        loop {
            let Err(error) = self.out(Play::Message) else { return began.elapsed() };
            assert!(began.elapsed() < FOLLOWED, "{error}\n{}", self.contoso.log());
        }
    }

    fn adatum(&self) -> Caller<'_> {
        Caller {
            namespace: self.lab.site(Site::Adatum),
            from: None,
            identity: Some(&self.lab.identities.adatum),
            trust: &self.lab.identities.trust,
        }
    }

    fn session(&self) -> SipClient {
        self.adatum().tls(contoso_access()[0], &Site::Contoso.host()).unwrap()
    }

    /// Contoso's server asks for a message to Adatum; what it is told.
    fn ask_out(&self) -> u16 {
        let inside = Caller {
            namespace: self.lab.inside(Site::Contoso),
            from: None,
            identity: None,
            trust: &self.lab.identities.trust,
        };
        let mut server = inside.plain(self.contoso.config.inside_address()).unwrap();
        let message = request("MESSAGE", &user(Site::Contoso), &user(Site::Adatum), "10.1.0.20");
        server.ask(&message.replace("SIP/2.0/TLS", "SIP/2.0/TCP")).unwrap().status
    }
}

#[test]
fn sipp_behind_stunnel_is_a_partner_both_ways() {
    let peers = Peers::raise("pst");
    let stunnel = peers.edge_at(IpAddr::V4(Site::Adatum.v4()), &peers.lab.identities.adatum);
    for play in PLAYS {
        for outcome in [peers.inward(play), peers.out(play)] {
            assert_eq!(outcome, Ok(()), "{}\n{}", peers.contoso.log(), stunnel.log_tail());
        }
    }
}

/// Inside there is TLS of another make too: the server proves its name, and so do we.
#[test]
fn sipp_behind_stunnel_is_the_server_inside_both_ways() {
    const DIRECTOR: &str = "director.contoso.example";
    for six in [false, true] {
        let site = Site::Contoso;
        let (own, edge): (IpAddr, IpAddr) = match six {
            true => (site.server6().into(), site.edge_inside6().into()),
            false => (site.server4().into(), site.edge_inside4().into()),
        };
        let records = vec![Record::address(DIRECTOR, own)];
        let tag = if six { "psi6" } else { "psi4" };
        let peers = Peers::configured(tag, records, |config| config.inside_tls(DIRECTOR));
        let ids = &peers.lab.identities;
        let director = ids.authority.issue("director", &[DIRECTOR], &[]).unwrap();
        let at = |address, port| SocketAddr::new(address, port);
        let tunnels = [
            Tunnel { accept: at(own, 5061), connect: at(own, SERVER_PORT), client: false },
            Tunnel { accept: at(own, BEHIND), connect: at(edge, 5061), client: true },
        ];
        let dir = peers.lab.dir().join("director");
        let inside = peers.lab.inside(site);
        let stunnel = Stunnel::start(inside, &dir, &director, &ids.trust, &tunnels).unwrap();
        let _adatum = peers.edge_at(IpAddr::V4(Site::Adatum.v4()), &ids.adatum);
        let agent = Agent { namespace: inside, address: own, carrier: Carrier::Tcp };
        let adatum = peers.agent(Site::Adatum);
        let (ours, theirs) = (user(site), user(Site::Adatum));
        for play in PLAYS {
            let dir = peers.lab.dir();
            let out = Dialogue::once(play, &ours, &theirs);
            let inward = Dialogue::once(play, &theirs, &ours);
            let to = Kamailio::inside_address();
            for outcome in [
                sipp::play(&agent, at(own, BEHIND), &adatum, dir, &out),
                sipp::play(&adatum, to, &agent, dir, &inward),
            ] {
                let logs = || format!("{}\n{}", peers.contoso.log(), stunnel.log_tail());
                outcome.unwrap_or_else(|error| panic!("{play:?}: {error:#}\n{}", logs()));
            }
        }
    }
}

#[test]
fn kamailio_is_the_server_inside_both_ways() {
    let mut peers = Peers::raise("pki");
    let behind = SocketAddr::new(IpAddr::V4(Site::Contoso.server4()), BEHIND);
    let mut kamailio = Kamailio::start_inside(&peers.lab, behind).unwrap();
    let _stunnel = peers.edge_at(IpAddr::V4(Site::Adatum.v4()), &peers.lab.identities.adatum);
    let dir: PathBuf = peers.lab.dir().to_owned();
    for play in PLAYS {
        let (own, adatum) = (peers.agent(Site::Contoso), peers.agent(Site::Adatum));
        let inbound = Dialogue::once(play, &user(Site::Adatum), &user(Site::Contoso));
        let receiver = sipp::receiver_on(&own, &dir, &inbound, BEHIND).unwrap();
        let sender = sipp::sender(&adatum, &dir, &inbound, Kamailio::inside_address()).unwrap();
        let limit = BUSY;
        let outcome = sender.finish(limit).and_then(|()| receiver.finish(limit));
        assert!(outcome.is_ok(), "{play:?} in: {outcome:?}\n{}", kamailio.log_tail());
        let outbound = Dialogue::once(play, &user(Site::Contoso), &user(Site::Adatum));
        let server = SocketAddr::new(IpAddr::V4(Site::Contoso.server4()), SERVER_PORT);
        let outcome = sipp::play(&own, server, &adatum, &dir, &outbound);
        assert!(outcome.is_ok(), "{play:?} out: {outcome:?}\n{}", kamailio.log_tail());
    }
    assert!(kamailio.alive(), "{}", kamailio.log_tail());
    peers.contoso.stop().unwrap();
}

#[test]
fn a_peer_with_block_chaining_only_is_told_apart_by_name_both_ways() {
    let peers = Peers::raise("pcb");
    let adatum = &peers.lab.identities.adatum;
    let counted = || peers.contoso.count("handshake.no-common-cipher-suite").unwrap();
    let before = counted();
    for to in contoso_access() {
        let site = peers.lab.site(Site::Adatum);
        let said = openssl_peer::call_with(site, to, adatum, BLOCK_CHAINING).unwrap();
        assert!(said.contains("handshake failure"), "{said}");
    }
    // Both are counted and told a moment after the peer has heard it.
    eventually("both are counted", || counted() >= before + 2);
    assert_eq!(counted(), before + 2);
    eventually("it is in the log", || peers.contoso.log().contains("no-common-cipher-suite"));
    let length = peers.contoso.log().len();

    let at = SocketAddr::new(IpAddr::V4(Site::Adatum.v4()), FEDERATION_PORT);
    let site = peers.lab.site(Site::Adatum);
    let suites = Some(BLOCK_CHAINING);
    let _server = openssl_peer::Server::start(site, peers.lab.dir(), at, adatum, suites).unwrap();
    assert_eq!(peers.ask_out(), 504);
    eventually("it is in the log", || {
        peers.contoso.log()[length..].contains("no cipher suite in common")
    });
}

#[test]
fn a_partner_that_moves_is_followed() {
    moves("pmv", |config| config);
}

#[test]
fn a_server_that_an_entry_names_is_followed_when_it_moves() {
    moves("pmp", |mut config| {
        let domain = Site::Adatum.domain();
        config.allowed.retain(|allowed| *allowed != domain);
        config.allow_server(&domain, &Site::Adatum.host())
    });
}

fn moves(tag: &str, change: impl FnOnce(EdgeConfig) -> EdgeConfig) {
    // One family: the other address is not to be moved too.
    let v4 = Record::address(&Site::Adatum.host(), IpAddr::V4(Site::Adatum.v4()));
    let mut peers = Peers::configured(tag, vec![v4], change);
    let old = IpAddr::V4(Site::Adatum.v4());
    let stunnel = peers.edge_at(old, &peers.lab.identities.adatum);
    assert_eq!(peers.out(Play::Message), Ok(()));
    drop(stunnel);
    let new: IpAddr = "198.51.100.27".parse().unwrap();
    let site = peers.lab.site(Site::Adatum);
    let router = Site::Adatum.router4();
    site.ip_batch(&format!(
        "addr del {old}/28 dev ext0\n\
         addr add {new}/28 dev ext0\n\
         route replace default via {router} dev ext0\n"
    ))
    .unwrap();
    peers.lab.dns.replace(vec![Record::address(&Site::Adatum.host(), new)]).unwrap();
    let _stunnel = peers.edge_at(new, &peers.lab.identities.adatum);
    peers.followed();
    assert_eq!(peers.inward(Play::Message), Ok(()), "{}", peers.contoso.log());
    assert_eq!((peers.health(new).as_deref(), peers.health(old)), (Some("alive"), None));
}

#[test]
fn one_of_a_partners_two_edges_is_enough() {
    let (first, second): (IpAddr, IpAddr) =
        (IpAddr::V4(Site::Adatum.v4()), "198.51.100.27".parse().unwrap());
    let service = "_sipfederationtls._tcp.adatum.example";
    let records = vec![
        Record::address("sip.adatum.example", first),
        Record::address("sip2.adatum.example", second),
        Record::other(service, "SRV 0 0 5061 sip.adatum.example."),
        Record::other(service, "SRV 10 0 5061 sip2.adatum.example."),
    ];
    let peers = Peers::raise_with("ptw", records);
    let site = peers.lab.site(Site::Adatum);
    site.ip_batch(&format!("addr add {second}/28 dev ext0\n")).unwrap();
    let names = ["sip2.adatum.example", "sip.adatum.example"];
    let both = peers.lab.identities.authority.issue("adatum-two", &names, &[]).unwrap();
    // Only the second is there; then only the first; nothing is lost but time.
    let stunnel = peers.edge_at(second, &both);
    assert_eq!(peers.out(Play::Call), Ok(()), "{}", peers.contoso.log());
    let stand = || (peers.health(first), peers.health(second));
    let told = |first: &str, second: &str| (Some(first.to_owned()), Some(second.to_owned()));
    assert_eq!(stand(), told("no-connection", "alive"));
    drop(stunnel);
    let _stunnel = peers.edge_at(first, &both);
    let took = peers.followed();
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(stand(), told("alive", "no-connection"));
}

#[test]
fn beside_an_address_that_is_silent_the_other_family_is_used_and_show_tells_both() {
    let (silent, real): (IpAddr, IpAddr) =
        (IpAddr::V6(Site::Dns.v6()), IpAddr::V4(Site::Adatum.v4()));
    let records = vec![
        Record::address("sip.adatum.example", silent),
        Record::address("sip.adatum.example", real),
        Record::other("_sipfederationtls._tcp.adatum.example", "SRV 0 0 5061 sip.adatum.example."),
    ];
    let mut lab = Lab::raise("pey").unwrap();
    lab.dns.replace(records).unwrap();
    // One after the other, the request would have been given up before the second is tried.
    let config = contoso_config(&lab).limit("handshake_timeout = \"30s\"");
    let contoso = Edge::start(&lab, config).unwrap();
    let peers = Peers { contoso, lab };
    // What comes there for the port of SIP is dropped: nobody answers, nobody refuses.
    let drop = "add table inet x; add chain inet x i { type filter hook input priority 0; }; \
                add rule inet x i tcp dport 5061 counter drop";
    assert!(peers.lab.site(Site::Dns).command("nft").arg(drop).status().unwrap().success());
    let _stunnel = peers.edge_at(real, &peers.lab.identities.adatum);
    assert_eq!(peers.out(Play::Message), Ok(()), "{}", peers.contoso.log());
    let rules = peers.lab.site(Site::Dns).command("nft").args(["list", "ruleset"]).output();
    let rules = String::from_utf8(rules.unwrap().stdout).unwrap();
    assert!(!rules.contains("packets 0 "), "the silent one was not tried: {rules}");
    let shown = peers.contoso.json(&["partner", "show", "adatum.example"]).unwrap();
    let targets = shown["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 2, "{shown}");
    let alive = |target: &serde_json::Value| target["health"] == "alive";
    let at = SocketAddr::new(real, FEDERATION_PORT).to_string();
    assert!(targets.iter().any(|target| target["address"] == at.as_str() && alive(target)));
}

#[test]
fn a_certificate_that_is_rolled_is_taken_and_a_wrong_one_is_not() {
    let peers = Peers::raise("prl");
    let (host, authority) = (Site::Adatum.host(), &peers.lab.identities.authority);
    let address = IpAddr::V4(Site::Adatum.v4());
    let stunnel = peers.edge_at(address, &peers.lab.identities.adatum);
    assert_eq!(peers.out(Play::Message), Ok(()));
    drop(stunnel);
    let rolled = authority.issue("adatum-next", &[&host, "adatum.example"], &[]).unwrap();
    let stunnel = peers.edge_at(address, &rolled);
    peers.followed();
    assert_eq!(peers.inward(Play::Message), Ok(()));
    assert_eq!(peers.health(address).as_deref(), Some("alive"));
    drop(stunnel);
    let wrong = authority.issue("adatum-wrong", &["sip.northwind.example"], &[]).unwrap();
    let _stunnel = peers.edge_at(address, &wrong);
    assert_eq!(peers.ask_out(), 504);
    assert!(peers.out(Play::Message).is_err(), "a wrong certificate was sent a message");
    assert_eq!(peers.health(address).as_deref(), Some("tls-failed"));
}

#[test]
fn another_domains_from_is_refused_and_counted() {
    let peers = Peers::raise("pfr");
    let before = peers.contoso.refusals("identity-not-proved").unwrap();
    let mut session = peers.session();
    let lie =
        request("MESSAGE", &user(Site::Northwind), &user(Site::Contoso), "sip.adatum.example");
    let answer = session.ask(&lie).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text);
    assert!(answer.text.contains("ms-diagnostics-public"), "{}", answer.text);
    assert!(!answer.text.contains("ms-diagnostics:"), "{}", answer.text);
    assert_eq!(peers.contoso.refusals("identity-not-proved").unwrap(), before + 1);
    let shown = peers.shown(&Site::Northwind.domain());
    let refusal = &shown["refusals"][0];
    assert_eq!(refusal["reason"], "identity-not-proved", "{shown:#}");
    let remote: SocketAddr = refusal["remote"].as_str().unwrap().parse().unwrap();
    assert_eq!(remote.ip(), Site::Adatum.v4(), "{shown:#}");
}

#[test]
fn a_partner_that_goes_silent_holds_up_nobody_else() {
    let peers = Peers::raise("psl");
    let at = SocketAddr::new(IpAddr::V4(Site::Adatum.v4()), FEDERATION_PORT);
    let adatum = &peers.lab.identities.adatum;
    let site = peers.lab.site(Site::Adatum);
    let _server = openssl_peer::Server::start(site, peers.lab.dir(), at, adatum, None).unwrap();
    let fabrikam = edge_tests::demo::world::fabrikam_config(&peers.lab);
    let fabrikam = Edge::start(&peers.lab, fabrikam).unwrap();
    std::thread::scope(|scope| {
        let silent = scope.spawn(|| {
            let began = Instant::now();
            let outcome = peers.out(Play::Message);
            (outcome, began.elapsed())
        });
        std::thread::sleep(Duration::from_secs(1));
        for _ in 0..5 {
            let began = Instant::now();
            let dialogue =
                Dialogue::once(Play::Message, &user(Site::Fabrikam), &user(Site::Contoso));
            let server = fabrikam.config.inside_address();
            let (from, to) = (peers.agent(Site::Fabrikam), peers.agent(Site::Contoso));
            sipp::play(&from, server, &to, peers.lab.dir(), &dialogue).unwrap();
            // Less than the silent one is waited for (RFC 3261 section 17.1.2.2: 32 s).
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        }
        // Something went out, and nothing comes.
        let shown = peers.shown("adatum.example");
        assert_eq!(
            (shown["messages_in"].as_u64(), shown["messages_out"].as_u64()),
            (Some(0), Some(1))
        );
        let (outcome, _) = silent.join().unwrap();
        assert!(outcome.is_err(), "nobody answered, and yet the message was delivered");
    });
}

#[test]
fn an_answer_whose_connection_is_lost_reaches_the_partner_over_one_that_is_dialled() {
    let peers = Peers::raise("pwb");
    let listens = |site: Site| {
        let at = SocketAddr::new(IpAddr::V4(site.server4()), SERVER_PORT);
        InsideServer::start(peers.lab.inside(site), at).unwrap()
    };
    let (here, there) = (listens(Site::Contoso), listens(Site::Adatum));
    let at = IpAddr::V4(Site::Adatum.v4());
    let _stunnel = peers.edge_at(at, &peers.lab.identities.adatum);
    let mut session = peers.session();
    let host = "sip.adatum.example";
    let message = request("MESSAGE", &user(Site::Adatum), &user(Site::Contoso), host);
    session.write(message.as_bytes()).unwrap();
    let mut server = here.accept().unwrap();
    let asked = loop {
        // The edge asks first whether the server lives.
        let text = server.message(BUSY).unwrap();
        server.write(answer_to(&text, "200 OK").as_bytes()).unwrap();
        if text.starts_with("MESSAGE ") {
            break text;
        }
        assert!(text.starts_with("OPTIONS "), "{text}");
    };
    assert_eq!(session.response().unwrap().status, 200);
    // Once more, and now the connection is lost before the answer.
    session
        .write(
            message
                .replace("Call-ID: ", "Call-ID: again-")
                .replace("z9hG4bK", "z9hG4bKb")
                .as_bytes(),
        )
        .unwrap();
    let again = server.message(BUSY).unwrap();
    assert_ne!(again, asked);
    drop(session);
    let mut back = there.accept().unwrap();
    server.write(answer_to(&again, "200 OK").as_bytes()).unwrap();
    let answer = back.message(BUSY).unwrap();
    assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
    assert!(answer.contains("Call-ID: again-"), "{answer}");
}

/// A response with this status line to a request.
fn answer_to(request: &str, status: &str) -> String {
    let copied = ["Via", "From", "To", "Call-ID", "CSeq"];
    let lines = copied.iter().flat_map(|name| {
        let tag = if *name == "To" { ";tag=there" } else { "" };
        headers(request, name).into_iter().map(move |value| format!("{name}: {value}{tag}\r\n"))
    });
    format!("SIP/2.0 {status}\r\n{}Content-Length: 0\r\n\r\n", lines.collect::<String>())
}
