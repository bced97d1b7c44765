//! What the daemon shows of XMPP.

use rustls::pki_types::UnixTime;
use serde_json::{Value, json};

use crate::{
    config::Config,
    daemon::{Daemon, unix_seconds},
    domain::Domain,
    net::{tls::TlsStore, xmpp::StreamInfo},
    xmpp::{
        io::{PeerCertificate, StreamId, XmppRefusal, XmppSide},
        settings::{Negotiation, XmppPartner, XmppPartnerKind},
        streams::{self, Certificate, OwnCertificates, Role, Settings, StreamStatus},
    },
};

/// Streams shown of one partner.
const MAX_SHOWN: usize = 100;

/// What our certificates are worth, for each domain that XMPP partners may reach.
pub(super) fn own_certificates(config: &Config, tls: &TlsStore) -> OwnCertificates {
    let settings = config.xmpp_settings();
    let domains = settings.into_iter().flat_map(|settings| settings.domains);
    domains.map(|domain| (domain.clone(), tls.xmpp_own(&domain, UnixTime::now()))).collect()
}

fn negotiation(what: Negotiation) -> &'static str {
    match what {
        Negotiation::Required => "required",
        Negotiation::Optional => "optional",
        Negotiation::NotSupported => "not-supported",
    }
}

fn kind(kind: XmppPartnerKind) -> &'static str {
    match kind {
        XmppPartnerKind::Federated => "federated",
        XmppPartnerKind::PublicVerified => "public-verified",
        XmppPartnerKind::PublicUnverified => "public-unverified",
    }
}

/// A row as `edge partner list` has it, with what is XMPP's alone.
fn row(partner: &XmppPartner, enabled: bool, own: &OwnCertificates) -> Value {
    let entry = crate::federation::Partner::of_xmpp(&partner.domain, partner);
    json!({
        "name": partner.domain,
        "kind": entry.kind.name(),
        "domains": partner.domains().collect::<Vec<_>>(),
        "host": partner.proxy.as_ref().map(|(host, _)| host),
        "verification": entry.verification().name(),
        "modalities": entry.options.modalities,
        "enabled": enabled,
        "origin": "file",
        "xmpp": {
            "type": kind(partner.kind),
            "tls": negotiation(partner.tls),
            "sasl": negotiation(partner.sasl),
            "dialback": partner.dialback,
            "expected": expected(partner, own),
        },
    })
}

/// What becomes of a stream with this partner, by what its certificate is worth. Apart for domains
/// of ours that our certificate does not prove.
fn expected(partner: &XmppPartner, own: &OwnCertificates) -> Vec<Value> {
    let end = |certificate| Settings {
        tls: partner.tls,
        certificate,
        sasl: partner.sasl,
        dialback: partner.dialback,
    };
    let theirs = |certificate| Settings {
        tls: Negotiation::Optional,
        sasl: Negotiation::Optional,
        dialback: true,
        certificate,
    };
    let mut rows = Vec::new();
    for ours in [Certificate::Valid, Certificate::Invalid, Certificate::Missing] {
        let mut domains: Vec<&Domain> =
            own.iter().filter(|(_, worth)| **worth == ours).map(|(domain, _)| domain).collect();
        domains.sort_unstable();
        if domains.is_empty() {
            continue;
        }
        for certificate in [Certificate::Valid, Certificate::Invalid, Certificate::Missing] {
            let (outcome, why) = streams::expected(end(ours), theirs(certificate));
            rows.push(json!({
                "domains": domains,
                "own": worth(ours),
                "certificate": worth(certificate),
                "outcome": format!("{outcome:?}"),
                "why": why,
            }));
        }
    }
    rows
}

fn worth(certificate: Certificate) -> &'static str {
    match certificate {
        Certificate::Valid => "valid",
        Certificate::Invalid => "invalid",
        Certificate::Missing => "missing",
    }
}

/// A live stream: TLS, certificate, what is proved and how, and why not.
fn stream(status: &StreamStatus, info: Option<&StreamInfo>, unix: u64) -> Value {
    let proved = status
        .proved
        .iter()
        .map(|(pair, how)| json!({"local": pair.local, "remote": pair.remote, "how": how.name()}));
    let expires_at = info.and_then(|info| match &info.tls.as_ref()?.certificate {
        PeerCertificate::Valid(names) => names.ends_at(),
        PeerCertificate::Invalid { .. } | PeerCertificate::Missing => None,
    });
    let (tls, cipher) = status.tls.unzip();
    json!({
        "id": status.stream.0,
        "remote": status.address,
        "side": if status.side == XmppSide::Partner { "partner" } else { "inside" },
        "outbound": status.role == Role::Initiating,
        "since": unix.saturating_sub(status.age.as_secs()),
        "step": status.step,
        "tls": tls,
        "cipher": cipher,
        "direct_tls": status.direct_tls,
        "certificate": status.certificate,
        "certificate_before": status.certificate_before,
        "certificate_fault": status.certificate_fault,
        "expires_at": expires_at,
        "proved": proved.collect::<Vec<_>>(),
        "bidi": status.bidi,
        "acknowledged": status.acknowledged,
        "bytes_in": info.map(|info| info.bytes_in),
        "bytes_out": info.map(|info| info.bytes_out),
    })
}

