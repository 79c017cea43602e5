//! An HTTPS server with an authority of its own, on the host's loopback: HTTP/1.1 and HTTP/2.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{HOST, LOCATION},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio_rustls::TlsAcceptor;

/// A server that answers each request with what it was: the line, the fields and the body.
///
/// The path `/redirect?URL` is answered by a redirect to URL.
#[derive(Debug)]
pub struct HttpsServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// The certificate of its authority.
    pub authority: CertificateDer<'static>,
    /// The same in PEM.
    pub authority_pem: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl HttpsServer {
    /// Starts a server for `names` that offers `protocols` (`h2`, `http/1.1`) by ALPN.
    ///
    /// # Panics
    /// When the host has no port or thread for it.
    #[must_use]
    pub fn start(names: &[&str], protocols: &[&str]) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("an authority can be made");
        let authority_pem = pem(certificate.der());
        let authority = certificate.der().clone();
        let issuer = Issuer::new(params, key);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf_key = KeyPair::generate().expect("a key can be made");
        let leaf = CertificateParams::new(names).expect("the names are names");
        let leaf = leaf
            .signed_by(&leaf_key, &issuer)
            .expect("a certificate can be made");
        let key = PrivateKeyDer::try_from(leaf_key.serialize_der()).expect("a key is a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .expect("key and certificate fit");
        config.alpn_protocols = protocols
            .iter()
            .map(|word| word.as_bytes().to_vec())
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a port");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Mutex::default());
        let (of_thread, (ready, started)) = (Arc::clone(&seen), mpsc::channel());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("the host has descriptors");
            runtime.block_on(async {
                listener.set_nonblocking(true).expect("a socket can be so");
                let listener = tokio::net::TcpListener::from_std(listener);
                let listener = listener.expect("the runtime takes it");
                ready.send(()).expect("the test waits");
                serve(listener, TlsAcceptor::from(Arc::new(config)), of_thread).await;
            });
        });
        started.recv().expect("the thread starts");
        Self {
            address,
            authority,
            authority_pem,
            seen,
        }
    }

    /// What it has received so far, a text for each request.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    seen: Arc<Mutex<Vec<String>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(|request| answer(request, Arc::clone(&seen)));
            let stream = TokioIo::new(stream);
            if is_http2 {
                let server = http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(stream, service).await;
            } else {
                let _ = http1::Builder::new()
                    .serve_connection(stream, service)
                    .await;
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<String>>>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let mut text = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        text.push_str(&format!("{name}: {value}\n"));
    }
    let body = body.collect().await?.to_bytes();
    text.push_str(&format!("\n{}", String::from_utf8_lossy(&body)));
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(text.clone());
    let mut response = Response::new(Full::new(Bytes::from(text)));
    if let (Some("/redirect"), Some(place)) = (Some(parts.uri.path()), parts.uri.query())
        && let Ok(place) = place.parse()
    {
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert(LOCATION, place);
    }
    if let Some(host) = parts.headers.get(HOST) {
        response.headers_mut().insert("x-host", host.clone());
    }
    if let Some(token) = parts.headers.get("authorization") {
        response.headers_mut().insert("x-token", token.clone());
    }
    Ok(response)
}

/// A certificate in PEM.
fn pem(der: &[u8]) -> String {
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines: Vec<_> = lines.collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}
