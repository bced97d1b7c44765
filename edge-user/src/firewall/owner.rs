//! The one owner of the kernel's maps: a thread that takes intents, one after the other.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
};

use super::{
    Applied, BlockRequest, BlockRow, DetachReport, FirewallError, Intent, LoadReport, LoadSource,
    StartReport, attach,
    blocks::{List, Outlook},
    engine::{Devices, Engine, Rules},
    media::MediaTable,
    shape, state, sys,
    watch::{Heard, LinkWatch},
};
use crate::{
    config::{Config, Least},
    failpoint,
};

/// Requests that may wait for the owner.
const WAITING: usize = 1024;
/// How long after a fault a list is gone on with.
const RETRY: Duration = Duration::from_secs(1);
/// The owner wakes at least this often.
const IDLE: Duration = Duration::from_secs(3600);

/// Where the owner keeps what is its own, and how it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerOptions {
    /// Pin folder, on a bpffs.
    pub pins: PathBuf,
    /// Folder for `firewall.json`.
    pub state: PathBuf,
    /// Blocks found in the kernel that nobody has claimed after this time go.
    pub settle_after: Duration,
    /// They stay: who claimed them is not known any more.
    pub keep_unclaimed: bool,
    /// Let the kernel program's debug messages into the log.
    pub debug_log: bool,
    /// The partners' addresses to begin with; `None`: those that were in force last.
    pub partners: Option<Vec<IpNet>>,
    /// The administrators' blocks to begin with, in force before any rule lets anybody in; `None`:
    /// those that the kernel holds.
    pub blocks: Option<Vec<BlockRequest>>,
    /// Blocks of domains to begin with, until whoever follows the domains says what holds.
    pub domain_blocks: Vec<BlockRequest>,
    /// Attach at egress as on kernels before 6.6, also where there is a better way: for tests.
    pub without_tcx: bool,
}

impl OwnerOptions {
    /// The usual options for this configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            pins: config.paths.pins.clone(),
            state: config.paths.state.clone(),
            settle_after: Duration::from_secs(120),
            keep_unclaimed: false,
            debug_log: false,
            without_tcx: false,
            partners: None,
            blocks: None,
            domain_blocks: Vec::new(),
        }
    }
}

/// The one owner of the kernel's maps: a thread that takes intents.
#[derive(Debug)]
pub struct Owner;

impl Owner {
    /// Loads or adopts, attaches, and puts the configuration in force. Enforcement stays when
    /// every handle is gone, and when the process dies. The network namespace is the caller's.
    pub fn start(
        options: OwnerOptions,
        config: Arc<Config>,
    ) -> Result<(FirewallHandle, StartReport), FirewallError> {
        let settle_at = Instant::now() + options.settle_after;
        // Before the start looks at the devices, so that none comes unseen.
        let links = LinkWatch::open();
        let (pins, plan) = (options.pins.clone(), Arc::clone(&config));
        let (engine, mut report) = Engine::start(options, Rules::Config(config), Devices::All)?;
        report.warnings.extend(report.missing.iter().map(|device| {
            format!("device `{device}` does not exist yet: it is optional, and awaited")
        }));
        if let Err(fault) = &links {
            report.warnings.push(format!(
                "devices that come and go are not noticed ({fault}): reload when one has"
            ));
        }
        let links = links.ok();
        let media = match MediaTable::open(&pins, &plan) {
            Ok(media) => Some(media),
            Err(fault) => {
                report.warnings.push(format!("no call can have media: {fault}"));
                None
            }
        };
        report.warnings.extend(super::media::warnings(&plan));
        let media = Arc::new(Mutex::new(media));
        let (sender, receiver) = mpsc::channel(WAITING);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|fault| FirewallError::io("starting the firewall's owner", fault))?;
        std::thread::Builder::new()
            .name("firewall".to_owned())
            .spawn(move || runtime.block_on(run(engine, receiver, links, settle_at)))
            .map_err(|fault| FirewallError::io("starting the firewall's owner", fault))?;
        Ok((FirewallHandle { sender, media }, report))
    }
}

type Answer<T> = oneshot::Sender<Result<T, FirewallError>>;

#[derive(Debug)]
enum Request {
    Apply(Vec<Intent>, Answer<Applied>),
    Settle(Answer<Applied>),
    Blocks(Answer<Vec<BlockRow>>),
    Alarms(Answer<Vec<String>>),
    Lists(Answer<Vec<Arc<List>>>),
    Outlook(String, Answer<Outlook>),
    SetList(String, Option<Arc<List>>, Answer<Applied>),
    Former(Answer<()>),
}

