//! Domain -> addresses -> blocks: a blocked domain's edges become blocks of their addresses.
//!
//! The blocked party writes its own DNS, so it must not be able to choose whom we drop: at most
//! [`MAX_ADDRESSES`] addresses a domain, global unicast only (or named in `allow_addresses`), and
//! none that somebody else uses: us, our next hops, DNS servers, CRL hosts and management prefixes,
//! allowed partners' edges, and whoever is proven on a live connection. What is shared is refused in
//! the proxy only, listed with its reason, and judged again at every change on either side. From the
//! watch list's blocks those are kept out too who were connected a moment ago.
//!
//! Beside it, who guesses passwords of remote users is dropped at their ports (`guessers`), and
//! allowed partners' addresses become the set that rules for partners ask
//! (`partners`), with the same questions to DNS.
//!
//! A state machine without sockets and clock: inputs and `now` go in, queries and intents come
//! out. It never resolves, and never blocks for more than a domain asked to be blocked.

mod blocks;
mod guessers;
mod lingering;
mod offenders;
mod outbox;
mod partners;
mod protected;
mod watch;

#[cfg(test)]
mod crl_host_tests;
#[cfg(test)]
mod guesser_tests;
#[cfg(test)]
mod lingering_tests;
#[cfg(test)]
mod offender_tests;
#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod partner_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod xmpp_tests;

