//! See `edge_tests::fuzzing::sip_values`, which the seeds are played through in every test run, too.
#![no_main]

use edge_tests::fuzzing::sip_values::run;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| run(data));
