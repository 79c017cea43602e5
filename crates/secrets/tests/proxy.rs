//! The proxy between a TLS client and real servers on the loopback.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::{Arc, mpsc},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use cofferdam_jail::{ThreadRights, confine_thread};
use cofferdam_secrets::{Flow, Proxy, Report, Rule};
use cofferdam_testkit::https::HttpsServer;
use cofferdam_types::SecretSpec;
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};

const LIMIT: Duration = Duration::from_secs(30);
const VALUE: &str = "the-real-value";
const PLACEHOLDER: &str = "coffer-secret-TOKEN-0123456789abcdef";

/// A proxy with one secret, and what it reports.
struct Guest {
    proxy: Proxy,
    reports: mpsc::Receiver<Report>,
}

impl Guest {
    fn new(secret: &str, roots: &[&HttpsServer]) -> Self {
        Self::with_bypass(secret, roots, &[])
    }

    fn with_bypass(secret: &str, roots: &[&HttpsServer], bypass: &[&str]) -> Self {
        let mut spec = SecretSpec::parse(&format!("TOKEN={VALUE}:{secret}")).unwrap();
        spec.placeholder = PLACEHOLDER.to_owned();
        let value = spec.value.take().unwrap();
        let (sender, reports) = mpsc::channel();
        let roots = roots.iter().map(|server| server.authority.clone());
        let rules = vec![Rule { spec, value }];
        let report = move |report| sender.send(report).unwrap();
        let confine = || confine_thread(ThreadRights::OpenSockets);
        let bypass = bypass.iter().map(|&host| host.to_owned()).collect();
        let proxy = Proxy::start(rules, bypass, Some(roots.collect()), confine, report).unwrap();
        Self { proxy, reports }
    }

    /// The client's end of a flow to `server` by the name `host`.
    fn flow(&self, server: &HttpsServer, host: &str) -> UnixStream {
        let (ours, guest) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        let server = TcpStream::connect(server.address).unwrap();
        let host = host.to_owned();
        self.proxy.take(Flow {
            guest,
            server,
            host,
        });
        ours
    }

    /// A client that trusts the proxy's authority and nothing else.
    fn config(&self, protocols: &[&str]) -> ClientConfig {
        let pem = self.proxy.certificate_pem();
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(STANDARD.decode(text).unwrap()))
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|word| word.as_bytes().to_vec())
            .collect();
        config
    }

    fn connect(
        &self,
        server: &HttpsServer,
        host: &str,
    ) -> StreamOwned<ClientConnection, UnixStream> {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let config = Arc::new(self.config(&["http/1.1"]));
        let client = ClientConnection::new(config, name).unwrap();
        StreamOwned::new(client, self.flow(server, host))
    }

    /// Sends bytes on a new connection and returns all that comes back until its end.
    fn send(&self, server: &HttpsServer, host: &str, request: &str) -> String {
        let mut stream = self.connect(server, host);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A proxy that closes without TLS's own end is an error here, after all data.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn report(&self) -> Report {
        self.reports.recv_timeout(LIMIT).unwrap()
    }
}

fn get(host: &str, fields: &str) -> String {
    format!("GET /path HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n")
}

#[test]
fn the_server_gets_the_value_and_the_guest_never_sees_it() {
    let server = HttpsServer::start(&["api.test.org"], &["http/1.1"]);
    let guest = Guest::new("api.test.org", &[&server]);
    let fields = format!("Authorization: Bearer {PLACEHOLDER}\r\n");
    let answer = guest.send(&server, "api.test.org", &get("api.test.org", &fields));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = server.requests();
    assert!(
        seen[0].contains(&format!("authorization: Bearer {VALUE}")),
        "{seen:?}"
    );
    // The server repeats what it got, in a field and in its body.
    assert!(!answer.contains(VALUE), "{answer}");
    let masked = "*".repeat(VALUE.len());
    assert_eq!(
        answer.matches(&format!("Bearer {masked}")).count(),
        2,
        "{answer}"
    );
}

#[test]
fn basic_credentials_have_the_value_and_are_masked_where_they_are_repeated() {
    let server = HttpsServer::start(&["api.test.org"], &["http/1.1"]);
    let guest = Guest::new("*.test.org", &[&server]);
    let fields = format!(
        "Authorization: Basic {}\r\n",
        STANDARD.encode(format!("me:{PLACEHOLDER}"))
    );
    let answer = guest.send(&server, "api.test.org", &get("api.test.org", &fields));
    let real = STANDARD.encode(format!("me:{VALUE}"));
    assert!(server.requests()[0].contains(&format!("authorization: Basic {real}")));
    assert!(
        answer.starts_with("HTTP/1.1 200") && !answer.contains(&real),
        "{answer}"
    );
}

