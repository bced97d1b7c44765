//! The lab, the demo and what the end-to-end tests share.

pub mod bare;
pub mod bench;
pub mod demo;
pub mod fuzzing;
pub mod kernel;
pub mod lab;
pub mod model;
pub mod packets;
pub mod patience;
pub mod wire;
