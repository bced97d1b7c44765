//! Certificates made on the spot: one authority that every partner trusts, one nobody knows, and
//! certificates that are wrong in exactly one way each.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

use super::layout::Site;

/// A certificate with its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// The authority that all honest partners chain to.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    /// Makes an authority whose certificate is `DIR/NAME.pem`.
    pub fn create(dir: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, format!("Lab {name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Self { issuer, dir: dir.to_owned() };
        std::fs::write(dir.join(format!("{name}.pem")), authority.issuer.as_ref().pem())?;
        Ok(authority)
    }

    /// Issues a certificate for `dns` names and `sip:` URIs, as `DIR/FILE.pem` and `.key`.
    pub fn issue(&self, file: &str, dns: &[&str], uris: &[&str]) -> Result<Identity> {
        self.issue_until(file, dns, uris, 2090)
    }

    /// Issues a certificate that names XMPP domains by SRV names only (RFC 4985), as hosts that
    /// serve others' domains have.
    pub fn issue_xmpp(&self, file: &str, domains: &[&str]) -> Result<Identity> {
        let mut params = leaf(&[], &[], 2090)?;
        let first = domains.first().copied().unwrap_or("lab");
        params.distinguished_name.push(DnType::CommonName, first);
        params.custom_extensions.push(srv_names(domains));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&self.dir, file, &certificate.pem(), &key)
    }

    /// The same for `dns` names alone, with a serial number by which it can be revoked.
    pub fn issue_numbered(&self, file: &str, dns: &[&str], serial: u64) -> Result<Identity> {
        let mut params = leaf(dns, &[], 2090)?;
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&self.dir, file, &certificate.pem(), &key)
    }

    /// Writes the list of what is revoked, as `DIR/FILE.crl`, in one step.
    pub fn revoke(&self, file: &str, serials: &[u64]) -> Result<PathBuf> {
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let (path, new) = (self.dir.join(format!("{file}.crl")), self.dir.join("new.crl"));
        std::fs::write(&new, list.signed_by(&self.issuer)?.der().as_ref())?;
        std::fs::rename(&new, &path)?;
        Ok(path)
    }

    /// The same, with the year it ends in.
    pub fn issue_until(
        &self,
        file: &str,
        dns: &[&str],
        uris: &[&str],
        last_year: i32,
    ) -> Result<Identity> {
        let params = leaf(dns, uris, last_year)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&self.dir, file, &certificate.pem(), &key)
    }
}

/// Every identity of the lab.
pub struct Identities {
    /// Where they lie.
    pub dir: PathBuf,
    /// The roots that partners trust.
    pub trust: PathBuf,
    /// Issues more.
    pub authority: Authority,
    /// `contoso.example`, `sip.contoso.example` and `sip:contoso.example`.
    pub contoso: Identity,
    /// `sip.fabrikam.example` only: the host, not the domain.
    pub fabrikam: Identity,
    /// `sip.northwind.example` only.
    pub northwind: Identity,
    /// `sip.adatum.example` and `adatum.example`.
    pub adatum: Identity,
    /// `sip.fabrikam.example.evil.example`, from the same authority.
    pub evil: Identity,
    /// `other.fabrikam.example`: in the domain, but no SRV target.
    pub other_host: Identity,
    /// `xfabrikam.example`.
    pub look_alike: Identity,
    /// Fabrikam's names, out of date.
    pub expired: Identity,
    /// Fabrikam's names, signed by itself.
    pub self_signed: Identity,
    /// Fabrikam's names, from an authority that nobody trusts.
    pub unknown_authority: Identity,
}

impl Identities {
    /// Makes them all.
    pub fn create(dir: &Path) -> Result<Self> {
        let authority = Authority::create(dir, "trust").context("cannot make certificates")?;
        let stranger = Authority::create(dir, "stranger-trust")?;
        let fabrikam_host = Site::Fabrikam.host();
        let only = |file: &str, host: &str| authority.issue(file, &[host], &[]);
        Ok(Self {
            contoso: authority.issue(
                "contoso",
                &["sip.contoso.example", "contoso.example"],
                &["sip:contoso.example"],
            )?,
            fabrikam: only("fabrikam", &fabrikam_host)?,
            northwind: only("northwind", &Site::Northwind.host())?,
            adatum: authority.issue("adatum", &["sip.adatum.example", "adatum.example"], &[])?,
            evil: only("evil", &Site::Evil.host())?,
            other_host: only("other-host", "other.fabrikam.example")?,
            look_alike: only("look-alike", "xfabrikam.example")?,
            expired: authority.issue_until("expired", &[&fabrikam_host], &[], 2020)?,
            unknown_authority: stranger.issue("unknown-authority", &[&fabrikam_host], &[])?,
            self_signed: self_signed(dir, &fabrikam_host)?,
            trust: dir.join("trust.pem"),
            dir: dir.to_owned(),
            authority,
        })
    }
}

/// A subject alternative name extension of SRV names: the certificate maker knows no IA5String
/// there. Names are short, so every length is one byte.
fn srv_names(domains: &[&str]) -> CustomExtension {
    const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
    const ON_DNS_SRV: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x07];
    let element = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
    let names = domains.iter().flat_map(|domain| {
        let text = element(0x16, format!("_xmpp-server.{domain}").as_bytes());
        element(0xa0, &[ON_DNS_SRV, &element(0xa0, &text)].concat())
    });
    let names: Vec<u8> = names.collect();
    CustomExtension::from_oid_content(SUBJECT_ALT_NAME, element(0x30, &names))
}

fn self_signed(dir: &Path, host: &str) -> Result<Identity> {
    let key = KeyPair::generate()?;
    let certificate = leaf(&[host], &[], 2090)?.self_signed(&key)?;
    write(dir, "self-signed", &certificate.pem(), &key)
}

fn leaf(dns: &[&str], uris: &[&str], last_year: i32) -> Result<CertificateParams> {
    let names: Vec<String> = dns.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    for &uri in uris {
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
    }
    params.distinguished_name.push(DnType::CommonName, dns.first().copied().unwrap_or("lab"));
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn write(dir: &Path, file: &str, certificate: &str, key: &KeyPair) -> Result<Identity> {
    use std::os::unix::fs::PermissionsExt as _;
    let identity = Identity {
        certificate: dir.join(format!("{file}.pem")),
        key: dir.join(format!("{file}.key")),
    };
    std::fs::write(&identity.certificate, certificate)?;
    std::fs::write(&identity.key, key.serialize_pem())?;
    std::fs::set_permissions(&identity.key, std::fs::Permissions::from_mode(0o600))?;
    Ok(identity)
}