/// A list on its way into the kernel, or out of it.
#[derive(Default)]
struct ListWork {
    /// Who waits for it, and since when.
    waits: Option<(Answer<Applied>, Instant)>,
    /// After a fault: not before.
    not_before: Option<Instant>,
}

impl ListWork {
    fn begin(
        &mut self,
        engine: &mut Engine,
        name: &str,
        new: Option<Arc<List>>,
        answer: Answer<Applied>,
    ) {
        match engine.begin_list(name, new) {
            Ok(()) => self.waits = Some((answer, Instant::now())),
            Err(fault) => drop(answer.send(Err(fault))),
        }
    }

    /// When the next slice may be done.
    fn next(&self, engine: &Engine) -> Option<Duration> {
        let at = self.not_before.map(|at| at.saturating_duration_since(Instant::now()));
        engine.is_busy().then(|| at.unwrap_or_default())
    }

    /// Does a slice.
    fn advance(&mut self, engine: &mut Engine) {
        if self.next(engine) != Some(Duration::ZERO) {
            return;
        }
        self.not_before = None;
        match engine.advance() {
            Ok(None) => {}
            Ok(Some(applied)) => {
                if let Some((answer, began)) = self.waits.take() {
                    let _ = answer.send(Ok(Applied { took: began.elapsed(), ..applied }));
                }
            }
            Err(fault) => {
                tracing::error!(%fault, "a list of blocks could not be written");
                self.not_before = Some(Instant::now() + RETRY);
                if engine.give_up()
                    && let Some((answer, _)) = self.waits.take()
                {
                    let _ = answer.send(Err(fault));
                }
            }
        }
    }
}

/// Until the last handle is gone: one request after the other, and what time brings in between.
async fn run(
    mut engine: Engine,
    mut requests: mpsc::Receiver<Request>,
    links: Option<LinkWatch>,
    settle_at: Instant,
) {
    let links = links.and_then(|links| links.in_runtime().ok());
    let mut settle_at = Some(settle_at);
    let mut lists = ListWork::default();
    // After a fault, what time brings waits until then; requests do not.
    let mut not_before: Option<Instant> = None;
    loop {
        let mut wait = match not_before {
            Some(at) => at.saturating_duration_since(Instant::now()),
            None => engine.next_expiry().map_or(IDLE, |left| left.min(IDLE)),
        };
        if let Some(at) = settle_at {
            wait = wait.min(at.saturating_duration_since(Instant::now()));
        }
        if let Some(left) = lists.next(&engine) {
            wait = wait.min(left);
        }
        for left in [engine.next_look(), engine.next_look_at_lists()].into_iter().flatten() {
            wait = wait.min(left);
        }
        let next = tokio::select! {
            next = tokio::time::timeout(wait, requests.recv()) => next,
            heard = hear(links.as_ref()) => {
                engine.heard(&heard);
                continue;
            }
        };
        engine.look_again();
        if matches!(next, Ok(Some(_))) {
            failpoint::panics("owner");
        }
        // An answer that nobody waits for any more is no fault.
        match next {
            Ok(None) => return,
            Ok(Some(Request::Apply(intents, answer))) => {
                let _ = answer.send(engine.apply(intents));
            }
            Ok(Some(Request::Settle(answer))) => {
                settle_at = None;
                let _ = answer.send(engine.settle());
            }
            Ok(Some(Request::Blocks(answer))) => {
                let _ = answer.send(Ok(engine.rows()));
            }
            Ok(Some(Request::Alarms(answer))) => {
                let _ = answer.send(Ok(engine.alarms()));
            }
            Ok(Some(Request::Lists(answer))) => {
                let _ = answer.send(Ok(engine.lists()));
            }
            Ok(Some(Request::Outlook(name, answer))) => {
                let _ = answer.send(Ok(engine.outlook(&name)));
            }
            Ok(Some(Request::SetList(name, new, answer))) => {
                lists.begin(&mut engine, &name, new, answer);
            }
            Ok(Some(Request::Former(answer))) => {
                let _ = answer.send(engine.former_rules());
            }
            Err(_) => {}
        }
        lists.advance(&mut engine);
        if not_before.is_some_and(|at| at > Instant::now()) {
            continue;
        }
        let again = not_before.take().is_some();
        if !pass_time(&mut engine, &mut settle_at, again) {
            not_before = Some(Instant::now() + RETRY);
        }
    }
}

/// Does what is due: lets go of what nobody claimed, of what has ended, and with `again` tries
/// what the kernel did not take. `false`: something is left to be tried again.
fn pass_time(engine: &mut Engine, settle_at: &mut Option<Instant>, again: bool) -> bool {
    let mut faults = Vec::new();
    if settle_at.take_if(|at| *at <= Instant::now()).is_some() {
        faults.extend(engine.settle().err());
    }
    if again {
        faults.extend(engine.retry().err());
    }
    let due = engine.next_expiry().is_some_and(|left| left.is_zero());
    if due || !engine.is_busy() {
        engine.end_lists();
        faults.extend(engine.sweep().err());
    }
    for fault in &faults {
        tracing::error!(%fault, "blocks could not be written; trying again");
    }
    faults.is_empty() && !engine.is_stuck()
}

