//! The command line: what can be asked, and the exit codes.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;

use super::plan::PlanCommand;
use crate::domain::Domain;

/// Exit codes of the `edge` command.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// Not done: the error says why and what mends it.
    pub const FAILED: u8 = 1;
    /// The configuration, or the command line, is wrong; nothing was changed.
    pub const BAD_CONFIGURATION: u8 = 2;
    /// The daemon is not running, and this command needs it.
    pub const NOT_RUNNING: u8 = 3;
}

/// Federates SIP over TLS with the outside world, and drops what it must in the driver.
#[derive(Debug, Parser)]
#[command(
    name = "edge",
    version,
    after_help = "Exit codes: 0 done; 1 failed; 2 bad configuration or command line; 3 the daemon \
                  is not running."
)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The configuration file; it also names the daemon's folders
    #[arg(short, long, global = true, default_value = "/etc/edge/edge.toml", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon: firewall, SIP federation, control socket
    Run,
    /// Check the configuration file and everything it names; change nothing
    Check(CheckArguments),
    /// Put the last good rules in force without a daemon (at boot, before the network is up)
    Load,
    /// Take the firewall's programs, rules and pins away
    Detach {
        /// Even while a daemon runs
        #[arg(long)]
        force: bool,
    },
    /// How the appliance is: daemon, firewall, connections, refusals
    Status,
    /// Let nothing new begin here (503, Retry-After), while dialogs that stand go on
    Drain {
        /// Take new dialogs again
        #[arg(long)]
        off: bool,
    },
    /// Read the configuration and the certificates again, without dropping a connection
    Reload,
    /// Put a configuration in force, whole or not at all; it becomes the configured file
    Apply(ApplyArguments),
    /// Keep what was applied with --confirm
    Confirm,
    /// Go back to a former version of the configuration; administrators' blocks stay
    Rollback {
        /// The version, as `edge version list` shows it; without it the one before
        version: Option<u32>,
    },
    /// The versions of the configuration that were in force
    #[command(subcommand)]
    Version(VersionCommand),
    /// Rules that only count what they would do otherwise
    #[command(subcommand)]
    Shadow(ShadowCommand),
    /// The kernel's maps
    #[command(subcommand)]
    Map(MapCommand),
    /// Blocked addresses and prefixes
    #[command(subcommand)]
    Block(super::blocks::BlockCommand),
    /// The firewall's rules
    #[command(subcommand)]
    Rule(RuleCommand),
    /// What follows from the configuration file, without a daemon
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Partner domains: allowed and blocked
    #[command(subcommand)]
    Domain(DomainCommand),
    /// Partners: kinds, what is known of them, who is refused and why
    #[command(subcommand)]
    Partner(super::partner::PartnerCommand),
    /// Remote users: who is connected, and who is shut out for wrong passwords
    #[command(subcommand)]
    Remote(super::remote::RemoteCommand),
    /// Calls: who talks to whom, and the media flows that are open for them
    #[command(subcommand)]
    Call(super::call::CallCommand),
    /// Sampled drops: the last ones, or as they come
    Drops(super::drops::DropsArguments),
    /// What the firewall does in this second: rates, reasons, rules, sources, cost
    Top(super::top::TopArguments),
    /// What happens to a packet or an address, and why
    #[command(subcommand)]
    Explain(super::explain::ExplainCommand),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// Also fail unless this address is inside the management prefixes
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) management_source: Option<IpAddr>,
}

/// `edge apply`.
#[derive(Debug, Args)]
pub struct ApplyArguments {
    /// The file; without it the configured file is read
    pub file: Option<PathBuf>,
    /// Show what would change, and change nothing
    #[arg(long, conflicts_with_all = ["confirm", "shadow"])]
    pub dry_run: bool,
    /// Go back by itself after this time (60s, 10min), unless `edge confirm` comes
    #[arg(long, value_name = "TIME", value_parser = super::apply::parse_time)]
    pub confirm: Option<Duration>,
    /// Only count what its rules would do otherwise, beside those in force
    #[arg(long, conflicts_with = "confirm")]
    pub shadow: bool,
    /// How long the shadow counts; without it until `edge shadow stop` or an apply
    #[arg(long = "for", value_name = "TIME", requires = "shadow", value_parser = super::apply::parse_time)]
    pub time: Option<Duration>,
}

/// `edge version`.
#[derive(Debug, Subcommand)]
pub enum VersionCommand {
    /// The last versions: when, who, how
    List,
    /// One version's text
    Show {
        /// Its number
        number: u32,
    },
}

/// `edge shadow`.
#[derive(Debug, Subcommand)]
pub enum ShadowCommand {
    /// What the shadow would have done otherwise, by reason
    Status,
    /// Count no more
    Stop,
}

/// `edge map`.
#[derive(Debug, Subcommand)]
pub enum MapCommand {
    /// All pinned maps
    List,
    /// One map's entries, with named fields
    Dump {
        /// The map's name, as `edge map list` shows it
        name: String,
    },
}

/// `edge rule`.
#[derive(Debug, Subcommand)]
pub enum RuleCommand {
    /// The rules in force, with their live counters
    List,
}

/// `edge domain`.
#[derive(Clone, Debug, Subcommand)]
pub enum DomainCommand {
    /// Allowed and blocked domains in force
    List,
    /// Allow a partner domain
    Allow {
        /// The domain
        name: Domain,
        /// The one host that speaks for it; without it DNS SRV says
        #[arg(long, value_name = "FQDN")]
        server: Option<Domain>,
        /// Port of that host
        #[arg(long, requires = "server")]
        port: Option<u16>,
        /// Where it sends from, beside where it listens (for rules that are for partners)
        #[arg(long = "from-address", value_name = "PREFIX", value_parser = parse_prefix)]
        from_addresses: Vec<IpNet>,
    },
    /// Block a domain: refuse it, close what is live, drop its edges in the driver
    Block {
        /// The domain
        name: Domain,
        /// Names below it too
        #[arg(long)]
        subdomains: bool,
    },
    /// Take a domain's block back
    Unblock {
        /// The domain
        name: Domain,
    },
    /// Take a domain's allowance back
    Remove {
        /// The domain
        name: Domain,
    },
}

/// An address, or a prefix without host bits.
pub(super) fn parse_prefix(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let prefix: IpNet =
        text.parse().map_err(|_| "an address or a prefix such as 192.0.2.0/24".to_owned())?;
    if prefix.trunc() == prefix {
        Ok(prefix)
    } else {
        Err(format!("host bits are set; did you mean {}?", prefix.trunc()))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_prefix_with_host_bits_is_refused_with_the_mend() {
        assert_eq!(parse_prefix("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert_eq!(parse_prefix("2001:db8::/32").unwrap().to_string(), "2001:db8::/32");
        assert!(parse_prefix("192.0.2.1/24").unwrap_err().contains("192.0.2.0/24"));
        assert!(parse_prefix("x").is_err());
    }
}
