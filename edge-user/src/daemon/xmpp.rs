//! XMPP in the daemon: its shell and core, their join with the SIP proxy, what is in force, what is
//! shown, and how it ends.

mod change;
mod shown;
mod watch;

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
        io::{StreamId, XmppEvent, XmppSide},
        settings::XmppPolicy,
        site::Site,
        streams::{Streams, StreamsConfig},
    },
};

/// Messages of the gateway that wait for the proxy.
const TO_SIP: usize = 4096;
/// The gateway's address, which is nobody's.
const GATEWAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5269);
/// How often the wall clock is told to the streams: certificates end by it.
const CLOCK: Duration = Duration::from_secs(60);
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
                own: shown::own_certificates(config, around.tls),
                watch: Box::new(watch::OfProxy(around.shell.clone())),
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
            low_priority: around.shell.low_priority(),
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
    async fn look_at_certificates(&self, config: &Config, tls: &Arc<TlsStore>) {
        let own = shown::own_certificates(config, tls);
        let chains = self.handle.with_core(|core, now, _| {
            core.streams.set_clock(now, unix_seconds());
            core.streams.set_own(own);
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
            core.with_streams(now, out, |streams, said| streams.no_longer_good(now, bad, said));
        });
    }

    /// Ends the streams of these domains, and forgets their failures. Says how many there were.
    fn reset(&self, domains: &[Domain]) -> (usize, usize) {
        self.handle.with_core(|core, now, out| {
            core.with_streams(now, out, |streams, said| {
                let each = domains.iter().map(|domain| streams.close_domain(now, domain, said));
                each.fold((0, 0), |(s, f), (streams, failures)| (s + streams, f + failures))
            })
        })
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

impl Daemon {
    /// XMPP, while it is served.
    pub(super) fn xmpp(&self) -> Option<Arc<Xmpp>> {
        self.xmpp.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn around(&self) -> Around<'_> {
        let Daemon { shell, tls, resolver, blocks, .. } = self;
        Around { shell, tls, resolver, blocks }
    }

    /// Ends the streams of these domains, and forgets their failures. Says how many there were.
    pub(super) fn reset_xmpp(&self, domains: &[Domain]) -> (usize, usize) {
        self.xmpp().map_or((0, 0), |xmpp| xmpp.reset(domains))
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
                xmpp.look_at_certificates(&self.config(), &self.tls).await;
                xmpp.save();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xmpp::io::XmppRefusal;

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
