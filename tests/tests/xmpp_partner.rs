//! XMPP federation with a foreign server: Prosody as the partner, the real daemon, and a SIP user
//! inside.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use edge_ebpf::verdict::Reason;
use edge_tests::{
    lab::{
        Lab,
        certs::Identity,
        config::EdgeConfig,
        counters::Counters,
        daemon::Edge,
        dns::{Dns, Record, XMPP_SERVICE, XMPPS_SERVICE, honest_records},
        layout::Site,
        process::wait_for,
        prosody::{DIRECT_TLS_PORT, Encryption, Prosody, ProsodyConfig},
        scan::SynSender,
        sip_user::{SipUser, body_of, pidf},
        sipp::SERVER_PORT,
        xmpp_client::XmppClient,
    },
    patience::{BUSY, patience},
};

const ALICE: &str = "alice@contoso.example";
const DAVE: &str = "dave@adatum.example";
const PARTNER: &str = "adatum.example";
/// For a machine that is busy with other work; nothing here waits for time to pass.
const PATIENCE: Duration = BUSY;
/// What is looked at to see that nothing comes.
const NOTHING: Duration = Duration::from_millis(500);

/// The lab with everybody in it. Fields are dropped in this order.
struct World {
    dave: XmppClient,
    alice: SipUser,
    prosody: Prosody,
    edge: Edge,
    lab: Lab,
}

impl World {
    /// `entry`: further lines of the partner's entry; `change`: what of Prosody is otherwise.
    fn raise(
        tag: &str,
        entry: &str,
        prepare: impl FnOnce(&mut Lab),
        change: impl FnOnce(&Lab, ProsodyConfig) -> ProsodyConfig,
    ) -> Self {
        let mut lab = Lab::raise(tag).unwrap();
        prepare(&mut lab);
        let contoso = &lab.identities.contoso;
        let config = EdgeConfig::new(Site::Contoso, contoso, &lab.identities.trust)
            .xmpp(&[(PARTNER, entry)]);
        Self::with(lab, config, change)
    }

    /// The same, with this configuration of ours.
    fn with(
        lab: Lab,
        config: EdgeConfig,
        change: impl FnOnce(&Lab, ProsodyConfig) -> ProsodyConfig,
    ) -> Self {
        let server = SocketAddr::new(Site::Contoso.server4().into(), SERVER_PORT);
        let inside = config.inside_address();
        let edge = Edge::start(&lab, config).unwrap();
        let alice = SipUser::start(lab.inside(Site::Contoso), ALICE, server, inside).unwrap();
        let config = ProsodyConfig::partner(&lab, Site::Adatum, &lab.identities.adatum).user(DAVE);
        let config = change(&lab, config);
        let prosody = Prosody::start(&lab, lab.site(Site::Adatum), config).unwrap();
        let dave = prosody.login(DAVE).unwrap();
        Self { dave, alice, prosody, edge, lab }
    }

    fn plain(tag: &str) -> Self {
        Self::raise(tag, FEDERATED, |_| {}, |_, config| config)
    }

    /// A message each way.
    fn messages(&mut self, words: &str) -> Result<()> {
        let (into, back) = (format!("{words} in"), format!("{words} back"));
        self.dave.message(ALICE, &into)?;
        let came = self.alice.expect_message(&into)?;
        anyhow::ensure!(came.text.contains(DAVE), "{}", came.text);
        let status = self.alice.message(DAVE, &back)?;
        anyhow::ensure!(status / 100 == 2, "answered with {status}");
        self.dave.expect_message(ALICE, &back)?;
        Ok(())
    }

    /// Fails with both logs when `work` does.
    #[track_caller]
    fn check<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> T {
        work(self).unwrap_or_else(|error| {
            let text = self.partner().unwrap_or_default();
            panic!("{error:?}\n{text}\n{}\n{}", self.edge.log(), self.prosody.log_tail())
        })
    }

    /// What the daemon says of the partner.
    fn partner(&self) -> Result<String> {
        Ok(self.edge.json(&["partner", "show", PARTNER])?.to_string())
    }

    /// Waits until the daemon says all of this of the partner.
    fn shows(&self, parts: &[&str]) -> Result<()> {
        wait_for(&format!("edge partner show: {parts:?}"), PATIENCE, || {
            let text = self.partner()?;
            let missing = parts.iter().find(|part| !text.contains(**part));
            missing.map_or(Ok(Some(())), |part| anyhow::bail!("no {part} in {text}"))
        })
    }

