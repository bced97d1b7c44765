//! `edge partner`.

use clap::Subcommand;
use ipnet::IpNet;

use super::{
    cli, client,
    commands::{Outcome, Report},
    protocol::{PartnerRequest, Request},
};
use crate::{
    config::{Paths, Verification},
    domain::Domain,
};

/// `edge partner`.
#[derive(Clone, Debug, Subcommand)]
pub enum PartnerCommand {
    /// Partners in force
    List {
        /// Of this kind only
        #[arg(long)]
        kind: Option<String>,
        /// Those on the watch list only
        #[arg(long)]
        watch: bool,
    },
    /// Everything about one
    Show {
        /// Domain, or provider's name
        name: String,
    },
    /// Allow a domain, and forget what was held against it
    Allow {
        /// The domain
        name: Domain,
        /// The one host that speaks for it; without it DNS SRV says
        #[arg(long, value_name = "FQDN")]
        server: Option<Domain>,
        /// always-verifiable, always-unverifiable or use-source
        #[arg(long)]
        verification: Option<Verification>,
    },
    /// Block a domain
    Block {
        /// The domain
        name: Domain,
        /// Names below it too
        #[arg(long)]
        subdomains: bool,
    },
    /// Take a discovered partner from the watch list
    Forgive {
        /// The domain
        name: Domain,
        /// Only what came from here
        #[arg(long, value_name = "PREFIX", value_parser = cli::parse_prefix)]
        source: Option<IpNet>,
    },
}

/// `edge partner …`.
pub fn partner(paths: &Paths, command: &PartnerCommand) -> Outcome {
    let request = match command.clone() {
        PartnerCommand::List { kind, watch } => PartnerRequest::List { kind, watch },
        PartnerCommand::Show { name } => PartnerRequest::Show { name },
        PartnerCommand::Allow { name, server, verification } => {
            PartnerRequest::Allow { domain: name, server, verification }
        }
        PartnerCommand::Block { name, subdomains } => {
            PartnerRequest::Block { domain: name, subdomains }
        }
        PartnerCommand::Forgive { name, source } => {
            PartnerRequest::Forgive { domain: name, source }
        }
    };
    let json = client::ask(&paths.run, &Request::Partner(request))?;
    Ok(Report::new(format!("{json}\n"), json))
}
