//! HTTP with this host's trust and time limits: who is asked how, and what failing means.
//!
//! Called for every request of a pull. Follows no redirect and adds no credential by itself.

use std::sync::Arc;

use reqwest::{
    Client, Method, Response, Url,
    header::{ACCEPT_ENCODING, HeaderMap, HeaderValue},
    redirect::Policy,
};
use rustls::ClientConfig;
use tokio::sync::OnceCell;

use super::{
    CONNECT_TIMEOUT, PullOptions, encoding,
    hosts::{Endpoint, check_scheme, is_loopback_url},
    tls,
};
use crate::error::{Error, ErrorKind, Result};

/// Longest asking of this host whether a port speaks TLS. On loopback the answer takes
/// milliseconds.
const PROBE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// The connections of one pull. Those with TLS are made on first need: reading the host's
/// certificates takes some milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    external: Arc<OnceCell<Client>>,
    /// For this host; never through a proxy.
    loopback: Client,
    loopback_tls: Arc<OnceCell<Client>>,
    options: PullOptions,
}

impl Http {
    pub(crate) fn new(options: &PullOptions) -> Result<Self> {
        let loopback = builder(options, tls::trusting_nobody()?)
            .no_proxy()
            .build()
            .map_err(build_error)?;
        Ok(Self {
            external: Arc::default(),
            loopback,
            loopback_tls: Arc::default(),
            options: options.clone(),
        })
    }

    pub(crate) const fn options(&self) -> &PullOptions {
        &self.options
    }

    /// Finds out which scheme an endpoint on this host has, where that is not said: TLS if it
    /// speaks that, as Docker does.
    pub(crate) async fn settle(&self, mut endpoint: Endpoint) -> Result<Endpoint> {
        if !endpoint.may_have_tls {
            return Ok(endpoint);
        }
        endpoint.may_have_tls = false;
        let mut secure = endpoint.base.clone();
        // Both are special schemes, so this cannot fail.
        let _ = secure.set_scheme("https");
        let client = self.client(&secure).await?;
        let probe = client.get(secure.join("v2/").unwrap_or_else(|_| secure.clone()));
        let speaks_tls = match probe.timeout(PROBE_TIMEOUT).send().await {
            Ok(_) => true,
            Err(error) => tls::is_certificate_error(&error),
        };
        if speaks_tls {
            endpoint.base = secure;
        }
        Ok(endpoint)
    }

    async fn client(&self, url: &Url) -> Result<&Client> {
        let options = &self.options;
        match (url.scheme(), is_loopback_url(url)) {
            ("http", _) => Ok(&self.loopback),
            (_, true) => {
                let make = || async { secure(options, |builder| builder.no_proxy()) };
                self.loopback_tls.get_or_try_init(make).await
            }
            (_, false) => {
                let make = || async { secure(options, |builder| builder) };
                self.external.get_or_try_init(make).await
            }
        }
    }

    /// Sends one request as it is, without following anything.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        body: Option<String>,
    ) -> Result<Response> {
        check_scheme(url)?;
        let client = self.client(url).await?;
        // What is asked for is bytes with a digest, not what they may be packed in.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
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

fn secure(
    options: &PullOptions,
    change: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<Client> {
    change(builder(options, tls::trusting(options)?))
        .build()
        .map_err(build_error)
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
    if tls::is_certificate_error(&error) {
        let what = format!("`{host}` has a certificate that this host does not trust");
        return Error::new(ErrorKind::Untrusted, what)
            .because(error.without_url())
            .hint(
                "Put its authority, or the certificate itself, into a file for `COFFER_CA_FILE`",
            );
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

/// A whole body of at most `limit` bytes, decoded.
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
    let encoding = encoding::of(response.headers());
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
    // A document is JSON and never begins as a compressed stream does.
    match encoding {
        Some(encoding) if encoding.is_begun_by(&body) => {
            encoding.decode_document(&body, limit).map_err(|cause| {
                let what = format!("The registry's {what} cannot be decoded");
                Error::new(ErrorKind::Registry, what).because(cause)
            })
        }
        _ => Ok(body),
    }
}