    /// Waits until the log says that something was refused, with all of this in the line.
    fn refused(&self, parts: &[&str]) -> Result<()> {
        wait_for(&format!("refused: {parts:?}"), PATIENCE, || {
            let log = self.edge.log();
            let mut refused = log.lines().filter(|line| line.contains("refused reason=\"xmpp-"));
            Ok(refused.any(|line| parts.iter().all(|part| line.contains(part))).then_some(()))
        })
    }
}

const FEDERATED: &str = "type = \"federated\"";

/// A message that dave sends comes back as an error with this condition.
fn bounced(dave: &mut XmppClient, condition: &str) -> Result<()> {
    let id = dave.message(ALICE, "lost")?;
    let error = dave.expect("an error", |stanza| {
        stanza.starts_with("<message") && stanza.contains(&id) && stanza.contains("<error")
    })?;
    anyhow::ensure!(error.contains(condition), "no {condition}: {error}");
    Ok(())
}

#[test]
fn messages_go_both_ways_and_survive_a_restart_of_either_side() {
    let mut world = World::plain("xmpp-im");
    world.check(|world| {
        world.messages("first")?;
        world.shows(&["sasl-external", "TLSv1.3"])?;

        world.prosody.stop()?;
        world.prosody.run()?;
        world.dave = world.prosody.login(DAVE)?;
        world.messages("after their restart")?;

        world.edge.kill()?;
        world.edge.run()?;
        let inside = world.edge.config.inside_address();
        world.alice.connect_again(world.lab.inside(Site::Contoso), inside)?;
        world.messages("after ours")
    });
}

#[test]
fn an_xmpp_user_sees_a_sip_users_presence() {
    let mut world = World::plain("xmpp-see");
    world.check(|world| {
        let (dave, alice) = (&mut world.dave, &mut world.alice);
        dave.presence(ALICE, "subscribe")?;
        let dialog = alice.expect_subscribe()?;
        alice.notify(&dialog, "pending;expires=3600", "")?;
        alice.notify(&dialog, "active;expires=3600", &pidf(ALICE, "open", "at work"))?;
        dave.expect_presence(ALICE, "subscribed")?;
        let seen = dave.expect_presence(ALICE, "")?;
        anyhow::ensure!(seen.contains("at work"), "{seen}");
        alice.notify(&dialog, "active;expires=3600", &pidf(ALICE, "closed", ""))?;
        dave.expect_presence(ALICE, "unavailable")?;
        dave.presence(ALICE, "unsubscribe")?;
        let over = alice.expect("SUBSCRIBE that ends it", |text| {
            text.starts_with("SUBSCRIBE ") && text.contains("Expires: 0")
        })?;
        alice.reply(&over, "200 OK", "Expires: 0\r\n", "")?;
        Ok(())
    });
}

/// Whoever watched before our restart sees again without signing in anew, and is let see no more
/// than before.
#[test]
fn an_xmpp_user_sees_presence_after_our_restart_too() {
    let mut world = World::plain("xmpp-again");
    world.check(|world| {
        let (dave, alice) = (&mut world.dave, &mut world.alice);
        dave.presence(ALICE, "subscribe")?;
        let dialog = alice.expect_subscribe()?;
        alice.notify(&dialog, "active;expires=3600", &pidf(ALICE, "open", "before"))?;
        dave.expect_presence(ALICE, "subscribed")?;
        dave.expect("presence from before", |stanza| stanza.contains("before"))?;

        world.edge.stop()?;
        world.edge.run()?;
        let inside = world.edge.config.inside_address();
        alice.connect_again(world.lab.inside(Site::Contoso), inside)?;
        let dialog = alice.expect_subscribe()?;
        alice.notify(&dialog, "active;expires=3600", &pidf(ALICE, "open", "after"))?;
        dave.expect("presence from after", |stanza| stanza.contains("after"))?;
        Ok(())
    });
}

