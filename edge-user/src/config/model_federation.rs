//! `[federation]`: kinds of partners, what is asked of their certificates, users' rights.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{domain::Domain, media::policy::Modalities};

/// Whether what a partner's users are said to be is believed inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verification {
    /// Always.
    AlwaysVerifiable,
    /// Never.
    AlwaysUnverifiable,
    /// As the partner says of each message.
    UseSource,
}

impl Verification {
    /// All of them.
    pub const ALL: &'static [Verification] = &[
        Verification::AlwaysVerifiable,
        Verification::AlwaysUnverifiable,
        Verification::UseSource,
    ];

    /// As the file writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Verification::AlwaysVerifiable => "always-verifiable",
            Verification::AlwaysUnverifiable => "always-unverifiable",
            Verification::UseSource => "use-source",
        }
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Verification {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|level| level.name() == text);
        found
            .copied()
            .ok_or_else(|| "one of always-verifiable, always-unverifiable, use-source".to_owned())
    }
}

/// Which extended key usage a partner's certificate must have (RFC 5280 section 4.2.1.12, RFC
/// 5924).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UsagePolicy {
    /// One of server, client and SIP domain, or none at all.
    #[default]
    Any,
    /// Client when the partner connects, server when we do, or none at all.
    Standard,
    /// Server authentication.
    Server,
    /// Client authentication.
    Client,
    /// `id-kp-sipDomain`.
    SipDomain,
}

/// In which order the targets of an SRV record are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SrvOrder {
    /// By priority, and drawn by weight among equals (RFC 2782).
    #[default]
    Weighted,
    /// By priority, and the highest weight first.
    HighestWeight,
}

/// SHA-256 of a certificate's public key (SubjectPublicKeyInfo).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pin(pub [u8; 32]);

/// What is asked of one partner beyond the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerOptions {
    /// Verification level; `None`: the default of its kind.
    pub verification: Option<Verification>,
    /// Extended key usage.
    pub usage: UsagePolicy,
    /// A wildcard in its certificate counts, for one label below its own domain.
    pub wildcard: bool,
    /// The common name of a certificate without subject alternative names counts.
    pub common_name: bool,
    /// Its certificate's key is one of these; empty: not asked.
    pub pins: Vec<Pin>,
    /// Order of its SRV targets.
    pub srv_order: SrvOrder,
    /// Its DNS answers must be signed.
    pub dnssec: bool,
    /// It accepts only certificates for TLS clients when we connect: ours must be one.
    pub needs_client_usage: bool,
    /// What its users and ours may do with one another.
    pub modalities: Modalities,
    /// Its media comes from behind NAT: from other addresses than it names, in the prefix of the
    /// peer that signals.
    pub behind_nat: bool,
}

/// A hosting provider: many domains over one peer, each allowed or discovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostingProvider {
    /// Its name, like no other partner's.
    pub name: String,
    /// The host that its certificate names.
    pub proxy_fqdn: Domain,
    /// Its port.
    pub port: u16,
    /// It is in use.
    pub enabled: bool,
    /// It also hosts users of our own domains.
    pub shared_address_space: bool,
    /// Domains that are bound to it.
    pub domains: Vec<Domain>,
    /// What is asked of it.
    pub options: PeerOptions,
}

/// A public IM provider: its domains are for users with the right to public IM only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicImProvider {
    /// Its name, like no other partner's.
    pub name: String,
    /// The host that its certificate names.
    pub proxy_fqdn: Domain,
    /// Its port.
    pub port: u16,
    /// It is in use.
    pub enabled: bool,
    /// Domains that are bound to it.
    pub domains: Vec<Domain>,
    /// What is asked of it.
    pub options: PeerOptions,
}

/// The default route: a clearing house that carries every domain without an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The host that its certificate names.
    pub proxy_fqdn: Domain,
    /// Its port.
    pub port: u16,
    /// What it carries is public IM.
    pub public_im: bool,
    /// What is asked of it.
    pub options: PeerOptions,
}

/// `[federation.throttle]`: how much a discovered partner may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThrottleSettings {
    /// Messages a second.
    pub messages_per_second: u32,
    /// Messages a second of one that is suspicious.
    pub suspicious_per_second: u32,
    /// Suspicious from this share of failed responses, in percent.
    pub suspicious_share: u32,
    /// But not before so many responses.
    pub suspicious_after: u32,
    /// Users of ours it may write to in the report period.
    pub distinct_users: u32,
    /// The report period.
    pub report_period: Duration,
    /// How long the first block lasts.
    pub block_first: Duration,
    /// How long a repeated block lasts at most.
    pub block_most: Duration,
    /// Evidence names users of ours; otherwise hashes stand for them.
    pub plain_users: bool,
}

impl Default for ThrottleSettings {
    fn default() -> Self {
        Self {
            messages_per_second: 20,
            suspicious_per_second: 1,
            suspicious_share: 50,
            suspicious_after: 20,
            distinct_users: 1000,
            report_period: Duration::from_secs(3600),
            block_first: Duration::from_secs(600),
            block_most: Duration::from_secs(24 * 3600),
            plain_users: false,
        }
    }
}

/// Whom a user policy is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UserPattern {
    /// `alice@contoso.example`: the user part as written, the domain.
    User(String, Domain),
    /// A group, by name.
    Group(String),
    /// `*@contoso.example`.
    Domain(Domain),
    /// `*`.
    Everyone,
}

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights {
    /// Federate with partners.
    pub federation: bool,
    /// Exchange messages with public IM providers.
    pub public_im: bool,
    /// Audio and video with public IM providers.
    pub public_av: bool,
    /// Federate over XMPP.
    pub xmpp: bool,
    /// Sign in from outside.
    pub outside: bool,
    /// What they may do with partners' users.
    pub modalities: Modalities,
}

impl Default for Rights {
    /// What holds when no policy is for a user: federation alone, with every modality.
    fn default() -> Self {
        Self {
            federation: true,
            public_im: false,
            public_av: false,
            xmpp: false,
            outside: false,
            modalities: Modalities::ALL,
        }
    }
}

/// `[[user_policy]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPolicy {
    /// Whom it is for.
    pub users: Vec<UserPattern>,
    /// What they may do.
    pub rights: Rights,
}

/// `[[group]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Who is in it: the user part as written, the domain.
    pub users: Vec<(String, Domain)>,
}

/// `[revocation]`: certificate revocation lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocation {
    /// Lists from files.
    pub files: Vec<PathBuf>,
    /// Lists are fetched from where certificates say.
    pub points: bool,
    /// A certificate without a valid list is refused.
    pub hard: bool,
    /// How often a list is fetched again at least.
    pub refresh: Duration,
}
