//! How many connections there may be, in all and from one source.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Counts connections that are accepted and not yet gone.
#[derive(Debug, Default)]
pub(super) struct Admission {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// Why a connection is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The table is full.
    Total,
    /// This source has its share.
    Source,
}

/// A place in the table; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Admission {
    /// Takes a place.
    pub(super) fn enter(
        self: &Arc<Self>,
        remote: IpAddr,
        total: usize,
        per_source: usize,
    ) -> Result<Place, Full> {
        let source = source(remote);
        let mut counts = self.lock();
        if counts.total >= total {
            return Err(Full::Total);
        }
        let count = counts.by_source.entry(source).or_insert(0);
        if *count >= per_source {
            return Err(Full::Source);
        }
        *count += 1;
        counts.total += 1;
        Ok(Place { admission: Arc::clone(self), source })
    }

    /// Places taken.
    pub(super) fn total(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        counts.total = counts.total.saturating_sub(1);
        if let Some(count) = counts.by_source.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64 (one subscriber owns all of it).
pub(super) fn source(remote: IpAddr) -> IpAddr {
    match remote.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn nothing_is_kept_of_a_source_that_is_gone() {
        let admission = Arc::new(Admission::default());
        for n in 0..1000_u32 {
            drop(admission.enter(IpAddr::V4(n.into()), 4, 2).unwrap());
        }
        assert!(admission.lock().by_source.is_empty());
    }
}
