//! `[federation.throttle]`: how much a discovered partner may send.

use std::{ops::RangeInclusive, time::Duration};

use super::{model_federation::ThrottleSettings, reader::Section};

const TIMES: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(30 * 86_400);

pub(super) fn throttle(section: Section<'_>) -> ThrottleSettings {
    let default = ThrottleSettings::default();
    let number = |key, range: RangeInclusive<u64>, default: u32| {
        let number = section.number(key, range, u64::from(default));
        u32::try_from(number).unwrap_or(default)
    };
    let settings = ThrottleSettings {
        messages_per_second: number(
            "messages_per_second",
            1..=100_000,
            default.messages_per_second,
        ),
        suspicious_per_second: number(
            "suspicious_per_second",
            1..=100_000,
            default.suspicious_per_second,
        ),
        suspicious_share: number("suspicious_share", 1..=100, default.suspicious_share),
        suspicious_after: number("suspicious_after", 1..=100_000, default.suspicious_after),
        distinct_users: number("distinct_users", 1..=100_000, default.distinct_users),
        report_period: section.duration("report_period", TIMES, default.report_period),
        block_first: section.duration("block_first", TIMES, default.block_first),
        block_most: section.duration("block_most", TIMES, default.block_most),
        plain_users: section.boolean("plain_users", default.plain_users),
    };
    if settings.suspicious_per_second > settings.messages_per_second {
        section.sink.error(
            &section.key_span("suspicious_per_second"),
            "who is suspicious would be let send more than others",
            "write at most messages_per_second",
        );
    }
    if settings.block_first > settings.block_most {
        section.sink.error(
            &section.key_span("block_first"),
            "the first block is longer than the longest",
            "write at most block_most",
        );
    }
    section.finish();
    settings
}
