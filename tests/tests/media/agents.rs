//! Media of real user agents: telephones and sipp, behind edges and through pinholes.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use edge_tests::{
    demo::world::{FEDERATION_PORT, contoso_access, contoso_config, fabrikam_config, user},
    lab::{
        Lab,
        baresip::{Secret, Telephone, share_of_tone},
        config::EdgeConfig,
        daemon::Edge,
        layout::Site,
        links::Forwarding,
        sipp::{self, Agent, Carrier, Dialogue, Play, SERVER_PORT},
        stunnel::{Stunnel, Tunnel},
    },
};

use super::{PATIENCE, flows, outside_knows_the_way};

/// Two organisations, each behind an edge with media; their users are real telephones.
struct Pair {
    contoso: Edge,
    fabrikam: Edge,
    _forwarding: Forwarding,
    lab: Lab,
}

impl Pair {
    fn raise(tag: &str) -> Self {
        Self::raise_with(tag, [false, false])
    }

    /// Whether contoso's users, and fabrikam's, are at IPv6.
    fn raise_with(tag: &str, six: [bool; 2]) -> Self {
        let lab = Lab::raise(tag).unwrap();
        let forwarding = Forwarding::prepare(&lab, &[Site::Contoso, Site::Fabrikam]).unwrap();
        let with = |config: EdgeConfig, six| reached_at(config.media("relay", "50000-50199"), six);
        let fabrikam = Edge::start(&lab, with(fabrikam_config(&lab), six[1])).unwrap();
        let contoso = Edge::start(&lab, with(contoso_config(&lab), six[0])).unwrap();
        Self { contoso, fabrikam, _forwarding: forwarding, lab }
    }

    fn logs(&self) -> String {
        format!("{}\n{}", self.contoso.log(), self.fabrikam.log())
    }
}

#[test]
fn telephones_behind_two_edges_hear_each_other() {
    hear_each_other("mphone", Secret::None);
}

#[test]
fn telephones_hear_each_other_by_srtp_whose_keys_pass_the_edges_in_sdp() {
    hear_each_other("msrtp", Secret::Srtp);
}

#[test]
fn telephones_find_each_other_by_ice_and_agree_on_keys_by_dtls_through_the_edges() {
    hear_each_other("mdtls", Secret::DtlsAndIce);
}

fn hear_each_other(tag: &str, secret: Secret) {
    let pair = Pair::raise(tag);
    // Most of it is for a machine that is busy: a second of sound is enough.
    let lives = Duration::from_secs(30);
    let telephone = |site: Site, edge: &Edge, tone| Telephone {
        namespace: pair.lab.inside(site),
        address: IpAddr::V4(site.server4()),
        user: user(site),
        server: edge.config.inside_address(),
        tone,
        secret,
    };
    let (alice, bob) = (
        telephone(Site::Contoso, &pair.contoso, 440),
        telephone(Site::Fabrikam, &pair.fabrikam, 1000),
    );
    let mut bob_runs = bob.start(pair.lab.dir(), None, lives).unwrap();
    bob_runs.wait_ready().unwrap();
    let alice_runs =
        alice.start(pair.lab.dir(), Some(&user(Site::Fabrikam)), Duration::from_secs(20)).unwrap();
    let limit = PATIENCE + lives;
    let alice_heard = alice_runs.heard(limit);
    let bob_heard = bob_runs.heard(limit);
    for (who, heard, tone, own) in
        [("alice", alice_heard, 1000, 440), ("bob", bob_heard, 440, 1000)]
    {
        let heard = heard.unwrap_or_else(|error| panic!("{who}: {error:#}\n{}", pair.logs()));
        assert!(heard.len() > 8000, "{who} heard {} samples\n{}", heard.len(), pair.logs());
        let (other, echo) = (share_of_tone(&heard, tone), share_of_tone(&heard, own));
        assert!(other > 0.5 && echo < 0.1, "{who}: {other} of the other, {echo} of its own");
    }
}

#[test]
fn user_agents_behind_two_edges_exchange_rtp() {
    for (name, six) in [
        ("msipp4", [false, false]),
        ("msipp6", [true, true]),
        ("msipp46", [false, true]),
        ("msipp64", [true, false]),
    ] {
        let pair = Pair::raise_with(name, six);
        let agent = |site: Site, six: bool| Agent {
            namespace: pair.lab.inside(site),
            address: server(site, six),
            carrier: Carrier::Tcp,
        };
        let (own, other) = (agent(Site::Contoso, six[0]), agent(Site::Fabrikam, six[1]));
        let listens = inside(&pair.contoso, six[0]);
        let (caller, callee) = (user(Site::Contoso), user(Site::Fabrikam));
        speak(&pair.lab, &pair.contoso, [(&own, &caller), (&other, &callee)], listens);
    }
}

