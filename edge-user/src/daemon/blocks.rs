//! The task that drives the verdicts: DNS answers and proven connections in, blocks out.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::{
    Daemon,
    watch::{guessers, offense},
};
use crate::{
    config::{Config, Federation},
    domain::Domain,
    federation::Lookup,
    firewall::{BlockOwner, FirewallHandle, Intent},
    media::flow::{CallId, FlowId, FlowStatus},
    net::{Core, dns::Resolver, own_addresses},
    proxy::{self, Event, Proxy, Side},
    state::Store,
    verdicts::{DomainBlocks, DomainReport, Input, Outbox, Output, Setting, WatchReport},
};

/// Inputs that may wait. Connections that prove themselves faster than this are not blocked any
/// later for it: the task looks at each in microseconds.
const QUEUE: usize = 16_384;
/// How long a command waits for DNS to name a blocked domain's edges.
const DNS_MOMENT: Duration = Duration::from_secs(2);

/// What came of a change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    /// Time from the change to the last kernel write.
    pub took: Duration,
    /// Connections that were closed.
    pub connections_closed: usize,
}

enum Command {
    Input(Input),
    /// A new setting; answered when the kernel holds what is known.
    Setting(Box<Setting>, oneshot::Sender<Result<(), String>>),
    Report(oneshot::Sender<Vec<DomainReport>>),
    Forgive(Domain, Option<IpNet>, oneshot::Sender<Result<(), String>>),
    WatchReport(oneshot::Sender<Vec<WatchReport>>),
    PartnersAt(IpAddr, oneshot::Sender<Vec<Domain>>),
}

/// The way to the task.
#[derive(Clone)]
pub(super) struct BlockTaskHandle(mpsc::Sender<Command>);

impl BlockTaskHandle {
    /// Puts other lists in force; returns when the kernel holds what is known of them. Where
    /// partners are is followed when the configuration asks, or `partners` does.
    pub async fn set(
        &self,
        config: &Config,
        federation: Federation,
        partners: bool,
    ) -> Result<Outcome, String> {
        let began = Instant::now();
        let (answer, done) = oneshot::channel();
        let mut setting = setting(config, federation);
        setting.partners |= partners;
        let command = Command::Setting(Box::new(setting), answer);
        self.0.send(command).await.map_err(|_| stopped())?;
        done.await.map_err(|_| stopped())??;
        Ok(Outcome { took: began.elapsed(), connections_closed: 0 })
    }

    /// Allowed domains that are at this address, by DNS.
    pub async fn partners_at(&self, address: IpAddr) -> Vec<Domain> {
        let (answer, found) = oneshot::channel();
        if self.0.send(Command::PartnersAt(address, answer)).await.is_err() {
            return Vec::new();
        }
        found.await.unwrap_or_default()
    }

    /// How every blocked domain stands.
    pub async fn report(&self) -> Vec<DomainReport> {
        let (answer, report) = oneshot::channel();
        if self.0.send(Command::Report(answer)).await.is_err() {
            return Vec::new();
        }
        report.await.unwrap_or_default()
    }

    /// How the watch list stands.
    pub async fn watch_report(&self) -> Vec<WatchReport> {
        let (answer, report) = oneshot::channel();
        if self.0.send(Command::WatchReport(answer)).await.is_err() {
            return Vec::new();
        }
        report.await.unwrap_or_default()
    }

    /// A place in the queue, for what must be told while a lock is held.
    pub async fn place(&self) -> Result<Place, String> {
        self.0.clone().reserve_owned().await.map(Place).map_err(|_| stopped())
    }

