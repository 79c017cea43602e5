//! Manifests and blobs over an unreliable network: retried, resumed, checked.

use std::time::Duration;

use cofferdam_types::Digest;
use reqwest::{Response, StatusCode, Url, header::CONTENT_TYPE};
use sha2::{Digest as _, Sha256};

use super::{
    client::{Refusal, Repository, Retry, begins_at, never},
    encoding::{self, Encoding},
    http::{bounded_body, transport_error},
};
use crate::{
    error::{Error, ErrorKind, Result},
    manifest::{DOCUMENT_BYTES_MAX, Descriptor, shown},
    progress::{Progress, ProgressEvent},
    store::ingest::{BlobWriter, Ingest, digest_mismatch},
};

/// Everything that a manifest request may be answered with, best first.
const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";
/// Failures in a row without a byte between them after which a transfer is given up.
const FAILURES_MAX: u32 = 4;
/// Failures of one transfer, whatever it gets between them: a connection that breaks this often
/// would go on for hours.
const ALL_FAILURES_MAX: u32 = 32;
/// Stalls of one transfer after which it is given up. Each has cost the time of a stall.
const STALLS_MAX: u32 = 4;
/// What a coding may add to a blob that cannot be compressed: a share of it, as quick compressors
/// do, and some bytes for headers.
const CODING_SHARE: u64 = 8;
const CODING_BYTES: u64 = 64 << 10;
/// Longest wait that a registry may ask for with `Retry-After`, in seconds.
const RETRY_AFTER_SECONDS_MAX: u64 = 30;

/// A manifest or index as a registry gave it.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: Option<String>,
}

/// What a blob is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlobKind {
    Config,
    Layer,
}

impl std::fmt::Display for BlobKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::Layer => "layer",
        })
    }
}

/// Counts failures and waits between them.
struct RetryBudget {
    in_a_row: u32,
    in_all: u32,
    stalls: u32,
    first_wait: Duration,
}

impl RetryBudget {
    const fn new(first_wait: Duration) -> Self {
        Self {
            in_a_row: 0,
            in_all: 0,
            stalls: 0,
            first_wait,
        }
    }

    /// Bytes have come since the last failure.
    const fn has_advanced(&mut self) {
        self.in_a_row = 0;
    }

