//! Wakes moderated while many come, as network cards moderate their interrupts.
//!
//! A thread that sleeps until the next message comes pays for each message with a wake, a read and
//! a write of its own, and with caches that went cold: several times what the message itself costs.
//! While wakes come close together, the thread therefore waits [`PAUSE`] before it asks for more:
//! what came meanwhile is read, judged and written together. A message is at most about that much
//! later; where wakes are rare none is later, and a thread that always has something to do never
//! waits.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use tokio::runtime::Builder;

/// What a thread waits before it asks for more.
const PAUSE: Duration = Duration::from_micros(250);
/// A shorter sleep is short, for a thread that does not pause and for one that does. Short ones
/// outweigh the others from about 6,000 wakes a second on, and then until a third as many come.
const SHORT: [Duration; 2] = [Duration::from_micros(150), Duration::from_micros(300)];
/// From this balance on a thread pauses: a call or two that come alone make fewer short sleeps.
const MANY: u8 = 16;
/// The balance grows no further: so soon after the last of many does a thread no longer pause.
const MOST: u8 = 2 * MANY;

thread_local! {
    static SLEEPS: Cell<Sleeps> = const { Cell::new(Sleeps { began: None, balance: 0 }) };
}

/// Has the threads of the runtime that is to be built moderate their wakes.
pub fn moderate(builder: &mut Builder) -> &mut Builder {
    builder
        .on_thread_park(|| {
            let mut sleeps = SLEEPS.get();
            if sleeps.are_many() {
                std::thread::sleep(PAUSE);
            }
            sleeps.begin(Instant::now());
            SLEEPS.set(sleeps);
        })
        .on_thread_unpark(|| {
            let mut sleeps = SLEEPS.get();
            sleeps.end(Instant::now());
            SLEEPS.set(sleeps);
        })
}

/// How a thread has slept lately, its pauses left out.
#[derive(Clone, Copy, Debug, Default)]
struct Sleeps {
    /// When the one that lasts began.
    began: Option<Instant>,
    /// One more for each short one, one less for each [`SHORT`] that another lasted, from 0 to
    /// [`MOST`].
    balance: u8,
}

impl Sleeps {
    /// Whether a pause is worth its while.
    fn are_many(&self) -> bool {
        self.balance >= MANY
    }

    fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    fn end(&mut self, now: Instant) {
        let Some(began) = self.began.take() else { return };
        let slept = now.saturating_duration_since(began);
        let short = SHORT[usize::from(self.are_many())];
        self.balance = match slept.as_micros() / short.as_micros() {
            0 => MOST.min(self.balance + 1),
            lasted => self.balance.saturating_sub(u8::try_from(lasted).unwrap_or(u8::MAX)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread woken after each of `sleeps` microseconds; how many times it paused.
    fn pauses(sleeps: impl IntoIterator<Item = u64>) -> usize {
        let (mut now, mut seen) = (Instant::now(), Sleeps::default());
        let paused = |slept| {
            let many = seen.are_many();
            now += if many { PAUSE } else { Duration::ZERO };
            seen.begin(now);
            now += Duration::from_micros(slept);
            seen.end(now);
            many
        };
        sleeps.into_iter().map(paused).filter(|paused| *paused).count()
    }

    #[test]
    fn who_is_woken_seldom_never_pauses() {
        assert_eq!(pauses([1000; 10_000]), 0);
        // A call now and then: some messages close together, and nothing for a while.
        let call = [50, 80, 100, 40, 250, 90, 60, 5000, 40_000, 5000, 70, 120, 900_000];
        assert_eq!(pauses(call.repeat(1000)), 0);
        // As many short ones as others.
        assert_eq!(pauses([10, 300].repeat(10_000)), 0);
    }

    #[test]
    fn who_is_woken_often_pauses_until_it_is_quiet_again() {
        assert_eq!(pauses([100; 1000]), 1000 - usize::from(MANY));
        // Once it does, it goes on with fewer.
        let fewer = [[100; 32], [250; 32]].concat();
        assert_eq!(pauses(fewer), 64 - usize::from(MANY));
        assert_eq!(pauses([250; 1000]), 0);
        // Now and then nothing came for longer.
        let often = [100, 100, 100, 100, 400].repeat(200);
        assert!(pauses(often) > 900);
        let quiet = [[100; 100], [600; 100]].concat();
        let last = usize::from((MOST - MANY) / 2);
        assert_eq!(pauses(quiet), 100 - usize::from(MANY) + last + 1);
    }
}
