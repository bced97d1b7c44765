//! An XMPP partner and a SIP user inside, with the appliance between them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use edge_tests::{
    lab::{
        Lab,
        config::EdgeConfig,
        daemon::Edge,
        layout::Site,
        prosody::{self, Prosody, ProsodyConfig},
        sip_user::SipUser,
        sipp::SERVER_PORT,
    },
    patience::eventually,
};

const DAVE: &str = "dave@adatum.example";

/// Edge at contoso with adatum as XMPP partner, adatum's Prosody, and a SIP user behind Edge.
fn meet(
    lab: &Lab,
    lines: &str,
    change: impl Fn(ProsodyConfig) -> ProsodyConfig,
) -> (Edge, Prosody, SipUser) {
    let ids = &lab.identities;
    let prosody = ProsodyConfig::partner(lab, Site::Adatum, &ids.adatum).user(DAVE);
    let prosody = Prosody::start(lab, lab.site(Site::Adatum), change(prosody)).unwrap();
    let config =
        EdgeConfig::new(Site::Contoso, &ids.contoso, &ids.trust).xmpp(&[("adatum.example", lines)]);
    let inside = config.inside_address();
    let edge = Edge::start(lab, config).unwrap();
    let at = SocketAddr::new(Site::Contoso.server4().into(), SERVER_PORT);
    let alice = SipUser::start(lab.inside(Site::Contoso), "alice@contoso.example", at, inside);
    (edge, prosody, alice.unwrap())
}

/// A message each way.
fn exchange(edge: &Edge, prosody: &Prosody, alice: &mut SipUser) {
    let mut dave = prosody.login(DAVE).unwrap();
    let played = (|| {
        let status = alice.message("dave@adatum.example", "from SIP")?;
        anyhow::ensure!((200..300).contains(&status), "answered with {status}");
        dave.expect_message("alice@contoso.example", "from SIP")?;
        dave.message("alice@contoso.example", "from XMPP")?;
        alice.expect_message("from XMPP")?;
        anyhow::Ok(())
    })();
    assert!(played.is_ok(), "{played:?}\n{}\n{}", edge.log(), prosody.log_tail());
}

