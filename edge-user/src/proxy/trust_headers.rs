//! What the two sides say to each other about their users, and what an edge takes out or puts in
//! (MS-SIPRE section 2.2.15, MS-OCER).
//!
//! To the inside only this edge says where a message came from and whether its sender is
//! verified: what a partner wrote of the kind is taken out, always. To the outside nothing goes
//! that is meant for our own servers.

use std::{ops::Deref, sync::Arc};

use super::{admit::is_anonymous, exchange::Exchange, proxy::Proxy};
use crate::{
    config::Verification,
    domain::Domain,
    federation::{CertificateNames, Partner, PartnerKind},
    sip::{HeaderName, Message},
};

/// `ms-edge-proxy-message-trust`.
pub(super) const TRUST: &str = HeaderName::MsEdgeProxyMessageTrust.as_str();
/// What one edge tells another of its user. The name and its parameter are not in the documents
/// that could be read; they are in this one place.
const ASSERTED: &str = HeaderName::MsAssertedVerificationLevel.as_str();
const ASSERTED_PARAMETER: &str = "ms-source-verified-user";

/// Names of headers, without an allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    list: [HeaderName; 12],
    count: usize,
}

impl Names {
    const fn none() -> Self {
        Self { list: [HeaderName::Other; 12], count: 0 }
    }

    pub(super) fn push(&mut self, name: HeaderName) {
        if let Some(slot) = self.list.get_mut(self.count) {
            *slot = name;
            self.count += 1;
        }
    }

    fn with(mut self, names: &[HeaderName]) -> Self {
        names.iter().for_each(|name| self.push(*name));
        self
    }
}

impl Deref for Names {
    type Target = [HeaderName];

    fn deref(&self) -> &[HeaderName] {
        self.list.get(..self.count).unwrap_or_default()
    }
}

/// Headers to take away and to add.
#[derive(Debug)]
pub(super) struct HeaderChange {
    pub remove: Names,
    pub add: [Option<(Arc<str>, Arc<str>)>; 2],
}

impl HeaderChange {
    /// What is added, as text.
    pub(super) fn added(&self) -> Added<'_> {
        let mut added = Added { list: [("", ""); 6], count: 0 };
        added.extend(self.add.iter().flatten().map(|(name, value)| (&**name, &**value)));
        added
    }
}

/// Headers to add, without an allocation: six at most.
#[derive(Debug)]
pub(super) struct Added<'c> {
    list: [(&'c str, &'c str); 6],
    count: usize,
}

impl<'c> Extend<(&'c str, &'c str)> for Added<'c> {
    fn extend<T: IntoIterator<Item = (&'c str, &'c str)>>(&mut self, more: T) {
        for (place, header) in self.list.iter_mut().skip(self.count).zip(more) {
            *place = header;
            self.count += 1;
        }
    }
}

impl<'c> Deref for Added<'c> {
    type Target = [(&'c str, &'c str)];

    fn deref(&self) -> &Self::Target {
        self.list.get(..self.count).unwrap_or_default()
    }
}

/// Values that are the same for many messages, made once for each name of ours.
#[derive(Debug)]
pub(super) struct TrustValues {
    own: Domain,
    /// By source, network and verification.
    trust: [[[Arc<str>; 2]; 2]; Source::COUNT],
    internet_user: Arc<str>,
    trust_name: Arc<str>,
    asserted_name: Arc<str>,
    asserted: [Arc<str>; 2],
    diagnostics_name: Arc<str>,
    no_reason: Arc<str>,
}

/// `ms-source-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    AutoFederation,
    DirectPartner,
    AuthorizedServer,
    EdgeProxyGenerated,
}

impl Source {
    const COUNT: usize = 4;
    const ALL: [Source; Self::COUNT] = [
        Source::AutoFederation,
        Source::DirectPartner,
        Source::AuthorizedServer,
        Source::EdgeProxyGenerated,
    ];

