//! The lab's foreign XMPP servers, without us between them: what they can do with each other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use edge_tests::lab::{
    Lab,
    dns::{Record, XMPPS_SERVICE},
    layout::Site,
    prosody::{DIRECT_TLS_PORT, Prosody, ProsodyConfig},
};

/// Two Prosodys, and a message and presence between their users.
fn meet(lab: &Lab, change: impl Fn(ProsodyConfig) -> ProsodyConfig) -> [String; 2] {
    let northwind = lab.identities.authority.issue_xmpp("northwind-xmpp", &["northwind.example"]);
    let start = |site: Site, user: &str, identity| {
        let config = ProsodyConfig::partner(lab, site, identity).user(user);
        Prosody::start(lab, lab.site(site), change(config)).unwrap()
    };
    let (dave, carol) = ("dave@adatum.example", "carol@northwind.example");
    let adatum = start(Site::Adatum, dave, &lab.identities.adatum);
    let northwind = start(Site::Northwind, carol, &northwind.unwrap());
    let (mut dave, mut carol) = (adatum.login(dave).unwrap(), northwind.login(carol).unwrap());

    let played = (|| {
        dave.message(carol.jid(), "hello")?;
        carol.expect_message(dave.jid(), "hello")?;
        carol.message(dave.jid(), "and back")?;
        dave.expect_message(carol.jid(), "and back")?;
        dave.presence(carol.jid(), "subscribe")?;
        carol.expect_presence(dave.jid(), "subscribe")?;
        carol.presence(dave.jid(), "subscribed")?;
        dave.expect_presence(carol.jid(), "")?;
        carol.show("away", "lunch")?;
        let away = dave.expect_presence(carol.jid(), "")?;
        assert!(away.contains("<show>away</show>"), "{away}");
        anyhow::Ok(())
    })();
    let logs = [adatum.log(), northwind.log()];
    assert!(played.is_ok(), "{played:?}\n{}\n{}", adatum.log_tail(), northwind.log_tail());
    logs
}

#[test]
fn two_foreign_servers_meet_by_certificates_of_dns_and_srv_names() {
    let lab = Lab::raise("xlab-sasl").unwrap();
    let logs = meet(&lab, |config| ProsodyConfig { secure_auth: true, bidi: true, ..config });
    for log in logs {
        assert!(log.contains("SASL EXTERNAL"), "{log}");
    }
}

#[test]
fn two_foreign_servers_meet_by_dialback_where_no_certificate_is_good() {
    let lab = Lab::raise("xlab-dialback").unwrap();
    let roots = lab.identities.dir.join("stranger-trust.pem");
    let logs = meet(&lab, |config| ProsodyConfig { trust: roots.clone(), ..config });
    for log in logs {
        assert!(log.contains("dialback"), "{log}");
        assert!(!log.contains("SASL EXTERNAL with"), "{log}");
    }
}

#[test]
fn two_foreign_servers_meet_over_direct_tls() {
    let mut lab = Lab::raise("xlab-direct").unwrap();
    let records = [Site::Adatum, Site::Northwind]
        .map(|site| Record::service(XMPPS_SERVICE, &site.domain(), &site.host(), DIRECT_TLS_PORT));
    lab.dns.replace(records.to_vec()).unwrap();
    let logs = meet(&lab, |config| ProsodyConfig { secure_auth: true, ..config });
    for log in logs {
        let port = format!(", {DIRECT_TLS_PORT}, ");
        let dialed = log.lines().any(|line| line.contains("Connected (FD") && line.contains(&port));
        assert!(dialed, "{log}");
    }
}