/// A list that names the certificate by which a live stream is proved ends it.
#[test]
fn a_revocation_list_ends_a_live_stream() {
    let lab = Lab::raise("xmpp-revoked").unwrap();
    let authority = &lab.identities.authority;
    let theirs = authority.issue_numbered("numbered", &["adatum.example"], 77).unwrap();
    let list = authority.revoke("list", &[]).unwrap();
    let contoso = &lab.identities.contoso;
    let mut config = EdgeConfig::new(Site::Contoso, contoso, &lab.identities.trust)
        .xmpp(&[(PARTNER, &format!("{FEDERATED}\ndialback = false"))]);
    config.more += &format!("\n[revocation]\nfiles = [\"{}\"]\n", list.display());
    let mut world =
        World::with(lab, config, |_, config| ProsodyConfig { identity: theirs, ..config });
    world.check(|world| {
        world.messages("before")?;
        world.lab.identities.authority.revoke("list", &[78])?;
        world.messages("another is revoked")?;
        world.lab.identities.authority.revoke("list", &[77])?;
        wait_for("no stream is left", PATIENCE, || {
            let streams = &world.edge.status()?["xmpp"]["streams"];
            Ok((*streams == 0).then_some(()))
        })?;
        world.refused(&["xmpp-certificate", "adatum.example", "evoked", "to mend: "])?;
        let status = world.alice.message(DAVE, "never")?;
        anyhow::ensure!(status >= 400, "answered with {status}");
        Ok(())
    });
}

#[test]
fn a_sip_user_sees_an_xmpp_users_presence() {
    let mut world = World::plain("xmpp-seen");
    world.check(|world| {
        let (dave, alice) = (&mut world.dave, &mut world.alice);
        let dialog = alice.subscribe(DAVE, 3600)?;
        dave.expect_presence(ALICE, "subscribe")?;
        dave.presence(ALICE, "subscribed")?;
        let open = alice.expect_notify(&["Subscription-State: active", "open</"])?;
        anyhow::ensure!(body_of(&open.text).contains(PARTNER), "{}", open.text);
        dave.show("away", "at lunch")?;
        alice.expect_notify(&["at lunch", "away"])?;
        dave.send("<presence type='unavailable'/>")?;
        alice.expect_notify(&["closed</"])?;
        let ended = alice.subscribe_within(&dialog, 0)?;
        anyhow::ensure!(ended / 100 == 2, "answered with {ended}");
        alice.expect_notify(&["Subscription-State: terminated"])?;
        Ok(())
    });
}

#[test]
fn a_wrong_certificate_is_refused_and_the_log_says_whose_it_is_and_what_to_do() {
    type Make = fn(&Lab) -> Identity;
    let trusted = "one of a trusted authority that names adatum.example is needed";
    let cases: [(&str, Make, &str, &str); 3] = [
        (
            "name",
            |lab| lab.identities.evil.clone(),
            "fabrikam.example.evil.example",
            "an SRV name _xmpp-server.adatum.example is needed",
        ),
        (
            "expired",
            |lab| {
                let names = ["adatum.example", "sip.adatum.example"];
                lab.identities.authority.issue_until("late", &names, &[], 2020).unwrap()
            },
            "adatum.example",
            trusted,
        ),
        ("unknown", |lab| lab.identities.unknown_authority.clone(), "fabrikam.example", trusted),
    ];
    for (name, identity, subject, mend) in cases {
        let entry = format!("{FEDERATED}\ndialback = false");
        let mut world = World::raise(
            &format!("xmpp-bad-{name}"),
            &entry,
            |_| {},
            |lab, config| ProsodyConfig { identity: identity(lab), ..config },
        );
        world.check(|world| {
            // From the partner: nothing comes through.
            world.dave.message(ALICE, "never")?;
            world.refused(&[PARTNER, subject, mend])?;
            // To the partner: an answer that says no, and nothing comes.
            let status = world.alice.message(DAVE, "never")?;
            anyhow::ensure!(status >= 400, "{name}: answered with {status}");
            let came = world.dave.others(NOTHING)?;
            anyhow::ensure!(
                !came
                    .iter()
                    .any(|stanza| stanza.contains("never</body>") && !stanza.contains("<error")),
                "{came:?}"
            );
            let came = world.alice.others(NOTHING);
            anyhow::ensure!(!came.iter().any(|text| text.starts_with("MESSAGE")), "{came:?}");
            Ok(())
        });
    }
}

#[test]
fn a_partner_without_a_certificate_that_is_known_does_dialback() {
    let entry = format!("{FEDERATED}\nsasl = \"optional\"");
    let mut world = World::raise(
        "xmpp-dialback",
        &entry,
        |_| {},
        |lab, config| {
            let stranger = lab.identities.dir.join("stranger-trust.pem");
            ProsodyConfig {
                identity: lab.identities.unknown_authority.clone(),
                trust: stranger,
                ..config
            }
        },
    );
    world.check(|world| {
        world.messages("by dialback")?;
        world.shows(&["dialback", "TLSv1.3"])
    });
    let log = world.prosody.log();
    assert!(!log.contains("SASL EXTERNAL with contoso.example succeeded"), "{log}");
}

