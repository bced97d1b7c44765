//! `edge run`: joins configuration, firewall, proxy, verdicts and control.
//!
//! Order of a start: what can fail without touching anything (files, certificates, sockets'
//! names) comes first, the firewall next, the network last; when that fails, the rules of before
//! are back. Order of a stop: the network drains, the firewall stays as it is.

mod about;
mod apply;
mod blocks;
mod calls;
mod control;
mod drain;
mod drops;
mod expiry;
mod last_good;
mod limits;
mod lists;
pub mod log;
mod media;
mod notify;
mod partner;
mod reload;
mod remote;
mod secret;
mod shadow;
mod targets;
mod watch;
mod xmpp;

use std::{
    collections::BTreeSet,
    fs::{DirBuilder, File, OpenOptions},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::broadcast,
    task::JoinSet,
};
use tracing::{error, info, warn};

use self::{
    apply::Changes,
    blocks::{BlockTask, BlockTaskHandle, Outcome, Watched},
    drops::Drops,
    last_good::LastGoodQueue,
    media::Media,
    watch::Watching,
    xmpp::{Around, Prepared, Xmpp},
};
use crate::{
    admin::server::ControlSocket,
    config::{Config, Federation, Paths},
    domain::Domain,
    federation::Policy,
    firewall::{
        Applied, AttachMode, BlockOwner, BlockRequest, FirewallError, FirewallHandle, Intent,
        Owner, OwnerOptions, StartReport,
        events::{DropEvent, Feed},
    },
    net::{
        Core as _, LineLimiter, LowPriority, crl,
        dns::Resolver,
        moderate,
        shell::{Listeners, MediaSink, Shell, ShellHandle, ShellParts},
        tls::{Exceptions, TlsStore},
    },
    proxy::{Event, Output, Proxy, ProxyConfig, Secrets},
    state::{Alarm, Author, Choice, Effective, Store, effective},
    verdicts::{Input, known_partners},
};

/// How long a stop waits for live transactions.
const DRAIN: Duration = Duration::from_secs(10);
/// How often files are looked at for new certificates.
const TLS_WATCH: Duration = Duration::from_secs(5);

/// How often ended blocks are taken out of the store.
const TIDY: Duration = Duration::from_secs(600);
/// Sampled drops that may wait for the log.
const DROP_EVENTS: usize = 1024;

/// What a running daemon is made of.
struct Daemon {
    config: RwLock<Arc<Config>>,
    store: Mutex<Store>,
    firewall: FirewallHandle,
    /// Flows of calls; `None`: no call can have media.
    media: Option<Arc<Media>>,
    shell: ShellHandle<Watched>,
    resolver: Arc<Resolver>,
    tls: Arc<TlsStore>,
    blocks: BlockTaskHandle,
    /// XMPP, while it is served.
    xmpp: RwLock<Option<Arc<Xmpp>>>,
    drops: Drops,
    secret: RwLock<Secrets>,
    started: Instant,
    alarms: Vec<String>,
    expiry: Mutex<expiry::ExpiryWatch>,
    watching: Watching,
    warnings: Mutex<Vec<String>>,
    /// One change at a time.
    change: tokio::sync::Mutex<()>,
    /// One list of blocks at a time; other changes do not wait for it.
    lists: tokio::sync::Mutex<()>,
    last_good: LastGoodQueue,
    changes: Changes,
    /// The run folder, and with it the control socket, is ours.
    _run_lock: File,
}

/// Runs the daemon with what was chosen at the start, until SIGTERM or SIGINT.
pub fn run(config: Config, choice: Choice) -> Result<()> {
    log::start(&config.log);
    let runtime = moderate(tokio::runtime::Builder::new_multi_thread().enable_all())
        .thread_name("edge-net")
        .build()
        .context("no threads for the network")?;
    let (low_priority, threads) = LowPriority::start().context("no threads for handshakes")?;
    let served = runtime.block_on(serve(Arc::new(config), choice, low_priority));
    threads.shutdown_background();
    served
}

