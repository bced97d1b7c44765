//! What the daemon may read from maps and write to them.

use super::{
    Block, Bucket, Counter, Event, Flood, FlowKey, Fragment, FragmentKey, Handed, Interface,
    KnownKey, MediaFlow, MediaLearned, MediaState, PinholeKey, ReasonCounter, Rule, RuleLimits,
    SetMask, Settings, Trial, VlanKey,
};
macro_rules! pod {
    ($($name:ident),+) => { $(
        // SAFETY: `repr(C)`, `Copy`, without padding (see the layout tests), and every bit
        // pattern is a value.
        unsafe impl aya::Pod for $name {}
    )+ };
}
pod!(
    Block,
    Bucket,
    Counter,
    Event,
    Flood,
    FlowKey,
    Fragment,
    FragmentKey,
    Handed,
    Interface,
    KnownKey,
    MediaFlow,
    MediaLearned,
    MediaState,
    PinholeKey,
    ReasonCounter,
    Rule,
    RuleLimits,
    SetMask,
    Settings,
    Trial,
    VlanKey
);
