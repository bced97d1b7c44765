//! TLS of XMPP streams. The handshake goes through whatever the other end's certificate is worth;
//! what it is worth is found out right after, by the same rules as a SIP partner's, and handed on:
//! a partner may be proved by dialback instead.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, CommonState, DistinguishedName, Error, ServerConfig,
    client::danger::{ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    SideTls, TlsError, TlsStore,
    build::{self, Asked},
    files::{Expiring, Identity, trust_anchors},
    rules::PeerRules,
    verify::{PeerVerifier, signatures},
};
use crate::{
    config::{Config, OwnIdentity, TlsFiles},
    domain::Domain,
    xmpp::{
        io::{Chain, PeerCertificate, StreamId, TlsPeer, XmppNames, XmppSide},
        streams::Certificate,
    },
};

/// The protocol's name for TLS from the first byte (XEP-0368).
const ALPN: &[u8] = b"xmpp-server";

/// The files of XMPP.
#[derive(Clone, Debug)]
pub(super) struct XmppFiles {
    /// Ours, and the roots of partners.
    pub tls: TlsFiles,
    /// The roots of our own servers.
    pub inside: PathBuf,
}

impl XmppFiles {
    pub(super) fn of(config: &Config) -> Option<Self> {
        let service = config.services.xmpp.as_ref()?;
        let inside = config.inside.tls.as_ref().map_or(&service.tls.trust, |files| &files.trust);
        Some(Self { tls: service.tls.clone(), inside: inside.clone() })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.tls.certificate, &self.tls.key, &self.tls.trust, &self.inside].into_iter()
    }
}

/// One certificate of ours, in both roles, with and without ALPN.
#[derive(Clone)]
struct Own {
    names: Vec<Domain>,
    /// What others read in it.
    shown: Arc<XmppNames>,
    starttls: SideTls,
    direct: SideTls,
}

/// TLS of the XMPP service.
pub(super) struct XmppTls {
    /// The service's certificate, then those that `[[service.access.identity]]` names.
    own: Vec<Own>,
    partners: Arc<PeerVerifier>,
    inside: Arc<PeerVerifier>,
    /// Its own certificate, to be told of: what it is, its end, its file.
    pub(super) told: (String, (i64, i64), PathBuf),
    pub(super) roots: Vec<Expiring>,
}

impl XmppTls {
    pub(super) fn read(
        files: &XmppFiles,
        others: &[OwnIdentity],
        rules: &Arc<PeerRules>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let algorithms = provider.signature_verification_algorithms;
        let (anchors, mut roots) = trust_anchors(&files.tls.trust)?;
        let partners = PeerVerifier::new(anchors, algorithms, Some(Arc::clone(rules)));
        let (anchors, found) = trust_anchors(&files.inside)?;
        roots.extend(found);
        let inside = PeerVerifier::new(anchors, algorithms, None);
        let whatever = Arc::new(Whatever { algorithms });
        let make = |names: &[Domain], certificate: &PathBuf, key: &PathBuf| {
            let identity = Identity::read(certificate, key)?;
            let leaf = identity.chain.first().and_then(|leaf| XmppNames::from_der(leaf).ok());
            let shown = Arc::new(leaf.unwrap_or_default());
            let told = (identity.description.clone(), identity.validity, certificate.clone());
            let asked = Asked { client: Arc::clone(&whatever) as _, server: whatever.clone() };
            let starttls = build::both(identity, (certificate, key), asked, provider)?;
            let direct = with_alpn(&starttls);
            Ok::<_, TlsError>((Own { names: names.to_vec(), shown, starttls, direct }, told))
        };
        let (first, told) = make(&[], &files.tls.certificate, &files.tls.key)?;
        let mut own = vec![first];
        for other in others {
            own.push(make(&other.names, &other.certificate, &other.key)?.0);
        }
        Ok(Self { own, partners, inside, told, roots })
    }

    /// The certificate for a domain of ours: the one with its name, else the service's.
    fn own_for(&self, domain: Option<&Domain>) -> Option<&Own> {
        let named = domain.and_then(|domain| self.own.iter().find(|o| o.names.contains(domain)));
        named.or(self.own.first())
    }
}

fn with_alpn(side: &SideTls) -> SideTls {
    let mut server = ServerConfig::clone(&side.server);
    server.alpn_protocols = vec![ALPN.to_vec()];
    let mut client = ClientConfig::clone(&side.client);
    client.alpn_protocols = vec![ALPN.to_vec()];
    SideTls { server: Arc::new(server), client: Arc::new(client) }
}

impl TlsStore {
    /// For a stream that comes in, and is for this domain of ours. `direct`: TLS from the first
    /// byte. `None`: XMPP is not served.
    pub fn xmpp_server(&self, local: Option<&Domain>, direct: bool) -> Option<Arc<ServerConfig>> {
        let current = self.current();
        let own = current.xmpp.as_ref()?.own_for(local)?;
        let side = if direct { &own.direct } else { &own.starttls };
        Some(Arc::clone(&side.server))
    }

