//! A member of a pool that is to be stopped: nothing new begins here, what stands goes on, and it
//! is told how much still does.

use std::time::{Duration, Instant};

use super::{Refusal, contacts::binds, proxy::Proxy, route::Path};
use crate::sip::{Message, Method};

/// What is told to whoever comes with something new: to come again then, or better to go elsewhere.
pub(super) const RETRY_AFTER: &str = "30";

const MINUTE: Duration = Duration::from_secs(60);
const MINUTES: usize = 60;

/// Whether it is drained, and what belongs to dialogs that stand.
#[derive(Debug, Default)]
pub(super) struct Drain {
    since: Option<Instant>,
    recent: Recent,
}

/// How a drain goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainStatus {
    /// Since when; `None`: it is not drained.
    pub since: Option<Instant>,
    /// Live transactions.
    pub transactions: usize,
    /// Requests within dialogs, of the last hour.
    pub in_dialog_last_hour: u64,
    /// Of the last five minutes.
    pub in_dialog_last_minutes: u64,
}

/// Counts of the last hour, by minute.
#[derive(Debug)]
struct Recent {
    began: Option<Instant>,
    minutes: [u32; MINUTES],
    /// The minute that was counted last, since it began.
    last: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self { began: None, minutes: [0; MINUTES], last: 0 }
    }
}

impl Recent {
    /// Forgets minutes that are past an hour; gives the place of this one.
    fn turn(&mut self, now: Instant) -> usize {
        let began = *self.began.get_or_insert(now);
        let minute = now.saturating_duration_since(began).as_secs() / MINUTE.as_secs();
        let passed = minute.saturating_sub(self.last).min(MINUTES as u64);
        for step in 1..=passed {
            self.minutes[place(minute - passed + step)] = 0;
        }
        self.last = minute.max(self.last);
        place(self.last)
    }

    fn count(&mut self, now: Instant) {
        let at = self.turn(now);
        self.minutes[at] = self.minutes[at].saturating_add(1);
    }

    /// Of so many minutes, this one included.
    fn of_last(&mut self, now: Instant, minutes: u64) -> u64 {
        self.turn(now);
        let first = self.last.saturating_sub(minutes - 1);
        (first..=self.last).map(|minute| u64::from(self.minutes[place(minute)])).sum()
    }
}

fn place(minute: u64) -> usize {
    usize::try_from(minute % MINUTES as u64).unwrap_or(0)
}

impl Proxy {
    /// Begins or ends a drain.
    pub fn set_draining(&mut self, now: Instant, on: bool) {
        self.drain.since = on.then(|| self.drain.since.unwrap_or(now));
    }

    /// How it goes.
    pub fn drain_status(&mut self, now: Instant) -> DrainStatus {
        DrainStatus {
            since: self.drain.since,
            transactions: self.exchanges.len(),
            in_dialog_last_hour: self.drain.recent.of_last(now, MINUTES as u64),
            in_dialog_last_minutes: self.drain.recent.of_last(now, 5),
        }
    }

    /// Counts what belongs to a dialog, and refuses what would begin one, or asks whether we live. A
    /// remote user is sent elsewhere with the next registration, and is called here until then: there
    /// is no other way to it.
    pub(super) fn drained(
        &mut self,
        now: Instant,
        message: &Message,
        path: &Path,
    ) -> Result<(), Refusal> {
        if path.token.is_some() {
            self.drain.recent.count(now);
            return Ok(());
        }
        if path.flow.is_some() {
            return Ok(());
        }
        let new = message.method().is_some_and(|method| {
            let tagged = message.to().is_ok_and(|to| to.tag().is_some());
            method == Method::Options
                || (method.forms_dialog() && !tagged)
                || (method == Method::Register && binds(message))
        });
        if self.drain.since.is_some() && new { Err(Refusal::Draining) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_counted_by_minutes() {
        let mut recent = Recent::default();
        let start = Instant::now();
        for minute in 0..200 {
            let now = start + MINUTE * minute;
            for _ in 0..3 {
                recent.count(now);
            }
            let expected = 3 * u64::from(minute + 1).min(60);
            assert_eq!(recent.of_last(now, 60), expected, "{minute}");
            assert_eq!(recent.of_last(now, 5), expected.min(15), "{minute}");
        }
        let end = start + MINUTE * 199;
        for (later, expected) in [(1, 59), (30, 30), (59, 1), (60, 0), (10_000, 0)] {
            assert_eq!(recent.of_last(end + MINUTE * later, 60), 3 * expected, "{later}");
        }
    }
}
