//! What libFuzzer's targets in `tests/fuzz` do with their bytes. It stands here, where stable Rust builds
//! it: the seeds are played through the same functions in every test run (`tests/fuzz_seeds.rs`).
//! The bodies of `packet`, `proxy` and `sdp` are shared with tests of their own.

pub mod config;
pub mod sip_framing;
pub mod sip_index;
pub mod sip_values;
pub mod xmpp_guard;
pub mod xmpp_mapping;
pub mod xmpp_streams;

/// Where the function of a target is; `None`: it is not here.
pub fn function(target: &str) -> Option<fn(&[u8])> {
    Some(match target {
        "config" => config::run,
        "sip_framing" => sip_framing::run,
        "sip_index" => sip_index::run,
        "sip_values" => sip_values::run,
        "xmpp_guard" => xmpp_guard::run,
        "xmpp_mapping" => xmpp_mapping::run,
        "xmpp_streams" => xmpp_streams::run,
        _ => return None,
    })
}