    const fn name(self) -> &'static str {
        match self {
            Source::AutoFederation => "AutoFederation",
            Source::DirectPartner => "DirectPartner",
            Source::AuthorizedServer => "AuthorizedServer",
            Source::EdgeProxyGenerated => "EdgeProxyGenerated",
        }
    }

    const fn of(kind: PartnerKind) -> Self {
        match kind {
            PartnerKind::DiscoveredDomain | PartnerKind::AllowedDomain => Source::AutoFederation,
            PartnerKind::AllowedServer => Source::DirectPartner,
            PartnerKind::HostingProvider
            | PartnerKind::PublicImProvider
            | PartnerKind::DefaultRoute
            | PartnerKind::Xmpp => Source::AuthorizedServer,
        }
    }
}

fn verified_text(verified: bool) -> &'static str {
    if verified { "verified" } else { "unverified" }
}

fn trust_value(source: Source, own: &Domain, verified: bool, public: bool) -> String {
    let (source, verified) = (source.name(), verified_text(verified));
    let network = if public { "publiccloud" } else { "federation" };
    format!(
        "ms-source-type={source};ms-ep-fqdn={own};ms-source-verified-user={verified};\
         ms-source-network={network}"
    )
}

impl TrustValues {
    pub(super) fn new(own: &Domain) -> Self {
        let value = |source, public, verified| trust_value(source, own, verified, public).into();
        Self {
            own: own.clone(),
            trust: Source::ALL.map(|source| {
                [false, true].map(|public| [false, true].map(|v| value(source, public, v)))
            }),
            internet_user: format!(
                "ms-source-type=InternetUser;ms-ep-fqdn={own};ms-source-verified-user={}",
                verified_text(false)
            )
            .into(),
            trust_name: TRUST.into(),
            asserted_name: ASSERTED.into(),
            asserted: [false, true]
                .map(|verified| format!("{ASSERTED_PARAMETER}={}", verified_text(verified)).into()),
            diagnostics_name: HeaderName::MsDiagnostics.as_str().into(),
            no_reason: format!(
                "1034;source=\"{own}\";reason=\"The federated partner did not say why\""
            )
            .into(),
        }
    }

    /// For answers of our own to the inside.
    pub(super) fn generated(&self) -> &str {
        &self.trust[Source::EdgeProxyGenerated as usize][0][1]
    }

    fn of(&self, entry: &Partner, verified: bool, names: Option<&CertificateNames>) -> Arc<str> {
        let source = Source::of(entry.kind);
        let public = entry.is_public();
        // The peer is named where it carries other people's users.
        match entry.pinned().filter(|host| public && names.is_none_or(|n| n.holds(host))) {
            Some(host) => {
                let value = trust_value(source, &self.own, verified, public);
                format!("{value};ms-remote-fqdn={host}").into()
            }
            None => self.trust[source as usize][usize::from(public)][usize::from(verified)].clone(),
        }
    }
}

/// What a partner says of its user: verified or not; `None` when it says nothing. What cannot be
/// read, or is said twice, is no verification.
pub(super) fn asserted_level(message: &Message) -> Option<bool> {
    let mut values = message.headers(HeaderName::MsAssertedVerificationLevel);
    let first = values.next()?;
    let verified = std::str::from_utf8(first.value).is_ok_and(|text| {
        let mut found = text.split(';').filter_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case(ASSERTED_PARAMETER).then(|| value.trim())
        });
        let value = found.next();
        value.is_some_and(|value| value.eq_ignore_ascii_case("verified")) && found.next().is_none()
    });
    Some(verified && values.next().is_none())
}

/// Whether the sender of a message from this partner is verified.
fn is_verified(entry: &Partner, message: &Message) -> bool {
    let level = entry.verification();
    if level == Verification::AlwaysUnverifiable || is_anonymous(message) {
        return false;
    }
    match level {
        Verification::AlwaysVerifiable => true,
        Verification::AlwaysUnverifiable => false,
        Verification::UseSource => asserted_level(message) == Some(true),
    }
}

/// What only the two edges, or only our own servers, are to read.
const INTERNAL: [HeaderName; 4] = [
    HeaderName::MsEdgeProxyMessageTrust,
    HeaderName::MsDiagnostics,
    HeaderName::MsAssertedVerificationLevel,
    HeaderName::MsClientDiagnostics,
];

