//! The watch list of the daemon: kept on disk, shown, and forgiven. Bans of remote users are kept
//! beside it.

use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::MissedTickBehavior};
use tracing::{error, warn};

use super::{Daemon, unix_seconds};
use crate::{
    domain::Domain,
    federation::{Report, Saved, SavedBans, Standing},
    proxy::{Event, Proxy},
    state::KeptFile,
    verdicts::{Guesser, Input, Offense, WatchReport},
};

/// What changes together is written together.
const PAUSE: Duration = Duration::from_millis(200);
/// How often evidence is written that changed without a change of the list.
const EVIDENCE: Duration = Duration::from_secs(60);

/// Where the watch list is kept.
#[derive(Debug)]
pub(super) struct Watching {
    file: Mutex<KeptFile<Saved>>,
    bans: Mutex<KeptFile<SavedBans>>,
    changed: Arc<Notify>,
}

/// Says that the list changed.
#[derive(Clone, Debug)]
pub(super) struct WatchBell(Arc<Notify>);

impl WatchBell {
    /// Looks at an event.
    pub fn event(&self, event: &Event) {
        if matches!(event, Event::Watch { .. } | Event::Offender { .. } | Event::Banned { .. }) {
            self.0.notify_one();
        }
    }
}

impl Watching {
    /// Reads the list into the proxy; gives what the blocks must know, and alarms. When the list
    /// is lost, whoever is discovered is suspicious for a while: an attacker who was listed is no
    /// better off for it.
    pub fn start(folder: &Path, proxy: &mut Proxy) -> (Self, [Input; 2], Vec<String>) {
        let now = Instant::now();
        let (file, saved, alarms) = KeptFile::<Saved>::open(folder);
        let alarms: Vec<String> = alarms
            .iter()
            .map(|alarm| {
                format!("{alarm}; until a report period has passed every discovered partner is slowed down")
            })
            .collect();
        for alarm in &alarms {
            error!(alarm, "ALARM");
        }
        if !alarms.is_empty() {
            proxy.distrust(now);
        }
        let offenders = proxy.restore_watch_list(now, unix_seconds(), saved);
        let offenders = Input::Offenders(offenders.into_iter().map(offense).collect());
        let (bans, saved, lost) = KeptFile::<SavedBans>::open(folder);
        let lost = lost.iter().map(|alarm| format!("{alarm}; nobody is banned"));
        let lost: Vec<String> = lost.inspect(|alarm| error!(alarm, "ALARM")).collect();
        proxy.restore_bans(now, unix_seconds(), saved);
        let (file, bans) = (Mutex::new(file), Mutex::new(bans));
        let alarms = alarms.into_iter().chain(lost).collect();
        let listed = [offenders, guessers(proxy, now)];
        (Self { file, bans, changed: Arc::default() }, listed, alarms)
    }

    /// The list may have changed without an event: the policy did.
    pub fn ring(&self) {
        self.changed.notify_one();
    }

    pub fn bell(&self) -> WatchBell {
        WatchBell(Arc::clone(&self.changed))
    }
}

/// For the blocks, which end by the wall clock.
pub(super) fn offense((domain, source, until): (Domain, IpAddr, Instant)) -> Offense {
    let left = until.saturating_duration_since(Instant::now());
    Offense { domain, source, until, expires_at: SystemTime::now() + left }
}

/// Who is shut out for wrong passwords, for the blocks, which end by the wall clock.
pub(super) fn guessers(proxy: &Proxy, now: Instant) -> Input {
    let wall = SystemTime::now();
    let guesser = |(source, left)| Guesser { source, expires_at: wall + left };
    Input::Guessers(proxy.shut_sources(now).into_iter().map(guesser).collect())
}

