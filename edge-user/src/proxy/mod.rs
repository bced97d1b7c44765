//! Joins `sip` and `federation`: a state machine without sockets. Inputs in, intents out.
//!
//! | part | what it does |
//! | --- | --- |
//! | `io` | the contract with the shell |
//! | `proxy` | the state, its doors, what ends when a policy changes |
//! | `request`, `admit`, `route`, `carried` | a request comes in: who says it, and where may it go |
//! | `preflight`, `meter`, `drain` | what is asked of every request, and how many there may be |
//! | `send`, `dial`, `lookups`, `connections`, `pooled`, `hops` | the way to the next server: pooled by proven identity, resolved, connected, tried in turn |
//! | `ways_back` | the way back, when the connection a request came on is lost |
//! | `target`, `probe` | which addresses that means, what failed is tried last and asked whether it lives |
//! | `response`, `timers`, `exchange`, `exchanges`, `residue` | the transactions (RFC 3261 section 17, RFC 6026) |
//! | `token`, `record_route`, `route_set`, `settings` | how we name ourselves, and what we sign into Record-Route |
//! | `remote`, `contacts`, `flow`, `login` | remote users: whom they may write to, the connection they registered on, and who guesses passwords |
//! | `media`, `descriptions` | what is said of media, and which flows are open for it |
//! | `neighbours` | headers that two neighbours say to each other |
//! | `trust_headers` | what is said of users from one side to the other |
//! | `respond`, `counters` | what a refused sender is told, and what is counted |
//!
//! What this module must never do: send a request from outside to the outside, choose a
//! destination by what a message names, or pass on what its sender has not proved. It knows no
//! socket, no clock and no log.

mod admit;
pub(crate) mod base64url;
mod carried;
mod connections;
mod contacts;
mod counters;
mod credentials;
mod descriptions;
mod dial;
mod drain;
mod exchange;
mod exchanges;
mod flow;
mod hang_up;
mod hops;
mod io;
mod late;
mod login;
mod lookups;
mod media;
mod meter;
mod neighbours;
mod overload;
mod pooled;
mod preflight;
mod probe;
#[expect(clippy::module_inception, reason = "the type that the module is named for")]
mod proxy;
mod record_route;
mod remote;
mod request;
mod residue;
mod respond;
mod response;
mod route;
mod route_set;
mod send;
mod settings;
mod target;
#[cfg(test)]
mod tests;
mod timers;
mod token;
mod traffic;
mod trust_headers;
mod ways_back;

pub use counters::Counters;
pub use drain::DrainStatus;
pub use io::*;
pub use proxy::{ConnectionStatus, Proxy};
pub use settings::{Bounds, ProxyConfig, RemoteSettings, Secrets};
pub use target::{DestinationStatus, TargetStatus};
pub use traffic::{RefusalSeen, Traffic};
