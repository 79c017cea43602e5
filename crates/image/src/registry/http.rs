//! HTTP with this host's trust and time limits: who is asked how, and what failing means.
//!
//! Called for every request of a pull. Follows no redirect and adds no credential by itself.

use std::{path::Path, sync::Arc};

use cofferdam_base::{env_vars, fs::read_bounded};
use reqwest::{Method, Response, Url, header::HeaderMap, redirect::Policy};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{CONNECT_TIMEOUT, PullOptions, hosts::check_scheme};
use crate::{
    error::{Error, ErrorKind, Result, host_error},
    manifest::DOCUMENT_BYTES_MAX,
};

/// The connections of one pull.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    /// Made on first need: reading the host's certificates takes some milliseconds.
    external: Arc<tokio::sync::OnceCell<reqwest::Client>>,
    /// For plain HTTP on this host; never through a proxy.
    loopback: reqwest::Client,
    options: PullOptions,
}

impl Http {
    pub(crate) fn new(options: &PullOptions) -> Result<Self> {
        let tls = tls_config(RootCertStore::empty())?;
        let loopback = builder(options, tls)
            .no_proxy()
            .build()
            .map_err(build_error)?;
        Ok(Self {
            external: Arc::default(),
            loopback,
            options: options.clone(),
        })
    }

    pub(crate) const fn options(&self) -> &PullOptions {
        &self.options
    }

    /// Sends one request as it is, without following anything.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<String>,
    ) -> Result<Response> {
        check_scheme(url)?;
        let client = if url.scheme() == "http" {
            &self.loopback
        } else {
            let options = &self.options;
            self.external
                .get_or_try_init(|| async { external(options) })
                .await?
        };
        let mut request = client.request(method, url.clone()).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        request
            .send()
            .await
            .map_err(|error| transport_error(url, error))
    }
}

fn external(options: &PullOptions) -> Result<reqwest::Client> {
    let mut roots = RootCertStore::empty();
    // One bad certificate of the host's must not shut out all registries.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let from_env = env_vars::var_os(env_vars::CA_FILE).map(Into::into);
    if let Some(path) = options.ca_file.clone().or(from_env) {
        add_authorities(&mut roots, &path)?;
    }
    if roots.is_empty() {
        return Err(Error::new(
            ErrorKind::Registry,
            "This host has no certificate authorities to trust",
        )
        .hint("Install the package `ca-certificates`, or name a file with `COFFER_CA_FILE`"));
    }
    builder(options, tls_config(roots)?)
        .build()
        .map_err(build_error)
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<()> {
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
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| bad(error.into()))?;
        roots.add(certificate).map_err(|error| bad(error.into()))?;
    }
    if roots.len() == before {
        return Err(bad("there is no certificate in it".into()));
    }
    Ok(())
}

fn tls_config(roots: RootCertStore) -> Result<ClientConfig> {
    Ok(
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                Error::new(ErrorKind::Registry, "TLS could not be set up").because(error)
            })?
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

fn builder(options: &PullOptions, tls: ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT.min(options.stall_timeout))
        .read_timeout(options.stall_timeout)
        .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
}

fn build_error(error: reqwest::Error) -> Error {
    Error::new(ErrorKind::Registry, "The HTTP client could not be set up").because(error)
}

/// A failure to talk to `url`. The URL itself stays out of it: object stores put tokens there.
pub(crate) fn transport_error(url: &Url, error: reqwest::Error) -> Error {
    let host = url.host_str().unwrap_or_default();
    if error.is_timeout() {
        return Error::new(
            ErrorKind::Timeout,
            format!("`{host}` did not answer in time"),
        )
        .because(error.without_url())
        .hint("Check the network, and try again");
    }
    let what = if error.is_connect() {
        "could not be reached"
    } else {
        "broke off its answer"
    };
    Error::new(ErrorKind::Registry, format!("`{host}` {what}"))
        .because(error.without_url())
        .hint("Check the registry's name, the network and `COFFER_CA_FILE`")
}

/// A whole body of at most `limit` bytes.
pub(crate) async fn bounded_body(
    mut response: Response,
    limit: u64,
    what: &str,
) -> Result<Vec<u8>> {
    let too_large = || {
        Error::new(
            ErrorKind::TooLarge,
            format!("The registry's {what} is larger than {limit} bytes"),
        )
    };
    let url = response.url().clone();
    if response
        .content_length()
        .is_some_and(|length| length > limit)
    {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| transport_error(&url, error))?
    {
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
