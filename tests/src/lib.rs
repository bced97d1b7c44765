//! The lab, the demo and what the end-to-end tests share.

pub mod lab;
