//! What libFuzzer's targets begin with goes through their functions as any input of theirs does: a
//! target that no longer builds, or whose rules no longer hold, is seen without libFuzzer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use edge_tests::fuzzing;

#[path = "../../xtask/src/fuzz/seeds.rs"]
mod seeds;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn the_seeds_of_every_target_hold() {
    for (target, least) in [
        ("config", 1),
        ("sip_framing", 3),
        ("sip_index", 3),
        ("sip_values", 40),
        ("xmpp_guard", 60),
        ("xmpp_mapping", 4),
        ("xmpp_streams", 4),
    ] {
        let function = fuzzing::function(target).unwrap();
        let seeds = seeds::of(target, workspace()).unwrap();
        assert!(seeds.len() >= least, "{target}: {}", seeds.len());
        for (name, bytes) in seeds {
            println!("{target} {name}");
            // And what the first steps of a fuzzer make of it.
            for cut in [bytes.len(), bytes.len() / 2, bytes.len().min(3), 0] {
                function(&bytes[..cut]);
            }
        }
    }
}

/// Each target that is built by cargo-fuzz has its function here, or shares it with other tests.
#[test]
fn no_target_is_left_out() {
    let folder = workspace().join("tests/fuzz/fuzz_targets");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let target = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let shared = ["packet", "proxy", "sdp"].contains(&target.as_str());
        assert_eq!(fuzzing::function(&target).is_none(), shared, "{target}");
        seen += 1;
    }
    assert!(seen >= 10, "{seen}");
}