impl Daemon {
    /// Writes the watch list whenever it changes.
    pub(super) async fn keep_watch_list(self: Arc<Self>) {
        let mut evidence =
            tokio::time::interval_at(tokio::time::Instant::now() + EVIDENCE, EVIDENCE);
        evidence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.watching.changed.notified() => tokio::time::sleep(PAUSE).await,
                _ = evidence.tick() => self.tell_offenders(),
            }
            self.save_watch_list();
        }
    }

    /// Tells the blocks who is listed, and that nobody else is: what was told while they had too
    /// much to do was lost. Under the core's lock, as forgiving is, so that what is older never
    /// comes after what is newer.
    fn tell_offenders(&self) {
        self.shell.with_core(|core, now, _| {
            let offenders = core.proxy.offenders(now).into_iter().map(offense).collect();
            core.blocks.tell(Input::Offenders(offenders));
            core.tell_guessers(now);
        });
    }

    /// Waits for the disk.
    pub(super) fn save_watch_list(&self) {
        let unix = unix_seconds();
        let written = tokio::task::block_in_place(|| {
            // Looked at under the lock: what is older never comes after what is newer.
            let mut file = self.watching.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write(self.shell.with_core(|core, now, _| core.proxy.save_watch_list(now, unix)))
        });
        if let Err(error) = written {
            warn!(%error, "the watch list was not kept");
        }
        self.save_bans(unix);
    }

    /// Waits for the disk.
    fn save_bans(&self, unix: u64) {
        let written = tokio::task::block_in_place(|| {
            let mut file = self.watching.bans.lock().unwrap_or_else(PoisonError::into_inner);
            file.write(self.shell.with_core(|core, now, _| core.proxy.save_bans(now, unix)))
        });
        if let Err(error) = written {
            warn!(%error, "the bans were not kept");
        }
    }

    /// Nothing is held against a domain any more, or against what came from a prefix.
    pub(super) async fn forgive(
        &self,
        domain: Domain,
        source: Option<IpNet>,
    ) -> Result<Value, String> {
        let _one = self.change.lock().await;
        let place = self.blocks.place().await?;
        let (forgiven, blocks) = self.shell.with_core(|core, _, out| {
            let forgiven = core.proxy.forgive(&domain, source.as_ref(), out);
            (forgiven, place.forgive(domain.clone(), source))
        });
        // Whatever becomes of the kernel, which is told until it has done it.
        self.save_watch_list();
        blocks.done().await.map_err(|error| {
            format!("forgiven, but still blocked in the kernel, which is tried again: {error}")
        })?;
        let rows = self.watch_rows(Some(&domain)).await;
        Ok(json!({ "forgiven": forgiven, "watch": rows }))
    }

    /// Senders that are remembered, with how they stand in the kernel.
    pub(super) async fn watch_rows(&self, only: Option<&Domain>) -> Vec<Value> {
        let now = Instant::now();
        let reports = self.shell.with_core(|core, now, _| core.proxy.watch_report(now, only));
        let blocks = self.blocks.watch_report().await;
        let (unix, config) = (unix_seconds(), self.config());
        let rows = reports.iter().map(|report| {
            let mut row = row(report, &blocks, now, unix);
            let listed = report.standing == Standing::Listed;
            if listed && config.xmpp.partners.iter().any(|own| own.is_of(&report.domain)) {
                row["not_blocked"] = json!("an XMPP partner with an entry is refused, not blocked");
            }
            row
        });
        rows.collect()
    }

    /// Those of them against whom something is held.
    pub(super) async fn watch_list(&self) -> Vec<Value> {
        let mut rows = self.watch_rows(None).await;
        rows.retain(|row| row["standing"] != Standing::Standard.name());
        rows
    }
}

fn row(report: &Report, blocks: &[WatchReport], now: Instant, unix: u64) -> Value {
    let of = blocks.iter().find(|block| block.domain == report.domain);
    let blocked = of.is_some_and(|of| report.source.is_some_and(|net| of.blocked.contains(&net)));
    let why = of.and_then(|of| {
        let refused = of.refused.iter().find(|refused| Some(refused.prefix) == report.source)?;
        Some(refused.why.to_string())
    });
    let left = report.until.map(|until| until.saturating_duration_since(now).as_secs());
    json!({
        "domain": report.domain,
        "source": report.source,
        "standing": report.standing.name(),
        "until": left.map(|left| unix + left),
        "held_as": report.held_as,
        "times_listed": report.times_listed,
        "blocked_in_kernel": blocked,
        "not_blocked": why,
        "evidence": report.evidence,
    })
}
