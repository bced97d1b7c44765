//! Who is refused first when there is little room: new dialogs of discovered partners, then all
//! new ones, and what belongs to dialogs that stand only when there is none left. BYE, CANCEL and
//! ACK make room: they are never refused before that.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Above this share of a bound, in percent, nothing new of discovered partners.
const DISCOVERED: usize = 80;
/// Above this, nothing new at all.
const ALL: usize = 90;

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// Something new, for a discovered partner.
    NewOfDiscovered,
    /// Something new, for anybody else.
    New,
    /// To go on with what stands, or to end it.
    GoOn,
}

/// The share of the fullest of our bounds, in percent, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Load(usize);

impl Load {
    /// From what is used and what may be, each.
    pub fn of<const N: usize>(used: [(usize, usize); N]) -> Self {
        let share = |(used, most): (usize, usize)| {
            used.saturating_mul(100).div_ceil(most.max(1)).min(if used < most { 99 } else { 100 })
        };
        Self(used.into_iter().map(share).max().unwrap_or_default())
    }

    /// There is no room for anybody.
    pub fn is_full(self) -> bool {
        !self.admits(Wants::GoOn)
    }

    /// Whether there is room for it.
    pub fn admits(self, wants: Wants) -> bool {
        match wants {
            Wants::NewOfDiscovered => self.0 <= DISCOVERED,
            Wants::New => self.0 <= ALL,
            Wants::GoOn => self.0 < 100,
        }
    }
}

/// Seconds to wait before the next try: 5 to 15, spread by what is asked, so that those who were
/// refused together do not come again together.
pub(super) fn retry_after(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    5 + hasher.finish() % 11
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_order_in_which_requests_are_refused() {
        for (used, discovered, new, going_on) in [
            (0, true, true, true),
            (800, true, true, true),
            (801, false, true, true),
            (900, false, true, true),
            (901, false, false, true),
            (999, false, false, true),
            (1000, false, false, false),
            (5000, false, false, false),
        ] {
            let load = Load::of([(used, 1000), (0, 1), (3, 100_000)]);
            let admitted =
                [Wants::NewOfDiscovered, Wants::New, Wants::GoOn].map(|w| load.admits(w));
            assert_eq!(admitted, [discovered, new, going_on], "{used}");
            assert_eq!(load.is_full(), !going_on, "{used}");
        }
        // The fullest bound counts.
        assert!(!Load::of([(0, 1000), (95, 100)]).admits(Wants::New));
        assert!(Load::of([(1, 0)]).is_full());
    }

    #[test]
    fn who_is_refused_comes_again_after_5_to_15_seconds_not_all_at_once() {
        let waits: HashSet<u64> =
            (0..1000).map(|n| retry_after(format!("call-{n}@a.example").as_bytes())).collect();
        assert_eq!(waits, (5..=15).collect());
        assert_eq!(retry_after(b"same"), retry_after(b"same"));
    }
}