    /// For a stream of ours, for this domain of ours.
    pub fn xmpp_client(&self, local: &Domain, direct: bool) -> Option<Arc<ClientConfig>> {
        let current = self.current();
        let own = current.xmpp.as_ref()?.own_for(Some(local))?;
        let side = if direct { &own.direct } else { &own.starttls };
        Some(Arc::clone(&side.client))
    }

    /// What our certificate for a domain of ours is worth to others, as far as that can be known
    /// here: whether it names the domain, and is in date.
    pub fn xmpp_own(&self, local: &Domain, now: UnixTime) -> Certificate {
        let current = self.current();
        let Some(own) = current.xmpp.as_ref().and_then(|xmpp| xmpp.own_for(Some(local))) else {
            return Certificate::Missing;
        };
        let ended = own.shown.ends_at().is_some_and(|end| end <= now.as_secs());
        match own.shown.proves(local, true) && !ended {
            true => Certificate::Valid,
            false => Certificate::Invalid,
        }
    }

    /// What a handshake found out about the other end.
    pub fn xmpp_peer(&self, side: XmppSide, tls: &CommonState) -> TlsPeer {
        let version = match tls.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "unknown",
        };
        let cipher = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let sent = tls.peer_certificates();
        let certificate = self.xmpp_certificate(side, sent, UnixTime::now());
        let chain = match (&certificate, sent) {
            (PeerCertificate::Valid(_), Some(sent)) => Chain::from(sent),
            _ => Chain::default(),
        };
        TlsPeer { version, cipher: cipher.unwrap_or("unknown"), certificate, chain }
    }

    /// What a chain is worth now.
    pub(super) fn xmpp_certificate(
        &self,
        side: XmppSide,
        chain: Option<&[CertificateDer<'static>]>,
        now: UnixTime,
    ) -> PeerCertificate {
        let Some((leaf, intermediates)) = chain.and_then(<[_]>::split_first) else {
            return PeerCertificate::Missing;
        };
        let mut names = match XmppNames::from_der(leaf) {
            Ok(names) => names,
            Err(error) => {
                let description = "a certificate that cannot be read".to_owned();
                return PeerCertificate::Invalid { description, fault: error.to_string() };
            }
        };
        let invalid = |fault: String| PeerCertificate::Invalid {
            description: names.certificate.description.clone(),
            fault,
        };
        let current = self.current();
        let Some(xmpp) = &current.xmpp else { return invalid("XMPP is not served".to_owned()) };
        let verifier = match side {
            XmppSide::Partner => &xmpp.partners,
            XmppSide::Inside => &xmpp.inside,
        };
        match verifier.authorities_end(leaf, intermediates, now) {
            // Ours says it in words, rustls in a name.
            Err(Error::InvalidCertificate(CertificateError::Other(fault))) => {
                invalid(fault.0.to_string())
            }
            Err(Error::InvalidCertificate(fault)) => invalid(fault.to_string()),
            Err(error) => invalid(error.to_string()),
            // A pin is a SIP partner's matter.
            Ok(_) if side == XmppSide::Partner && self.rules().is_unchained(leaf) => {
                invalid("it leads to no authority in the trust store".to_owned())
            }
            Ok(ends) => {
                names.authorities_end = ends;
                PeerCertificate::Valid(Arc::new(names))
            }
        }
    }

    /// Of chains that were good those that a handshake would not take any more, and why: something
    /// in them has ended or was revoked, or their authority is trusted no longer. Each chain is
    /// judged once, whatever number of streams hangs on it.
    pub fn xmpp_no_longer_good(
        &self,
        chains: Vec<(StreamId, XmppSide, Chain)>,
        now: UnixTime,
    ) -> Vec<(StreamId, String)> {
        let mut judged: HashMap<(XmppSide, Chain), Option<String>> = HashMap::new();
        let mut judge = |(id, side, chain): (StreamId, XmppSide, Chain)| {
            let fault = judged.entry((side, chain)).or_insert_with_key(|(side, chain)| match self
                .xmpp_certificate(*side, Some(chain), now)
            {
                PeerCertificate::Valid(_) => None,
                PeerCertificate::Invalid { fault, .. } => Some(fault),
                PeerCertificate::Missing => Some("there is none".to_owned()),
            });
            fault.clone().map(|fault| (id, fault))
        };
        chains.into_iter().filter_map(&mut judge).collect()
    }
}

/// Takes any certificate, or none: who has shown it holds its key, and no more is known.
#[derive(Debug)]
pub(super) struct Whatever {
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Whatever {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    signatures!(self, self.algorithms);
}

impl ServerCertVerifier for Whatever {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures!(self, self.algorithms);
}
