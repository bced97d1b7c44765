//! The `edge` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge_user::admin::main()
}
