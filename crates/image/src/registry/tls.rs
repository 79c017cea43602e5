//! The certificates that registries are believed by.
//!
//! Those are what a certificate authority of the host's has signed, or one of the file that
//! `COFFER_CA_FILE` names. A certificate that stands in that file itself is believed too, even
//! if it is marked as an authority: that is how `openssl req -x509` makes one for a registry.

use std::{path::Path, sync::Arc};

use cofferdam_base::{env_vars, fs::read_bounded};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};

use super::PullOptions;
use crate::{
    error::{Error, ErrorKind, Result, host_error},
    manifest::DOCUMENT_BYTES_MAX,
};

/// TLS with this host's trust and that of `options`.
pub(super) fn trusting(options: &PullOptions) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // One bad certificate of the host's must not shut out all registries.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let from_env = env_vars::var_os(env_vars::CA_FILE).map(Into::into);
    let own = match options.ca_file.clone().or(from_env) {
        Some(path) => add_authorities(&mut roots, &path)?,
        None => Vec::new(),
    };
    if roots.is_empty() {
        return Err(Error::new(
            ErrorKind::Registry,
            "This host has no certificate authorities to trust",
        )
        .hint("Install the package `ca-certificates`, or name a file with `COFFER_CA_FILE`"));
    }
    let provider = Arc::new(ring::default_provider());
    let chains =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(set_up_error)?;
    Ok(builder(provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { chains, own }))
        .with_no_client_auth())
}

/// TLS that believes nobody, for a client that speaks plain HTTP only.
pub(super) fn trusting_nobody() -> Result<ClientConfig> {
    Ok(builder(Arc::new(ring::default_provider()))?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(set_up_error)
}

fn set_up_error(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Registry, "TLS could not be set up").because(error)
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let failed = || {
        format!(
            "Could not use the certificate authorities in `{}`",
            path.display()
        )
    };
    let pem =
        read_bounded(path, DOCUMENT_BYTES_MAX).map_err(|error| host_error(failed(), error))?;
    let bad = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Corrupt, failed())
            .because(cause)
            .hint("The file must hold PEM certificates")
    };
    let mut own = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| bad(error.into()))?;
        roots
            .add(certificate.clone())
            .map_err(|error| bad(error.into()))?;
        own.push(certificate);
    }
    if own.is_empty() {
        return Err(bad("there is no certificate in it".into()));
    }
    Ok(own)
}

/// See the module.
#[derive(Debug)]
struct Verifier {
    chains: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

/// Whether only the mark of an authority speaks against a certificate. The check for it comes
/// after that of the validity, so that one that has expired is another error.
/// *Source:* rustls-webpki, `verify_cert.rs`, `check_issuer_independent_properties`.
fn is_marked_as_authority(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.to_string() == "CaUsedAsEndEntity"
        }
        _ => false,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let verified = self.chains.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            Err(error) if is_marked_as_authority(&error) && self.own.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.chains
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.chains
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Whether a server was refused for its certificate, and so does speak TLS.
pub(super) fn is_certificate_error(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return matches!(found, rustls::Error::InvalidCertificate(_));
        }
        // The source of an I/O error is that of the error within it.
        let within = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match within {
            Some(within) => Some(within),
            None => error.source(),
        };
    }
    false
}
