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

use crate::federation::first_of_source;

/// Handshakes of one stranger at one time.
pub(in crate::net) const HANDSHAKES_OF_A_SOURCE: usize = 20;

/// Places for what a stranger may have only so many of: connections that are accepted and not yet
/// gone, or handshakes under way. Where all are taken, the oldest of those that proved nothing yet
/// gives its place to who comes: whoever does not go on keeps nobody out.
#[derive(Debug, Default)]
pub(in crate::net) struct Admission {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
    next: u64,
    /// Those on trial, by age.
    trials: BTreeMap<u64, Trial>,
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

    /// Takes the place of the oldest on trial; whether there was one.
    fn make_room(&mut self) -> bool {
        while let Some((_, trial)) = self.trials.pop_first() {
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
    /// The number of its trial, and where it is told to go; closed when it was found to be proved.
    OnTrial(u64, oneshot::Receiver<()>),
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
        let source = self.take(remote, total, per_source)?.1;
        let proved = Arc::new(AtomicBool::new(true));
        Ok(Place { admission: Arc::clone(self), source, proved, standing: Standing::Kept })
    }

    /// Takes a place that may be another's before it is [`Place::proved`].
    pub(in crate::net) fn enter_on_trial(
        self: &Arc<Self>,
        remote: IpAddr,
        total: usize,
        per_source: usize,
    ) -> Result<Place, Full> {
        let (mut counts, source) = self.take(remote, total, per_source)?;
        let proved = Arc::<AtomicBool>::default();
        let (go, told) = oneshot::channel();
        let number = counts.next;
        counts.next += 1;
        counts.trials.insert(number, Trial { source, proved: Arc::clone(&proved), go });
        drop(counts);
        let standing = Standing::OnTrial(number, told);
        Ok(Place { admission: Arc::clone(self), source, proved, standing })
    }

    fn take(
        &self,
        remote: IpAddr,
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
            if !counts.make_room() {
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

    /// Ready when the place is another's.
    pub(in crate::net) fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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

    /// Ends when the place is another's.
    pub(in crate::net) async fn given_up(&mut self) {
        std::future::poll_fn(|cx| self.poll_given_up(cx)).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        let ours = match &mut self.standing {
            Standing::Kept => true,
            Standing::OnTrial(number, told) => {
                counts.trials.remove(number).is_some() || told.try_recv().is_err()
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

impl Held for Place {
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Place::poll_given_up(self, cx)
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

/// So many sources that proved something are remembered, at least.
const KNOWN: usize = 4096;

/// Counts handshakes, which cost more than anything else a stranger can ask for. Sources that
/// proved something before have as many a second among themselves as all others: a flood of
/// strangers keeps none of them out.
#[derive(Debug, Default)]
pub(in crate::net) struct Pace {
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    strangers: Option<Bucket>,
    known: Option<Bucket>,
    by_source: HashMap<IpAddr, Bucket>,
    /// Sources that proved something, and those that did before there were [`KNOWN`] of these.
    proved: HashSet<IpAddr>,
    proved_before: HashSet<IpAddr>,
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
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let own = Bucket::now(buckets.by_source.get(&source).copied(), now, per_source);
        let known = buckets.proved.contains(&source) || buckets.proved_before.contains(&source);
        let whole = if known { &mut buckets.known } else { &mut buckets.strangers };
        let rest = Bucket::now(*whole, now, all);
        let (Some(own), Some(rest)) = (own.taken(), rest.taken()) else { return false };
        *whole = Some(rest);
        // A source that asked for nothing lately is as good as new. Only who was let in is
        // remembered, so there are never more than come in that time, twice over: strangers and not.
        let bound = all as usize * SAVED_UP.as_secs() as usize * 4;
        if buckets.by_source.len() > bound {
            buckets.by_source.retain(|_, b| now.saturating_duration_since(b.at) < SAVED_UP);
        }
        buckets.by_source.insert(source, own);
        true
    }

    /// Remembers that somebody at this address proved who they are.
    pub(in crate::net) fn know(&self, remote: IpAddr) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.proved.len() >= KNOWN {
            buckets.proved_before = std::mem::take(&mut buckets.proved);
        }
        buckets.proved.insert(first_of_source(remote));
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
        known.iter().for_each(|address| counted.know(*address));
        let strangers = (1..=9).map(|last| pace(&counted, now, &format!("192.0.2.{last}"), 100));
        assert_eq!(strangers.sum::<usize>(), 40, "two seconds' worth of all of them");
        assert_eq!(pace(&counted, now, "192.0.2.77", 1), 0, "none left");
        // They have their share like all others.
        assert_eq!(pace(&counted, now, "198.51.100.1", 100), 10);
        assert_eq!(pace(&counted, now, "2001:db8:1::2", 100), 10, "of the same /64");
        // Many others are remembered beside them, and a bounded number.
        for number in 0..KNOWN as u32 {
            counted.know(IpAddr::from(number.to_be_bytes()));
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(pace(&counted, later, "198.51.100.1", 100), 5);
        for number in 0..3 * KNOWN as u32 {
            counted.know(IpAddr::from(number.to_be_bytes()));
        }
        let buckets = counted.buckets.lock().unwrap();
        assert!(buckets.proved.len() + buckets.proved_before.len() <= 2 * KNOWN);
        assert!(!buckets.proved_before.contains(&known[0]));
    }

    #[test]
    fn sources_are_forgotten() {
        let (counted, mut now) = (Pace::default(), Instant::now());
        for number in 0..100_000u32 {
            now += Duration::from_millis(50);
            assert!(counted.take(now, IpAddr::from(number.to_be_bytes()), 20, 5));
        }
        assert!(counted.buckets.lock().unwrap().by_source.len() <= 161);
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
        let enter = |last: u8| table.enter_on_trial(IpAddr::from([192, 0, 2, last]), 30, 20);
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
        let enter = |last: u8| table.enter_on_trial(IpAddr::from([192, 0, 2, last]), 3, 20);
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