/// Whether a response tells a remote user that there is no dialog: then it is told no Route for one,
/// signed by us, that our servers never agreed to (a server may copy Record-Route into a challenge).
pub(super) fn refuses_remote_user(exchange: &Exchange, response: &Message) -> bool {
    exchange.remote && exchange.inbound && response.status().is_some_and(|status| status >= 300)
}

impl Proxy {
    /// For a request on its way.
    pub(super) fn request_headers(&self, exchange: &Exchange) -> HeaderChange {
        if exchange.remote {
            return self.of_remote_user(exchange.inbound);
        }
        match (exchange.inbound, &exchange.entry, &exchange.request) {
            (true, Some(entry), Some(request)) => {
                let verified = is_verified(entry, request);
                let names = Some(&*exchange.from_peer.names);
                let value = self.trust_values.of(entry, verified, names);
                let remove = Names::none().with(&INTERNAL).with(&[HeaderName::PPreferredIdentity]);
                let trust = (self.trust_values.trust_name.clone(), value);
                HeaderChange { remove, add: [Some(trust), None] }
            }
            (true, ..) => HeaderChange {
                remove: Names::none().with(&INTERNAL).with(&[HeaderName::PPreferredIdentity]),
                add: [None, None],
            },
            (false, ..) => self.to_the_outside(),
        }
    }

    /// For a response on its way back.
    pub(super) fn response_headers(&self, exchange: &Exchange, response: &Message) -> HeaderChange {
        if exchange.remote {
            let mut change = self.of_remote_user(!exchange.inbound);
            if refuses_remote_user(exchange, response) {
                change.remove.push(HeaderName::RecordRoute);
            }
            // Whoever followed it (RFC 3608) would name a host inside, and be refused for that: from
            // here everything goes to the next hops.
            if exchange.inbound && response.header(HeaderName::ServiceRoute).is_some() {
                change.remove.push(HeaderName::ServiceRoute);
            }
            return change;
        }
        if exchange.inbound {
            return self.to_the_outside();
        }
        let mut remove = Names::none().with(&INTERNAL);
        if self.asserts_ours(response) {
            remove.push(HeaderName::PAssertedIdentity);
        }
        let mut reasons = response.headers(HeaderName::MsDiagnosticsPublic);
        let (reason, second) = (reasons.next(), reasons.next());
        if second.is_some() {
            remove.push(HeaderName::MsDiagnosticsPublic);
        }
        let trust = exchange.entry.as_ref().map(|entry| {
            let verified = is_verified(entry, response);
            let value = self.trust_values.of(entry, verified, None);
            (self.trust_values.trust_name.clone(), value)
        });
        // A challenge is no failure that wants a reason.
        let failed = response.status().is_some_and(|s| s >= 400 && s != 401 && s != 407);
        let silent = failed && (reason.is_none() || second.is_some());
        let no_reason = silent.then(|| {
            let values = &self.trust_values;
            (values.diagnostics_name.clone(), values.no_reason.clone())
        });
        HeaderChange { remove, add: [trust, no_reason] }
    }

    /// From a remote user, or to one. Who it is was not proved here: our servers ask for that, and
    /// what it asserts of itself goes no further (RFC 3325 section 5).
    fn of_remote_user(&self, from: bool) -> HeaderChange {
        let mut remove = Names::none().with(&INTERNAL);
        let values = &self.trust_values;
        let trust = from.then(|| (values.trust_name.clone(), values.internet_user.clone()));
        if from {
            remove.push(HeaderName::PAssertedIdentity);
            remove.push(HeaderName::RemotePartyId);
        }
        HeaderChange { remove, add: [trust, None] }
    }

    fn to_the_outside(&self) -> HeaderChange {
        let values = &self.trust_values;
        let verified = usize::from(!self.policy.marks_unverifiable());
        let asserted = values.asserted.get(verified).cloned();
        HeaderChange {
            remove: Names::none().with(&INTERNAL),
            add: [
                asserted.map(|value| (values.asserted_name.clone(), value)),
                self.policy.archiving().cloned(),
            ],
        }
    }
}