#[test]
fn a_partner_without_tls_does_dialback_only_where_its_entry_says_so() {
    let plain = |_: &Lab, config| ProsodyConfig { encryption: Encryption::Never, ..config };
    let entry = format!("{FEDERATED}\ntls = \"optional\"\nsasl = \"optional\"");
    let mut world = World::raise("xmpp-plain", &entry, |_| {}, plain);
    world.check(|world| {
        world.messages("in the clear")?;
        world.shows(&["dialback"])
    });
    drop(world);
    let mut world = World::raise("xmpp-noplain", FEDERATED, |_| {}, plain);
    world.check(|world| {
        world.dave.message(ALICE, "never")?;
        world.refused(&[PARTNER, "xmpp-no-tls", "must take the STARTTLS that is offered"])?;
        let status = world.alice.message(DAVE, "never")?;
        anyhow::ensure!(status >= 400, "answered with {status}");
        Ok(())
    });
}

#[test]
fn both_ways_go_over_one_connection_where_the_partner_can() {
    let mut world = World::raise(
        "xmpp-bidi",
        FEDERATED,
        |_| {},
        |_, config| ProsodyConfig { bidi: true, ..config },
    );
    world.check(|world| {
        world.messages("both ways")?;
        let out = world
            .lab
            .site(Site::Contoso)
            .command("ss")
            .args(["-Htn", "state", "established"])
            .output()
            .context("ss")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let streams = text.lines().filter(|line| line.contains(":5269")).count();
        anyhow::ensure!(streams == 1, "{streams} connections:\n{text}");
        world.shows(&["sasl-external"])
    });
}

#[test]
fn direct_tls_is_done_where_dns_says_so() {
    let prepare = |lab: &mut Lab| {
        let records = [Site::Contoso, Site::Adatum].map(|site| {
            Record::service(XMPPS_SERVICE, &site.domain(), &site.host(), DIRECT_TLS_PORT)
        });
        let none = [Site::Contoso, Site::Adatum]
            .map(|site| Record::other(&format!("{XMPP_SERVICE}.{}", site.domain()), "SRV 0 0 0 ."));
        lab.dns.replace(records.into_iter().chain(none).collect()).unwrap();
    };
    let mut world = World::raise("xmpp-direct", FEDERATED, prepare, |_, config| config);
    world.check(|world| {
        world.messages("direct")?;
        world.shows(&["sasl-external"])?;
        let log = world.prosody.log();
        let port = format!(", {DIRECT_TLS_PORT}, ");
        let dialed = log.lines().any(|line| line.contains("Connected (FD") && line.contains(&port));
        anyhow::ensure!(dialed, "Prosody did not dial {DIRECT_TLS_PORT}");
        Ok(())
    });
}

#[test]
fn ipv6_alone_is_enough() {
    let prepare = |lab: &mut Lab| {
        let hosts = [Site::Contoso.host(), Site::Adatum.host()];
        let six = |record: &Record| !hosts.contains(&record.owner().to_owned()) || record.is_ipv6();
        lab.dns.set_records(honest_records().into_iter().filter(six).collect()).unwrap();
    };
    let mut world = World::raise("xmpp-six", FEDERATED, prepare, |_, config| config);
    world.check(|world| {
        world.messages("six")?;
        world.shows(&[&Site::Adatum.v6().to_string()])
    });
}

#[test]
fn a_blocked_domain_is_closed_and_its_hosts_are_dropped_in_the_driver() {
    let mut world = World::plain("xmpp-block");
    world.check(|world| {
        world.messages("before")?;
        world.edge.json(&["domain", "block", PARTNER])?;
        let counters = Counters::open(world.edge.pins())?;
        for (from, to) in Site::Adatum.outside().into_iter().zip(Site::Contoso.outside()) {
            let sender =
                SynSender::open(world.lab.site(Site::Adatum), from, SocketAddr::new(to, 5269))?;
            let before = counters.packets(Reason::BlockedDomain)?;
            wait_for(&format!("{from} is dropped"), patience(PATIENCE), || {
                sender.send()?;
                Ok((counters.packets(Reason::BlockedDomain)? > before).then_some(()))
            })?;
        }
        wait_for("its streams are closed", PATIENCE, || {
            let ss = world
                .lab
                .site(Site::Contoso)
                .command("ss")
                .args(["-Htn", "state", "established"])
                .output()?;
            let text = String::from_utf8_lossy(&ss.stdout).into_owned();
            Ok((!text.contains(":5269")).then_some(()))
        })?;
        let status = world.alice.message(DAVE, "never")?;
        anyhow::ensure!(status >= 400, "answered with {status}");
        world.edge.json(&["domain", "unblock", PARTNER])?;
        Ok(())
    });
}