/// The next that is heard of links; without an ear, nothing ever.
async fn hear(links: Option<&AsyncFd<LinkWatch>>) -> Heard {
    let Some(links) = links else { return std::future::pending().await };
    loop {
        let Ok(mut ready) = links.readable().await else { return std::future::pending().await };
        match ready.try_io(|links| links.get_ref().hear()) {
            Ok(Ok(heard)) => return heard,
            Ok(Err(fault)) => {
                tracing::error!(%fault, "what happens to devices could not be heard");
                tokio::time::sleep(RETRY).await;
                return Heard::Anything;
            }
            // Nothing waits after all.
            Err(_) => {}
        }
    }
}

/// The way to the owner. The owner's thread ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct FirewallHandle {
    sender: mpsc::Sender<Request>,
    media: Arc<Mutex<Option<MediaTable>>>,
}

impl FirewallHandle {
    /// The one writer of media flows, for whoever asks first.
    pub fn media(&self) -> Option<MediaTable> {
        self.media.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Applies the intents in their order. One that fails does not stop the others (a full table
    /// must not keep other blocks out); the first fault is given back.
    pub async fn apply(&self, intents: Vec<Intent>) -> Result<Applied, FirewallError> {
        self.ask(|answer| Request::Apply(intents, answer)).await
    }

    /// As [`Self::apply`], for code outside a runtime.
    pub fn apply_blocking(&self, intents: Vec<Intent>) -> Result<Applied, FirewallError> {
        self.ask_blocking(|answer| Request::Apply(intents, answer))
    }

    /// Says that every owner has named its blocks since the start: what was found in the kernel
    /// and is claimed by nobody goes. Happens by itself after `OwnerOptions::settle_after`.
    pub async fn settle(&self) -> Result<Applied, FirewallError> {
        self.ask(Request::Settle).await
    }

    /// As [`Self::settle`], for code outside a runtime.
    pub fn settle_blocking(&self) -> Result<Applied, FirewallError> {
        self.ask_blocking(Request::Settle)
    }

    /// Every block with its owners.
    pub async fn blocks(&self) -> Result<Vec<BlockRow>, FirewallError> {
        self.ask(Request::Blocks).await
    }

    /// What is not as it should be now with the stack and the devices, and is tried again.
    pub async fn alarms(&self) -> Result<Vec<String>, FirewallError> {
        self.ask(Request::Alarms).await
    }

    /// As [`Self::blocks`], for code outside a runtime.
    pub fn blocks_blocking(&self) -> Result<Vec<BlockRow>, FirewallError> {
        self.ask_blocking(Request::Blocks)
    }

    /// The lists of blocks in force.
    pub async fn lists(&self) -> Result<Vec<Arc<List>>, FirewallError> {
        self.ask(Request::Lists).await
    }

    /// What a new list of this name would meet.
    pub async fn outlook(&self, name: &str) -> Result<Outlook, FirewallError> {
        self.ask(|answer| Request::Outlook(name.to_owned(), answer)).await
    }

    /// Puts a list in force in the place of the one of this name, or takes that away, in one step
    /// for the packets. Other intents are carried out meanwhile.
    pub async fn set_list(
        &self,
        name: &str,
        list: Option<Arc<List>>,
    ) -> Result<Applied, FirewallError> {
        self.ask(|answer| Request::SetList(name.to_owned(), list, answer)).await
    }

    /// As [`Self::set_list`], for code outside a runtime.
    pub fn set_list_blocking(
        &self,
        name: &str,
        list: Option<Arc<List>>,
    ) -> Result<Applied, FirewallError> {
        self.ask_blocking(|answer| Request::SetList(name.to_owned(), list, answer))
    }

    /// The start of the daemon fails after all: puts the rules of before back in force, if others
    /// were.
    pub async fn former_rules(&self) -> Result<(), FirewallError> {
        self.ask(Request::Former).await
    }

    /// Waits until the owner's thread has ended, which it does by itself only after a fault.
    pub async fn stopped(&self) {
        self.sender.closed().await;
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, FirewallError> {
        let (answer, wait) = oneshot::channel();
        self.sender.send(request(answer)).await.map_err(|_| FirewallError::Stopped)?;
        wait.await.map_err(|_| FirewallError::Stopped)?
    }

    fn ask_blocking<T>(
        &self,
        request: impl FnOnce(Answer<T>) -> Request,
    ) -> Result<T, FirewallError> {
        let (answer, wait) = oneshot::channel();
        self.sender.blocking_send(request(answer)).map_err(|_| FirewallError::Stopped)?;
        wait.blocking_recv().map_err(|_| FirewallError::Stopped)?
    }
}

/// Takes everything away: links, pins, folders. Refuses while a daemon holds the lock, unless
/// `force`.
pub fn detach(pins: &Path, force: bool) -> Result<DetachReport, FirewallError> {
    let mut report = DetachReport::default();
    if !pins.exists() {
        return Ok(report);
    }
    let lock = sys::lock(pins)?;
    if lock.is_none() && !force {
        return Err(FirewallError::Locked { pins: pins.to_owned() });
    }
    let fault = |path: &Path| {
        let what = path.display().to_string();
        move |fault| FirewallError::io(what, fault)
    };
    report.devices =
        attach::pinned(&attach::link_folder(pins)).into_iter().map(|(device, _)| device).collect();
    // Links first, so that no program runs on maps that are going.
    let mut folders = vec![attach::link_folder(pins), attach::egress_folder(pins)];
    for entry in std::fs::read_dir(pins).map_err(fault(pins))?.flatten() {
        let name = entry.file_name();
        // Folders of other schemas too, but nothing that is not ours.
        if name.to_str().is_some_and(|name| name.starts_with('v')) {
            folders.push(entry.path());
        }
    }
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        for entry in std::fs::read_dir(folder).map_err(fault(folder))?.flatten() {
            let device = sys::device_of_pin(&entry.file_name().to_string_lossy());
            attach::take_away(pins, &entry.path(), &device)?;
            report.pins += 1;
        }
        std::fs::remove_dir(folder).map_err(fault(folder))?;
    }
    std::fs::remove_dir(pins).map_err(fault(pins))?;
    Ok(report)
}

/// For `edge load`, before the network is up: puts the configuration's rules in force; when there
/// is no good configuration, the rules that were last in force; and when there are none, `least`:
/// nobody but administrators gets in. Devices that do not exist yet, or refuse the program, are
/// named in the report: the others are enforced all the same. Nothing runs on afterwards.
///
/// # Errors
/// When nothing at all could be put in force, or what is in force is better.
pub fn load_last_good(
    options: OwnerOptions,
    config: Option<Arc<Config>>,
    least: impl FnOnce() -> Least,
) -> Result<LoadReport, FirewallError> {
    let mut faults = Vec::new();
    let mut try_with =
        |source, rules| match Engine::start(options.clone(), rules, Devices::Possible) {
            Ok((engine, mut start)) => {
                // Nobody tries again before the daemon runs.
                start.faults.extend(engine.alarms());
                Ok(Some((source, start)))
            }
            // Whoever holds the lock enforces, and what is no root can do nothing.
            Err(fault @ (FirewallError::Locked { .. } | FirewallError::NotPermitted)) => Err(fault),
            Err(fault) => {
                faults.push(fault);
                Ok(None)
            }
        };
    let mut done = None;
    if let Some(config) = config {
        done = try_with(LoadSource::Config, Rules::Config(config))?;
    }
    if done.is_none() {
        done = try_with(LoadSource::LastGood, Rules::LastGood)?;
    }
    // Devices with a program have rules already, that were good.
    if done.is_none() && attach::pinned(&attach::link_folder(&options.pins)).is_empty() {
        done = try_with(LoadSource::Deny, Rules::Least(Box::new(least())))?;
    }
    match done {
        Some((source, start)) => {
            let faults = faults.iter().map(ToString::to_string).collect();
            Ok(LoadReport { source, faults, start })
        }
        None => Err(faults.swap_remove(0)),
    }
}

/// The last good plan, for [`load_last_good`].
pub(super) fn last_good(folder: &Path) -> Result<state::Kept, FirewallError> {
    let fault = match state::read(folder) {
        Ok(Some(kept)) => return Ok(kept),
        Ok(None) => "nothing was ever in force".to_owned(),
        Err(fault) => fault,
    };
    Err(FirewallError::NoLastGood { state: state::file(folder), fault })
}

/// Locks and checks the pins. Says which maps are there already.
pub(super) fn take_pins(pins: &Path) -> Result<(std::fs::File, shape::Found), FirewallError> {
    if !rustix::process::geteuid().is_root() {
        return Err(FirewallError::NotPermitted);
    }
    sys::prepare_pins(pins)?;
    let Some(lock) = sys::lock(pins)? else {
        return Err(FirewallError::Locked { pins: pins.to_owned() });
    };
    let found = shape::check(pins)?;
    Ok((lock, found))
}
