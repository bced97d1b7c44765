//! How many connections there may be, in all and from one source, and how many handshakes at one
//! time and in a second.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{federation::first_of_source, proxy::Repute};

/// Handshakes of one stranger at one time.
pub(in crate::net) const HANDSHAKES_OF_A_SOURCE: usize = 20;

/// Places for what a stranger may have only so many of: connections that are accepted and not yet
/// gone, or handshakes under way. Where all are taken, the oldest of those that proved nothing yet
/// gives its place to who comes: whoever does not go on keeps nobody out. Sources of a better repute
/// give way after all others, and to none that has a worse one.
#[derive(Debug, Default)]
pub(in crate::net) struct Admission {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
    next: u64,
    /// Those on trial, in the order in which they give way.
    trials: BTreeMap<Turn, Trial>,
}

/// When one gives way: strangers first, and the oldest of these first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    repute: Repute,
    number: u64,
}

/// One that may be told to go.
#[derive(Debug)]
struct Trial {
    source: IpAddr,
    /// From then on it is none: it stays.
    proved: Arc<AtomicBool>,
    /// Something is sent when its place is another's.
    go: oneshot::Sender<()>,
}

impl Counts {
    fn leave(&mut self, source: IpAddr) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.by_source.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    /// Takes the place of the oldest on trial, for a source of this repute; whether there was one.
    fn make_room(&mut self, repute: Repute) -> bool {
        while let Some(first) = self.trials.first_entry().filter(|e| e.key().repute <= repute) {
            let trial = first.remove();
            // Those that proved something since are found here, and are gone through once.
            if !trial.proved.load(Ordering::Relaxed) {
                self.leave(trial.source);
                let _ = trial.go.send(());
                return true;
            }
        }
        false
    }
}

/// Why a connection is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Full {
    /// The table is full.
    Total,
    /// This source has its share.
    Source,
}

/// A place in the table; free again when dropped.
#[derive(Debug)]
pub(in crate::net) struct Place {
    admission: Arc<Admission>,
    source: IpAddr,
    proved: Arc<AtomicBool>,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    /// Until it is dropped.
    Kept,
    /// Its turn, and where it is told to go; closed when it was found to be proved.
    OnTrial(Turn, oneshot::Receiver<()>),
    /// It is another's.
    Gone,
}

impl Admission {
    /// Takes a place for good.
    pub(in crate::net) fn enter(
        self: &Arc<Self>,
        remote: IpAddr,
        total: usize,
        per_source: usize,
    ) -> Result<Place, Full> {
        let source = self.take(remote, Repute::Known, total, per_source)?.1;
        let proved = Arc::new(AtomicBool::new(true));
        Ok(Place { admission: Arc::clone(self), source, proved, standing: Standing::Kept })
    }

    /// Takes a place that may be another's before it is [`Place::proved`].
    pub(in crate::net) fn enter_on_trial(
        self: &Arc<Self>,
        remote: IpAddr,
        repute: Repute,
        total: usize,
        per_source: usize,
    ) -> Result<Place, Full> {
        let (mut counts, source) = self.take(remote, repute, total, per_source)?;
        let proved = Arc::<AtomicBool>::default();
        let (go, told) = oneshot::channel();
        let turn = Turn { repute, number: counts.next };
        counts.next += 1;
        counts.trials.insert(turn, Trial { source, proved: Arc::clone(&proved), go });
        drop(counts);
        let standing = Standing::OnTrial(turn, told);
        Ok(Place { admission: Arc::clone(self), source, proved, standing })
    }

    fn take(
        &self,
        remote: IpAddr,
        repute: Repute,
        total: usize,
        per_source: usize,
    ) -> Result<(MutexGuard<'_, Counts>, IpAddr), Full> {
        let source = first_of_source(remote);
        let mut counts = self.lock();
        // First of all: who has its share takes nobody's place.
        if counts.by_source.get(&source).copied().unwrap_or(0) >= per_source {
            return Err(Full::Source);
        }
        // More than one where a new configuration has fewer.
        while counts.total >= total {
            if !counts.make_room(repute) {
                return Err(Full::Total);
            }
        }
        *counts.by_source.entry(source).or_insert(0) += 1;
        counts.total += 1;
        Ok((counts, source))
    }