#[test]
fn users_of_a_public_service_must_be_invited_first() {
    let mut world =
        World::raise("xmpp-public", "type = \"public-unverified\"", |_| {}, |_, config| config);
    world.check(|world| {
        bounced(&mut world.dave, "<error")?;
        world.refused(&["xmpp-not-invited"])?;
        let came = world.alice.others(NOTHING);
        anyhow::ensure!(!came.iter().any(|text| text.starts_with("MESSAGE")), "{came:?}");
        let status = world.alice.message(DAVE, "hello")?;
        anyhow::ensure!(status / 100 == 2, "answered with {status}");
        world.dave.expect_message(ALICE, "hello")?;
        world.messages("invited")
    });
}

#[test]
fn stanzas_of_an_xmpp_server_inside_are_relayed() {
    let mut lab = Lab::raise("xmpp-relay").unwrap();
    let (site, chat) = (Site::Contoso, "chat.contoso.example");
    let mut dns_records = vec![
        Record::service(XMPP_SERVICE, chat, &site.host(), 5269),
        Record::address("xmpp.contoso.example", site.server4().into()),
    ];
    dns_records.extend(honest_records());
    lab.dns.set_records(dns_records).unwrap();
    // Inside, the partner's server is the edge.
    let inner = vec![
        Record::service(XMPP_SERVICE, PARTNER, "edge.contoso.example", 23_456),
        Record::service(XMPP_SERVICE, chat, "xmpp.contoso.example", 5269),
        Record::address("edge.contoso.example", site.edge_inside4().into()),
        Record::address("xmpp.contoso.example", site.server4().into()),
    ];
    let _inner = Dns::start(lab.inside(site), &lab.dir().join("dns-inside"), &[], inner).unwrap();
    let authority = &lab.identities.authority;
    let own = authority
        .issue("edge-xmpp", &["contoso.example", "sip.contoso.example", chat], &[])
        .unwrap();
    let server = authority.issue("chat", &[chat, "xmpp.contoso.example"], &[]).unwrap();
    let config = EdgeConfig::new(site, &own, &lab.identities.trust)
        .xmpp(&[(PARTNER, "type = \"public-verified\"")])
        .xmpp_server(chat, "xmpp.contoso.example");
    let edge = Edge::start(&lab, config).unwrap();
    let erin = format!("erin@{chat}");
    let inside = ProsodyConfig {
        name: "prosody-inside".to_owned(),
        domains: vec![chat.to_owned()],
        listen: vec![site.server4().into()],
        resolver: std::net::Ipv4Addr::LOCALHOST.into(),
        ..ProsodyConfig::partner(&lab, site, &server)
    };
    let inside = Prosody::start(&lab, lab.inside(site), inside.user(&erin)).unwrap();
    let config = ProsodyConfig::partner(&lab, Site::Adatum, &lab.identities.adatum).user(DAVE);
    let outside = Prosody::start(&lab, lab.site(Site::Adatum), config).unwrap();
    let played = (|| {
        let (mut dave, mut erin) = (outside.login(DAVE)?, inside.login(&erin)?);
        dave.message(erin.jid(), "from outside")?;
        erin.expect_message(DAVE, "from outside")?;
        erin.message(DAVE, "from inside")?;
        dave.expect_message(erin.jid(), "from inside")?;
        dave.presence(erin.jid(), "subscribe")?;
        erin.expect_presence(DAVE, "subscribe")?;
        erin.presence(DAVE, "subscribed")?;
        dave.expect_presence(erin.jid(), "")?;
        // Its message and its wish to watch stand in the record that SIP's partners have.
        let row = edge.json(&["partner", "show", PARTNER])?;
        let counted = row["watch"][0]["evidence"]["messages"].as_u64();
        anyhow::ensure!(counted >= Some(2), "{row}");
        anyhow::Ok(())
    })();
    let logs = [edge.log(), inside.log_tail(), outside.log_tail()];
    assert!(played.is_ok(), "{played:?}\n{}", logs.join("\n----\n"));
}
