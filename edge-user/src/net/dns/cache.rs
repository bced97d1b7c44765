//! Answers by question, bounded in number and time, and the questions that are under way.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    federation::Lookup,
    proxy::{Question, ResolveError, Resolved},
};

/// Answers that are kept.
pub(super) const MAX_ANSWERS: usize = 4096;
/// Questions under way or waiting at one time; more are refused.
pub(super) const MAX_UNDER_WAY: usize = 1024;
/// How long it counts that a name does not exist or leads nowhere, when its zone does not say.
pub(super) const NEGATIVE: Duration = Duration::from_secs(60);
/// What the zone says is taken within these bounds.
pub(super) const MIN_NEGATIVE: Duration = Duration::from_secs(5);
pub(super) const MAX_NEGATIVE: Duration = Duration::from_secs(300);
/// How long it counts that no server answered.
pub(super) const UNAVAILABLE: Duration = Duration::from_secs(5);

/// A question, and how it is asked.
pub(super) type Key = (Question, Lookup);
/// What came of it.
pub(super) type Answer = Result<Resolved, ResolveError>;

/// What to do about a question.
pub(super) enum Step {
    /// Known.
    Known(Answer),
    /// Somebody asks already: wait.
    Wait(watch::Receiver<Option<Answer>>),
    /// Ask, and tell [`Cache::finish`] and those who wait.
    Ask(watch::Sender<Option<Answer>>, watch::Receiver<Option<Answer>>),
    /// Too much is under way.
    Full,
}

#[derive(Debug, Default)]
pub(super) struct Cache {
    answers: HashMap<Key, (Answer, Instant)>,
    under_way: HashMap<Key, watch::Receiver<Option<Answer>>>,
    generation: u64,
}

impl Cache {
    pub(super) fn step(&mut self, key: &Key, now: Instant) -> Step {
        if let Some((answer, until)) = self.answers.get(key)
            && *until > now
        {
            return Step::Known(answer.clone());
        }
        // Asked, unless whoever asked ended without a word (a fault of ours).
        if let Some(waiting) = self.under_way.get(key)
            && waiting.has_changed().is_ok()
        {
            return Step::Wait(waiting.clone());
        }
        if self.under_way.len() >= MAX_UNDER_WAY && !self.under_way.contains_key(key) {
            return Step::Full;
        }
        let (tell, wait) = watch::channel(None);
        self.under_way.insert(key.clone(), wait.clone());
        Step::Ask(tell, wait)
    }

    /// Which configuration answers belong to.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Keeps an answer; that there is none, for as long as `holds` says.
    pub(super) fn finish(
        &mut self,
        key: Key,
        answer: &Answer,
        holds: Duration,
        now: Instant,
        generation: u64,
    ) {
        self.under_way.remove(&key);
        if generation != self.generation {
            return;
        }
        if self.answers.len() >= MAX_ANSWERS {
            self.make_room(now);
        }
        let until = match answer {
            Ok(resolved) => resolved.valid_until,
            Err(ResolveError::Unavailable) => now + UNAVAILABLE,
            Err(_) => now + holds,
        };
        self.answers.insert(key, (answer.clone(), until));
    }

    /// Drops what is past its time, or else what would be so first.
    fn make_room(&mut self, now: Instant) {
        self.answers.retain(|_, (_, until)| *until > now);
        if self.answers.len() < MAX_ANSWERS {
            return;
        }
        let first = self.answers.iter().min_by_key(|(_, (_, until))| *until);
        if let Some(key) = first.map(|(key, _)| key.clone()) {
            self.answers.remove(&key);
        }
    }

    /// Forgets every answer; those under way are told to whoever waits, but not kept.
    pub(super) fn flush(&mut self) {
        self.answers.clear();
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        (Question::Federation(format!("d{n}.example").parse().unwrap()), Lookup::default())
    }

    #[test]
    fn answers_are_bounded_and_run_out() {
        let mut cache = Cache::default();
        let now = Instant::now();
        for n in 0..MAX_ANSWERS + 100 {
            let generation = cache.generation();
            cache.finish(key(n), &Err(ResolveError::NotFound), NEGATIVE, now, generation);
        }
        assert_eq!(cache.answers.len(), MAX_ANSWERS);
        let last = key(MAX_ANSWERS + 99);
        assert!(matches!(cache.step(&last, now), Step::Known(Err(ResolveError::NotFound))));
        assert!(matches!(cache.step(&last, now + NEGATIVE), Step::Ask(..)));
    }

    #[test]
    fn one_asks_and_others_wait_and_their_number_is_bounded() {
        let mut cache = Cache::default();
        let now = Instant::now();
        let mut asking = Vec::new();
        for n in 0..MAX_UNDER_WAY {
            let Step::Ask(tell, _) = cache.step(&key(n), now) else { panic!("{n}") };
            asking.push(tell);
        }
        assert!(matches!(cache.step(&key(0), now), Step::Wait(_)));
        assert!(matches!(cache.step(&key(MAX_UNDER_WAY), now), Step::Full));
        cache.finish(key(0), &Err(ResolveError::NotFound), NEGATIVE, now, 0);
        assert!(matches!(cache.step(&key(MAX_UNDER_WAY), now), Step::Ask(..)));
        // Whoever asks and ends without a word is no reason to wait for ever.
        asking.clear();
        assert!(matches!(cache.step(&key(1), now), Step::Ask(..)));
    }

    #[test]
    fn an_answer_from_before_a_flush_is_not_kept() {
        let mut cache = Cache::default();
        let now = Instant::now();
        let generation = cache.generation();
        assert!(matches!(cache.step(&key(0), now), Step::Ask(..)));
        cache.flush();
        cache.finish(key(0), &Err(ResolveError::NotFound), NEGATIVE, now, generation);
        assert!(matches!(cache.step(&key(0), now), Step::Ask(..)));
    }
}
