//! `edge run`: joins configuration, firewall, proxy, verdicts and control.

pub mod log;
mod notify;
mod secret;

use anyhow::Result;

use crate::config::Config;

/// Runs the daemon until SIGTERM or SIGINT.
pub fn run(config: Config) -> Result<()> {
    log::start(&config.log);
    Ok(())
}