#[test]
fn requests_on_one_connection_are_each_read_whatever_their_framing() {
    let server = HttpsServer::start(&["api.test.org"], &["http/1.1"]);
    let guest = Guest::new("api.test.org,body", &[&server]);
    let host = "Host: api.test.org\r\n";
    let length = PLACEHOLDER.len();
    let request = format!(
        "POST /1 HTTP/1.1\r\n{host}Content-Length: {length}\r\n\r\n{PLACEHOLDER}\
         POST /2 HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n\
         a\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n\
         GET /3 HTTP/1.1\r\n{host}X-Key: {PLACEHOLDER}\r\nConnection: close\r\n\r\n",
        &PLACEHOLDER[..10],
        length - 10,
        &PLACEHOLDER[10..],
    );
    let answer = guest.send(&server, "api.test.org", &request);
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 3, "{answer}");
    let seen = server.requests();
    assert!(
        seen[0].starts_with("POST /1 ") && seen[0].ends_with(&format!("\n\n{VALUE}")),
        "{seen:?}"
    );
    assert!(
        seen[0].contains(&format!("content-length: {}\n", VALUE.len())),
        "{seen:?}"
    );
    assert!(
        seen[1].starts_with("POST /2 ") && seen[1].ends_with(&format!("\n\n{VALUE}")),
        "{seen:?}"
    );
    assert!(seen[2].contains(&format!("x-key: {VALUE}")), "{seen:?}");
    assert!(!answer.contains(VALUE), "{answer}");
}

#[test]
fn a_placeholder_for_another_host_is_blocked_and_reported() {
    let server = HttpsServer::start(&["api.test.org", "evil.test.net"], &["http/1.1"]);
    let guest = Guest::new("api.test.org", &[&server]);
    let fields = format!("Authorization: Bearer {PLACEHOLDER}\r\n");
    let host = "evil.test.net";
    let mut requests = vec![get(host, &fields)];
    requests.push(format!(
        "GET /?k={PLACEHOLDER} HTTP/1.1\r\nHost: {host}\r\n\r\n"
    ));
    let length = PLACEHOLDER.len();
    requests.push(format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{PLACEHOLDER}"
    ));
    for request in requests {
        let answer = guest.send(&server, host, &request);
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        let expected = Report::Misplaced {
            name: "TOKEN".to_owned(),
            host: host.to_owned(),
        };
        assert_eq!(guest.report(), expected);
    }
    assert!(server.requests().is_empty(), "{:?}", server.requests());
    // Without it, the host is reached.
    let answer = guest.send(&server, host, &get(host, ""));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_redirect_to_another_host_does_not_take_the_value_along() {
    let server = HttpsServer::start(&["api.test.org", "evil.test.net"], &["http/1.1"]);
    let guest = Guest::new("api.test.org", &[&server]);
    let fields = format!("Authorization: {PLACEHOLDER}\r\nConnection: close\r\n");
    let first = format!(
        "GET /redirect?https://evil.test.net/ HTTP/1.1\r\nHost: api.test.org\r\n{fields}\r\n"
    );
    let answer = guest.send(&server, "api.test.org", &first);
    assert!(answer.starts_with("HTTP/1.1 302"), "{answer}");
    // A client that follows sends the same fields to the place in the answer.
    let answer = guest.send(&server, "evil.test.net", &get("evil.test.net", &fields));
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_host_field_of_another_server_gets_no_value() {
    let server = HttpsServer::start(&["api.test.org"], &["http/1.1"]);
    let guest = Guest::new("api.test.org", &[&server]);
    let fields = format!("Authorization: {PLACEHOLDER}\r\n");
    let answer = guest.send(&server, "api.test.org", &get("evil.test.net", &fields));
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    assert!(server.requests().is_empty());
}

#[test]
fn a_server_that_cannot_be_verified_gets_nothing() {
    let server = HttpsServer::start(&["api.test.org"], &["http/1.1"]);
    let other = HttpsServer::start(&["other.test.org"], &["http/1.1"]);
    let fields = format!("Authorization: {PLACEHOLDER}\r\n");
    // Another authority, and another name.
    for (roots, to) in [(&other, &server), (&other, &other)] {
        let guest = Guest::new("api.test.org", &[roots]);
        let answer = guest.send(to, "api.test.org", &get("api.test.org", &fields));
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        let Report::Unverified { host, reason } = guest.report() else {
            panic!("{answer}")
        };
        assert_eq!(host, "api.test.org");
        // A phrase, which the guest reads too.
        assert!(reason.starts_with("its certificate is "), "{reason}");
        assert!(answer.contains(&reason), "{answer}");
    }
    assert!(server.requests().is_empty() && other.requests().is_empty());
}

#[test]
fn the_thread_of_the_proxy_may_use_open_sockets_and_nothing_else() {
    let server = HttpsServer::start(&["api.test.org"], &["http/1.1"]);
    let (sender, tried) = mpsc::channel();
    // A report is made on the thread.
    let report = move |_| {
        let refused = [
            std::fs::File::open("/dev/null").map(drop),
            TcpStream::connect(("127.0.0.1", 9)).map(drop),
            std::process::Command::new("true").spawn().map(drop),
            std::thread::Builder::new().spawn(|| ()).map(drop),
        ];
        let errors = refused.map(|result| result.err().and_then(|error| error.raw_os_error()));
        sender.send(errors).unwrap();
    };
    let confine = || confine_thread(ThreadRights::OpenSockets);
    let proxy = Proxy::start(Vec::new(), Vec::new(), Some(Vec::new()), confine, report).unwrap();
    let (_, reports) = mpsc::channel();
    let guest = Guest { proxy, reports };
    // No authority is trusted, which is reported.
    guest.send(&server, "api.test.org", &get("api.test.org", ""));
    let refused = Some(1);
    assert_eq!(tried.recv_timeout(LIMIT).unwrap(), [refused; 4]);
}

#[test]
fn a_proxy_that_keeps_its_rights_serves_nothing() {
    let server = HttpsServer::start(&["api.test.org"], &["http/1.1"]);
    let (sender, reports) = mpsc::channel();
    let confine = || Err(std::io::ErrorKind::Unsupported.into());
    let report = move |report| sender.send(report).unwrap();
    let proxy = Proxy::start(Vec::new(), Vec::new(), Some(Vec::new()), confine, report).unwrap();
    let guest = Guest { proxy, reports };
    assert!(matches!(guest.report(), Report::Stopped(_)));
    let mut answer = Vec::new();
    let count = guest.flow(&server, "api.test.org").read_to_end(&mut answer);
    assert_eq!(count.unwrap(), 0);
}

#[test]
fn what_could_be_framed_in_two_ways_reaches_the_server_in_one_or_not_at_all() {
    let server = HttpsServer::start(&["api.test.org"], &["http/1.1"]);
    let guest = Guest::new("api.test.org", &[&server]);
    let smuggled =
        format!("GET /smuggled HTTP/1.1\r\nHost: evil.test.net\r\nX: {PLACEHOLDER}\r\n\r\n");
    for framing in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Content-Length: -1\r\n",
    ] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: api.test.org\r\n{framing}\r\n0\r\n\r\n{smuggled}");
        let _ = guest.send(&server, "api.test.org", &request);
    }
    let seen = server.requests();
    assert!(
        seen.iter().all(|one| !one.starts_with("GET /smuggled")),
        "{seen:?}"
    );
    let seen = seen.join("\n");
    assert!(!seen.contains(VALUE), "{seen}");
}