async fn serve(config: Arc<Config>, choice: Choice, low_priority: LowPriority) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let Started { daemon, drops, blocks: block_task, socket } =
        start(config, choice, low_priority).await?;
    let mut control = tokio::spawn(socket.serve(Arc::clone(&daemon)));
    // What the daemon cannot do without: it ends when one of these panics, and is started again.
    let mut tasks = JoinSet::new();
    tasks.spawn(block_task.run(Arc::downgrade(&daemon)));
    tasks.spawn(Arc::clone(&daemon.tls).watch(TLS_WATCH, |loaded| match loaded {
        Ok(loaded) => info!(access = loaded.access, "new certificates are in use"),
        Err(error) => error!(%error, "new certificate files cannot be used; the old stay"),
    }));
    let alive = Arc::clone(&daemon);
    tasks.spawn(async move { notify::watchdog(|| alive.alive()).await });
    tasks.spawn(Arc::clone(&daemon).keep_tidy());
    tasks.spawn(Arc::clone(&daemon).keep_last_good());
    tasks.spawn(Arc::clone(&daemon).keep_time());
    tasks.spawn(log::drops(drops));
    tasks.spawn(Arc::clone(&daemon).keep_looking_at_ends());
    tasks.spawn(Arc::clone(&daemon).keep_watch_list());
    tasks.spawn(Arc::clone(&daemon).keep_out_revoked());
    let blocks = daemon.blocks.clone();
    let hosts = move |point, addresses| blocks.tell(Input::CrlHost { point, addresses });
    tasks.spawn(crl::run(Arc::clone(&daemon.tls), Arc::clone(&daemon.resolver), hosts));
    tasks.spawn(Arc::clone(&daemon).keep_media());
    tasks.spawn(Arc::clone(&daemon).keep_xmpp());
    let ready = format!("federating for {}", daemon.config().domains[0]);
    notify::ready(&ready);
    info!("ready");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = daemon.firewall.stopped() => {
                bail!("the firewall's owner has ended; what is loaded stays in force");
            }
            ended = &mut control => {
                bail!("requests are not answered any more ({ended:?}); what is loaded stays in force");
            }
            // Some have nothing to do, and end at once.
            Some(ended) = tasks.join_next() => if let Err(fault) = ended {
                bail!("a task of the daemon has failed ({fault}); what is loaded stays in force");
            },
            _ = hangup.recv() => {
                notify::reloading();
                if let Err(error) = daemon.reload(&Author::new("SIGHUP", SystemTime::now())).await {
                    error!(%error, "the configuration was not reloaded");
                }
                notify::ready(&ready);
            }
        }
    }
    notify::stopping();
    info!("stopping; what the firewall enforces stays in force");
    control.abort();
    let _ = control.await;
    if let Some(xmpp) = daemon.xmpp() {
        xmpp.stop().await;
    }
    let drained = daemon.shell.drain(DRAIN).await;
    info!(live_left = drained.live_left, closed = drained.closed, "stopped");
    tasks.shutdown().await;
    daemon.save_watch_list();
    daemon.save_last_good();
    daemon.changes.before_end();
    Ok(())
}

struct Started {
    daemon: Arc<Daemon>,
    drops: broadcast::Receiver<DropEvent>,
    blocks: BlockTask,
    socket: ControlSocket,
}

