//! What a certificate proves (RFC 5922 section 7; the trust rules, section 2).
//!
//! Names are compared whole: never by suffix or address, and by wildcard or common name only
//! where a partner's entry says so. This module checks no signature itself: it sees only
//! certificates whose chain was validated before, or (marked so) that a pin let in.

use super::{
    certificate::{CertificateNames, Usages},
    partner::Partner,
};
use crate::{
    config::{Pin, UsagePolicy},
    domain::Domain,
    proxy::Refusal,
};

/// How a certificate proves a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A name is the domain itself.
    Domain,
    /// A name is the host that the partner's entry pins.
    PinnedHost,
    /// A name is a host of the domain's federation SRV record.
    SrvTarget,
}

/// Whether a connection whose certificate holds these names may speak for `domain`.
///
/// `pinned` is the one host that the partner's entry names. `srv_targets` are the hosts that our
/// own lookup of the domain's federation SRV record returned; they count when they lie in the
/// domain, or when the entry relaxes that.
pub fn proves(
    names: &CertificateNames,
    domain: &Domain,
    pinned: Option<&Domain>,
    srv_targets: &[Domain],
    relax_srv_domain: bool,
) -> Option<Proof> {
    if names.is_domain(domain) {
        return Some(Proof::Domain);
    }
    if pinned.is_some_and(|host| names.holds(host)) {
        return Some(Proof::PinnedHost);
    }
    srv_targets
        .iter()
        .any(|host| (relax_srv_domain || host.is_within(domain)) && names.holds(host))
        .then_some(Proof::SrvTarget)
}

/// Whether a connection whose certificate holds these names may speak for a partner: pins first,
/// then the names (with wildcards and common name where the entry says so), then the key usage.
///
/// `dialled_by_us`: we opened the connection, so the certificate is a server's.
pub fn proves_partner(
    names: &CertificateNames,
    partner: &Partner,
    srv_targets: &[Domain],
    dialled_by_us: bool,
) -> Result<Proof, Refusal> {
    let pins = &partner.options.pins;
    let has_pinned_key = names.spki.is_some_and(|key| pins.contains(&Pin(key)));
    if (names.unchained || !pins.is_empty()) && !has_pinned_key {
        return Err(Refusal::IdentityNotProved);
    }
    let proof = names_partner(names, partner, srv_targets).ok_or(Refusal::IdentityNotProved)?;
    if !fits_usage(names.usages, partner.options.usage, dialled_by_us) {
        return Err(Refusal::WrongUsage);
    }
    Ok(proof)
}

/// Whether DNS could make one of the certificate's names a proof for this partner: otherwise it
/// need not be asked.
pub fn may_be_srv_target(names: &CertificateNames, partner: &Partner) -> bool {
    let useful = |name: &Domain| partner.accepts_target(name);
    let wildcard = partner.options.wildcard
        && names.wildcards.iter().any(|parent| parent.is_within(&partner.domain));
    let common_name = partner.options.common_name && names.common_name.as_ref().is_some_and(useful);
    partner.pinned().is_none() && (names.all().any(useful) || wildcard || common_name)
}

/// By which name, if by any. A pinned host leaves DNS no say; a peer that carries many domains is
/// known by its host alone.
fn names_partner(
    names: &CertificateNames,
    partner: &Partner,
    srv_targets: &[Domain],
) -> Option<Proof> {
    let key = partner.key();
    let holds = |host: &Domain| {
        names.holds(host)
            || (partner.options.wildcard && by_wildcard(names, partner, host))
            || (partner.options.common_name && names.common_name.as_ref() == Some(host))
    };
    let Some(pinned) = partner.pinned() else {
        let is_target = |host: &&Domain| partner.accepts_target(host);
        return match names.is_domain(key) || by_common_name(names, partner, key) {
            true => Some(Proof::Domain),
            false => srv_targets.iter().filter(is_target).any(holds).then_some(Proof::SrvTarget),
        };
    };
    if !partner.kind.is_shared() && (names.is_domain(key) || by_common_name(names, partner, key)) {
        return Some(Proof::Domain);
    }
    holds(pinned).then_some(Proof::PinnedHost)
}

fn by_common_name(names: &CertificateNames, partner: &Partner, host: &Domain) -> bool {
    partner.options.common_name && names.common_name.as_ref() == Some(host)
}

/// A wildcard stands for exactly one label, and counts below the partner's own domain only; a
/// peer that carries many domains has none but the one its host lies in.
fn by_wildcard(names: &CertificateNames, partner: &Partner, host: &Domain) -> bool {
    let Some((_, parent)) = host.as_str().split_once('.') else { return false };
    names.wildcards.iter().any(|wildcard| {
        wildcard.as_str() == parent
            && (partner.kind.is_shared() || wildcard.is_within(&partner.domain))
    })
}

/// Whether these extended key usages are what the entry demands.
fn fits_usage(usages: Usages, policy: UsagePolicy, dialled_by_us: bool) -> bool {
    let one_of = |wanted: Usages| usages.has(wanted);
    match policy {
        UsagePolicy::Any => {
            usages.is_empty()
                || one_of(Usages::SERVER)
                || one_of(Usages::CLIENT)
                || one_of(Usages::SIP_DOMAIN)
        }
        UsagePolicy::Standard if dialled_by_us => usages.is_empty() || one_of(Usages::SERVER),
        UsagePolicy::Standard => usages.is_empty() || one_of(Usages::CLIENT),
        UsagePolicy::Server => one_of(Usages::SERVER),
        UsagePolicy::Client => one_of(Usages::CLIENT),
        UsagePolicy::SipDomain => one_of(Usages::SIP_DOMAIN),
    }
}

#[cfg(test)]
mod tests;
