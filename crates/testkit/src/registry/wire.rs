//! One connection: HTTP/1.1 as far as a pull needs it. *Source:* RFC 9112.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{Mutex, PoisonError},
};

use super::{
    State,
    faults::{Auth, Fault},
};

/// A token that opens everything.
const TOKEN: &str = "let-me-in";

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Path with query.
    pub path: String,
    /// The `Host` header.
    pub host: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `Accept-Encoding` header.
    pub accept_encoding: Option<String>,
    /// The first byte that is wanted.
    pub range_start: Option<usize>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    end: End,
}

/// How the body ends.
enum End {
    Whole,
    Cut(usize),
    Stall(usize),
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            end: End::Whole,
        }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Serves one request and closes. A client that hangs up early is no failure.
pub(super) fn serve(mut stream: TcpStream, address: SocketAddr, state: &Mutex<State>) {
    if let Ok(Some(request)) = read_request(&stream) {
        let answer = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.requests.push(request.clone());
            answer(&request, address, &mut state)
        };
        let _ = write_answer(&mut stream, &answer);
    }
}

fn read_request(stream: &TcpStream) -> io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let Some(path) = line.split(' ').nth(1).map(str::to_owned) else {
        return Ok(None);
    };
    let mut request = Request {
        path,
        host: String::new(),
        authorization: None,
        accept_encoding: None,
        range_start: None,
    };
    let mut body_bytes = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "host" => value.clone_into(&mut request.host),
            "authorization" => request.authorization = Some(value.to_owned()),
            "accept-encoding" => request.accept_encoding = Some(value.to_owned()),
            "range" => {
                let start = value
                    .strip_prefix("bytes=")
                    .and_then(|v| v.strip_suffix('-'));
                request.range_start = start.and_then(|v| v.parse().ok());
            }
            "content-length" => body_bytes = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    io::copy(&mut reader.take(body_bytes), &mut io::sink())?;
    Ok(Some(request))
}

fn answer(request: &Request, address: SocketAddr, state: &mut State) -> Answer {
    let path = request.path.split('?').next().unwrap_or_default();
    if path == "/token" {
        let replaced = state.faults.iter().find(
            |fault| matches!(fault, Fault::Body { path, .. } if "/token".contains(path.as_str())),
        );
        let answer = token(request, &state.auth);
        return match replaced {
            Some(fault) => spoil(answer, fault.clone(), path),
            None => answer,
        };
    }
    if let Some(refusal) = challenge(request, address, &state.auth) {
        return refusal;
    }
    let faults: Vec<Fault> = state
        .faults
        .iter_mut()
        .filter_map(|fault| fault.applies(path).then(|| fault.clone()))
        .collect();
    let plain = content(path, state);
    faults
        .into_iter()
        .fold(ranged(plain, request, state), |answer, fault| {
            spoil(answer, fault, path)
        })
}

fn content(path: &str, state: &State) -> Answer {
    let not_found = || {
        Answer::new(
            404,
            r#"{"errors":[{"code":"UNKNOWN","message":"unknown here"}]}"#,
        )
    };
    let rest = path.strip_prefix("/v2/").unwrap_or_default();
    if let Some((_, digest)) = rest.split_once("/blobs/") {
        return state
            .blobs
            .get(digest)
            .map_or_else(not_found, |blob| Answer::new(200, blob.clone()));
    }
    let Some((repository, name)) = rest.split_once("/manifests/") else {
        return not_found();
    };
    let separator = if name.starts_with("sha256:") {
        '@'
    } else {
        ':'
    };
    match state
        .manifests
        .get(&format!("{repository}{separator}{name}"))
    {
        Some((kind, bytes)) => {
            Answer::new(200, bytes.clone()).header("Content-Type", kind.as_str())
        }
        None => not_found(),
    }
}

