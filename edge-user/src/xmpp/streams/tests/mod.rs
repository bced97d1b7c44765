//! The streams in virtual time: two or more ends, or one end and a hand that writes bytes.

mod attacks;
mod bounds;
mod lone;
mod matrix;
mod property;
mod refusals;
mod relay;
mod together;
mod watch;
mod ways;
mod world;

/// The shell may hold it in a task.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<super::Streams>();
};
