//! One repository at one endpoint: requests with authentication, redirects and time limits.

use std::{path::Path, sync::Arc};

use cofferdam_base::{env_vars, fs::read_bounded};
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{
        ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
        WWW_AUTHENTICATE,
    },
    redirect::Policy,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{
    CONNECT_TIMEOUT, PullOptions,
    auth::Authenticator,
    hosts::{Endpoint, check_scheme, is_loopback_url},
};
use crate::{
    error::{Error, ErrorKind, Result, host_error},
    manifest::{DOCUMENT_BYTES_MAX, shown},
};

/// Redirects of one request; registries use one, to their object store.
const REDIRECTS_MAX: usize = 5;
/// Characters of a registry's own message that are passed on.
const MESSAGE_CHARS_MAX: usize = 200;

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

/// A request that may be tried again, and when.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: Error,
    pub(crate) retry: Retry,
}

/// Whether a failed request may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    Never,
    Soon,
    AfterSeconds(u64),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let retry = if error.kind() == ErrorKind::Registry {
            Retry::Soon
        } else {
            Retry::Never
        };
        Self { error, retry }
    }
}

/// One repository at one endpoint.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) http: Http,
    pub(crate) endpoint: Endpoint,
    name: String,
    auth: Authenticator,
}

impl Repository {
    pub(crate) fn new(http: Http, endpoint: Endpoint, name: &str) -> Self {
        let auth = Authenticator::new(http.clone(), endpoint.clone(), name);
        Self {
            http,
            endpoint,
            name: name.to_owned(),
            auth,
        }
    }

    /// The address of `manifests/…` or `blobs/…` of this repository.
    pub(crate) fn url(&self, rest: &str) -> Result<Url> {
        self.endpoint
            .base
            .join(&format!("v2/{}/{rest}", self.name))
            .map_err(|error| {
                Error::new(
                    ErrorKind::InvalidReference,
                    "The repository has no valid address",
                )
                .because(error)
            })
    }

    /// Gets `url`, authenticated on demand, over redirects. Answers with a success or an error.
    pub(crate) async fn get(
        &self,
        url: &Url,
        accept: Option<&'static str>,
        from_byte: u64,
    ) -> std::result::Result<Response, Refusal> {
        let mut url = url.clone();
        let mut asked_again = false;
        for _ in 0..=REDIRECTS_MAX {
            // Credentials are for the registry itself, never for where it redirects to.
            let at_home = url.origin() == self.endpoint.base.origin();
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            if from_byte > 0 {
                let range = HeaderValue::try_from(format!("bytes={from_byte}-"));
                headers.extend(range.ok().map(|range| (RANGE, range)));
            }
            let authorization = if at_home {
                self.auth.current().await
            } else {
                None
            };
            if let Some(authorization) = &authorization {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            let response = self.http.send(Method::GET, &url, headers, None).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && at_home && !asked_again {
                asked_again = true;
                let challenges: Vec<HeaderValue> = response
                    .headers()
                    .get_all(WWW_AUTHENTICATE)
                    .iter()
                    .cloned()
                    .collect();
                self.auth
                    .answer(&challenges, authorization.as_ref())
                    .await?;
            } else if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                url = redirected(&url, &response)?;
            } else if status.is_success() {
                return Ok(response);
            } else {
                return Err(self.refusal(response).await);
            }
        }
        Err(never(Error::new(
            ErrorKind::Registry,
            format!("The registry redirects more than {REDIRECTS_MAX} times"),
        )))
    }

    /// What a status other than success means.
    async fn refusal(&self, response: Response) -> Refusal {
        let status = response.status();
        let host = response.url().host_str().unwrap_or_default().to_owned();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let message = message(response).await;
        let code = status.as_u16();
        let name = format!("{}/{}", self.endpoint.credential_host, self.name);
        let (kind, what, hint, retry) = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
                ErrorKind::Unauthorized,
                format!("`{host}` does not let you read `{name}`{message}"),
                "Check the name; if it is right, log in with `docker login` or `skopeo login`",
                Retry::Never,
            ),
            StatusCode::NOT_FOUND => (
                ErrorKind::NotFound,
                format!("`{host}` has no such image in `{name}`{message}"),
                "Check the name and the tag",
                Retry::Never,
            ),
            StatusCode::TOO_MANY_REQUESTS => (
                ErrorKind::Registry,
                format!("`{host}` refuses more requests for now{message}"),
                "Wait a while, or log in: many registries allow known users more",
                retry_after.map_or(Retry::Soon, Retry::AfterSeconds),
            ),
            _ if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => (
                ErrorKind::Registry,
                format!("`{host}` failed with status {code}{message}"),
                "Try again later",
                retry_after.map_or(Retry::Soon, Retry::AfterSeconds),
            ),
            _ => (
                ErrorKind::Registry,
                format!("`{host}` answered with status {code}{message}"),
                "Check that it is a registry",
                Retry::Never,
            ),
        };
        Refusal {
            error: Error::new(kind, what).hint(hint),
            retry,
        }
    }
}

pub(crate) fn never(error: Error) -> Refusal {
    Refusal {
        error,
        retry: Retry::Never,
    }
}

fn redirected(from: &Url, response: &Response) -> std::result::Result<Url, Refusal> {
    let bad = |what: &str| never(Error::new(ErrorKind::Registry, what.to_owned()));
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| bad("The registry redirects to nowhere"))?;
    let to = from
        .join(location)
        .map_err(|_| bad("The registry redirects to what is no address"))?;
    check_scheme(&to).map_err(never)?;
    // A registry elsewhere must not make this host ask its own services.
    if is_loopback_url(&to) && !is_loopback_url(from) {
        return Err(bad("The registry redirects to this host"));
    }
    Ok(to)
}

/// The registry's own words, `: …`, or nothing. distribution-spec §"Error Codes".
async fn message(response: Response) -> String {
    #[derive(serde::Deserialize)]
    struct Answer {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        code: Option<String>,
        message: Option<String>,
    }
    let Ok(body) = bounded_body(response, DOCUMENT_BYTES_MAX, "error message").await else {
        return String::new();
    };
    let text = serde_json::from_slice::<Answer>(&body)
        .ok()
        .and_then(|answer| answer.errors.into_iter().next())
        .and_then(|entry| entry.message.filter(|text| !text.is_empty()).or(entry.code));
    text.map_or_else(String::new, |text| {
        format!(
            ": {}",
            shown(&text.chars().take(MESSAGE_CHARS_MAX).collect::<String>())
        )
    })
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