    /// Waits before the next try, or gives up with the error.
    async fn after(&mut self, refusal: Refusal) -> Result<()> {
        self.in_a_row += 1;
        self.in_all += 1;
        self.stalls += u32::from(refusal.retry == Retry::AfterStall);
        let given_up = self.in_a_row >= FAILURES_MAX
            || self.in_all >= ALL_FAILURES_MAX
            || self.stalls >= STALLS_MAX;
        let wait = match refusal.retry {
            Retry::Never => return Err(refusal.error),
            Retry::AfterSeconds(seconds) if seconds > RETRY_AFTER_SECONDS_MAX => {
                return Err(refusal.error);
            }
            _ if given_up => return Err(refusal.error),
            Retry::AfterSeconds(seconds) => Duration::from_secs(seconds),
            Retry::Soon | Retry::AfterStall => self.first_wait * (1 << (self.in_a_row - 1).min(8)),
        };
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

impl Repository {
    /// Fetches a manifest by tag or digest; by digest it is checked.
    pub(crate) async fn manifest(
        &self,
        tag_or_digest: &str,
        wanted: Option<Digest>,
    ) -> Result<Fetched> {
        let url = self.url(&format!("manifests/{tag_or_digest}"))?;
        let mut budget = RetryBudget::new(self.http.options().retry_wait);
        let (bytes, media_type, claimed) = loop {
            match self.try_manifest(&url).await {
                Ok(done) => break done,
                Err(refusal) => budget.after(refusal).await?,
            }
        };
        let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
        if let Some(wanted) = wanted.or(claimed)
            && wanted != digest
        {
            return Err(digest_mismatch("The manifest", &wanted, &digest));
        }
        Ok(Fetched {
            bytes,
            digest,
            media_type,
        })
    }

    async fn try_manifest(
        &self,
        url: &Url,
    ) -> std::result::Result<(Vec<u8>, Option<String>, Option<Digest>), Refusal> {
        let response = self.get(url, Some(ACCEPT_MANIFESTS), 0).await?;
        let header = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let media_type = header(CONTENT_TYPE.as_str())
            .map(|kind| kind.split(';').next().unwrap_or_default().trim().to_owned());
        let claimed = header("docker-content-digest").and_then(|digest| digest.parse().ok());
        Ok((
            bounded_body(response, DOCUMENT_BYTES_MAX, "manifest").await?,
            media_type,
            claimed,
        ))
    }

    /// Brings a blob into `ingest`, from the store if it is there.
    pub(crate) async fn blob(
        &self,
        ingest: &Ingest,
        wanted: &Descriptor,
        kind: BlobKind,
        progress: &dyn Progress,
    ) -> Result<()> {
        let id = wanted.digest.short();
        // From a mirror that failed later, or from the store.
        if ingest.has(&wanted.digest) || ingest.adopt(&wanted.digest, wanted.size)? {
            progress.event(ProgressEvent::LayerDone {
                id: &id,
                already_present: true,
            });
            return Ok(());
        }
        progress.event(ProgressEvent::LayerStarted {
            id: &id,
            total_bytes: wanted.size,
        });
        let url = self.url(&format!("blobs/{}", wanted.digest))?;
        let mut writer = ingest.create()?;
        let mut budget = RetryBudget::new(self.http.options().retry_wait);
        loop {
            let before = writer.bytes();
            match self
                .try_blob(&url, wanted, ingest, &mut writer, &id, progress)
                .await
            {
                Ok(()) => break,
                Err(refusal) => {
                    if writer.bytes() > before {
                        budget.has_advanced();
                    }
                    let given_up = budget.after(refusal).await;
                    given_up.map_err(|error| self.about_blob(error, wanted, kind))?;
                    let kept_bytes = writer.bytes();
                    progress.event(ProgressEvent::LayerRetried {
                        id: &id,
                        kept_bytes,
                    });
                }
            }
        }
        writer.finish_as(ingest, &wanted.digest, &format!("A {kind} of the registry"))?;
        progress.event(ProgressEvent::LayerDone {
            id: &id,
            already_present: false,
        });
        Ok(())
    }

    /// Says which blob is missing.
    fn about_blob(&self, error: Error, wanted: &Descriptor, kind: BlobKind) -> Error {
        if error.kind() != ErrorKind::NotFound {
            return error;
        }
        let (digest, name) = (wanted.digest, self.shown());
        let what = format!("The registry lacks the {kind} `{digest}` of `{name}`");
        let hint = match wanted.urls.first() {
            Some(url) => format!(
                "The image says that it is at {}, which is not asked",
                shown(url)
            ),
            None => "The image must be pushed again".to_owned(),
        };
        Error::new(ErrorKind::NotFound, what)
            .because(error)
            .hint(hint)
    }

    /// One try: takes up where `writer` stands.
    async fn try_blob(
        &self,
        url: &Url,
        wanted: &Descriptor,
        ingest: &Ingest,
        writer: &mut BlobWriter,
        id: &str,
        progress: &dyn Progress,
    ) -> std::result::Result<(), Refusal> {
        if writer.bytes() == wanted.size && wanted.size > 0 {
            return Ok(());
        }
        let mut response = self.get(url, None, writer.bytes()).await?;
        if !continues(&response, writer.bytes()) {
            writer.restart().map_err(never)?;
        }
        let due = wanted.size - writer.bytes();
        // A blob that is compressed by itself is often served with its compression's name.
        if let Some(encoding) = encoding::of(response.headers())
            && response.content_length() != Some(due)
        {
            return coded_blob(response, encoding, wanted, ingest, writer).await;
        }
        if let Some(length) = response.content_length()
            && length != due
        {
            return Err(never(lie(
                wanted,
                format!("announces {length} bytes where {due} are due"),
            )));
        }
        let answered = response.url().clone();
        loop {
            let chunk = response
                .chunk()
                .await
                .map_err(|e| broken_off(&answered, e))?;
            let Some(chunk) = chunk else { break };
            if writer.bytes() + chunk.len() as u64 > wanted.size {
                return Err(never(lie(
                    wanted,
                    format!("sends more than its {} bytes", wanted.size),
                )));
            }
            writer.write(&chunk).map_err(never)?;
            progress.event(ProgressEvent::LayerAdvanced {
                id,
                bytes: chunk.len() as u64,
            });
        }
        if writer.bytes() < wanted.size {
            return Err(Refusal {
                error: lie(
                    wanted,
                    format!("ends after {} of {} bytes", writer.bytes(), wanted.size),
                ),
                retry: Retry::Soon,
            });
        }
        Ok(())
    }
}

/// A transfer that ended too early or stalled.
fn broken_off(url: &Url, error: reqwest::Error) -> Refusal {
    let refusal = Refusal::from(transport_error(url, error));
    match refusal.error.kind() {
        ErrorKind::Timeout => Refusal {
            retry: Retry::AfterStall,
            ..refusal
        },
        _ => refusal,
    }
}

/// Takes a blob that the server has packed in a coding of its own. It is not resumed.
async fn coded_blob(
    mut response: Response,
    encoding: Encoding,
    wanted: &Descriptor,
    ingest: &Ingest,
    writer: &mut BlobWriter,
) -> std::result::Result<(), Refusal> {
    writer.restart().map_err(never)?;
    let url = response.url().clone();
    let limit = wanted
        .size
        .saturating_add(wanted.size / CODING_SHARE + CODING_BYTES);
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => {
                writer.restart().map_err(never)?;
                return Err(broken_off(&url, error));
            }
        };
        if writer.bytes() + chunk.len() as u64 > limit {
            return Err(never(lie(wanted, "sends more than all")));
        }
        writer.write(&chunk).map_err(never)?;
    }
    if writer.bytes() == wanted.size && writer.digest() == wanted.digest {
        return Ok(());
    }
    let decode = |coded| encoding.decode(coded);
    *writer = writer
        .decoded(ingest, wanted.size, decode)
        .map_err(|error| never(lie(wanted, "sends a broken coding").because(error)))?;
    Ok(())
}

/// Whether the answer begins at byte `at`. A server without ranges begins at 0 with status 200.
fn continues(response: &Response, at: u64) -> bool {
    at == 0 || (response.status() == StatusCode::PARTIAL_CONTENT && begins_at(response) == Some(at))
}

fn lie(wanted: &Descriptor, what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Registry,
        format!("The registry {what} of the blob `{}`", wanted.digest),
    )
    .hint("Try again; if it stays so, the image must be pushed anew")
}