use std::{
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::{
    config::BlockedDomain,
    domain::Domain,
    federation::AddressFault,
    firewall::Intent,
    proxy::{ConnectionId, Question, ResolveError, Resolved},
};

pub use blocks::DomainBlocks;
pub use guessers::Guesser;
pub use lingering::LINGER_FOR;
pub use outbox::Outbox;
pub use partners::{LINGER, known_partners};
pub use protected::{Protection, Setting};

/// Addresses blocked for one domain.
pub const MAX_ADDRESSES: usize = 64;
/// Blocks of discovered partners on the watch list, in all.
pub const MAX_WATCHED: usize = 4096;
/// Names below a blocked domain that are looked up once they were seen in a certificate.
pub const MAX_SUBDOMAINS: usize = 16;
/// Places of revocation lists whose addresses are remembered.
pub const MAX_CRL_POINTS: usize = crate::federation::MAX_POINTS;
/// Addresses of one of them.
pub const MAX_CRL_ADDRESSES: usize = 16;
/// Addresses remembered from certificates, for one domain.
pub const MAX_SEEN: usize = 32;
/// Addresses looked at in one answer of DNS.
const MAX_ANSWER: usize = 256;
/// An address that a blocked domain's certificate was seen from stays blocked this long.
pub const SEEN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Addresses that DNS says are gone (not: that DNS fails to tell) stay this long.
pub const ABSENT_FOR: Duration = Duration::from_secs(24 * 3600);
/// At start, blocks wait this long for the addresses of those who must not be hit.
pub const START_WAIT: Duration = Duration::from_secs(3);

/// What comes in.
#[derive(Debug)]
pub enum Input {
    /// What holds: at start, after a reload, and after each runtime change.
    Setting(Box<Setting>),
    /// From the store, at start: the last good addresses of a blocked domain or a partner.
    LastGood {
        /// The domain.
        domain: Domain,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// DNS answered a [`Output::Query`].
    Resolved {
        /// Which.
        question: Question,
        /// The answer.
        result: Result<Resolved, ResolveError>,
    },
    /// A connection proved a domain by its certificate: a blocked one gives its address away, an
    /// allowed one protects it while the connection lives.
    Proved {
        /// The connection.
        connection: ConnectionId,
        /// The domain.
        domain: Domain,
        /// The address.
        remote: IpAddr,
    },
    /// A listed server of ours connected: its address is never blocked while it is.
    InsideOpened {
        /// The connection.
        connection: ConnectionId,
        /// The address.
        remote: IpAddr,
    },
    /// A remote user signed in: its address is never blocked for a domain's sake while it is there.
    SignedIn {
        /// The connection.
        connection: ConnectionId,
        /// The address.
        remote: IpAddr,
    },
    /// A discovered partner on the watch list sent from this address, over a connection that its
    /// certificate proved.
    Offender(Offense),
    /// Exactly these are on the watch list: who is not among them is released.
    Offenders(Vec<Offense>),
    /// A domain is taken from the watch list, or what came from this prefix.
    Forgiven {
        /// The domain.
        domain: Domain,
        /// The prefix; without it all.
        source: Option<IpNet>,
    },
    /// Exactly these sources are shut out for wrong passwords, and nothing of them is connected.
    Guessers(Vec<Guesser>),
    /// A connection is gone.
    Closed {
        /// The connection.
        connection: ConnectionId,
    },
    /// Revocation lists are fetched from exactly these addresses for this distribution point, or
    /// from none any more.
    CrlHost {
        /// The distribution point.
        point: Box<str>,
        /// The addresses of its host.
        addresses: Vec<IpAddr>,
    },
}

/// Where a discovered partner on the watch list sent from.
#[derive(Clone, Debug)]
pub struct Offense {
    /// Its domain.
    pub domain: Domain,
    /// The address.
    pub source: IpAddr,
    /// Until when it is listed.
    pub until: Instant,
    /// The same by the wall clock.
    pub expires_at: SystemTime,
}

/// What the shell must do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Look up, and answer with [`Input::Resolved`].
    Query {
        /// What.
        question: Question,
        /// Accept SRV targets outside the domain (an allowed partner's entry says so; never for
        /// a blocked domain, which would name others' edges).
        relax_srv_domain: bool,
    },
    /// For the firewall: exactly these blocks for this domain, or these addresses of partners.
    Apply(Intent),
    /// For the log: so many addresses of partners do not fit the kernel's table.
    PartnersLeftOut(usize),
    /// For the store: the good addresses of a blocked domain or a partner changed.
    Persist {
        /// The domain.
        domain: Domain,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// For the log: an address of a blocked domain is not blocked.
    NotBlocked {
        /// The blocked domain.
        domain: Domain,
        /// The address.
        address: IpAddr,
        /// Why not.
        why: Why,
    },
}

/// Why an address of a blocked domain is not blocked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It is no address that may be learned from outside.
    #[error("{0}")]
    Fault(AddressFault),
    /// Somebody else uses it.
    #[error("{0}")]
    Shared(Protection),
    /// The domain has its full number of blocks.
    #[error("more than {MAX_ADDRESSES} addresses")]
    Limit,
    /// Too many blocks of watched partners.
    #[error("more than {MAX_WATCHED} blocks of the watch list")]
    Full,
}

impl Serialize for Why {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How a discovered partner on the watch list stands in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WatchReport {
    /// The domain.
    pub domain: Domain,
    /// Blocked prefixes.
    pub blocked: Vec<IpNet>,
    /// Prefixes that the proxy alone refuses.
    pub refused: Vec<RefusedPrefix>,
}

/// A prefix of a listed partner that is not blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedPrefix {
    /// The prefix.
    pub prefix: IpNet,
    /// Why not.
    pub why: Why,
}

/// An address of a blocked domain that is not blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The address.
    pub address: IpAddr,
    /// Why not.
    pub why: Why,
}

/// How a blocked domain stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DomainReport {
    /// The domain, and whether names below it are blocked too.
    pub domain: BlockedDomain,
    /// Blocked addresses.
    pub blocked: Vec<IpAddr>,
    /// Addresses that are not blocked (requests from there are refused in the proxy).
    pub refused: Vec<Refused>,
    /// Names that are looked up: the domain, and those below it that were seen.
    pub names: Vec<Domain>,
    /// Why the last look-up of the domain itself gave nothing.
    pub dns_error: Option<String>,
}
