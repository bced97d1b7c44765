//! Media in the daemon: the one table of flows, between the shell that changes it and the task
//! that follows what the kernel learns and counts.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};
use tracing::warn;

use super::Daemon;
use crate::{
    config::Config,
    firewall::{
        FirewallError,
        media::{Delays, MediaTable, NextHop, Ways},
    },
    media::flow::{CallId, Flow, FlowId, FlowStatus, MediaChange},
    net::{
        Core as _,
        shell::{MediaApplied, MediaSink},
    },
};

/// How often the calls are told what the kernel counted.
const COUNTS: Duration = Duration::from_secs(5);
/// Calls whose counts they are told in one go: every message waits as long as that takes.
const PART: usize = 64;
/// Messages have their turn between two parts.
const BREATH: Duration = Duration::from_millis(2);

/// The table of flows, and how long changes took.
#[derive(Debug)]
pub(super) struct Media {
    table: Mutex<MediaTable>,
    /// To where flows go.
    ways: Ways,
    /// To open and to close.
    delays: Mutex<[Delays; 2]>,
    /// A way is looked for that should be there soon.
    hurry: Notify,
}

impl MediaSink for Media {
    fn apply(&self, changes: &[MediaChange], began: Instant) -> MediaApplied {
        let mut table = self.table();
        let done = table.apply(changes);
        let (is_waiting, unsettled) = (table.is_waiting(), table.is_fresh());
        drop(table);
        if is_waiting {
            self.hurry.notify_one();
        }
        let took = began.elapsed();
        let mut delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        let [open, close] = &mut *delays;
        for tally in done.calls.values() {
            if tally.opened > 0 {
                open.record(took);
            }
            if tally.closed > 0 {
                close.record(took);
            }
        }
        let fault = done.fault.map(|fault| fault.to_string());
        MediaApplied { calls: done.calls, fault, unsettled }
    }

    fn settle(&self) {
        if let Err(fault) = self.ways.settle(&self.table) {
            warn!(%fault, "the way of media flows could not be written");
        }
    }
}

impl Media {
    pub(super) fn new(table: MediaTable) -> Arc<Self> {
        let ways = table.ways();
        let (table, delays) = (Mutex::new(table), Mutex::default());
        Arc::new(Self { table, ways, delays, hurry: Notify::new() })
    }

    pub(super) fn table(&self) -> MutexGuard<'_, MediaTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What belongs to which side is another configuration's from now on.
    pub(super) fn set_config(&self, config: &Config) {
        self.ways.set_config(&self.table, config);
    }

    pub(super) fn flows(&self) -> Vec<Flow> {
        self.table().flows()
    }

    pub(super) fn status(&self) -> Result<Vec<FlowStatus>, FirewallError> {
        let calls = self.table().calls();
        self.status_of(&calls)
    }

    /// The table is free while the kernel is asked: whoever opens a flow waits for it.
    fn status_of(&self, calls: &[CallId]) -> Result<Vec<FlowStatus>, FirewallError> {
        let (entries, counts) = {
            let table = self.table();
            (table.entries(calls), table.counts())
        };
        counts.of(&entries)
    }

    pub(super) fn next_hop(&self, id: FlowId) -> Option<NextHop> {
        self.table().next_hop(id)
    }

    /// For `edge status`.
    pub(super) fn numbers(&self) -> Value {
        let numbers = self.table().numbers();
        let delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        let [open, close] = &*delays;
        json!({
            "calls": numbers.calls,
            "flows": numbers.flows,
            "without_way": numbers.without_way,
            "by_daemon": numbers.by_daemon,
            "daemon_packets": numbers.daemon_packets,
            "daemon_lost": numbers.daemon_lost,
            "opened": numbers.opened,
            "closed": numbers.closed,
            "failed": numbers.failed,
            "open_delay": delay(open),
            "close_delay": delay(close),
        })
    }
}

fn delay(delays: &Delays) -> Value {
    let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    json!({
        "count": delays.count(),
        "median_microseconds": microseconds(delays.at(500)),
        "p99_microseconds": microseconds(delays.at(990)),
        "longest_microseconds": microseconds(delays.longest()),
    })
}

/// Waits until there is something to read; for good when there is nothing to wait for.
async fn readable(events: Option<&AsyncFd<OwnedFd>>) {
    match events {
        Some(events) => match events.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Daemon {
    /// Follows what the kernel learns and counts, and the way to where flows go. The table is
    /// never held while the core is asked: the core's lock comes first.
    pub(super) async fn keep_media(self: Arc<Self>) {
        let Some(media) = self.media.clone() else { return };
        let mut counted = Instant::now();
        let mut calls: Vec<CallId> = Vec::new();
        let events = media.table().events().and_then(|events| {
            // SAFETY: it owns its descriptor, keeps it, and gives nobody another's.
            unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }
                .map_err(std::io::Error::from)
        });
        if let Err(fault) = &events {
            warn!(%fault, "what media flows learn is noticed a second late");
        }
        let events = events.ok();
        loop {
            let next = media.table().next_tick();
            let next = if calls.is_empty() { next } else { next.min(BREATH) };
            let _ = tokio::time::timeout(next, async {
                tokio::select! {
                    () = media.hurry.notified() => {}
                    () = readable(events.as_ref()) => {}
                }
            })
            .await;
            let ticked = media.ways.follow(&media.table);
            let learned = media.table().learned();
            if let Err(fault) = ticked {
                warn!(%fault, "the way of media flows could not be followed");
            }
            self.tell_learned(&learned);
            if calls.is_empty() && counted.elapsed() >= COUNTS {
                counted = Instant::now();
                calls = media.table().calls();
            }
            let rest = calls.len().saturating_sub(PART);
            self.tell_counts(&media, &calls.split_off(rest));
        }
    }

    fn tell_counts(&self, media: &Media, calls: &[CallId]) {
        if calls.is_empty() {
            return;
        }
        match media.status_of(calls) {
            Ok(part) => {
                self.shell.with_core(|core, now, out| core.media_seen(now, &part, out));
            }
            Err(fault) => warn!(%fault, "what media flows counted could not be read"),
        }
    }

    fn tell_learned(&self, learned: &[(FlowId, SocketAddr)]) {
        if learned.is_empty() {
            return;
        }
        self.shell.with_core(|core, now, out| {
            for (flow, source) in learned {
                core.media_learned(now, *flow, *source, out);
            }
        });
    }
}
