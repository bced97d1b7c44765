//! The streams in virtual time: two or more ends, or one end and a hand that writes bytes.

mod attacks;
mod lone;
mod matrix;
mod property;
mod together;
mod ways;
mod world;
