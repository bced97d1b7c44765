//! The kernel program, run packet by packet with `BPF_PROG_TEST_RUN`. Everything runs in network
//! namespaces of its own and nothing is attached or pinned. Needs root.
#![expect(clippy::unwrap_used, reason = "what a test cannot do fails it")]

mod asked;
mod blocks;
mod budget;
mod differential;
mod evasions;
mod fixture;
mod media;
mod reasons;
mod replies;
mod tagged;
