//! See `edge_tests::fuzzing::config`, which the seeds are played through in every test run, too.
#![no_main]

use edge_tests::fuzzing::config::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run(data));
