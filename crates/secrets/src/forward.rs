//! One flow after its handshakes: requests go to the server with values, answers come back.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode, Version,
    body::{Body, Bytes, Incoming},
    client,
    header::{CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE},
    server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{io::copy_bidirectional, net::TcpStream, sync::Mutex};
use tokio_rustls::client::TlsStream;

use crate::{
    body::{BodyError, Filter, Filtered, Misplaced},
    find::replace,
    head::{self, Refusal},
    reason::reason,
    rule::{Report, Shared},
    tls::Ends,
};

/// Bytes of a message's head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Streams of HTTP/2 on one connection.
pub const MAX_STREAMS: u32 = 100;

/// Bytes of a stream of HTTP/2 that wait for its reader, and of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// How long a head may take, from the end of the message before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Bodies up to this length keep a stated length when a value is put in. Longer ones are sent in
/// chunks.
const MAX_WHOLE_BODY: u64 = 1 << 20;

type Outgoing = UnsyncBoxBody<Bytes, BodyError>;

/// The way to the server.
enum Server {
    Http1(Box<Mutex<client::conn::http1::SendRequest<Outgoing>>>),
    Http2(client::conn::http2::SendRequest<Outgoing>),
    /// Why there is none.
    None(String),
}

/// What all requests of a flow share.
struct Connection {
    shared: Arc<Shared>,
    host: String,
    server: Server,
    /// Whether the connection may be another protocol's by now.
    may_be_upgraded: AtomicBool,
}

