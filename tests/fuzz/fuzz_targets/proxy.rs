//! The whole proxy core by a script of bytes: see the rules in the file that is shared with the
//! property tests.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../edge-user/src/proxy/tests/script.rs"]
mod script;

fuzz_target!(|data: &[u8]| {
    // Longer ones find nothing more, and take long.
    if data.len() <= 2048 {
        script::run(data);
    }
});