    /// Places taken.
    pub(in crate::net) fn total(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// To be set when whoever has it proved something: from then on it is its own.
    pub(in crate::net) fn proved(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.proved)
    }

    /// Ends when the place is another's.
    pub(in crate::net) async fn given_up(&mut self) {
        std::future::poll_fn(|cx| self.poll_given_up(cx)).await;
    }
}

impl Held for Place {
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Standing::OnTrial(_, told) = &mut self.standing {
            self.standing = match ready!(Pin::new(told).poll(cx)) {
                Ok(()) => Standing::Gone,
                Err(_) => Standing::Kept,
            };
        }
        match self.standing {
            Standing::Gone => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        let ours = match &mut self.standing {
            Standing::Kept => true,
            Standing::OnTrial(turn, told) => {
                counts.trials.remove(turn).is_some() || told.try_recv().is_err()
            }
            Standing::Gone => false,
        };
        if ours {
            counts.leave(self.source);
        }
    }
}

/// What a connection holds until its end.
pub(super) trait Held: Send + 'static {
    /// Ready when it is another's: the connection is to end.
    fn poll_given_up(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Held for Counted {}

/// One of those that a count is for (connections we open, say); gives its place back when dropped.
pub(in crate::net) struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// `None`: there are as many as there may be.
    pub(in crate::net) fn enter(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let place = Self(Arc::clone(count));
        (count.fetch_add(1, Ordering::Relaxed) < limit).then_some(place)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Handshakes that nobody used are saved up for so long.
const SAVED_UP: Duration = Duration::from_secs(2);

/// So many sources of a repute are remembered, at least.
const KNOWN: usize = 4096;

/// Counts handshakes, which cost more than anything else a stranger can ask for. Sources of each
/// repute have as many a second among themselves as all strangers: a flood of these keeps no partner
/// out, and nobody who is discovered keeps one out that has an entry.
#[derive(Debug, Default)]
pub(in crate::net) struct Pace {
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_repute: [Option<Bucket>; Repute::COUNT],
    by_source: HashMap<IpAddr, Bucket>,
    discovered: Sources,
    known: Sources,
}

/// Sources that proved something, and those that did before there were [`KNOWN`] of these.
#[derive(Debug, Default)]
struct Sources {
    latest: HashSet<IpAddr>,
    before: HashSet<IpAddr>,
}

impl Sources {
    fn insert(&mut self, source: IpAddr) {
        if self.latest.len() >= KNOWN {
            self.before = std::mem::take(&mut self.latest);
        }
        self.latest.insert(source);
    }

    fn contains(&self, source: IpAddr) -> bool {
        self.latest.contains(&source) || self.before.contains(&source)
    }
}

/// Thousandths of handshakes that may come at this time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    room: u64,
    at: Instant,
}

impl Bucket {
    /// How it stands now; a new one is full.
    fn now(bucket: Option<Bucket>, now: Instant, rate: u32) -> Bucket {
        let full = u64::from(rate).saturating_mul(1000).saturating_mul(SAVED_UP.as_secs());
        let Some(Bucket { room, at }) = bucket else { return Bucket { room: full, at: now } };
        let passed = now.saturating_duration_since(at).as_millis();
        let gained = u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(u64::from(rate));
        Bucket { room: room.saturating_add(gained).min(full), at: now }
    }

    fn taken(self) -> Option<Bucket> {
        Some(Bucket { room: self.room.checked_sub(1000)?, at: self.at })
    }
}

impl Buckets {
    fn repute(&self, source: IpAddr) -> Repute {
        match (self.known.contains(source), self.discovered.contains(source)) {
            (true, _) => Repute::Known,
            (false, true) => Repute::Discovered,
            (false, false) => Repute::Stranger,
        }
    }
}

impl Pace {
    /// Whether one more may begin. Who has none left takes none from the others.
    pub(in crate::net) fn take(
        &self,
        now: Instant,
        remote: IpAddr,
        all: u32,
        per_source: u32,
    ) -> bool {
        let source = first_of_source(remote);
        let mut buckets = self.lock();
        let own = Bucket::now(buckets.by_source.get(&source).copied(), now, per_source);
        let repute = buckets.repute(source);
        let whole = &mut buckets.by_repute[repute as usize];
        let rest = Bucket::now(*whole, now, all);
        let (Some(own), Some(rest)) = (own.taken(), rest.taken()) else { return false };
        *whole = Some(rest);
        // A source that asked for nothing lately is as good as new. Only who was let in is
        // remembered, so there are never more than come in that time, twice over, of each repute.
        let bound = all as usize * SAVED_UP.as_secs() as usize * 2 * Repute::COUNT;
        if buckets.by_source.len() > bound {
            buckets.by_source.retain(|_, b| now.saturating_duration_since(b.at) < SAVED_UP);
        }
        buckets.by_source.insert(source, own);
        true
    }

    /// Remembers that somebody at this address proved who they are.
    pub(in crate::net) fn know(&self, remote: IpAddr, repute: Repute) {
        let (mut buckets, source) = (self.lock(), first_of_source(remote));
        match repute {
            Repute::Stranger => {}
            Repute::Discovered => buckets.discovered.insert(source),
            Repute::Known => buckets.known.insert(source),
        }
    }

    /// The best of whoever did at this address.
    pub(in crate::net) fn repute(&self, remote: IpAddr) -> Repute {
        self.lock().repute(first_of_source(remote))
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(pace: &Pace, now: Instant, from: &str, count: usize) -> usize {
        (0..count).filter(|_| pace.take(now, from.parse().unwrap(), 20, 5)).count()
    }

    #[test]
    fn handshakes_have_a_pace_in_all_and_of_one_source() {
        let (counted, mut now) = (Pace::default(), Instant::now());
        assert_eq!(pace(&counted, now, "192.0.2.1", 100), 10, "two seconds' worth at once");
        assert_eq!(pace(&counted, now, "2001:db8::1", 7), 7);
        assert_eq!(pace(&counted, now, "2001:db8::2", 100), 3, "one /64 is one source");
        // The one that asks for more took nothing from others but what it had.
        assert_eq!(pace(&counted, now, "192.0.2.2", 100), 10);
        assert_eq!(pace(&counted, now, "192.0.2.3", 100), 10);
        assert_eq!(pace(&counted, now, "192.0.2.4", 100), 0, "all of two seconds are used");
        now += Duration::from_secs(1);
        assert_eq!(pace(&counted, now, "192.0.2.1", 100), 5);
        assert_eq!(pace(&counted, now, "192.0.2.4", 100), 10);
        assert_eq!(pace(&counted, now, "192.0.2.5", 100), 5);
    }

    #[test]
    fn who_proved_something_does_not_stand_in_line_with_strangers() {
        let (counted, now) = (Pace::default(), Instant::now());
        let known = ["198.51.100.1", "2001:db8:1::1"].map(|address| address.parse().unwrap());
        known.iter().for_each(|address| counted.know(*address, Repute::Known));
        let strangers = (1..=9).map(|last| pace(&counted, now, &format!("192.0.2.{last}"), 100));
        assert_eq!(strangers.sum::<usize>(), 40, "two seconds' worth of all of them");
        assert_eq!(pace(&counted, now, "192.0.2.77", 1), 0, "none left");
        // They have their share like all others.
        assert_eq!(pace(&counted, now, "198.51.100.1", 100), 10);
        assert_eq!(pace(&counted, now, "2001:db8:1::2", 100), 10, "of the same /64");
        // Many others are remembered beside them, and a bounded number.
        for number in 0..KNOWN as u32 {
            counted.know(IpAddr::from(number.to_be_bytes()), Repute::Known);
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(pace(&counted, later, "198.51.100.1", 100), 5);
        for number in 0..3 * KNOWN as u32 {
            counted.know(IpAddr::from(number.to_be_bytes()), Repute::Known);
        }
        let buckets = counted.buckets.lock().unwrap();
        assert!(buckets.known.latest.len() + buckets.known.before.len() <= 2 * KNOWN);
        assert!(!buckets.known.contains(known[0]));
    }

    #[test]
    fn nobody_who_is_discovered_keeps_out_who_has_an_entry() {
        let (counted, now) = (Pace::default(), Instant::now());
        counted.know("198.51.100.1".parse().unwrap(), Repute::Known);
        let all: Vec<_> = (0..3 * KNOWN as u32).map(|n| IpAddr::from(n.to_be_bytes())).collect();
        all.iter().for_each(|address| counted.know(*address, Repute::Discovered));
        let taken: usize = all[2 * KNOWN..]
            .iter()
            .map(|address| pace(&counted, now, &address.to_string(), 100))
            .sum();
        assert_eq!(taken, 40, "two seconds' worth of all of them");
        assert_eq!(pace(&counted, now, "198.51.100.1", 100), 10);
        assert_eq!(pace(&counted, now, "192.0.2.1", 100), 10, "nor strangers");
        counted.know("192.0.2.2".parse().unwrap(), Repute::Stranger);
        assert_eq!(counted.repute("192.0.2.2".parse().unwrap()), Repute::Stranger);
    }

    #[test]
    fn sources_are_forgotten() {
        let (counted, mut now) = (Pace::default(), Instant::now());
        for number in 0..100_000u32 {
            now += Duration::from_millis(50);
            assert!(counted.take(now, IpAddr::from(number.to_be_bytes()), 20, 5));
        }
        assert!(counted.buckets.lock().unwrap().by_source.len() <= 241);
    }

    #[test]
    fn places_are_bounded_in_all_and_by_source_and_are_given_back() {
        let admission = Arc::new(Admission::default());
        let enter = |ip: &str| admission.enter(ip.parse().unwrap(), 4, 2);
        let one = enter("192.0.2.1").unwrap();
        let _two = enter("::ffff:192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.1").unwrap_err(), Full::Source);
        let _three = enter("2001:db8::1").unwrap();
        let _four = enter("2001:db8::ffff:2").unwrap();
        assert_eq!(enter("192.0.2.9").unwrap_err(), Full::Total);
        drop(one);
        assert_eq!(enter("2001:db8::3").unwrap_err(), Full::Source);
        let _five = enter("192.0.2.1").unwrap();
        assert_eq!(admission.total(), 4);
    }

    fn gone(place: &mut Place) -> bool {
        place.poll_given_up(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_on_trial_gives_its_place_to_who_comes() {
        let table = Arc::<Admission>::default();
        let enter = |last: u8| {
            table.enter_on_trial(IpAddr::from([192, 0, 2, last]), Repute::Stranger, 30, 20)
        };
        let mut first: Vec<_> = (0..20).map(|_| enter(1).unwrap()).collect();
        assert_eq!(enter(1).unwrap_err(), Full::Source, "its share");
        let mut others: Vec<_> = (2..12).map(|last| enter(last).unwrap()).collect();
        // Full now. Who has its share takes nobody's place.
        assert_eq!(enter(1).unwrap_err(), Full::Source);
        assert!(!first.iter_mut().chain(&mut others).any(gone));
        let mut more: Vec<_> = (12..32).map(|last| enter(last).unwrap()).collect();
        assert!(first.iter_mut().all(gone), "the oldest");
        assert!(first.iter_mut().all(gone), "still");
        assert!(!others.iter_mut().chain(&mut more).any(gone));
        assert_eq!(table.total(), 30);
        // What gave up its place has none to give back, whether it heard of it or not.
        drop(first);
        let _last = enter(1).unwrap();
        drop(others.swap_remove(0));
        assert_eq!(table.total(), 30);
        drop(others);
        assert_eq!(table.total(), 21);
    }

    #[test]
    fn who_proved_something_stays() {
        let table = Arc::<Admission>::default();
        let enter = |last: u8| {
            table.enter_on_trial(IpAddr::from([192, 0, 2, last]), Repute::Stranger, 3, 20)
        };
        let (mut one, mut two, mut three) =
            (enter(1).unwrap(), enter(2).unwrap(), enter(3).unwrap());
        two.proved().store(true, Ordering::Relaxed);
        let (mut four, mut five) = (enter(4).unwrap(), enter(5).unwrap());
        assert_eq!([&mut one, &mut two, &mut three].map(gone), [true, false, true]);
        for place in [&mut four, &mut five] {
            place.proved().store(true, Ordering::Relaxed);
        }
        assert_eq!(enter(6).unwrap_err(), Full::Total, "all have proved something");
        assert_eq!([&mut two, &mut four, &mut five].map(gone), [false; 3]);
        drop((one, three));
        assert_eq!(table.total(), 3);
        drop((two, five));
        assert_eq!(table.total(), 1);
        // Who is kept from the beginning is no trial, and takes a place as others do.
        let address = IpAddr::from([192, 0, 2, 7]);
        let (mut six, mut seven) = (enter(6).unwrap(), table.enter(address, 2, 20).unwrap());
        assert!(gone(&mut six) && !gone(&mut seven) && !gone(&mut four));
        // Fewer places by a new configuration.
        assert_eq!(table.enter(address, 1, 20).unwrap_err(), Full::Total);
        drop((four, six, seven));
        let counts = table.lock();
        assert!(counts.by_source.is_empty() && counts.trials.is_empty() && counts.total == 0);
    }

    #[test]
    fn nobody_takes_the_place_of_a_source_of_better_repute() {
        let table = Arc::<Admission>::default();
        let enter = |last: u8, repute: Repute| {
            table.enter_on_trial(IpAddr::from([192, 0, 2, last]), repute, 3, 20)
        };
        use Repute::{Discovered, Known, Stranger};
        let (mut one, mut two) = (enter(1, Known).unwrap(), enter(2, Stranger).unwrap());
        let (mut three, mut four) = (enter(3, Discovered).unwrap(), enter(4, Stranger).unwrap());
        assert_eq!([&mut one, &mut two, &mut three].map(gone), [false, true, false]);
        let mut five = enter(5, Discovered).unwrap();
        assert!(gone(&mut four), "strangers first");
        assert_eq!(enter(6, Stranger).unwrap_err(), Full::Total, "all are better");
        assert_eq!([&mut one, &mut three, &mut five].map(gone), [false; 3]);
        let mut six = enter(6, Known).unwrap();
        assert_eq!([&mut one, &mut three, &mut five].map(gone), [false, true, false]);
        let mut seven = enter(7, Known).unwrap();
        assert!(gone(&mut five));
        assert_eq!(enter(8, Discovered).unwrap_err(), Full::Total);
        let _eight = enter(8, Known).unwrap();
        assert_eq!([&mut one, &mut six, &mut seven].map(gone), [true, false, false]);
        drop((one, two, three, four, five, six, seven));
        assert_eq!(table.total(), 1);
    }

    #[test]
    fn what_is_counted_is_bounded_and_given_back() {
        let count = Arc::<AtomicUsize>::default();
        let (one, two) = (Counted::enter(&count, 2), Counted::enter(&count, 2));
        assert!(one.is_some() && two.is_some() && Counted::enter(&count, 2).is_none());
        drop(one);
        assert!(Counted::enter(&count, 2).is_some());
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn nothing_is_kept_of_a_source_that_is_gone() {
        let admission = Arc::new(Admission::default());
        for n in 0..1000_u32 {
            drop(admission.enter(IpAddr::V4(n.into()), 4, 2).unwrap());
        }
        assert!(admission.lock().by_source.is_empty());
    }
}