/// What `edge partner show` says of the streams: how each is proved.
fn proofs(edge: &Edge) -> Vec<String> {
    let row = edge.json(&["partner", "show", "adatum.example"]).unwrap();
    let streams = row["xmpp"]["streams"].as_array().unwrap().clone();
    assert!(!streams.is_empty(), "{row}");
    let proved = streams.iter().flat_map(|stream| stream["proved"].as_array().unwrap().clone());
    proved.map(|proof| proof["how"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_message_passes_both_ways_by_certificates() {
    let lab = Lab::raise("xmpp-sasl").unwrap();
    let (mut edge, prosody, mut alice) =
        meet(&lab, "type = \"federated\"", |config| ProsodyConfig { secure_auth: true, ..config });
    exchange(&edge, &prosody, &mut alice);
    let how = proofs(&edge);
    assert!(how.iter().all(|how| how == "sasl-external"), "{how:?}");
    let status = edge.status().unwrap();
    assert!(status["xmpp"]["messages_to_xmpp"].as_u64().unwrap() >= 1, "{}", status["xmpp"]);
    let partners = edge.json(&["partner", "list", "--kind", "xmpp"]).unwrap();
    let names: Vec<_> = partners.as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["adatum.example"]);
    // An administrator begins anew.
    let reset = edge.json(&["partner", "reset", "adatum.example"]).unwrap();
    assert!(reset["streams"].as_u64().unwrap() >= 1, "{reset}");
    eventually("no stream is left", || edge.status().unwrap()["xmpp"]["streams"] == 0);
    exchange(&edge, &prosody, &mut alice);
    let explained = edge.command(&["explain", "domain", "adatum.example"]).unwrap();
    assert!(!explained.stdout.contains("our certificate"), "{}", explained.stdout);
    assert!(explained.stdout.contains("SASL EXTERNAL over TLS"), "{}", explained.stdout);
    // Blocked, it is gone at once, and nobody gets through.
    edge.json(&["domain", "block", "adatum.example"]).unwrap();
    let status = alice.message("dave@adatum.example", "blocked").unwrap();
    assert_eq!(status, 403, "{}", edge.log());
    eventually("no stream is left", || edge.status().unwrap()["xmpp"]["streams"] == 0);
    edge.stop().unwrap();
}

#[test]
fn a_drain_takes_no_new_stream_and_those_that_stand_go_on() {
    let lab = Lab::raise("xmpp-drain").unwrap();
    let (edge, prosody, mut alice) =
        meet(&lab, "type = \"federated\"", |config| ProsodyConfig { secure_auth: true, ..config });
    exchange(&edge, &prosody, &mut alice);
    let at = SocketAddr::new(Site::Contoso.v4().into(), prosody::SERVER_PORT);
    let comes_in = || {
        let connect = || TcpStream::connect_timeout(&at, Duration::from_secs(5)).is_ok();
        lab.site(Site::Adatum).run(connect).unwrap()
    };
    assert!(comes_in());
    let drain = edge.json(&["drain"]).unwrap();
    assert!(drain["xmpp_streams"].as_u64().unwrap() >= 1, "{drain}");
    assert!(!comes_in(), "{}", edge.log());
    exchange(&edge, &prosody, &mut alice);
    edge.json(&["drain", "--off"]).unwrap();
    assert!(comes_in(), "{}", edge.log());
}

#[test]
fn a_message_passes_both_ways_by_dialback() {
    let lab = Lab::raise("xmpp-dialback").unwrap();
    let roots = lab.identities.dir.join("stranger-trust.pem");
    let lines = "type = \"federated\"\nsasl = \"not-supported\"";
    let (edge, prosody, mut alice) =
        meet(&lab, lines, |config| ProsodyConfig { trust: roots.clone(), ..config });
    exchange(&edge, &prosody, &mut alice);
    let how = proofs(&edge);
    assert!(how.iter().all(|how| how == "dialback"), "{how:?}");
}

#[test]
fn nobody_who_is_no_partner_or_lacks_a_good_certificate_gets_through() {
    let lab = Lab::raise("xmpp-refused").unwrap();
    let roots = lab.identities.dir.join("stranger-trust.pem");
    // Certificates alone count, and the other end's is from an authority that nobody trusts here.
    let (edge, prosody, mut alice) = meet(&lab, "type = \"federated\"", |config| ProsodyConfig {
        identity: lab.identities.self_signed.clone(),
        trust: roots.clone(),
        ..config
    });
    let mut dave = prosody.login(DAVE).unwrap();
    dave.message("alice@contoso.example", "no").unwrap();
    dave.expect("an error", |stanza| stanza.contains("type='error'")).unwrap();
    // Who only says that it is the partner is shown so, with its certificate and what would do.
    let shown = edge.command(&["partner", "show", "adatum.example"]).unwrap().stdout;
    assert!(shown.contains("which says it is adatum.example"), "{shown}\n{}", edge.log());
    let status = alice.message("dave@adatum.example", "no").unwrap();
    assert!(status >= 400, "{status}");
    let row = edge.json(&["partner", "show", "adatum.example"]).unwrap();
    let refusals = row["xmpp"]["refusals"].as_array().unwrap();
    assert!(!refusals.is_empty(), "{row}\n{}", edge.log());
    // Counted by the same names.
    let status = edge.status().unwrap();
    let reason = refusals.last().unwrap()["reason"].as_str().unwrap();
    assert!(status["refusals"][reason].as_u64().unwrap() >= 1, "{reason}: {}", status["refusals"]);
    assert!(alice.others(Duration::from_millis(100)).is_empty());
}
