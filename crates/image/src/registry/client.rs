//! One repository at one endpoint: requests with authentication and redirects, and what their
//! answers mean.

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
        WWW_AUTHENTICATE,
    },
};

use super::{
    auth::Authenticator,
    hosts::{Endpoint, check_scheme, is_loopback_url},
    http::{Http, bounded_body},
};
use crate::{
    error::{Error, ErrorKind, Result},
    manifest::{DOCUMENT_BYTES_MAX, shown},
};

/// Redirects of one request, and further questions to the same server; registries redirect once,
/// to their object store.
const REDIRECTS_MAX: usize = 6;
/// Characters of a registry's own message that are passed on.
const MESSAGE_CHARS_MAX: usize = 200;

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
    /// A transfer stood still for the whole time that it may.
    AfterStall,
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

    /// What was passed over since the last call, in sentences for people.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        self.auth.take_warnings()
    }

    /// `HOST/REPOSITORY`, for people.
    pub(crate) fn shown(&self) -> String {
        format!("{}/{}", self.endpoint.credential_host, self.name)
    }

    /// Gets `url`, authenticated on demand, over redirects. Answers with a success or an error.
    /// A server that does not go on at `from_byte` is asked for everything.
    pub(crate) async fn get(
        &self,
        url: &Url,
        accept: Option<&'static str>,
        from_byte: u64,
    ) -> std::result::Result<Response, Refusal> {
        let mut url = url.clone();
        let mut from_byte = from_byte;
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
            } else if from_byte > 0 && refuses_ranges(&response, from_byte) {
                from_byte = 0;
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
        let name = self.shown();
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

/// Whether a server does not give a part from `at` on: it says so, takes the question for a
/// broken one, or gives another part.
fn refuses_ranges(response: &Response, at: u64) -> bool {
    match response.status() {
        StatusCode::RANGE_NOT_SATISFIABLE
        | StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::PRECONDITION_FAILED
        | StatusCode::NOT_IMPLEMENTED => true,
        StatusCode::PARTIAL_CONTENT => begins_at(response) != Some(at),
        _ => false,
    }
}

/// The first byte of a part. *Source:* RFC 9110 §14.4.
pub(crate) fn begins_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
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
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Answer {
        errors: Vec<Entry>,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Entry {
        code: Option<String>,
        message: Option<String>,
    }
    let Ok(body) = bounded_body(response, DOCUMENT_BYTES_MAX, "error message").await else {
        return String::new();
    };
    let text = crate::go_json::from_slice::<Answer>(&body)
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
