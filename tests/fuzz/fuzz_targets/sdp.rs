//! Any bytes as a session description, and as a body of several parts with such in it: see the rules
//! in the file that is shared with the property tests.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../edge-user/src/media/invariants.rs"]
mod invariants;

fuzz_target!(|data: &[u8]| {
    invariants::description(data);
    invariants::body(data);
});
