//! What is remembered of one: a domain from a prefix, a domain, or a prefix.

use std::time::{Duration, Instant};

use super::{Change, Evidence};
use crate::config::ThrottleSettings;

/// How much longer each block is than the one before.
const LONGER: u32 = 6;
/// Responses are judged over this time.
const WINDOW: Duration = Duration::from_secs(60);
/// A block, or a suspicion, is a repetition within this time, in seconds.
pub(super) const REPETITION: u64 = 7 * 24 * 3600;
/// How often suspicious until it is listed.
const SUSPICIOUS_TIMES: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Standard,
    /// Until a report period passes without fault.
    Suspicious(Instant),
    Listed(Instant),
}

#[derive(Debug)]
pub(super) struct Record {
    pub state: State,
    pub seen: Instant,
    /// Thousandths of messages that may come now.
    pub room: u64,
    pub window: Instant,
    pub finals: u32,
    pub failed: u32,
    /// Hash of the first domain of which a message failed in this window.
    pub failed_first: Option<u64>,
    /// Messages of another one did too.
    pub failed_several: bool,
    pub period: Instant,
    pub users: Vec<u64>,
    pub times_suspicious: u8,
    /// When it last became suspicious, in seconds since 1970.
    pub suspected_at: Option<u64>,
    pub listed_before: u32,
    /// When it was last listed, in seconds since 1970.
    pub listed_at: Option<u64>,
    /// Of a pair: the end of the list for which its prefix was told as an offender's.
    pub told: Option<Instant>,
    /// Of a pair.
    pub evidence: Option<Box<Evidence>>,
}

impl Record {
    pub fn new(now: Instant, rate: u32, state: State) -> Self {
        Self {
            state,
            seen: now,
            room: u64::from(rate) * 1000,
            window: now,
            finals: 0,
            failed: 0,
            failed_first: None,
            failed_several: false,
            period: now,
            users: Vec::new(),
            times_suspicious: 0,
            suspected_at: None,
            listed_before: 0,
            listed_at: None,
            told: None,
            evidence: None,
        }
    }

    /// Nothing is held against it any more. What it did stays to be seen.
    pub fn forgive(&mut self) {
        self.state = State::Standard;
        (self.finals, self.failed) = (0, 0);
        (self.failed_first, self.failed_several) = (None, false);
        (self.times_suspicious, self.listed_before) = (0, 0);
        (self.suspected_at, self.listed_at) = (None, None);
        self.told = None;
    }

    /// The users it wrote to count no more.
    pub fn is_period_over(&self, now: Instant, settings: &ThrottleSettings) -> bool {
        now.saturating_duration_since(self.period) >= settings.report_period
    }

    /// A message was answered; it failed, if `failed` names whose it was. Says whether that makes
    /// too many.
    pub fn answered(
        &mut self,
        now: Instant,
        settings: &ThrottleSettings,
        wider: u32,
        failed: Option<u64>,
    ) -> bool {
        if now.saturating_duration_since(self.window) >= WINDOW {
            (self.window, self.finals, self.failed) = (now, 0, 0);
            (self.failed_first, self.failed_several) = (None, false);
        }
        self.finals += 1;
        let Some(by) = failed else { return false };
        self.failed += 1;
        self.failed_several |= *self.failed_first.get_or_insert(by) != by;
        let share = u64::from(self.failed) * 100
            >= u64::from(settings.suspicious_share) * u64::from(self.finals);
        share && self.finals >= settings.suspicious_after.saturating_mul(wider)
    }

    /// What has ended by now ends.
    pub fn settle(&mut self, now: Instant, settings: &ThrottleSettings) {
        self.state = self.settled(now, settings);
    }

    /// How it stands now.
    pub fn settled(&self, now: Instant, settings: &ThrottleSettings) -> State {
        match self.state {
            State::Listed(until) if until <= now => State::Suspicious(now + settings.report_period),
            State::Suspicious(until) if until <= now => State::Standard,
            state => state,
        }
    }

    /// Until when it is listed, if it is.
    pub fn listed(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Listed(until) if until > now => Some(until),
            _ => None,
        }
    }

    /// Whether a message more fits into a second.
    pub fn fits(&mut self, now: Instant, rate: u32) -> bool {
        let full = u64::from(rate) * 1000;
        let passed = now.saturating_duration_since(self.seen).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        self.room = self.room.saturating_add(passed.saturating_mul(u64::from(rate))).min(full);
        // What is left of a millisecond counts next time, however fast they come.
        self.seen += Duration::from_millis(passed);
        self.room >= 1000
    }

    /// It is slowed down, which counts towards no list.
    pub fn slow(&mut self, now: Instant, settings: &ThrottleSettings) {
        if !matches!(self.state, State::Listed(_)) {
            self.state = State::Suspicious(now + settings.report_period);
        }
    }

    pub fn suspect(
        &mut self,
        now: Instant,
        unix: u64,
        settings: &ThrottleSettings,
    ) -> Option<Change> {
        let fresh = self.state == State::Standard;
        if matches!(self.state, State::Listed(_)) {
            return None;
        }
        self.state = State::Suspicious(now + settings.report_period);
        if !fresh {
            return None;
        }
        if self.suspected_at.is_some_and(|at| unix.saturating_sub(at) > REPETITION) {
            self.times_suspicious = 0;
        }
        self.suspected_at = Some(unix);
        self.times_suspicious = self.times_suspicious.saturating_add(1);
        if self.times_suspicious >= SUSPICIOUS_TIMES {
            return Some(self.list(now, unix, settings));
        }
        Some(Change::Suspicious)
    }

    pub fn list(&mut self, now: Instant, unix: u64, settings: &ThrottleSettings) -> Change {
        if self.listed_at.is_some_and(|at| unix.saturating_sub(at) > REPETITION) {
            self.listed_before = 0;
        }
        let factor = LONGER.saturating_pow(self.listed_before);
        let time: Duration = settings.block_first.saturating_mul(factor).min(settings.block_most);
        self.listed_before = self.listed_before.saturating_add(1);
        self.listed_at = Some(unix);
        self.times_suspicious = 0;
        self.state = State::Listed(now + time);
        Change::Listed(time)
    }
}