/// Serves the guest's end until one side closes.
pub(crate) async fn serve(ends: Ends, host: String, shared: Arc<Shared>) {
    let (server, driver) = match ends.server {
        Ok(server) => match connect(server, ends.is_http2).await {
            Ok((server, driver)) => (server, Some(driver)),
            Err(error) => (Server::None(error.to_string()), None),
        },
        Err(error) => {
            let reason = reason(&error);
            let (host, reason_of_report) = (host.clone(), reason.clone());
            (shared.report)(Report::Unverified {
                host,
                reason: reason_of_report,
            });
            (Server::None(reason), None)
        }
    };
    let connection = Arc::new(Connection {
        shared,
        host,
        server,
        may_be_upgraded: AtomicBool::new(false),
    });
    let service = {
        let connection = Arc::clone(&connection);
        service_fn(move |request| {
            let connection = Arc::clone(&connection);
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        })
    };
    // The server has closed: so is the guest's end, when its answers are written.
    let closed = async {
        match driver {
            Some(driver) => {
                let _ = driver.await;
                if connection.may_be_upgraded.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    };
    let guest = TokioIo::new(ends.guest);
    if ends.is_http2 {
        let serving = server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_connection(guest, service);
        tokio::pin!(serving);
        tokio::select! {
            _ = &mut serving => return,
            () = closed => serving.as_mut().graceful_shutdown(),
        }
        let _ = serving.await;
    } else {
        let serving = server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .preserve_header_case(true)
            .serve_connection(guest, service)
            .with_upgrades();
        tokio::pin!(serving);
        tokio::select! {
            _ = &mut serving => return,
            () = closed => serving.as_mut().graceful_shutdown(),
        }
        let _ = serving.await;
    }
}

/// Begins HTTP with the server. The task drives the connection.
async fn connect(
    server: TlsStream<TcpStream>,
    is_http2: bool,
) -> hyper::Result<(Server, tokio::task::JoinHandle<()>)> {
    let server = TokioIo::new(server);
    if is_http2 {
        let (sender, connection) = client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
            .handshake(server)
            .await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        return Ok((Server::Http2(sender), driver));
    }
    let (sender, connection) = client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .preserve_header_case(true)
        .handshake(server)
        .await?;
    let driver = tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Ok((Server::Http1(Box::new(Mutex::new(sender))), driver))
}

impl Connection {
    async fn answer(&self, mut request: Request<Incoming>) -> Response<Outgoing> {
        let upgrade = request.headers().contains_key(UPGRADE).then(|| {
            self.may_be_upgraded.store(true, Ordering::Relaxed);
            hyper::upgrade::on(&mut request)
        });
        match self.exchange(request).await {
            Ok((mut response, masked)) => {
                if response.status() == StatusCode::SWITCHING_PROTOCOLS
                    && let Some(guest) = upgrade
                {
                    let server = hyper::upgrade::on(&mut response);
                    tokio::spawn(async move {
                        if let (Ok(guest), Ok(server)) = (guest.await, server.await) {
                            let (mut guest, mut server) =
                                (TokioIo::new(guest), TokioIo::new(server));
                            let _ = copy_bidirectional(&mut guest, &mut server).await;
                        }
                    });
                }
                masked_answer(response, masked)
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// Sends a request with values. Returns the answer and the texts that it must not repeat.
    async fn exchange(
        &self,
        request: Request<Incoming>,
    ) -> Result<(Response<Incoming>, Vec<Vec<u8>>), Refusal> {
        let (mut parts, body) = request.into_parts();
        let rules = &self.shared.rules;
        let mut changed = head::change(&mut parts, &self.host, rules)?;
        if parts.version < Version::HTTP_11 {
            parts.version = Version::HTTP_11;
        }
        let filter = Filter::of_request(rules, &self.host);
        if filter.changes_length() && !body.is_end_stream() {
            // The body may get a value, and so may the answer.
            let own = rules
                .iter()
                .filter(|rule| rule.spec.body && rule.is_masked());
            changed
                .masked
                .extend(own.map(|rule| rule.value.expose().into()));
        }
        if !changed.masked.is_empty() {
            head::want_plain(&mut parts.headers);
        }
        let body = self.outgoing(&mut parts, body, filter).await?;
        let request = Request::from_parts(parts, body);
        let sent = match &self.server {
            Server::Http1(sender) => {
                let mut sender = sender.lock().await;
                match sender.ready().await {
                    Ok(()) => sender.send_request(request).await,
                    Err(error) => Err(error),
                }
            }
            Server::Http2(sender) => sender.clone().send_request(request).await,
            Server::None(reason) => return Err(self.no_server(reason)),
        };
        match sent {
            Ok(response) => Ok((response, changed.masked)),
            Err(error) => Err(match misplaced(&error) {
                // It is reported where it was found.
                Some(name) => Refusal::Reported(name),
                None => {
                    Refusal::Status(StatusCode::BAD_GATEWAY, "The server gave no answer".into())
                }
            }),
        }
    }

    /// The body of a request as it goes to the server.
    async fn outgoing(
        &self,
        parts: &mut hyper::http::request::Parts,
        body: Incoming,
        mut filter: Filter,
    ) -> Result<Outgoing, Refusal> {
        let length = body.size_hint().exact();
        if filter.changes_length() && length != Some(0) && !body.is_end_stream() {
            parts.headers.remove(CONTENT_LENGTH);
            if length.is_some_and(|length| length <= MAX_WHOLE_BODY) {
                let bad = |why: &'static str| Refusal::Status(StatusCode::BAD_REQUEST, why.into());
                let limit = usize::try_from(MAX_WHOLE_BODY).unwrap_or(usize::MAX);
                let whole = Limited::new(body, limit).collect().await;
                let whole = whole.map_err(|error| match error.is::<LengthLimitError>() {
                    true => bad("The body is longer than it says"),
                    false => bad("The body has no end"),
                })?;
                let mut out = filter
                    .push(whole.to_bytes())
                    .map_err(|Misplaced(name)| Refusal::Misplaced(name))?;
                let held = filter.finish();
                if !held.is_empty() {
                    out = [out, held].concat().into();
                }
                return Ok(Full::new(out)
                    .map_err(|never| match never {})
                    .boxed_unsync());
            }
        }
        let (report, host) = (Arc::clone(&self.shared), self.host.clone());
        let refused = move |name: &str| {
            (report.report)(Report::Misplaced {
                name: name.to_owned(),
                host: host.clone(),
            });
        };
        Ok(Filtered::new(body, filter, refused).boxed_unsync())
    }

    fn no_server(&self, reason: &str) -> Refusal {
        let what = format!("There is no verified connection to {}: {reason}", self.host);
        Refusal::Status(StatusCode::BAD_GATEWAY, what.into())
    }

    fn refuse(&self, refusal: Refusal) -> Response<Outgoing> {
        let (status, text) = match refusal {
            Refusal::Status(status, text) => (status, text.into_owned()),
            Refusal::Misplaced(name) => {
                let text = self.blocked(&name);
                let host = self.host.clone();
                (self.shared.report)(Report::Misplaced { name, host });
                (StatusCode::FORBIDDEN, text)
            }
            Refusal::Reported(name) => (StatusCode::FORBIDDEN, self.blocked(&name)),
        };
        let body = Full::new(Bytes::from(text + "\n")).map_err(|never| match never {});
        let mut response = Response::new(body.boxed_unsync());
        *response.status_mut() = status;
        if !matches!(self.server, Server::Http2(_)) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    fn blocked(&self, name: &str) -> String {
        format!("The secret `{name}` may not be sent to {}", self.host)
    }
}

/// An answer that repeats none of `masked`.
fn masked_answer(response: Response<Incoming>, masked: Vec<Vec<u8>>) -> Response<Outgoing> {
    let (mut parts, body) = response.into_parts();
    let stars: Vec<Vec<u8>> = masked.iter().map(|word| vec![b'*'; word.len()]).collect();
    for value in parts.headers.values_mut() {
        if let Some(new) = replace(value.as_bytes(), &masked, &stars)
            && let Ok(new) = HeaderValue::from_bytes(&new)
        {
            *value = new;
        }
    }
    let body = Filtered::new(body, Filter::of_answer(masked), |_: &str| {});
    Response::from_parts(parts, body.boxed_unsync())
}

/// The secret whose placeholder has ended the body of a request.
fn misplaced(error: &hyper::Error) -> Option<String> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(Misplaced(name)) = error.downcast_ref() {
            return Some(name.clone());
        }
        source = error.source();
    }
    None
}
