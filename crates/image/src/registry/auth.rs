//! The `Authorization` header of one repository, got when the registry first asks for it.
//!
//! Parallel transfers share one header; whoever finds it stale asks for a new one, once.
//! Lock order: the header's lock is held across the asking, so that others wait for the same
//! answer; that of the warnings within it, for one step.
//! *Source:* distribution "Token Authentication Specification", "OAuth 2 Token Authentication".

use std::sync::PoisonError;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{
    challenge::{self, Challenge},
    credential_files::{self, Found},
    credentials::Credentials,
    hosts::{Endpoint, check_scheme, is_loopback_url},
    http::{Http, bounded_body},
};
use crate::{
    error::{Error, ErrorKind, Result},
    go_json::Lenient,
    manifest::{DOCUMENT_BYTES_MAX, parse_json},
};

/// The name of this program to token services.
const CLIENT_ID: &str = "cofferdam";

/// Authentication state of one repository.
pub(crate) struct Authenticator {
    http: Http,
    endpoint: Endpoint,
    repository: String,
    header: Mutex<Option<HeaderValue>>,
    /// What was passed over in looking for credentials. Held for no longer than a push or a take.
    warnings: std::sync::Mutex<Vec<String>>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenAnswer {
    token: Lenient<String>,
    access_token: Lenient<String>,
}

impl Authenticator {
    pub(crate) fn new(http: Http, endpoint: Endpoint, repository: &str) -> Self {
        Self {
            http,
            endpoint,
            repository: repository.to_owned(),
            header: Mutex::new(None),
            warnings: std::sync::Mutex::default(),
        }
    }

    /// The header to send, if one is known.
    pub(crate) async fn current(&self) -> Option<HeaderValue> {
        self.header.lock().await.clone()
    }

    /// Answers the challenges of a 401 to a request that was sent with `used`.
    pub(crate) async fn answer(
        &self,
        challenges: &[HeaderValue],
        used: Option<&HeaderValue>,
    ) -> Result<()> {
        let mut header = self.header.lock().await;
        if header.is_some() && header.as_ref() != used {
            // Another transfer has got a new one meanwhile.
            return Ok(());
        }
        if challenges.is_empty() {
            return Err(self.no_credentials(&[]));
        }
        let challenge =
            challenge::choose(challenges.iter().filter_map(|value| value.to_str().ok()))?;
        let config_dir = self.http.options().docker_config.clone();
        let host = &self.endpoint.credential_host;
        let Found {
            credentials,
            warnings,
        } = credential_files::find(host, &self.repository, config_dir.as_deref()).await;
        self.warn(&warnings);
        let value = match challenge {
            Challenge::Basic => match &credentials {
                Some(Credentials::Password { user, password }) => basic(user, password),
                _ => return Err(self.no_credentials(&warnings)),
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                let token = self
                    .token(&realm, service.as_deref(), &scope, credentials, &warnings)
                    .await?;
                format!("Bearer {token}")
            }
        };
        let mut value = HeaderValue::try_from(value).map_err(|_| {
            Error::new(
                ErrorKind::Registry,
                "The token service gave a token that cannot be sent",
            )
        })?;
        value.set_sensitive(true);
        *header = Some(value);
        Ok(())
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credentials: Option<Credentials>,
        warnings: &[String],
    ) -> Result<String> {
        let bad_realm = || {
            Error::new(
                ErrorKind::Registry,
                "The registry names no valid token service",
            )
        };
        let mut url = Url::parse(realm).map_err(|error| bad_realm().because(error))?;
        check_scheme(&url)?;
        if is_loopback_url(&url) && !is_loopback_url(&self.endpoint.base) {
            return Err(bad_realm().because("it is on this host"));
        }
        let mut query = vec![("scope", scope)];
        query.extend(service.map(|service| ("service", service)));
        let mut headers = HeaderMap::new();
        let has_credentials = credentials.is_some();
        let (method, body) = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                query.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", CLIENT_ID),
                    ("refresh_token", &token),
                ]);
                // A query and a form have the same encoding, WHATWG URL §5.
                let mut form = url.clone();
                form.query_pairs_mut().clear().extend_pairs(query);
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(CONTENT_TYPE, kind);
                (Method::POST, form.query().map(str::to_owned))
            }
            password => {
                if let Some(Credentials::Password { user, password }) = password {
                    let value = HeaderValue::try_from(basic(&user, &password));
                    headers.extend(value.ok().map(|value| (AUTHORIZATION, value)));
                }
                url.query_pairs_mut().extend_pairs(query);
                (Method::GET, None)
            }
        };
        let response = self.http.send(method, &url, headers, body).await?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.refused(has_credentials, warnings));
            }
            status => {
                return Err(Error::new(
                    ErrorKind::Registry,
                    format!("The token service answered with status {}", status.as_u16()),
                ));
            }
        }
        let body = bounded_body(response, DOCUMENT_BYTES_MAX, "token").await?;
        let answer: TokenAnswer = parse_json(&body, "token service's answer")?;
        [answer.token, answer.access_token]
            .into_iter()
            .find_map(|token| token.0.filter(|token| !token.is_empty()))
            .ok_or_else(|| Error::new(ErrorKind::Registry, "The token service gave no token"))
    }

    /// What was passed over since the last call.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn warn(&self, new: &[String]) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for text in new {
            if !warnings.contains(text) {
                warnings.push(text.clone());
            }
        }
    }

    fn no_credentials(&self, warnings: &[String]) -> Error {
        let host = &self.endpoint.credential_host;
        let error = Error::new(
            ErrorKind::Unauthorized,
            format!("`{host}` wants a user name and a password"),
        )
        .hint(format!(
            "Log in with `docker login {host}` or `skopeo login {host}`"
        ));
        match warnings {
            [] => error,
            warnings => error.because(warnings.join("; ")),
        }
    }

    fn refused(&self, has_credentials: bool, warnings: &[String]) -> Error {
        if !has_credentials {
            return self.no_credentials(warnings);
        }
        let host = &self.endpoint.credential_host;
        Error::new(
            ErrorKind::Unauthorized,
            format!("`{host}` does not accept your credentials"),
        )
        .hint(format!(
            "Log in again with `docker login {host}` or `skopeo login {host}`"
        ))
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}
