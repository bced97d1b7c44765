//! Step: a partner that speaks XMPP. A user of its server and a SIP user of ours exchange messages,
//! and one sees the other's presence.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context as _, Result, ensure};

use super::{
    discover::with_config,
    world::{World, user},
};
use crate::lab::{
    config::EdgeConfig,
    layout::Site,
    prosody::{Prosody, ProsodyConfig},
    sip_user::{SipUser, pidf},
    sipp::SERVER_PORT,
};

/// Adatum has an XMPP server and no SIP: messages both ways, and presence.
pub fn message_xmpp(world: &mut World) -> Result<String> {
    let partner = Site::Adatum.domain();
    let change = |config: &mut EdgeConfig| {
        config.allowed.retain(|allowed| *allowed != partner);
        *config = config.clone().xmpp(&[(&partner, "type = \"federated\"")]);
    };
    with_config(world, change, exchanged)
}

fn exchanged(world: &mut World) -> Result<String> {
    let (dave, alice) = (user(Site::Adatum), user(Site::Contoso));
    let lab = &world.lab;
    let server = SocketAddr::new(Site::Contoso.server4().into(), SERVER_PORT);
    let edge = world.contoso.config.inside_address();
    let mut inside = SipUser::start(lab.inside(Site::Contoso), &alice, server, edge)?;
    let config = ProsodyConfig::partner(lab, Site::Adatum, &lab.identities.adatum).user(&dave);
    let prosody = Prosody::start(lab, lab.site(Site::Adatum), config)?;
    let mut outside = prosody.login(&dave)?;
    let played = (|| {
        let begun = Instant::now();
        outside.message(&alice, "hello from XMPP")?;
        inside.expect_message("hello from XMPP")?;
        let into = begun.elapsed();
        let begun = Instant::now();
        let status = inside.message(&dave, "hello from SIP")?;
        ensure!(status / 100 == 2, "the SIP user's message was answered with {status}");
        outside.expect_message(&alice, "hello from SIP")?;
        let back = begun.elapsed();
        outside.presence(&alice, "subscribe")?;
        let dialog = inside.expect_subscribe()?;
        inside.notify(&dialog, "active;expires=3600", &pidf(&alice, "open", "at work"))?;
        let seen = outside.expect_presence(&alice, "")?;
        ensure!(seen.contains("at work"), "no note in {seen}");
        Ok((into, back))
    })();
    let (into, back) = played.with_context(|| prosody.log_tail())?;
    let shown = world.contoso.json(&["partner", "show", &Site::Adatum.domain()])?.to_string();
    ensure!(shown.contains("sasl-external"), "edge partner show says no sasl-external: {shown}");
    Ok(format!(
        "{dave} at Prosody to {alice}: MESSAGE and 200 after {} ms (connecting included), back after \
         {} ms; SUBSCRIBE, NOTIFY: {dave} sees \"at work\"; proved by SASL EXTERNAL over TLS",
        into.as_millis(),
        back.as_millis(),
    ))
}
