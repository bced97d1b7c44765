//! XMPP in the daemon: its shell and core, their join with the SIP proxy, what is in force, what is
//! shown, and how it ends.

mod change;

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use rustls::pki_types::UnixTime;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::{debug, error, info, warn};

pub(super) use self::change::Prepared;
use super::{
    Daemon,
    blocks::{BlockTaskHandle, Watched},
    unix_seconds,
};
use crate::{
    config::Config,
    domain::Domain,
    federation::Policy,
    net::{
        LineLimiter,
        dns::Resolver,
        shell::{GatewayLink, ShellHandle},
        tls::TlsStore,
        xmpp::{StreamInfo, XmppCounts, XmppHandle, XmppParts, XmppShell},
    },
    proxy::{ConnectionId, Secrets},
    sip::{Limits, Message},
    state::KeptFile,
    verdicts::Input,
    xmpp::{
        gateway::{Gateway, GatewayConfig, GatewayLimits, SavedGateway},
        io::{PeerCertificate, StreamId, XmppEvent, XmppRefusal, XmppSide},
        settings::{Negotiation, XmppPartner, XmppPartnerKind, XmppPolicy},
        site::{Site, SiteOutput},
        streams::{self, Certificate, Role, Settings, StreamStatus, Streams, StreamsConfig},
    },
};

/// Messages of the gateway that wait for the proxy.
const TO_SIP: usize = 4096;
/// The gateway's address, which is nobody's.
const GATEWAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5269);
/// How often the wall clock is told to the streams: certificates end by it.
const CLOCK: Duration = Duration::from_secs(60);
/// Streams shown of one partner.
const MAX_SHOWN: usize = 100;
/// Refusals that are remembered, the newest last.
const REFUSALS: usize = 64;
/// Those of who only says who it is, in all and under one name.
const CLAIMS: usize = 256;
const CLAIMS_OF_ONE: usize = 4;
/// Streams are known to the verdicts beside SIP's connections.
const STREAM_IDS: u64 = 1 << 63;

type Core = Site<Streams, Gateway>;

/// XMPP while it is served.
pub(super) struct Xmpp {
    handle: XmppHandle<Core>,
    seen: Arc<Seen>,
    /// What outlives a restart, and how often that had changed when it was written.
    kept: Mutex<(KeptFile<SavedGateway>, u64)>,
    pumps: [JoinHandle<()>; 2],
}

/// A refusal, as people see it.
#[derive(Clone, Debug)]
struct Refused {
    at: SystemTime,
    reason: &'static str,
    remote: Option<SocketAddr>,
    domain: Option<Domain>,
    /// Who it said it is, when nothing proves that.
    claimed: Option<Domain>,
    text: String,
}

/// What events left behind.
#[derive(Default)]
struct Seen {
    refusals: RwLock<VecDeque<Refused>>,
    /// Apart, since anybody can cause them: they must not wash away what is known.
    claims: RwLock<VecDeque<Refused>>,
}

impl Seen {
    fn refused(&self, refused: Refused) {
        let Some(claimed) = refused.claimed.clone() else {
            return put(&self.refusals, REFUSALS, refused);
        };
        {
            let mut all = self.claims.write().unwrap_or_else(PoisonError::into_inner);
            let of_it = |other: &&Refused| other.claimed.as_ref() == Some(&claimed);
            if all.iter().filter(of_it).count() >= CLAIMS_OF_ONE
                && let Some(oldest) = all.iter().position(|other| of_it(&other))
            {
                all.remove(oldest);
            }
        }
        put(&self.claims, CLAIMS, refused);
    }

    /// Those of these domains, and of who said it is one of them; the newest last.
    fn about(&self, domains: &[&Domain]) -> Vec<Value> {
        let about = |refused: &&Refused| {
            let named = [&refused.domain, &refused.claimed].into_iter().flatten();
            named.into_iter().any(|domain| domains.contains(&domain))
        };
        let mut found = Vec::new();
        for all in [&self.refusals, &self.claims] {
            let all = all.read().unwrap_or_else(PoisonError::into_inner);
            found.extend(all.iter().filter(about).cloned());
        }
        found.sort_by_key(|refused| refused.at);
        found.iter().map(refusal).collect()
    }
}

fn put(all: &RwLock<VecDeque<Refused>>, most: usize, refused: Refused) {
    let mut all = all.write().unwrap_or_else(PoisonError::into_inner);
    if all.len() >= most {
        all.pop_front();
    }
    all.push_back(refused);
}

