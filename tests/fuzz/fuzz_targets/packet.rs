//! The parser and the decision over plain collections: no byte is read that is not there, and
//! the answer is the plain model's.
#![no_main]

use edge_ebpf::{
    decide::{MemoryTables, NO_RULE, flow_begun, judge},
    packet::Frame,
};
use edge_tests::{
    kernel::TEST_IFINDEX,
    model::{
        judge::judge as model,
        lower,
        memory::Memory,
        random::{Random, any_world},
        world::World,
    },
};
use libfuzzer_sys::fuzz_target;

/// Seconds since boot, in every run.
const NOW: u64 = 100_000;

thread_local! {
    /// Worlds that the first byte of an input chooses from.
    static WORLDS: Vec<(World, MemoryTables)> = (0..256)
        .map(|seed| {
            let world = any_world(&mut Random(seed), NOW);
            let tables = MemoryTables { now_seconds: NOW, ..lower::tables(&world) };
            (world, tables)
        })
        .collect();
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    // A copy of exactly this length: a read past its end is found.
    let frame = bytes.to_vec();
    let bytes = &frame[..];
    WORLDS.with(|worlds| check(&worlds[usize::from(*first)], bytes));
});

fn check((world, tables): &(World, MemoryTables), bytes: &[u8]) {
    // The tables remember what passed: each input begins afresh.
    tables.fragments.borrow_mut().clear();
    tables.beginnings.borrow_mut().clear();
    tables.source_buckets.borrow_mut().clear();
    tables.total_buckets.borrow_mut().clear();
    tables.known_sources.borrow_mut().clear();
    // The clock stands still: what a second lets through would be used up once and for all.
    *tables.floods.borrow_mut() = Default::default();
    let mut memory = Memory::default();
    // The second time, what the first has left behind is there.
    for _ in 0..2 {
        let decision = judge(tables, &tables.settings, &Frame::new(bytes), &bytes, TEST_IFINDEX);
        let rule = (decision.rule != NO_RULE).then_some(decision.rule);
        let expected = model(world, &mut memory, NOW * 1_000_000_000, bytes);
        assert_eq!(
            (decision.verdict, decision.reason, rule),
            (expected.verdict, expected.reason, expected.rule)
        );
    }
    let _ = flow_begun(&Frame::new(bytes), &bytes);
}