async fn start(
    config: Arc<Config>,
    mut choice: Choice,
    low_priority: LowPriority,
) -> Result<Started> {
    make_folders(&config.paths)?;
    let run_lock = lock(&config.paths.run)?;
    if let Some(fault) = Changes::before_start(&config, &mut choice) {
        warn!(fault, "starts with an unconfirmed version are not counted");
    }
    let (mut store, alarms) = Store::open(&config.paths.state);
    let keep_unclaimed = alarms.iter().any(Alarm::is_a_loss);
    let alarms: Vec<String> = alarms.iter().map(ToString::to_string).collect();
    for alarm in &alarms {
        error!(alarm, "ALARM");
    }
    if choice.pending.is_none() {
        tidy(&mut store, &config);
    }
    let secret = secret::secrets(&config)?;
    let tls = Arc::new(TlsStore::load(&config)?);
    let resolver = Resolver::new(&config)?;
    let listeners = Shell::bind(&config)?;
    let prepared = Prepared::new(&config, false).map_err(anyhow::Error::msg)?;
    let now_in_force = effective(&config, &store, SystemTime::now());

    let mut options = OwnerOptions::new(&config);
    options.keep_unclaimed = keep_unclaimed;
    // The kernel program speaks only where the log's filter names it.
    options.debug_log = config.log.filter.contains("edge_xdp");
    let last_good = store.last_good().iter().map(|(d, last)| (d, last.addresses.as_slice()));
    let setting = blocks::setting(&config, now_in_force.federation.clone());
    options.partners = Some(known_partners(&setting, last_good));
    options.blocks = Some(now_in_force.administrator_blocks.clone());
    let plan = Arc::clone(&config);
    let (firewall, report) =
        tokio::task::spawn_blocking(move || Owner::start(options, plan)).await??;
    let way_back = firewall.clone();
    let parts = Parts {
        config,
        choice,
        run_lock,
        store,
        alarms,
        secret,
        tls,
        resolver,
        low_priority,
        listeners,
        prepared,
        now_in_force,
        firewall,
        report,
    };
    let started = start_network(parts).await;
    if started.is_err()
        && let Err(fault) = way_back.former_rules().await
    {
        error!(%fault, "ALARM: the rules of before could not be put back");
    }
    started
}

/// What a start has before the network.
struct Parts {
    config: Arc<Config>,
    choice: Choice,
    run_lock: File,
    store: Store,
    alarms: Vec<String>,
    secret: Secrets,
    tls: Arc<TlsStore>,
    resolver: Arc<Resolver>,
    low_priority: LowPriority,
    listeners: Listeners,
    prepared: Option<Prepared>,
    now_in_force: Effective,
    firewall: FirewallHandle,
    report: StartReport,
}

async fn start_network(parts: Parts) -> Result<Started> {
    let Parts { config, choice, run_lock, store, mut alarms, secret, tls, resolver, .. } = parts;
    let Parts { low_priority, listeners, prepared, now_in_force, firewall, mut report, .. } = parts;
    report.warnings.extend(limits::descriptors(&config.limits));
    for warning in &report.warnings {
        warn!(warning, "firewall");
    }
    for device in &report.attached {
        info!(device = device.device, mode = ?device.mode, adopted = device.adopted, "attached");
    }
    alarms.extend(
        report
            .attached
            .iter()
            .filter(|device| device.mode == AttachMode::Generic)
            .map(|device| format!("{}: generic XDP: slow, behind the driver", device.device)),
    );
    // A block that does not fit any more must not keep the appliance down; those that do, hold.
    for fault in report.faults {
        error!(fault, "ALARM");
        alarms.push(fault);
    }

    tls.set_exceptions(Exceptions::of(&now_in_force.federation));
    let policy = Arc::new(policy_of(&config, &now_in_force.federation));
    let mut proxy_config = ProxyConfig::new(&config, secret, unix_seconds());
    proxy_config.media.own = crate::net::own_addresses(&config);
    let mut proxy = Proxy::new(Instant::now(), proxy_config, Arc::clone(&policy));
    let media = firewall.media().map(Media::new);
    // Before any message; what it says of them is carried out as soon as there is a shell.
    let mut adopted = Vec::new();
    if let Some(media) = &media {
        proxy.adopt_flows(Instant::now(), media.flows(), &mut adopted);
    }
    let (watching, listed, lost) = Watching::start(&config.paths.state, &mut proxy);
    alarms.extend(lost);
    let (task, blocks) = BlockTask::new(
        &config,
        &store,
        now_in_force.federation,
        Arc::clone(&resolver),
        firewall.clone(),
        listed,
    );
    let (limiter, media_limiter) = (LineLimiter::default(), LineLimiter::default());
    let sink = blocks.clone();
    let bell = watching.bell();
    let shell_parts = ShellParts {
        core: Watched { proxy, blocks: blocks.clone() },
        config: Arc::clone(&config),
        tls: Arc::clone(&tls),
        resolver: Arc::clone(&resolver),
        events: Arc::new(move |event: Event| {
            log::event(&limiter, &event);
            log::media(&media_limiter, &event);
            sink.event(&event);
            bell.event(&event);
        }),
        low_priority,
        media: media.clone().map(|media| media as Arc<dyn MediaSink>),
    };
    let shell = Shell::start(shell_parts, listeners);
    shell.with_core(|_, _, out| out.append(&mut adopted));
    let around = Around { shell: &shell, tls: &tls, resolver: &resolver, blocks: &blocks };
    let xmpp = prepared.and_then(|prepared| Xmpp::start(prepared, &config, policy, &around));
    let (feed, drops) = Feed::start(&config.paths.pins, DROP_EVENTS)?;
    let socket =
        ControlSocket::bind(&config.paths.run).context("the control socket cannot be had")?;
    let (changes, notes) = tokio::task::block_in_place(|| Changes::after_start(&config, choice));
    for note in notes {
        warn!(note, "configuration");
    }
    let daemon = Arc::new(Daemon {
        drops: Drops::new(feed, &config.paths.state),
        config: RwLock::new(config),
        store: Mutex::new(store),
        firewall,
        media,
        shell,
        resolver,
        tls,
        blocks,
        xmpp: RwLock::new(xmpp.map(Arc::new)),
        secret: RwLock::new(secret),
        started: Instant::now(),
        alarms,
        expiry: Mutex::default(),
        watching,
        warnings: Mutex::new(report.warnings),
        change: tokio::sync::Mutex::new(()),
        lists: tokio::sync::Mutex::new(()),
        last_good: LastGoodQueue::default(),
        changes,
        _run_lock: run_lock,
    });
    Ok(Started { daemon, drops, blocks: task, socket })
}