fn refusal(refused: &Refused) -> Value {
    let at = refused.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({
        "at": at.as_secs(),
        "reason": refused.reason,
        "remote": refused.remote,
        "domain": refused.domain,
        "claimed": refused.claimed,
        "detail": refused.text,
    })
}

/// What XMPP needs of the rest of the daemon.
pub(super) struct Around<'a> {
    pub shell: &'a ShellHandle<Watched>,
    pub tls: &'a Arc<TlsStore>,
    pub resolver: &'a Arc<Resolver>,
    pub blocks: &'a BlockTaskHandle,
}

/// What the cores know of who may.
fn policy(config: &Config, federation: Arc<Policy>) -> Option<XmppPolicy> {
    let settings = Arc::new(config.xmpp_settings()?);
    Some(XmppPolicy { settings, federation })
}

impl Xmpp {
    /// Starts it, where it is configured.
    pub(super) fn start(
        Prepared { doors, secrets, once }: Prepared,
        config: &Arc<Config>,
        federation: Arc<Policy>,
        around: &Around<'_>,
    ) -> Option<Self> {
        let policy = policy(config, federation)?;
        let now = Instant::now();
        let streams = Streams::new(
            now,
            StreamsConfig {
                policy: policy.clone(),
                secrets,
                without_certificate: Vec::new(),
                unix_seconds: unix_seconds(),
            },
        );
        let gateway = Gateway::new(
            now,
            GatewayConfig {
                host: config.fqdn.clone(),
                policy: policy.clone(),
                secret: once,
                limits: GatewayLimits::default(),
            },
        );
        let (file, saved, alarms) = KeptFile::<SavedGateway>::open(&config.paths.state);
        for alarm in alarms {
            error!(%alarm, "ALARM: who watches whom over XMPP is not known; they must subscribe again");
        }
        let mut core = Site::new(streams, gateway, policy);
        core.restore(unix_seconds(), saved);
        let kept = Mutex::new((file, core.changes()));
        let seen = Arc::<Seen>::default();
        let (to_sip, from_gateway) = mpsc::channel(TO_SIP);
        let (refusals, blocks, limiter) =
            (Arc::clone(&seen), around.blocks.clone(), LineLimiter::default());
        let shell = around.shell.clone();
        let parts = XmppParts {
            core,
            config: Arc::clone(config),
            tls: Arc::clone(around.tls),
            resolver: Arc::clone(around.resolver),
            events: Arc::new(move |event| {
                log(&limiter, &event);
                look(&blocks, &event);
                meet(&shell, &event);
                keep(&refusals, event);
            }),
            sip: to_sip,
        };
        let handle = XmppShell::start(parts, doors);
        let (link, from_sip) = around.shell.open_gateway(GATEWAY);
        let pumps = [
            tokio::spawn(to_gateway(from_sip, handle.clone())),
            tokio::spawn(to_proxy(from_gateway, link)),
        ];
        let listening: Vec<String> =
            handle.listening().iter().map(|(_, _, address)| address.to_string()).collect();
        info!(listening = listening.join(" "), "XMPP is served");
        Some(Self { handle, seen, kept, pumps })
    }

    /// Puts a policy in force.
    pub(super) fn set_policy(&self, config: &Config, federation: &Arc<Policy>) {
        if let Some(policy) = policy(config, Arc::clone(federation)) {
            self.handle.with_core(|core, now, out| core.set_policy(now, policy, out));
        }
    }

    /// Writes what outlives a restart, if that changed. Waits for the disk.
    fn save(&self) {
        let written = tokio::task::block_in_place(|| {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let (file, before) = &mut *kept;
            let changed = self.handle.with_core(|core, _, _| {
                let changes = core.changes();
                (changes != *before).then(|| (changes, core.save(unix_seconds())))
            });
            let Some((changes, saved)) = changed else { return Ok(()) };
            file.write(saved).inspect(|()| *before = changes)
        });
        if let Err(error) = written {
            warn!(%error, "who watches whom over XMPP was not kept");
        }
    }

    /// Our name, and what dialback keys are made with.
    fn set_own(&self, config: &Config, secrets: Secrets) {
        self.handle.with_core(|core, _, _| {
            core.gateway.set_host(config.fqdn.clone());
            core.streams.set_secrets(secrets);
        });
    }

