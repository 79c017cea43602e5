//! TLS on both sides: the server's first, and then the guest's with what the server has chosen.

use std::{io, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName},
    server::{Acceptor, ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client, server};

use crate::authority::Authority;

/// How long one handshake may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// The protocols that the proxy speaks. *Source:* RFC 7301, section 6; RFC 9113, section 3.1.
pub(crate) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The two ends of a flow, after both handshakes.
pub(crate) struct Ends {
    pub(crate) guest: server::TlsStream<UnixStream>,
    /// The server's end, or why there is none.
    pub(crate) server: io::Result<client::TlsStream<TcpStream>>,
    /// Whether both speak HTTP/2.
    pub(crate) is_http2: bool,
}

/// What all handshakes share.
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    pub(crate) authority: Arc<Authority>,
}

impl Tls {
    /// Servers are verified with `given`, or with the host's trust store.
    pub(crate) fn new(
        authority: Arc<Authority>,
        given: Option<Vec<CertificateDer<'static>>>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let trusted = given.unwrap_or_else(|| rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(trusted);
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            roots: Arc::new(roots),
            authority,
        }
    }

    /// Does both handshakes.
    ///
    /// # Errors
    /// The guest's handshake fails. A failure of the server's is in the result, so that the guest
    /// can be given the reason.
    pub(crate) async fn connect(
        &self,
        guest: UnixStream,
        server: TcpStream,
        host: &str,
    ) -> io::Result<Ends> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), guest);
        let start = timed(start).await?;
        let (name, offered) = {
            let hello = start.client_hello();
            let offered = hello.alpn().into_iter().flatten();
            let known = offered.filter(|word| [HTTP2, HTTP1].contains(word));
            let known: Vec<Vec<u8>> = known.map(<[u8]>::to_vec).collect();
            let name = hello.server_name().map(str::to_ascii_lowercase);
            (name, known)
        };
        // The stack has read the same bytes, and must have read the same name.
        if name.as_deref() != Some(host) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let server = timed(self.connect_server(server, host, offered)).await;
        let protocol = match &server {
            Ok(server) => server.get_ref().1.alpn_protocol().map(<[u8]>::to_vec),
            Err(_) => Some(HTTP1.to_vec()),
        };
        let leaf = self.authority.leaf(host).map_err(io::Error::other)?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(One(leaf)));
        config.alpn_protocols = protocol.clone().into_iter().collect();
        let guest = timed(start.into_stream(Arc::new(config))).await?;
        // A guest that offers HTTP/2 alone gets no answer without a server.
        let is_http2 = guest.get_ref().1.alpn_protocol() == Some(HTTP2);
        Ok(Ends {
            guest,
            server,
            is_http2,
        })
    }

    async fn connect_server(
        &self,
        server: TcpStream,
        host: &str,
        protocols: Vec<Vec<u8>>,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = protocols;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config))
            .connect(name, server)
            .await
    }
}

/// Answers every name with one certificate.
#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

async fn timed<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