impl Daemon {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The proxy answers: its lock can be had. The watchdog's question.
    fn alive(&self) -> bool {
        self.shell.with_core(|core, _, _| core.next_timeout());
        true
    }

    /// Puts what file and administrator say about domains and addresses in force.
    async fn enforce(&self) -> Result<Outcome, String> {
        let now_in_force = effective(&self.config(), &self.store(), SystemTime::now());
        let outcome = self.enforce_domains(now_in_force.federation).await;
        // Whatever became of the one, the other is tried.
        let blocks = self.enforce_blocks(now_in_force.administrator_blocks).await;
        let outcome = outcome?;
        blocks.map(|_| outcome).map_err(|error| error.to_string())
    }

    /// Exactly these blocks of administrators hold in the kernel.
    async fn enforce_blocks(&self, blocks: Vec<BlockRequest>) -> Result<Applied, FirewallError> {
        let owner = BlockOwner::Administrator;
        self.firewall.apply(vec![Intent::SetOwnerBlocks { owner, blocks }]).await
    }

    /// Puts these lists in force: kernel, then proxy.
    async fn enforce_domains(&self, federation: Federation) -> Result<Outcome, String> {
        let config = self.config();
        self.tls.set_exceptions(Exceptions::of(&federation));
        let policy = Arc::new(policy_of(&config, &federation));
        // The kernel first, while the connections that prove who is who are still there. What it
        // cannot take is refused by the proxy all the same.
        let shadow_asks = self.changes.shadow.borrow().as_ref().is_some_and(|s| s.partners);
        let told = self.blocks.set(&config, federation, shadow_asks).await;
        let connections_closed = self.shell.with_core(|core, now, out| {
            let before = out.len();
            core.proxy.set_policy(now, Arc::clone(&policy), out);
            let is_close = |output: &&Output| matches!(output, Output::Close { .. });
            out[before..].iter().filter(is_close).count()
        });
        if let Some(xmpp) = self.xmpp() {
            xmpp.set_policy(&config, &policy);
        }
        // Whoever got an entry is not watched any more.
        self.watching.ring();
        told.map(|outcome| Outcome { connections_closed, ..outcome }).map_err(|error| {
            format!("in force in the proxy, but not in the kernel, which is tried again: {error}")
        })
    }

