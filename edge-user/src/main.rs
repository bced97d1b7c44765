//! The `edge` command.

fn main() {}
