//! The parser and the decision over plain collections: no byte is read that is not there, and
//! the answer is the plain model's.
#![no_main]

use std::sync::OnceLock;

use edge_ebpf::{
    decide::{MemoryTables, NO_RULE, flow_begun, judge},
    packet::Frame,
};
use edge_tests::{
    kernel::TEST_IFINDEX,
    model::{
        judge::judge as model,
        lower,
        random::{Random, any_world},
        world::World,
    },
};
use libfuzzer_sys::fuzz_target;

/// Seconds since boot, in every run.
const NOW: u64 = 100_000;

/// Worlds that the first byte of an input chooses from.
fn worlds() -> &'static Vec<(World, MemoryTables)> {
    static WORLDS: OnceLock<Vec<(World, MemoryTables)>> = OnceLock::new();
    WORLDS.get_or_init(|| {
        (0..256)
            .map(|seed| {
                let world = any_world(&mut Random(seed), NOW);
                let tables = MemoryTables { now_seconds: NOW, ..lower::tables(&world) };
                (world, tables)
            })
            .collect()
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    // A copy of exactly this length: a read past its end is found.
    let frame = bytes.to_vec();
    let bytes = &frame[..];
    let (world, tables) = &worlds()[usize::from(*first)];
    let decision = judge(tables, &tables.settings, &Frame::new(bytes), &bytes, TEST_IFINDEX);
    let rule = (decision.rule != NO_RULE).then_some(decision.rule);
    let expected = model(world, NOW, bytes);
    assert_eq!(
        (decision.verdict, decision.reason, rule),
        (expected.verdict, expected.reason, expected.rule)
    );
    let _ = flow_begun(&Frame::new(bytes), &bytes);
});