    /// Takes ended blocks out of the store; the kernel looks at the time by itself. Not while a
    /// version waits for its confirmation: what its file does not want, the former one's may.
    async fn keep_tidy(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TIDY);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let _one = self.change.lock().await;
            if self.changes.is_pending() {
                continue;
            }
            let config = self.config();
            tokio::task::block_in_place(|| tidy(&mut self.store(), &config));
            self.last_good.ring();
            // The wall clock may have been set, and what seemed to be over is not.
            let now_in_force = effective(&config, &self.store(), SystemTime::now());
            if let Err(error) = self.enforce_blocks(now_in_force.administrator_blocks).await {
                error!(%error, "ALARM: not every block of the store is in force");
            }
        }
    }

    fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The policy of these lists, with the XMPP partners of the file.
fn policy_of(config: &Config, federation: &Federation) -> Policy {
    Policy::new(&config.domains, federation).with_xmpp(config.xmpp_settings().as_ref())
}

fn tidy(store: &mut Store, config: &Config) {
    let now = SystemTime::now();
    let clock = Instant::now();
    if let Err(error) = store.tidy(config, now, clock) {
        warn!(%error, "the store was not tidied");
    }
    let federation = effective(config, store, now).federation;
    let partners = federation.known_partners();
    let blocked = federation.blocked_domains.into_iter().map(|entry| entry.domain);
    let allowed = partners.into_iter().map(|entry| entry.domain);
    let wanted: BTreeSet<Domain> = blocked.chain(allowed).collect();
    store.keep_last_good(|domain| wanted.contains(domain), clock);
}

/// One daemon for each run folder: its control socket must not be taken over.
fn lock(run: &Path) -> Result<File> {
    let path = run.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("{}: cannot be opened", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).with_context(
        || format!("{}: another edge daemon runs with this folder: stop it first", run.display()),
    )?;
    Ok(file)
}

fn make_folders(paths: &Paths) -> Result<()> {
    let make = |path: &Path, mode: u32| {
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .with_context(|| format!("{}: the folder cannot be made", path.display()))
    };
    make(&paths.run, 0o755)?;
    make(&paths.state, 0o700)?;
    [&paths.run, &paths.state].into_iter().try_for_each(|path| only_ours(path))
}

/// Whoever else may write in these folders could put links there and have us write elsewhere.
fn only_ours(path: &Path) -> Result<()> {
    let found = path.metadata().with_context(|| path.display().to_string())?;
    let us = rustix::process::geteuid().as_raw();
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if (owner != us && owner != 0) || mode & 0o022 != 0 {
        bail!(
            "{}: others may write there (owner {owner}, mode {mode:o}): run `chown root` and \
             `chmod go-w` on it, or name another folder under [paths]",
            path.display()
        );
    }
    Ok(())
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn folders_that_others_may_write_in_are_refused() {
        let base = std::env::temp_dir().join(format!("edge-folders-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&base);
        let paths =
            Paths { run: base.join("run"), state: base.join("state"), pins: base.join("pins") };
        make_folders(&paths).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!((mode(&paths.run), mode(&paths.state)), (0o755, 0o700));
        for folder in [&paths.run, &paths.state] {
            for (mode, good) in [(0o777, false), (0o1777, false), (0o775, false), (0o750, true)] {
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
                assert_eq!(make_folders(&paths).is_ok(), good, "{mode:o}");
            }
        }
        let _ = std::os::unix::fs::chown(&paths.run, Some(65534), None);
        if paths.run.metadata().unwrap().uid() == 65534 {
            let refused = make_folders(&paths).unwrap_err().to_string();
            assert!(refused.contains("chown"), "{refused}");
        }
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn one_daemon_for_each_run_folder() {
        let run = std::env::temp_dir().join(format!("edge-run-lock-{}", std::process::id()));
        std::fs::create_dir_all(&run).unwrap();
        let first = lock(&run).unwrap();
        assert!(lock(&run).unwrap_err().to_string().contains("another edge daemon"));
        drop(first);
        lock(&run).unwrap();
        std::fs::remove_dir_all(run).unwrap();
    }
}
