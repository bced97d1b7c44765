//! The daemon's log: structured, on standard error, without bodies, keys or passwords.

use std::time::Instant;

use edge_ebpf::verdict::Reason;
use tokio::sync::broadcast::{self, error::RecvError};
use tracing::{debug, error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    config::Log,
    firewall::events::DropEvent,
    media::{calls::EndCause, flow::FlowTally},
    net::LineLimiter,
    proxy::Event,
};

/// Starts logging. A filter that cannot be read falls back to `info`, and says so.
pub fn start(log: &Log) {
    let (filter, fault) = match EnvFilter::try_new(&log.filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error.to_string())),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first.
    let _ = if log.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(false).with_target(false).try_init()
    };
    if let Some(error) = fault {
        warn!(filter = log.filter, error, "[log] filter cannot be read; `info` is used");
    }
}

/// Writes a proxy event.
pub fn event(limiter: &LineLimiter, event: &Event) {
    match event {
        Event::Refused { reason, remote, domain, detail } => {
            if let Some(left_out) = limiter.admit(Instant::now()) {
                let domain = domain.as_ref().map(|d| d.as_str());
                warn!(reason = reason.name(), %remote, domain, detail, left_out, "refused");
            }
        }
        Event::Health { address, transport, partner, cause } => {
            if let Some(left_out) = limiter.admit(Instant::now()) {
                let partner = partner.as_ref().map(|domain| domain.as_str());
                match cause {
                    Some(cause) => {
                        let cause = cause.name();
                        warn!(%address, ?transport, partner, cause, left_out, "a target is dead");
                    }
                    None => {
                        info!(%address, ?transport, partner, left_out, "a target answers again")
                    }
                }
            }
        }
        Event::SignedIn { connection, remote } => {
            debug!(connection = connection.0, %remote, "a remote user registered");
        }
        Event::Banned { source, seconds } => {
            warn!(%source, seconds, "wrong passwords: no remote users from there");
        }
        Event::Watch { domain, source, what } => {
            let source = source.map(tracing::field::display);
            warn!(%domain, source, ?what, "watch list");
        }
        // See [`media`].
        Event::MediaFlows { .. } | Event::MediaFailed { .. } => {}
        Event::Call(call) => {
            let partner = call.partner.as_ref().map(|domain| domain.as_str());
            let ended = call.ended.map(EndCause::name);
            debug!(call = call.call.0, partner, ended, "media of a call");
        }
        Event::Offender { domain, source, .. } => debug!(%domain, %source, "an offender"),
        Event::Forwarded { method, partner, inbound } => {
            debug!(%method, %partner, inbound, "forwarded");
        }
        Event::Proved { connection, domain, remote, repute: _ } => {
            if let Some(left_out) = limiter.admit(Instant::now()) {
                let connection = connection.0;
                info!(connection, %domain, %remote, left_out, "a connection proved a domain");
            }
        }
    }
}

/// Writes what became of media flows. Calls come and go more often than anything else: their lines
/// take no room from the others.
pub fn media(limiter: &LineLimiter, event: &Event) {
    match event {
        Event::MediaFlows { call, tally, took } => {
            if let Some(left_out) = limiter.admit(Instant::now()) {
                let FlowTally { opened, changed, closed } = *tally;
                let (call, microseconds) = (call.to_string(), took.as_micros() as u64);
                info!(call, opened, changed, closed, microseconds, left_out, "media flows");
            }
        }
        Event::MediaFailed { calls, fault } => {
            if let Some(left_out) = limiter.admit(Instant::now()) {
                let calls: Vec<String> = calls.iter().map(ToString::to_string).collect();
                error!(calls = calls.join(" "), fault, left_out, "media flows are not in force");
            }
        }
        _ => {}
    }
}

/// Writes the kernel's sampled drops as long as the daemon lives. The kernel bounds them for each
/// reason; what comes faster than the log takes is counted, not kept.
pub async fn drops(mut events: broadcast::Receiver<DropEvent>) {
    let limiter = LineLimiter::default();
    let mut missed = 0;
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(count)) => {
                missed += count;
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let Some(left_out) = limiter.admit(Instant::now()) else { continue };
        info!(
            target: "edge_user::drops",
            reason = event.reason,
            zone = event.zone,
            source = event.source.map(tracing::field::display),
            source_port = event.source_port,
            destination = event.destination.map(tracing::field::display),
            destination_port = event.destination_port,
            protocol = event.protocol,
            rule = event.rule,
            length = event.length,
            hint = hint(event.reason),
            monitored = event.monitored,
            left_out = left_out + std::mem::take(&mut missed),
            "dropped in the driver"
        );
    }
}

/// What an administrator may want to do about drops of this reason.
fn hint(reason: &str) -> Option<&'static str> {
    (reason == Reason::NotPartner.name()).then_some(
        "no address of an allowed partner: if it is one, name it in from_addresses of its \
         [[federation.allowed_domain]]",
    )
}
