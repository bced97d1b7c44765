//! Steps: messages and calls between partners, and who is refused.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};

use super::world::{World, contoso_access, user};
use crate::{
    lab::{
        dns::{Record, honest_records},
        layout::Site,
        process::wait_for,
        sipp::{Carrier, Play},
        tls_client::request,
    },
    patience::BUSY,
};

/// The daemon's counter of handshakes that ended for want of a certificate.
const NO_CERTIFICATE: &str = "handshake.no-certificate";

/// An instant message from a partner's user.
pub fn message_in(world: &mut World) -> Result<String> {
    dialogue(world, Play::Message, Site::Fabrikam, Site::Contoso)
}

/// An instant message to a partner's user.
pub fn message_out(world: &mut World) -> Result<String> {
    dialogue(world, Play::Message, Site::Contoso, Site::Fabrikam)
}

/// A call from a partner's user.
pub fn call_in(world: &mut World) -> Result<String> {
    dialogue(world, Play::Call, Site::Fabrikam, Site::Contoso)
}

/// A call to a partner's user.
pub fn call_out(world: &mut World) -> Result<String> {
    dialogue(world, Play::Call, Site::Contoso, Site::Fabrikam)
}

/// The partners' only addresses are IPv6 ones: a new connection must take that way.
pub fn message_ipv6(world: &mut World) -> Result<String> {
    let v6_only = |record: &Record| {
        let host = [Site::Contoso.host(), Site::Fabrikam.host()].contains(&record.owner().into());
        !host || record.is_ipv6()
    };
    world.lab.dns.set_records(honest_records().into_iter().filter(v6_only).collect())?;
    let played = restart_fabrikam(world)
        .and_then(|()| dialogue(world, Play::Message, Site::Fabrikam, Site::Contoso));
    let address = IpAddr::V6(Site::Fabrikam.v6());
    let seen = partner_connections(world, address);
    world.lab.dns.set_records(honest_records())?;
    let evidence = played?;
    ensure!(seen? > 0, "the message came, but no connection from {address} was seen");
    Ok(format!("{evidence}; connection from {address}"))
}

/// A peer without a certificate gets no session.
pub fn refuse_no_certificate(world: &mut World) -> Result<String> {
    let before = world.contoso.count(NO_CERTIFICATE)?;
    let mut seen = Vec::new();
    for to in contoso_access() {
        let caller = world.caller(Site::Stranger, None);
        let message = request("MESSAGE", &user(Site::Fabrikam), &user(Site::Contoso), "stranger");
        let outcome =
            caller.tls(to, &Site::Contoso.host()).and_then(|mut client| client.ask(&message));
        match outcome {
            Ok(response) => bail!("answered with {} by {to}", response.status),
            Err(error) => seen.push(root(&error)),
        }
    }
    // Each is counted a moment after it was told.
    let refused = wait_for(NO_CERTIFICATE, BUSY, || {
        let refused = world.contoso.count(NO_CERTIFICATE)? - before;
        Ok((refused >= 2).then_some(refused))
    })?;
    seen.dedup();
    Ok(format!("TLS: {}; counter {NO_CERTIFICATE} +{refused} (IPv4 and IPv6)", seen.join(", ")))
}

/// A good certificate of somebody else: `sip.fabrikam.example.evil.example` as Fabrikam.
pub fn refuse_wrong_domain(world: &mut World) -> Result<String> {
    let before = world.contoso.refusals("identity-not-proved")?;
    let evil = world.lab.identities.evil.clone();
    let caller = world.caller(Site::Evil, Some(&evil));
    let mut client = caller.tls(contoso_access()[0], &Site::Contoso.host())?;
    let message =
        request("MESSAGE", &user(Site::Fabrikam), &user(Site::Contoso), &Site::Evil.host());
    let response = client.ask(&message)?;
    ensure!(response.status == 403, "answered with {}", response.status);
    let refused = world.contoso.refusals("identity-not-proved")? - before;
    ensure!(refused == 1, "refusals[identity-not-proved] went up by {refused}");
    Ok(format!(
        "certificate {} as {}: 403, counter identity-not-proved +{refused}",
        Site::Evil.host(),
        Site::Fabrikam.domain()
    ))
}

pub(super) fn dialogue(world: &World, play: Play, from: Site, to: Site) -> Result<String> {
    let took = world.play(play, from, to, Carrier::Tcp)?;
    let what = match play {
        Play::Message => "MESSAGE and 200",
        Play::Call | Play::HangUp => "INVITE, 180, 200, ACK, BYE, 200",
        Play::Cancel => "INVITE, 180, CANCEL, 200, 487, ACK",
        Play::Media => "INVITE, 180, 200, ACK, RTP both ways, BYE, 200",
    };
    let peers = proved(world)?;
    Ok(format!(
        "{} to {}: {what}, both sipp content after {} ms; mutual TLS with {peers}",
        user(from),
        user(to),
        took.as_millis()
    ))
}

/// The names that partners' connections to Contoso proved, as `edge status` lists them.
fn proved(world: &World) -> Result<String> {
    let status = world.contoso.status()?;
    let text = status["connections"].to_string();
    ensure!(
        text.contains(&Site::Fabrikam.host()),
        "edge status shows no connection with {}: {text}",
        Site::Fabrikam.host()
    );
    Ok(Site::Fabrikam.host())
}

/// How many of Contoso's connections have their other end at `address`.
fn partner_connections(world: &World, address: IpAddr) -> Result<usize> {
    let status = world.contoso.status()?;
    let connections = status["connections"].as_array().cloned().unwrap_or_default();
    let wanted = format!("[{address}]:");
    Ok(connections.iter().filter(|entry| entry.to_string().contains(&wanted)).count())
}

/// A new daemon has no connection and no answer of DNS in memory.
fn restart_fabrikam(world: &mut World) -> Result<()> {
    world.fabrikam.stop()?;
    world.fabrikam.run()
}

fn root(error: &anyhow::Error) -> String {
    error.root_cause().to_string()
}
