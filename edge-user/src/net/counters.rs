//! What both shells count, each with its own list of counters and of reasons.

use std::sync::atomic::{AtomicU64, Ordering};

/// Makes `Counters`: one for each name, and for each kind of reasons one for each of them, counted
/// by a method and listed under a prefix.
macro_rules! counters {
    (
        reasons { $($method:ident: $reason:ty => $prefix:literal,)+ }
        $($(#[doc = $doc:literal])+ $field:ident => $name:literal,)+
    ) => {
        /// Counters. Each only grows.
        #[derive(Debug)]
        pub(super) struct Counters {
            $($(#[doc = $doc])+ pub(super) $field: std::sync::atomic::AtomicU64,)+
            $($method: Vec<std::sync::atomic::AtomicU64>,)+
            lines: $crate::net::LineLimiter,
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $($field: std::sync::atomic::AtomicU64::new(0),)+
                    $($method: $crate::net::counters::zeros(<$reason>::ALL.len()),)+
                    lines: $crate::net::LineLimiter::default(),
                }
            }
        }

        impl Counters {
            /// Names and values.
            pub(super) fn list(&self) -> Vec<(String, u64)> {
                use $crate::net::counters::get;
                let mut list = vec![$(($name.to_owned(), get(&self.$field)),)+];
                $(for (reason, count) in <$reason>::ALL.iter().zip(&self.$method) {
                    list.push((format!(concat!($prefix, ".{}"), reason.name()), get(count)));
                })+
                list
            }

            $(
                /// One more for this reason.
                pub(super) fn $method(&self, reason: $reason) {
                    let index = <$reason>::ALL.iter().position(|other| *other == reason);
                    if let Some(counter) = index.and_then(|index| self.$method.get(index)) {
                        $crate::net::counters::add(counter);
                    }
                }
            )+

            /// Whether a line may be logged now, and how many were left out before it. Strangers
            /// cause these lines: they must not fill a disk.
            pub(super) fn line(&self) -> Option<u64> {
                self.lines.admit(std::time::Instant::now())
            }
        }
    };
}
pub(super) use counters;

/// One more.
pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

pub(super) fn zeros(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}
