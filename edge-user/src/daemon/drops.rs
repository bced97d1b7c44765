//! Sampled drops for those who ask: the last ones, and from now on.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, UNIX_EPOCH},
};

use serde_json::json;
use tokio::sync::{Semaphore, broadcast, broadcast::error::RecvError, mpsc};

use crate::{
    admin::{
        protocol::{DropFilter, DropLine, Dropped},
        server::Lines,
    },
    firewall::{
        events::{DropEvent, Feed},
        inspect,
    },
};

/// Who may follow at one time. Each holds one of the control socket's places.
const FOLLOWERS: usize = 4;
/// Lines that may wait for a follower; behind them waits the feed, which counts what it loses.
const QUEUE: usize = 64;
/// Names of rules are read again after this time.
const NAMES_KEPT: Duration = Duration::from_secs(5);

/// The feed, and who follows it.
pub(super) struct Drops {
    feed: Feed,
    places: Arc<Semaphore>,
    names: Arc<RuleNames>,
}

impl Drops {
    pub fn new(feed: Feed, state: &Path) -> Self {
        let names = RuleNames { state: state.to_owned(), known: Mutex::default() };
        Self { feed, places: Arc::new(Semaphore::new(FOLLOWERS)), names: Arc::new(names) }
    }

    /// The last drops, the oldest first.
    pub fn recent(&self, filter: &DropFilter) -> Vec<DropLine> {
        let recent = self.feed.recent();
        recent.iter().filter(|event| wanted(filter, event)).map(|e| self.names.line(e)).collect()
    }

    /// Every drop from now on, a line each.
    pub fn follow(&self, filter: DropFilter) -> Result<Lines, String> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            format!("{FOLLOWERS} others follow the drops already: end one of them first")
        })?;
        let (sender, lines) = mpsc::channel(QUEUE);
        let (events, names) = (self.feed.follow(), Arc::clone(&self.names));
        tokio::spawn(async move {
            forward(events, filter, &names, &sender).await;
            drop(place);
        });
        Ok(lines)
    }
}

/// Until the follower is gone.
async fn forward(
    mut events: broadcast::Receiver<DropEvent>,
    filter: DropFilter,
    names: &RuleNames,
    lines: &mpsc::Sender<serde_json::Value>,
) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = lines.closed() => return,
        };
        let line = match event {
            Ok(event) if wanted(&filter, &event) => names.line(&event),
            Ok(_) => continue,
            Err(RecvError::Lagged(lost)) => DropLine::Lost(lost),
            Err(RecvError::Closed) => return,
        };
        if lines.send(json!(line)).await.is_err() {
            return;
        }
    }
}

fn wanted(filter: &DropFilter, event: &DropEvent) -> bool {
    filter.reason.as_ref().is_none_or(|reason| reason == event.reason)
        && filter
            .source
            .is_none_or(|prefix| event.source.is_some_and(|source| prefix.contains(&source)))
}

/// Names of rules by id, read again when they may have changed.
struct RuleNames {
    state: PathBuf,
    known: Mutex<(Option<Instant>, BTreeMap<u32, String>)>,
}

impl RuleNames {
    fn name(&self, id: u32) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0.is_none_or(|read_at| read_at.elapsed() > NAMES_KEPT) {
            *known = (Some(Instant::now()), inspect::rule_names(&self.state));
        }
        known.1.get(&id).cloned().unwrap_or_else(|| format!("number {id}"))
    }

    fn line(&self, event: &DropEvent) -> DropLine {
        let at = event.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut frame = String::with_capacity(2 * event.frame.len());
        for byte in &event.frame {
            // Writing to a String cannot fail.
            let _ = write!(frame, "{byte:02x}");
        }
        DropLine::Drop(Box::new(Dropped {
            at_nanoseconds: u64::try_from(at).unwrap_or(u64::MAX),
            verdict: if event.monitored { "pass" } else { "drop" }.to_owned(),
            reason: event.reason.to_owned(),
            rule: event.rule.map(|id| self.name(id)),
            zone: event.zone.to_owned(),
            device: inspect::device_name(event.ifindex),
            vlan: event.vlan,
            ether_type: event.ether_type,
            protocol: event.protocol,
            source: event.source,
            source_port: event.source_port,
            destination: event.destination,
            destination_port: event.destination_port,
            length: event.length,
            frame,
        }))
    }
}
