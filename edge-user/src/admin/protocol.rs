//! The control protocol: one JSON object a line each way, one request a connection.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{config::Verification, domain::Domain};

/// A request is at most this long, in bytes.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// Name of the control socket in the run folder.
pub const SOCKET_NAME: &str = "control.sock";

/// What an administrator asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How is it?
    Status,
    /// Take nothing new, or take it again.
    Drain {
        /// Take nothing new.
        on: bool,
    },
    /// Read the configuration file again, and the certificates.
    Reload,
    /// Put a configuration in force.
    Apply {
        /// It; without it the configured file is read.
        file: Option<SentFile>,
        /// What was in force comes back after this time, unless [`Request::Confirm`] comes.
        confirm_seconds: Option<u64>,
    },
    /// What would it change?
    ApplyDryRun {
        /// It; without it the configured file is read.
        file: Option<SentFile>,
    },
    /// Count what a configuration's rules would do otherwise.
    ShadowStart {
        /// It; without it the configured file is read.
        file: Option<SentFile>,
        /// For how long; without it until it is stopped or rules are applied.
        seconds: Option<u64>,
    },
    /// Whose shadow counts?
    ShadowStatus,
    /// Count no more.
    ShadowStop,
    /// Keep the configuration that waits for it.
    Confirm,
    /// Go back to a former configuration.
    Rollback {
        /// Its number; without it the one before.
        version: Option<u32>,
    },
    /// The configurations that were in force.
    VersionList,
    /// One of them.
    VersionShow {
        /// Its number.
        number: u32,
    },
    /// Allowed and blocked domains in force, and where each comes from.
    DomainList,
    /// Everything the daemon knows of an address.
    About {
        /// It.
        address: IpAddr,
    },
    /// Sampled drops: the last ones, or from now on one line each until the other side closes.
    Drops {
        /// From now on.
        follow: bool,
        /// Which.
        filter: DropFilter,
    },
    /// Allow a partner domain.
    DomainAllow {
        /// The domain.
        domain: Domain,
        /// The one host that speaks for it; without it DNS SRV says.
        server: Option<Domain>,
        /// Port of that host.
        port: Option<u16>,
        /// Where it sends from, beside where it listens.
        #[serde(default)]
        from_addresses: Vec<IpNet>,
    },
    /// Block a domain.
    DomainBlock {
        /// The domain.
        domain: Domain,
        /// Names below it too.
        subdomains: bool,
    },
    /// Take back a domain's block, whoever made it.
    DomainUnblock {
        /// The domain.
        domain: Domain,
    },
    /// Take back a domain's allowance, whoever made it.
    DomainRemove {
        /// The domain.
        domain: Domain,
    },
    /// Block an address or prefix.
    BlockAdd {
        /// Address (as /32 or /128) or prefix.
        prefix: IpNet,
        /// Why.
        comment: Option<String>,
        /// For how long; without it until it is removed.
        seconds: Option<u64>,
    },
    /// Take back an administrator's block.
    BlockRemove {
        /// Address or prefix, as it was added.
        prefix: IpNet,
    },
    /// Put a list of blocks in the place of the one of its name. The list follows this line, as
    /// it is, up to the end of what the caller sends.
    ListImport(ListImport),
    /// Take a list of blocks away.
    ListRemove {
        /// Its name.
        name: String,
    },
    /// The lists of blocks in force.
    Lists,
    /// About partners.
    Partner(PartnerRequest),
    /// About remote users.
    Remote(RemoteRequest),
    /// About calls and their media.
    Call(CallRequest),
}

/// What is asked about calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CallRequest {
    /// All that have media.
    List,
    /// Everything about one; takes a second, in which its packets are counted.
    Show {
        /// Its id, or its Call-ID.
        id: String,
    },
    /// Close the media of one.
    End {
        /// Its id, or its Call-ID.
        id: String,
    },
}

/// What is asked about remote users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "remote", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RemoteRequest {
    /// Who is connected, and registered as whom.
    List,
    /// How many there are.
    Numbers,
    /// Who is shut out for wrong passwords.
    Bans,
    /// Let an address or prefix in again.
    Forgive {
        /// Address or prefix.
        prefix: IpNet,
    },
    /// Slow a user down no more.
    ForgiveUser {
        /// The name before the `@`.
        name: String,
        /// The domain.
        domain: Domain,
    },
}

/// What is asked about partners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "partner", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PartnerRequest {
    /// All of them.
    List {
        /// Of this kind only.
        kind: Option<String>,
        /// Those on the watch list only.
        watch: bool,
    },
    /// Everything about one.
    Show {
        /// Domain, or provider's name.
        name: String,
        /// Also what DNS says of it now.
        dns: bool,
    },
    /// Allow a domain; what was held against it is forgotten.
    Allow {
        /// The domain.
        domain: Domain,
        /// The one host that speaks for it; without it DNS SRV says.
        server: Option<Domain>,
        /// Verification level; without it the default.
        verification: Option<Verification>,
    },
    /// Block a domain.
    Block {
        /// The domain.
        domain: Domain,
        /// Names below it too.
        subdomains: bool,
    },
    /// End its connections and streams, and forget what failed.
    Reset {
        /// Domain, or provider's name.
        name: String,
    },
    /// Take a partner from the watch list.
    Forgive {
        /// The domain.
        domain: Domain,
        /// Only what came from here.
        source: Option<IpNet>,
    },
}