fn ranged(mut answer: Answer, request: &Request, state: &State) -> Answer {
    let ignores = state
        .faults
        .iter()
        .any(|fault| matches!(fault, Fault::NoRanges));
    let refusal = state.faults.iter().find_map(|fault| match fault {
        Fault::RefuseRanges(status) => Some(*status),
        _ => None,
    });
    if let (Some(_), Some(status)) = (request.range_start, refusal) {
        return Answer::new(status, "{}");
    }
    if let (Some(start), 200, false) = (request.range_start, answer.status, ignores) {
        let total = answer.body.len();
        answer.body.drain(..start.min(total));
        answer.status = 206;
        return answer.header(
            "Content-Range",
            format!("bytes {start}-{}/{total}", total - 1),
        );
    }
    answer
}

fn spoil(mut answer: Answer, fault: Fault, path: &str) -> Answer {
    match fault {
        Fault::Status {
            status,
            retry_after,
            ..
        } => {
            let answer = Answer::new(status, "{}");
            match retry_after {
                Some(seconds) => answer.header("Retry-After", seconds.to_string()),
                None => answer,
            }
        }
        Fault::Redirect { to, .. } => {
            Answer::new(307, "").header("Location", format!("{to}{path}"))
        }
        Fault::Cut { at, .. } => Answer {
            end: End::Cut(at),
            ..answer
        },
        Fault::Stall { at, .. } => Answer {
            end: End::Stall(at),
            ..answer
        },
        Fault::Corrupt { at, .. } => {
            answer.body[at] ^= 0xff;
            answer
        }
        Fault::Length { length, .. } => {
            answer.body.resize(length, 0);
            answer
        }
        Fault::ClaimDigest { digest } => answer.header("Docker-Content-Digest", digest),
        Fault::Body { headers, body, .. } => headers
            .into_iter()
            .fold(Answer { body, ..answer }, |answer, (name, value)| {
                answer.header(name, value)
            }),
        Fault::NoRanges | Fault::RefuseRanges(_) => answer,
    }
}

/// The refusal of a request that lacks what `auth` demands.
fn challenge(request: &Request, address: SocketAddr, auth: &Auth) -> Option<Answer> {
    let (wanted, challenge) = match auth {
        Auth::None => return None,
        Auth::Unknown => (String::new(), "Moonlight realm=\"sky\"".to_owned()),
        Auth::Basic(user, password) => (basic(user, password), "Basic realm=\"here\"".to_owned()),
        Auth::Token(_) => (
            format!("Bearer {TOKEN}"),
            format!(
                "Bearer realm=\"http://{address}/token\",service=\"fake\",scope=\"repository:x:pull\""
            ),
        ),
    };
    let knows = request.authorization.as_deref() == Some(wanted.as_str());
    (!knows).then(|| Answer::new(401, "{}").header("WWW-Authenticate", challenge))
}

fn token(request: &Request, auth: &Auth) -> Answer {
    let wanted = match auth {
        Auth::Token(Some((user, password))) => Some(basic(user, password)),
        _ => None,
    };
    let asked_well =
        request.path.contains("service=fake") && request.path.contains("scope=repository");
    if !asked_well || (wanted.is_some() && request.authorization != wanted) {
        return Answer::new(401, "{}");
    }
    Answer::new(200, format!(r#"{{"token":"{TOKEN}"}}"#))
}

/// RFC 7617. Base64 by hand: the one place here that needs it.
fn basic(user: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = "Basic ".to_owned();
    for group in format!("{user}:{password}").as_bytes().chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, i| {
            bits << 8 | usize::from(group.get(i).copied().unwrap_or(0))
        });
        for i in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * i) & 63];
            text.push(if i > group.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}

fn write_answer(stream: &mut TcpStream, answer: &Answer) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Fake\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        // Writing to a String cannot fail.
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(head, "Content-Length: {}\r\n\r\n", answer.body.len());
    stream.write_all(head.as_bytes())?;
    match answer.end {
        End::Whole => stream.write_all(&answer.body),
        End::Cut(at) => stream.write_all(&answer.body[..at.min(answer.body.len())]),
        End::Stall(at) => {
            stream.write_all(&answer.body[..at.min(answer.body.len())])?;
            // Returns when the client has had enough.
            stream.read(&mut [0]).map(|_| ())
        }
    }
}