#[test]
fn user_agents_exchange_rtp_through_a_pinhole() {
    let mut lab = Lab::raise("msippin").unwrap();
    lab.dns.replace(Vec::new()).unwrap();
    let _forwarding = Forwarding::prepare(&lab, &[Site::Contoso, Site::Adatum]).unwrap();
    outside_knows_the_way(&lab, Site::Adatum);
    for six in [false, true] {
        let with = |config: EdgeConfig| config.media("pinhole", "50000-50199");
        let edge = Edge::start(&lab, reached_at(with(contoso_config(&lab)), six)).unwrap();
        // The partner's edge and its user agent stand on one host with an address of its own.
        let partner = Site::Adatum.outside()[usize::from(six)];
        let tunnels = [
            Tunnel {
                accept: SocketAddr::new(partner, FEDERATION_PORT),
                connect: SocketAddr::new(partner, SERVER_PORT),
                client: false,
            },
            Tunnel {
                accept: SocketAddr::new(partner, TO_CONTOSO),
                connect: contoso_access()[usize::from(six)],
                client: true,
            },
        ];
        let (namespace, ids) = (lab.site(Site::Adatum), &lab.identities);
        let dir = lab.dir().join("stunnel");
        let _stunnel = Stunnel::start(namespace, &dir, &ids.adatum, &ids.trust, &tunnels).unwrap();
        let outside = Agent { namespace, address: partner, carrier: Carrier::Tcp };
        let own = Agent {
            namespace: lab.inside(Site::Contoso),
            address: server(Site::Contoso, six),
            carrier: Carrier::Tcp,
        };
        let (ours, theirs) = (user(Site::Contoso), user(Site::Adatum));
        let (own, outside) = ((&own, &*ours), (&outside, &*theirs));
        speak(&lab, &edge, [own, outside], inside(&edge, six));
        speak(&lab, &edge, [outside, own], SocketAddr::new(partner, TO_CONTOSO));
    }
}

/// Where the partner's user agent reaches the tunnel to Contoso.
const TO_CONTOSO: u16 = 5063;

fn server(site: Site, six: bool) -> IpAddr {
    if six { site.server6().into() } else { site.server4().into() }
}

/// Where this edge takes SIP from inside.
fn inside(edge: &Edge, six: bool) -> SocketAddr {
    let listens = edge.config.inside_address();
    let address = if six { edge.config.site.edge_inside6().into() } else { listens.ip() };
    SocketAddr::new(address, listens.port())
}

/// The server inside is reached by this family.
fn reached_at(mut config: EdgeConfig, six: bool) -> EdgeConfig {
    let at = SocketAddr::new(server(config.site, six), SERVER_PORT);
    config.next_hops = vec![format!("sip:{at};transport=tcp")];
    config
}

/// The first calls the second by `server`; it speaks, and the other sends back what it hears.
fn speak(lab: &Lab, edge: &Edge, [from, to]: [(&Agent, &str); 2], server: SocketAddr) {
    let dialogue =
        Dialogue { talk: Duration::from_secs(4), ..Dialogue::once(Play::Media, from.1, to.1) };
    let say = |error| format!("{} calls: {error:#}\n{}", from.1, edge.log());
    let receiver = sipp::receiver(to.0, lab.dir(), &dialogue).unwrap();
    let sender = sipp::sender(from.0, lab.dir(), &dialogue, server).unwrap();
    let mut most = [0, 0];
    let deadline = Instant::now() + PATIENCE;
    while most.iter().any(|packets| *packets < 20) {
        assert!(Instant::now() < deadline, "{} calls: {most:?}\n{}", from.1, edge.log());
        for (side, most) in ["inside", "outside"].iter().zip(&mut most) {
            *most = (*most).max(packets_from(edge, side));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let outcome = sender.finish(PATIENCE).and_then(|()| receiver.finish(PATIENCE));
    assert_eq!(outcome.map_err(say), Ok(()));
}

/// Packets that flows from this side have let through, of the calls that are open.
fn packets_from(edge: &Edge, side: &str) -> u64 {
    let flows = flows(edge);
    let from = flows.iter().filter(|flow| flow["from"] == side);
    from.filter_map(|flow| flow["packets"].as_u64()).sum()
}
