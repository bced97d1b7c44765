//! Times as people read them, in UTC.

/// `13:05:01.123456`, of nanoseconds since 1970.
pub(super) fn time_of_day(nanoseconds: u64) -> String {
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:06}", seconds % 60, rest / 1000)
}
