//! A second, plain implementation of the whole decision, to hold the kernel program against.
//!
//! It shares no code with the decision and the parser that it checks: it reads bytes by slices
//! and walks plain lists ([`world`]). Only the names of reasons and verdicts are the product's.
//! [`lower`] writes such lists into the kernel's tables, [`random`] makes them up, and packets
//! with them, and [`differential`] puts both to the same question.

pub mod counted;
pub mod differential;
pub mod headers;
pub mod judge;
pub mod lower;
pub mod memory;
pub mod packet;
pub mod random;
pub mod world;
