//! What the kernel knows: the packet parser, the decision and the layout of every map.
//!
//! This library knows nothing of aya and needs no `std`, so the same code is compiled into the
//! kernel program (`src/bin/edge-xdp.rs`) and tested on the host. It never allocates, never
//! panics and never loops without a bound: whatever it does, the kernel's verifier has to prove.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod abi;
pub mod decide;
pub mod media;
pub mod packet;
pub mod verdict;
