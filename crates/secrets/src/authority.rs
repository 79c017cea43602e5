//! The sandbox's own certificate authority, and the certificates that it makes for servers.
//!
//! Keys are ECDSA P-256 and live in memory only. *Source:* RFC 5280, sections 4.1.2.5 and 4.2.1.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use time::OffsetDateTime;

use crate::error::{Error, ErrorKind, Result};

/// How long the authority is valid. It is made anew at each start of a sandbox.
const AUTHORITY_VALID: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long a server's certificate is valid, and how long it is used: half of that.
const LEAF_VALID: Duration = Duration::from_secs(7 * 24 * 3600);

/// Clocks of guests may be behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// Certificates that are kept. All are made anew when there are more.
const MAX_LEAVES: usize = 512;

/// A certificate authority with the certificates that it has made.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// The key of every server's certificate: only this proxy has it.
    leaf_key: KeyPair,
    leaves: Mutex<HashMap<String, (SystemTime, Arc<CertifiedKey>)>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority with a new key.
    ///
    /// # Errors
    /// [`ErrorKind::Certificate`], [`ErrorKind::Io`] without random numbers.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate().map_err(certificate_error)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Cofferdam sandbox authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity(AUTHORITY_VALID);
        params.serial_number = Some(serial()?);
        let certificate = params.self_signed(&key).map_err(certificate_error)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            leaf_key: KeyPair::generate().map_err(certificate_error)?,
            leaves: Mutex::default(),
        })
    }

    /// The authority's certificate in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        let text = STANDARD.encode(&self.certificate);
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem
    }

    /// A certificate for the server `host`, with its key.
    ///
    /// # Errors
    /// [`ErrorKind::Certificate`] for what is no name of a server.
    pub(crate) fn leaf(&self, host: &str) -> Result<Arc<CertifiedKey>> {
        let now = SystemTime::now();
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((until, leaf)) = leaves.get(host)
            && *until > now
        {
            return Ok(Arc::clone(leaf));
        }
        let leaf = Arc::new(self.make_leaf(host)?);
        if leaves.len() >= MAX_LEAVES {
            leaves.clear();
        }
        leaves.insert(host.to_owned(), (now + LEAF_VALID / 2, Arc::clone(&leaf)));
        Ok(leaf)
    }

    fn make_leaf(&self, host: &str) -> Result<CertifiedKey> {
        let mut params =
            CertificateParams::new(vec![host.to_owned()]).map_err(certificate_error)?;
        params.distinguished_name = name("Cofferdam sandbox proxy");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(LEAF_VALID);
        params.serial_number = Some(serial()?);
        let leaf = params
            .signed_by(&self.leaf_key, &self.issuer)
            .map_err(certificate_error)?;
        let key = PrivateKeyDer::try_from(self.leaf_key.serialize_der());
        let key = key.map_err(|error| Error::new(ErrorKind::Certificate, error))?;
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&key).map_err(certificate_error)?;
        Ok(CertifiedKey::new(vec![leaf.der().clone()], key))
    }
}

fn name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn validity(time: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = SystemTime::now();
    ((now - BACKDATED).into(), (now + time - BACKDATED).into())
}

/// Random, because all certificates of servers have one key: clients refuse two with one number.
fn serial() -> Result<SerialNumber> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(ErrorKind::Io, "Could not get random numbers").because(error)
    })?;
    // A positive number without leading zeros. *Source:* RFC 5280, section 4.1.2.2.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn certificate_error(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Certificate, "Could not make a certificate").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_kept_and_the_number_of_them_is_bounded() {
        let authority = Authority::new().unwrap();
        let first = authority.leaf("a.org").unwrap();
        assert!(Arc::ptr_eq(&first, &authority.leaf("a.org").unwrap()));
        for number in 0..MAX_LEAVES {
            authority.leaf(&format!("n{number}.org")).unwrap();
        }
        let kept = authority.leaves.lock().unwrap().len();
        assert!(kept <= MAX_LEAVES, "{kept}");
    }

    #[test]
    fn the_certificate_is_pem_and_no_two_authorities_are_the_same() {
        let (one, other) = (Authority::new().unwrap(), Authority::new().unwrap());
        let pem = one.certificate_pem();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n"));
        assert!(pem.lines().all(|line| line.len() <= 64));
        assert_ne!(pem, other.certificate_pem());
        assert!(!format!("{one:?}").contains("key"));
    }
}
