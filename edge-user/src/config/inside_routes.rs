//! What `[inside]` says about the way to our servers, besides the list of next hops.

use std::time::Duration;

use super::{model::InsideRouting, reader::Section};

/// How often next hops are asked whether they live.
const PROBE: Duration = Duration::from_secs(30);
const MOST: Duration = Duration::from_secs(3600);

pub(super) fn routing(section: &Section<'_>) -> InsideRouting {
    let probe = section.duration("probe", Duration::ZERO..=MOST, PROBE);
    InsideRouting { probe: (!probe.is_zero()).then_some(probe) }
}
