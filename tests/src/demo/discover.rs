//! Steps: a partner that nobody wrote down, and a provider that says what it may not.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    federate::dialogue,
    world::{World, contoso_access, user},
};
use crate::lab::{
    config::EdgeConfig,
    daemon::Edge,
    layout::Site,
    sipp::{self, Carrier, Dialogue, Play},
    tls_client::request,
};

/// For a machine that is busy with other work.
const PATIENCE: Duration = crate::patience::BUSY;

/// With discovery on, Fabrikam without an entry: its SRV record and certificate are enough.
pub fn message_discovered(world: &mut World) -> Result<String> {
    let domain = Site::Fabrikam.domain();
    let change = |config: &mut EdgeConfig| {
        config.allowed.retain(|allowed| *allowed != domain);
        config.federation.push("discovery = true".to_owned());
    };
    with_config(world, change, |world| {
        ensure!(world.contoso.domain(&domain)?.is_none(), "{domain} has an entry");
        let into = dialogue(world, Play::Message, Site::Fabrikam, Site::Contoso)?;
        dialogue(world, Play::Message, Site::Contoso, Site::Fabrikam)?;
        Ok(format!("no entry for {domain}, discovery on: {into}; and back"))
    })
}

/// A provider's certificate speaks for a domain that the provider carries, for no other, and for
/// none when it is turned off.
pub fn refuse_provider(world: &mut World) -> Result<String> {
    let provider = |enabled: bool| {
        format!(
            "[[federation.public_im_provider]]\nname = \"pic\"\nproxy_fqdn = \"{}\"\n\
             domains = [\"pic.example\"]\nenabled = {enabled}\n\n\
             [[user_policy]]\nusers = [\"*\"]\npublic_im = true\n",
            Site::Evil.host()
        )
    };
    let on = |config: &mut EdgeConfig| config.more += &provider(true);
    with_config(world, on, |world| {
        arrives(world, "mallory@pic.example")?;
        refused(world, &user(Site::Fabrikam), "not-carried")
    })?;
    let off = |config: &mut EdgeConfig| config.more += &provider(false);
    with_config(world, off, |world| refused(world, "mallory@pic.example", "provider-disabled"))?;
    Ok(format!(
        "{} as provider: a message from its pic.example arrives, one from {} is 403 not-carried; \
         turned off, its own domain is 403 provider-disabled",
        Site::Evil.host(),
        Site::Fabrikam.domain()
    ))
}

/// The provider's edge says a message from this user, and our user has it.
fn arrives(world: &World, from: &str) -> Result<()> {
    let to = user(Site::Contoso);
    let dialogue = Dialogue::once(Play::Message, from, &to);
    let agent = world.agent(Site::Contoso, Carrier::Tcp);
    let receiver = sipp::receiver(&agent, world.lab.dir(), &dialogue)?;
    let evil = world.lab.identities.evil.clone();
    let caller = world.caller(Site::Evil, Some(&evil));
    let mut client = caller.tls(contoso_access()[0], &Site::Contoso.host())?;
    let response = client.ask(&request("MESSAGE", from, &to, &Site::Evil.host()))?;
    ensure!(response.status == 200, "{from} was answered with {}", response.status);
    receiver.finish(PATIENCE)
}

/// The provider's edge says a message from this user: 403, counted under this reason.
fn refused(world: &mut World, from: &str, reason: &str) -> Result<()> {
    let before = world.contoso.refusals(reason)?;
    let evil = world.lab.identities.evil.clone();
    let caller = world.caller(Site::Evil, Some(&evil));
    let mut client = caller.tls(contoso_access()[0], &Site::Contoso.host())?;
    let message = request("MESSAGE", from, &user(Site::Contoso), &Site::Evil.host());
    let response = client.ask(&message)?;
    ensure!(response.status == 403, "{from} was answered with {}", response.status);
    let counted = world.contoso.refusals(reason)? - before;
    ensure!(counted == 1, "refusals[{reason}] went up by {counted}");
    Ok(())
}

/// Does `work` under a changed file of Contoso's, then puts the old one back.
pub(super) fn with_config<T>(
    world: &mut World,
    change: impl FnOnce(&mut EdgeConfig),
    work: impl FnOnce(&mut World) -> Result<T>,
) -> Result<T> {
    let plain = world.contoso.config.clone();
    change(&mut world.contoso.config);
    let worked = reload(&world.contoso).and_then(|()| work(world));
    world.contoso.config = plain;
    reload(&world.contoso)?;
    worked
}

/// Puts a daemon's changed file in force.
pub(super) fn reload(edge: &Edge) -> Result<()> {
    edge.write_config()?;
    edge.json(&["reload"])?;
    Ok(())
}