/// What there is to say about a list that follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListImport {
    /// Its name.
    pub name: String,
    /// Where the caller has it from, for errors.
    pub file: String,
    /// Why.
    pub comment: Option<String>,
    /// For how long; without it until it is replaced or removed.
    pub seconds: Option<u64>,
    /// Say what would change, and change nothing.
    pub dry_run: bool,
    /// Leave out lines that name nothing, instead of refusing the list.
    pub skip_bad: bool,
}

/// A configuration file that the caller has read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentFile {
    /// Its name, as the caller said it.
    pub name: String,
    /// What it says.
    pub text: String,
}

impl std::fmt::Debug for SentFile {
    /// Without the text: this goes to the log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({} bytes)", self.name, self.text.len())
    }
}

impl Request {
    /// Whether it changes something (and is logged as a change).
    pub fn changes(&self) -> bool {
        !matches!(
            self,
            Request::Status
                | Request::DomainList
                | Request::Drops { .. }
                | Request::About { .. }
                | Request::Lists
                | Request::ApplyDryRun { .. }
                | Request::ShadowStatus
                | Request::VersionList
                | Request::VersionShow { .. }
                | Request::Remote(
                    RemoteRequest::List | RemoteRequest::Numbers | RemoteRequest::Bans
                )
                | Request::Partner(PartnerRequest::List { .. } | PartnerRequest::Show { .. })
                | Request::Call(CallRequest::List | CallRequest::Show { .. })
        )
    }
}

/// Which drops are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropFilter {
    /// Name of the reason.
    pub reason: Option<String>,
    /// Sources.
    pub source: Option<IpNet>,
}

/// A line of an answer that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropLine {
    /// A packet that was dropped.
    Drop(Box<Dropped>),
    /// As many were lost here, because the other side read too slowly.
    Lost(u64),
}

/// A sampled packet that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Nanoseconds since 1970.
    pub at_nanoseconds: u64,
    /// `drop`, or `pass` in monitor mode.
    pub verdict: String,
    /// Name of the reason.
    pub reason: String,
    /// The rule that decided: its name, or its number when that is not known.
    pub rule: Option<String>,
    /// `external`, `internal` or `none`.
    pub zone: String,
    /// The interface.
    pub device: String,
    /// Outer VLAN id.
    pub vlan: Option<u16>,
    /// EtherType.
    pub ether_type: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Source, when it can be read.
    pub source: Option<IpAddr>,
    /// Source port.
    pub source_port: u16,
    /// Destination, when it can be read.
    pub destination: Option<IpAddr>,
    /// Destination port; of ICMP type and code.
    pub destination_port: u16,
    /// Bytes of the frame.
    pub length: u32,
    /// Its first bytes, in hex.
    pub frame: String,
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// Done: what there is to say.
    Done {
        /// The answer's data.
        ok: Value,
    },
    /// Not done.
    Failed(Fault),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What is wrong, and the mend.
    pub error: String,
    /// What kind of fault it is.
    #[serde(default)]
    pub kind: FaultKind,
}

/// The kind of a fault: commands tell it by their exit codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// It could not be done.
    #[default]
    Failed,
    /// The configuration is wrong.
    Configuration,
}

impl Fault {
    /// The configuration is wrong.
    pub fn configuration(error: impl std::fmt::Display) -> Self {
        Self { error: error.to_string(), kind: FaultKind::Configuration }
    }
}

impl From<String> for Fault {
    fn from(error: String) -> Self {
        Self { error, kind: FaultKind::Failed }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_back_as_they_were_written() {
        let requests = [
            Request::Status,
            Request::DomainAllow {
                domain: "fabrikam.example".parse().unwrap(),
                server: Some("sip.fabrikam.example".parse().unwrap()),
                port: None,
                from_addresses: vec!["198.51.100.32/28".parse().unwrap()],
            },
            Request::BlockAdd {
                prefix: "2001:db8::/32".parse().unwrap(),
                comment: None,
                seconds: Some(60),
            },
            Request::Drops {
                follow: true,
                filter: DropFilter { reason: Some("no-rule".into()), source: None },
            },
        ];
        for request in requests {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request, "{text}");
        }
    }

    #[test]
    fn a_request_that_is_not_exactly_known_is_refused() {
        for text in [
            r#"{"command":"domain-unblock","domain":"a.example","x":1}"#,
            r#"{"command":"erase"}"#,
            r#"{"command":"domain-block","domain":"192.0.2.1","subdomains":false}"#,
            r#"{"command":"domain-block","domain":"bad.example"}"#,
            "{}",
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }
}