#[test]
fn a_head_without_an_end_is_refused() {
    let server = HttpsServer::start(&["api.test.org"], &["http/1.1"]);
    let guest = Guest::new("api.test.org", &[&server]);
    let mut stream = guest.connect(&server, "api.test.org");
    let line = format!("X-Long: {}\r\n", "a".repeat(1000));
    let head = "GET / HTTP/1.1\r\nHost: api.test.org\r\n".to_owned() + &line.repeat(90);
    // The proxy may close before it has read all.
    let _ = stream.write_all(head.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    assert!(server.requests().is_empty());
}

#[test]
fn http2_has_the_value_in_fields_query_and_body() {
    let server = HttpsServer::start(&["api.test.org"], &["h2", "http/1.1"]);
    let guest = Guest::new("api.test.org,query,body", &[&server]);
    let flow = guest.flow(&server, "api.test.org");
    let config = Arc::new(guest.config(&["h2", "http/1.1"]));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let answers = runtime.block_on(async {
        flow.set_nonblocking(true).unwrap();
        let flow = tokio::net::UnixStream::from_std(flow).unwrap();
        let name = ServerName::try_from("api.test.org").unwrap();
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(name, flow)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for number in 0..3 {
            let request = Request::post(format!("https://api.test.org/{number}?k={PLACEHOLDER}"))
                .header("x-key", PLACEHOLDER)
                .body(Full::new(Bytes::from(PLACEHOLDER)))
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            answers.push(answer.into_body().collect().await.unwrap().to_bytes());
        }
        answers
    });
    let seen = server.requests();
    assert_eq!(seen.len(), 3);
    for (one, answer) in seen.iter().zip(answers) {
        assert!(
            one.contains(" HTTP/2.0\n") && one.contains(&format!("?k={VALUE} ")),
            "{one}"
        );
        assert!(
            one.contains(&format!("x-key: {VALUE}")) && one.ends_with(VALUE),
            "{one}"
        );
        assert!(!String::from_utf8(answer.to_vec()).unwrap().contains(VALUE));
    }
}

#[test]
fn flows_to_port_443_and_to_the_secrets_hosts_come_here_but_for_the_bypass_list() {
    let guest = Guest::with_bypass("a.test", &[], &["b.test", "*.c.test"]);
    let wants = |host, port| guest.proxy.wants(host, port);
    assert!(wants("a.test", 443) && wants("a.test", 8443));
    assert!(wants("x.test", 443) && !wants("x.test", 8443));
    assert!(!wants("b.test", 443) && !wants("d.c.test", 443));
    assert!(wants("c.test", 443));
}