    /// Partners' new streams are taken, or not.
    pub(super) async fn set_draining(&self, on: bool) -> Result<(), String> {
        self.handle.set_draining(on).await.map_err(|error| error.to_string())
    }

    /// Streams with partners that live.
    pub(super) fn partners_streams(&self) -> usize {
        let streams = self.streams();
        streams.iter().filter(|info| info.side == XmppSide::Partner).count()
    }

    /// Ends every stream in good order, and is gone.
    pub(super) async fn stop(&self) {
        self.save();
        self.handle.stop().await;
        self.pumps.iter().for_each(JoinHandle::abort);
        info!("XMPP is not served any more");
    }

    /// The wall clock, and what the certificates are worth now that streams are proved by. They are
    /// judged beside the core, which waits for nothing.
    async fn look_at_certificates(&self, tls: &Arc<TlsStore>) {
        let chains = self.handle.with_core(|core, now, _| {
            core.streams.set_clock(now, unix_seconds());
            core.streams.chains()
        });
        if chains.is_empty() {
            return;
        }
        let tls = Arc::clone(tls);
        let judged =
            tokio::task::spawn_blocking(move || tls.xmpp_no_longer_good(chains, UnixTime::now()));
        let bad = judged.await.unwrap_or_default();
        if bad.is_empty() {
            return;
        }
        self.handle.with_core(|core, now, out| {
            let mut said = Vec::new();
            core.streams.no_longer_good(now, bad, &mut said);
            out.extend(said.into_iter().map(SiteOutput::Stream));
        });
    }

    pub(super) fn streams(&self) -> Vec<StreamInfo> {
        self.handle.streams()
    }

    pub(super) fn counts(&self) -> XmppCounts {
        self.handle.counts()
    }
}

/// What the proxy says to XMPP partners.
async fn to_gateway(mut messages: mpsc::Receiver<Bytes>, handle: XmppHandle<Core>) {
    let limits = limits();
    while let Some(bytes) = messages.recv().await {
        match Message::parse_datagram(bytes, &limits) {
            Ok(message) => handle.sip(message),
            Err(error) => error!(%error, "the proxy wrote a message that cannot be read"),
        }
    }
}

/// What the gateway says to our servers. Dropped with the task, the connection is gone.
async fn to_proxy(mut messages: mpsc::Receiver<Bytes>, link: GatewayLink<Watched>) {
    let limits = limits();
    while let Some(bytes) = messages.recv().await {
        link.say(bytes, &limits);
    }
}

/// For messages that this program wrote: they were within its peers' limits, and grew by a little.
fn limits() -> Limits {
    Limits { head: 256 << 10, body: 16 << 20, headers: 1024, line: 64 << 10 }
}

fn log(limiter: &LineLimiter, event: &XmppEvent) {
    if let XmppEvent::Ended { stream, text } = event {
        return debug!(stream = stream.0, text, "an XMPP stream ended");
    }
    let Some(left_out) = limiter.admit(Instant::now()) else { return };
    match event {
        XmppEvent::Proved { stream, pair, how, side, remote, names: _ } => {
            let (local, domain) = (&pair.local, &pair.remote);
            info!(stream = stream.0, ?side, %domain, %local, how, %remote, left_out, "an XMPP stream proved a domain");
        }
        XmppEvent::Refused { reason, remote, domain, claimed, text } => {
            let (remote, domain) =
                (remote.map(tracing::field::display), domain.as_ref().map(Domain::as_str));
            let says_it_is = claimed.as_ref().map(Domain::as_str);
            warn!(
                reason = reason.name(),
                remote,
                domain,
                says_it_is,
                detail = text,
                left_out,
                "refused"
            );
        }
        XmppEvent::Ended { .. } => {}
    }
}

/// Tells the verdicts who is where.
fn look(blocks: &BlockTaskHandle, event: &XmppEvent) {
    let id = |stream: &StreamId| ConnectionId(STREAM_IDS | stream.0);
    match event {
        XmppEvent::Proved { stream, pair, remote, side: XmppSide::Partner, .. } => {
            blocks.tell(Input::Proved {
                connection: id(stream),
                domain: pair.remote.clone(),
                remote: remote.ip(),
            });
        }
        XmppEvent::Ended { stream, .. } => blocks.tell(Input::Closed { connection: id(stream) }),
        XmppEvent::Proved { .. } | XmppEvent::Refused { .. } => {}
    }
}