impl Daemon {
    /// Rows of XMPP partners.
    pub(in crate::daemon) fn xmpp_partners(&self) -> Vec<Value> {
        let config = self.config();
        let enabled = config.xmpp.enabled && config.services.xmpp.is_some();
        let own = own_certificates(&config, &self.tls);
        config.xmpp.partners.iter().map(|partner| row(partner, enabled, &own)).collect()
    }

    /// Adds streams, subscriptions, sessions and refusals to an XMPP partner's row.
    pub(in crate::daemon) fn add_xmpp(&self, row: &mut Value) {
        let config = self.config();
        let Some(name) = row["name"].as_str().and_then(|name| name.parse::<Domain>().ok()) else {
            return;
        };
        let found = config.xmpp.partners.iter().find(|partner| partner.is_of(&name));
        let (Some(partner), Some(xmpp)) = (found, self.xmpp()) else { return };
        let (streams, backoffs, status) = xmpp.handle.with_core(|core, now, _| {
            let (streams, backoffs) = (core.streams.status(now), core.streams.backoffs(now));
            (streams, backoffs, core.gateway.status())
        });
        let of_it = |status: &&StreamStatus| {
            status.side == XmppSide::Partner
                && (status.remote.as_ref().is_some_and(|domain| partner.is_of(domain))
                    || status.proved.iter().any(|(pair, _)| partner.is_of(&pair.remote)))
        };
        let (infos, unix) = (xmpp.streams(), unix_seconds());
        let info = |id: StreamId| infos.iter().find(|info| info.id == id);
        let streams: Vec<Value> = streams
            .iter()
            .filter(of_it)
            .take(MAX_SHOWN)
            .map(|status| stream(status, info(status.stream), unix))
            .collect();
        let failing = backoffs.iter().filter(|failing| partner.is_of(&failing.domain));
        let failing: Vec<Value> = failing
            .map(|failing| {
                json!({
                    "domain": failing.domain,
                    "failures": failing.failures,
                    "again_in": failing.wait.as_secs(),
                    "detail": failing.text,
                })
            })
            .collect();
        let (mut watched, mut subscriptions, mut sessions) = (0, 0, 0);
        for (domain, has) in &status.partners {
            if partner.is_of(domain) {
                watched += has.watched;
                subscriptions += has.subscriptions;
                sessions += has.sessions;
            }
        }
        let domains: Vec<&Domain> = partner.domains().collect();
        row["xmpp"]["streams"] = Value::Array(streams);
        row["xmpp"]["failing"] = Value::Array(failing);
        row["xmpp"]["watched"] = json!(watched);
        row["xmpp"]["subscriptions"] = json!(subscriptions);
        row["xmpp"]["sessions"] = json!(sessions);
        row["xmpp"]["refusals"] = Value::Array(xmpp.seen.about(&domains));
    }

    /// What XMPP refused, and how often.
    pub(in crate::daemon) fn xmpp_refusals(&self) -> Vec<(&'static str, u64)> {
        let Some(xmpp) = self.xmpp() else { return Vec::new() };
        let counts = xmpp.counts();
        let count = |reason: &XmppRefusal| {
            let wanted = format!("refused.{}", reason.name());
            let found = counts.iter().find(|(name, _)| *name == wanted);
            (reason.name(), found.map_or(0, |(_, count)| *count))
        };
        XmppRefusal::ALL.iter().map(count).collect()
    }

    /// What `edge status` says of XMPP.
    pub(in crate::daemon) fn xmpp_state(&self) -> Value {
        let Some(xmpp) = self.xmpp() else { return Value::Null };
        let streams = xmpp.streams();
        let of = |side| streams.iter().filter(|info| info.side == side).count();
        let proved = streams.iter().filter(|info| !info.proved.is_empty()).count();
        let status = xmpp.handle.with_core(|core, _, _| core.gateway.status());
        let counters = status.counters;
        let listening = xmpp.handle.listening().into_iter().map(|(side, direct_tls, address)| {
            let side = if side == XmppSide::Partner { "partner" } else { "inside" };
            json!({"side": side, "direct_tls": direct_tls, "address": address})
        });
        json!({
            "enabled": self.config().xmpp.enabled,
            "listening": listening.collect::<Vec<_>>(),
            "streams": of(XmppSide::Partner),
            "streams_inside": of(XmppSide::Inside),
            "streams_proved": proved,
            "watched": status.watched,
            "subscriptions": status.subscriptions,
            "sessions": status.sessions,
            "messages_to_xmpp": counters.messages_to_xmpp,
            "messages_to_sip": counters.messages_to_sip,
            "presence_to_xmpp": counters.presence_to_xmpp,
            "presence_to_sip": counters.presence_to_sip,
            "counts": xmpp.counts().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        })
    }
}
