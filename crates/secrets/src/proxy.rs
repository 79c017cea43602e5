//! The proxy: a thread that serves the flows that the network stack hands over.

use std::{
    net::TcpStream as StdTcpStream, os::unix::net::UnixStream as StdUnixStream, sync::Arc, thread,
};

use cofferdam_types::host_matches;
use rustls::pki_types::CertificateDer;
use tokio::{
    net::{TcpStream, UnixStream},
    sync::{Semaphore, mpsc},
};

use crate::{
    authority::Authority,
    error::{Error, ErrorKind, Result},
    forward,
    rule::{Report, Rule, Shared},
    tls::Tls,
};

/// TLS flows at a time. Each has up to about 200 KiB of buffers, and three descriptors.
pub const MAX_FLOWS: usize = 256;

/// The port on which flows to all hosts are looked into.
const HTTPS: u16 = 443;

/// A flow of the guest, before its first byte was taken.
#[derive(Debug)]
pub struct Flow {
    /// Carries the guest's bytes.
    pub guest: StdUnixStream,
    /// Connected to the server.
    pub server: StdTcpStream,
    /// The name in the guest's hello, in lower case.
    pub host: String,
}

/// Serves flows on a thread of its own until it is dropped.
pub struct Proxy {
    flows: mpsc::UnboundedSender<Flow>,
    shared: Arc<Shared>,
    authority: Arc<Authority>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").finish_non_exhaustive()
    }
}

impl Proxy {
    /// Starts the thread, with a new authority. Flows to the hosts of `bypass` are left alone.
    /// Servers are verified with `roots`; absent: with the host's trust store, or the files that
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` name. `report` is called on the thread. `confine` is
    /// called there too, before the first flow, to take the rights that serving flows does not
    /// need: it opens no file and no socket, and starts nothing. If it fails, no flow is served.
    ///
    /// # Errors
    /// [`ErrorKind::Certificate`], [`ErrorKind::Io`].
    pub fn start(
        rules: Vec<Rule>,
        bypass: Vec<String>,
        roots: Option<Vec<CertificateDer<'static>>>,
        confine: impl FnOnce() -> std::io::Result<()> + Send + 'static,
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> Result<Self> {
        let authority = Arc::new(Authority::new()?);
        let shared = Arc::new(Shared {
            rules,
            bypass,
            report: Box::new(report),
        });
        let (flows, receiver) = mpsc::unbounded_channel();
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Io, "Could not start the proxy of the secrets").because(error)
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (of_thread, signer) = (Arc::clone(&shared), Arc::clone(&authority));
        thread::Builder::new()
            .name("secrets".to_owned())
            .spawn(move || {
                // Here, because reading the trust store takes milliseconds and no start has to
                // wait for it.
                let tls = Tls::new(signer, roots);
                match confine() {
                    Ok(()) => runtime.block_on(run(receiver, of_thread, Arc::new(tls))),
                    Err(error) => (of_thread.report)(Report::Stopped(error.to_string())),
                }
            })
            .map_err(failed)?;
        Ok(Self {
            flows,
            shared,
            authority,
        })
    }

    /// The certificate of the authority, in PEM, which the guest has to trust.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.authority.certificate_pem()
    }

    /// Whether a TLS flow to `host` (in lower case) on `port` comes here.
    #[must_use]
    pub fn wants(&self, host: &str, port: u16) -> bool {
        if self.shared.rules.iter().any(|rule| rule.spec.allows(host)) {
            return true;
        }
        let bypass = &self.shared.bypass;
        port == HTTPS && !bypass.iter().any(|pattern| host_matches(pattern, host))
    }

    /// Serves a flow. Does not block.
    pub fn take(&self, flow: Flow) {
        // A thread that has ended closes both sockets by dropping the flow.
        let _ = self.flows.send(flow);
    }
}

/// Serves flows until the proxy is dropped; then all of them end.
async fn run(mut flows: mpsc::UnboundedReceiver<Flow>, shared: Arc<Shared>, tls: Arc<Tls>) {
    let free = Arc::new(Semaphore::new(MAX_FLOWS));
    while let Some(flow) = flows.recv().await {
        let Ok(permit) = Arc::clone(&free).try_acquire_owned() else {
            (shared.report)(Report::FlowLimit);
            continue;
        };
        let (tls, shared) = (Arc::clone(&tls), Arc::clone(&shared));
        tokio::spawn(async move {
            serve(flow, &tls, shared).await;
            drop(permit);
        });
    }
}

async fn serve(flow: Flow, tls: &Tls, shared: Arc<Shared>) {
    let Flow {
        guest,
        server,
        host,
    } = flow;
    let sockets = || {
        guest.set_nonblocking(true)?;
        server.set_nonblocking(true)?;
        Ok::<_, std::io::Error>((UnixStream::from_std(guest)?, TcpStream::from_std(server)?))
    };
    let Ok((guest, server)) = sockets() else {
        return;
    };
    // A guest that does not trust the authority, or goes early, sees the failure itself.
    if let Ok(ends) = tls.connect(guest, server, &host).await {
        forward::serve(ends, host, shared).await;
    }
}