/// Tells the proxy in whose name the gateway speaks, and from where that is.
fn meet(shell: &ShellHandle<Watched>, event: &XmppEvent) {
    if let XmppEvent::Proved { pair, remote, side: XmppSide::Partner, names, .. } = event {
        let names = names.as_ref().map(|names| Arc::new(names.certificate.clone()));
        shell.with_core(|core, _, _| core.proxy.note_stream(&pair.remote, remote.ip(), names));
    }
}

fn keep(seen: &Seen, event: XmppEvent) {
    if let XmppEvent::Refused { reason, remote, domain, claimed, text } = event {
        let (at, reason) = (SystemTime::now(), reason.name());
        seen.refused(Refused { at, reason, remote, domain, claimed, text });
    }
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
pub(super) fn row(partner: &XmppPartner, enabled: bool) -> Value {
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
            "expected": expected(partner),
        },
    })
}

/// What becomes of a stream with this partner, by what its certificate is worth; ours is taken to
/// be good.
fn expected(partner: &XmppPartner) -> Vec<Value> {
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
    let row = |(name, certificate)| {
        let (outcome, why) = streams::expected(end(Certificate::Valid), theirs(certificate));
        json!({"certificate": name, "outcome": format!("{outcome:?}"), "why": why})
    };
    [
        ("valid", Certificate::Valid),
        ("invalid", Certificate::Invalid),
        ("missing", Certificate::Missing),
    ]
    .into_iter()
    .map(row)
    .collect()
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
    /// XMPP, while it is served.
    pub(super) fn xmpp(&self) -> Option<Arc<Xmpp>> {
        self.xmpp.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn around(&self) -> Around<'_> {
        let Daemon { shell, tls, resolver, blocks, .. } = self;
        Around { shell, tls, resolver, blocks }
    }

    /// Streams are proved by certificates that end, or are taken back, or whose authority is trusted
    /// no longer.
    pub(super) async fn keep_xmpp(self: Arc<Self>) {
        let mut lists = self.tls.changed_lists();
        let mut ticks = tokio::time::interval(CLOCK);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = lists.changed() => if changed.is_err() { return },
            }
            if let Some(xmpp) = self.xmpp() {
                xmpp.look_at_certificates(&self.tls).await;
                xmpp.save();
            }
        }
    }

    /// Rows of XMPP partners.
    pub(super) fn xmpp_partners(&self) -> Vec<Value> {
        let config = self.config();
        let enabled = config.xmpp.enabled && config.services.xmpp.is_some();
        config.xmpp.partners.iter().map(|partner| row(partner, enabled)).collect()
    }

    /// Adds streams, subscriptions, sessions and refusals to an XMPP partner's row.
    pub(super) fn add_xmpp(&self, row: &mut Value) {
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
    pub(super) fn xmpp_refusals(&self) -> Vec<(&'static str, u64)> {
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
    pub(super) fn xmpp_state(&self) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What anybody claims is shown as a claim, and washes nothing away.
    #[test]
    fn claims_are_kept_apart_and_bounded() {
        let seen = Seen::default();
        let d = |text: &str| text.parse::<Domain>().unwrap();
        let refuse = |domain: Option<&str>, claimed: Option<&str>, text: &str| {
            let (remote, reason) = (None, XmppRefusal::Certificate);
            let (domain, claimed) = (domain.map(d), claimed.map(d));
            let text = text.to_owned();
            keep(&seen, XmppEvent::Refused { reason, remote, domain, claimed, text });
        };
        refuse(Some("b.example"), None, "known");
        for n in 0..2 * CLAIMS {
            refuse(None, Some("b.example"), &n.to_string());
        }
        let texts = |domain: &str| {
            let shown = seen.about(&[&d(domain)]);
            shown.iter().map(|row| row["detail"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(texts("b.example"), ["known", "508", "509", "510", "511"]);
        assert_eq!(seen.about(&[&d("b.example")])[1]["claimed"], "b.example");
        for n in 0..2 * CLAIMS {
            refuse(None, Some(&format!("n{n}.example")), "x");
        }
        assert_eq!(texts("b.example"), ["known"]);
        assert_eq!(seen.claims.read().unwrap().len(), CLAIMS);
        assert!(texts("c.example").is_empty());
    }
}