    /// How a blocked domain stands once DNS has spoken, or after a moment.
    pub async fn resolved(&self, domain: &Domain) -> Option<DomainReport> {
        let until = Instant::now() + DNS_MOMENT;
        loop {
            let report = self.report().await.into_iter().find(|r| r.domain.domain == *domain)?;
            let silent = report.blocked.is_empty() && report.refused.is_empty();
            if !(silent && report.dns_error.is_none()) || Instant::now() >= until {
                return Some(report);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) fn tell(&self, input: Input) {
        // Full: the daemon is flooded with connections. What is lost here is seen again at the
        // next proof; the proxy refuses in any case.
        if self.0.try_send(Command::Input(input)).is_err() {
            warn!("a connection's proof was not looked at: too many at once");
        }
    }

    /// Takes from the proxy's events what matters here.
    pub fn event(&self, event: &Event) {
        match event {
            Event::Proved { connection, domain, remote, repute: _ } => self.tell(Input::Proved {
                connection: *connection,
                domain: domain.clone(),
                remote: remote.ip(),
            }),
            Event::SignedIn { connection, remote } => {
                self.tell(Input::SignedIn { connection: *connection, remote: remote.ip() })
            }
            _ => {}
        }
    }
}

/// A place in the queue.
pub(super) struct Place(mpsc::OwnedPermit<Command>);

impl Place {
    /// Takes back blocks of a domain on the watch list; what comes tells when the kernel has.
    pub fn forgive(self, domain: Domain, source: Option<IpNet>) -> Forgiving {
        let (answer, done) = oneshot::channel();
        self.0.send(Command::Forgive(domain, source, answer));
        Forgiving(done)
    }
}

/// Blocks that are being taken back.
pub(super) struct Forgiving(oneshot::Receiver<Result<(), String>>);

impl Forgiving {
    /// Waits until the kernel has.
    pub async fn done(self) -> Result<(), String> {
        self.0.await.map_err(|_| stopped())?
    }
}

fn stopped() -> String {
    "the daemon is stopping".to_owned()
}

/// What holds, as far as verdicts are concerned.
pub(super) fn setting(config: &Config, federation: Federation) -> Setting {
    let mut setting = Setting::new(config, federation);
    setting.own = own_addresses(config);
    setting
}

/// The proxy as the shell drives it, with an eye on who comes and goes.
pub(super) struct Watched {
    pub proxy: Proxy,
    pub blocks: BlockTaskHandle,
}

impl Watched {
    /// Tells what of the proxy's outputs matters to the blocks. Offenders are told here and not as
    /// events, because this is under the core's lock: nobody can be forgiven in between.
    fn look(&self, now: Instant, out: &[proxy::Output]) {
        let mut banned = false;
        for output in out {
            match output {
                proxy::Output::Close { connection, .. } | proxy::Output::Release { connection } => {
                    self.blocks.tell(Input::Closed { connection: *connection });
                }
                proxy::Output::Event(Event::Offender { domain, source, until }) => {
                    let offense = offense((domain.clone(), *source, *until));
                    self.blocks.tell(Input::Offender(offense));
                }
                proxy::Output::Event(Event::Banned { .. }) => banned = true,
                _ => {}
            }
        }
        if banned {
            self.tell_guessers(now);
        }
    }

    /// Tells who is shut out: all of them, so that what was lost is made good by the next. Under the
    /// core's lock, as forgiving is.
    pub fn tell_guessers(&self, now: Instant) {
        self.blocks.tell(guessers(&self.proxy, now));
    }
}

impl Core for Watched {
    fn handle(&mut self, now: Instant, input: proxy::Input, out: &mut Vec<proxy::Output>) {
        match &input {
            proxy::Input::Opened { connection, peer, .. } if peer.side == Side::Inside => {
                let (connection, remote) = (*connection, peer.remote.ip());
                self.blocks.tell(Input::InsideOpened { connection, remote });
            }
            proxy::Input::Closed { connection } => {
                self.blocks.tell(Input::Closed { connection: *connection });
            }
            _ => {}
        }
        let before = out.len();
        self.proxy.handle(now, input, out);
        self.look(now, &out[before..]);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.proxy.next_timeout()
    }

    fn on_timeout(&mut self, now: Instant, out: &mut Vec<proxy::Output>) {
        let before = out.len();
        self.proxy.on_timeout(now, out);
        self.look(now, &out[before..]);
    }

    fn refuses(&self, now: Instant, remote: IpAddr) -> bool {
        self.proxy.refuses(now, remote)
    }

    fn media_learned(
        &mut self,
        now: Instant,
        flow: FlowId,
        source: SocketAddr,
        out: &mut Vec<proxy::Output>,
    ) {
        self.proxy.media_learned(now, flow, source, out);
    }

    fn media_seen(&mut self, now: Instant, flows: &[FlowStatus], out: &mut Vec<proxy::Output>) {
        self.proxy.media_seen(now, flows, out);
    }

    fn media_failed(&mut self, now: Instant, call: CallId, out: &mut Vec<proxy::Output>) {
        self.proxy.media_failed(now, call, out);
    }

    fn live(&self) -> usize {
        self.proxy.counters().transactions
    }
}

/// The task: owns the state machine.
pub(super) struct BlockTask {
    core: DomainBlocks,
    commands: mpsc::Receiver<Command>,
    handle: mpsc::WeakSender<Command>,
    resolver: Arc<Resolver>,
    firewall: FirewallHandle,
    outbox: Outbox,
}

impl BlockTask {
    /// A task that knows the lists in force and the last good addresses.
    pub fn new(
        config: &Config,
        store: &Store,
        federation: Federation,
        resolver: Arc<Resolver>,
        firewall: FirewallHandle,
        listed: [Input; 2],
    ) -> (Self, BlockTaskHandle) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let mut core = DomainBlocks::new();
        let now = Instant::now();
        core.handle(now, Input::Setting(Box::new(setting(config, federation))));
        for (domain, last) in store.last_good() {
            let (domain, addresses) = (domain.clone(), last.addresses.clone());
            core.handle(now, Input::LastGood { domain, addresses });
        }
        for input in listed {
            core.handle(now, input);
        }
        let handle = sender.downgrade();
        let task = Self { core, commands, handle, resolver, firewall, outbox: Outbox::default() };
        (task, BlockTaskHandle(sender))
    }

    /// Runs until the daemon is gone.
    pub async fn run(mut self, daemon: Weak<Daemon>) {
        loop {
            if let Err(error) = self.carry_out(&daemon).await {
                error!(error, "blocks could not be put in force; trying again soon");
            }
            let timeouts = [self.core.next_timeout(), self.outbox.next_timeout()];
            let timeout = timeouts.into_iter().flatten().min();
            let wait = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command, &daemon).await,
                    None => return,
                },
                () = wait => self.core.handle_timeout(Instant::now()),
            }
        }
    }

    /// Without its own bucket a partner shares one with strangers; that is no reason to stop.
    async fn know(&self, remote: IpAddr) {
        if let Err(error) = self.firewall.apply(vec![Intent::Known(remote)]).await {
            warn!(%remote, %error, "a proven peer has no bucket of its own");
        }
    }

    async fn command(&mut self, command: Command, daemon: &Weak<Daemon>) {
        match command {
            Command::Input(input) => {
                if let Input::Proved { remote, .. } = &input {
                    self.know(*remote).await;
                }
                self.core.handle(Instant::now(), input);
            }
            Command::Setting(setting, answer) => {
                self.core.handle(Instant::now(), Input::Setting(setting));
                let _ = answer.send(self.carry_out(daemon).await);
            }
            Command::Forgive(domain, source, answer) => {
                self.core.handle(Instant::now(), Input::Forgiven { domain, source });
                let _ = answer.send(self.carry_out(daemon).await);
            }
            Command::WatchReport(answer) => {
                let _ = answer.send(self.core.watch_report());
            }
            Command::PartnersAt(address, answer) => {
                let _ = answer.send(self.core.partners_at(address));
            }
            Command::Report(answer) => {
                let _ = answer.send(self.core.report());
            }
        }
    }

    /// Does what the state machine says: all kernel writes in one go.
    async fn carry_out(&mut self, daemon: &Weak<Daemon>) -> Result<(), String> {
        while let Some(output) = self.core.poll() {
            match output {
                Output::Query { question, relax_srv_domain } => {
                    let (resolver, handle) = (Arc::clone(&self.resolver), self.handle.clone());
                    let lookup = Lookup { relax: relax_srv_domain, ..Lookup::default() };
                    tokio::spawn(async move {
                        let result = resolver.resolve(&question, lookup).await;
                        if let Some(handle) = handle.upgrade() {
                            let input = Input::Resolved { question, result };
                            let _ = handle.send(Command::Input(input)).await;
                        }
                    });
                }
                Output::Apply(intent) => {
                    log_intent(&intent);
                    if let Intent::SetOwnerBlocks { owner: BlockOwner::Domain(domain), blocks } =
                        &intent
                        && let Some(daemon) = daemon.upgrade()
                    {
                        let addresses = blocks.iter().map(|block| block.prefix.addr()).collect();
                        daemon.last_good.put_blocked(domain.clone(), addresses);
                    }
                    self.outbox.put(intent);
                }
                Output::Persist { domain, addresses } => {
                    if let Some(daemon) = daemon.upgrade() {
                        daemon.last_good.put(domain, addresses);
                    }
                }
                Output::PartnersLeftOut(count) => {
                    warn!(
                        count,
                        "partners' addresses do not fit the kernel's table and are shut \
                        out: name wider prefixes in from_addresses, or allow fewer partners"
                    );
                }
                Output::NotBlocked { domain, address, why } => {
                    info!(%domain, %address, %why, "an address of a blocked domain is not blocked");
                }
            }
        }
        let intents = self.outbox.take(Instant::now());
        if intents.is_empty() {
            return Ok(());
        }
        let done = self.firewall.apply(intents).await;
        self.outbox.done(Instant::now(), done.is_ok());
        done.map(|_| ()).map_err(|error| error.to_string())
    }
}

fn log_intent(intent: &Intent) {
    if let Intent::Block(block) = intent {
        info!(owner = ?block.owner, prefix = %block.prefix, "a block");
    }
    if let Intent::Unblock { prefix, owner } = intent {
        info!(?owner, %prefix, "a block is taken back");
    }
    if let Intent::SetPartners(partners) = intent {
        info!(prefixes = partners.len(), "partners' addresses");
    }
    if let Intent::SetOwnerBlocks { owner, blocks } = intent {
        let prefixes: Vec<String> = blocks.iter().map(|b| b.prefix.to_string()).collect();
        info!(?owner, blocks = prefixes.join(" "), "blocks");
    }
}
