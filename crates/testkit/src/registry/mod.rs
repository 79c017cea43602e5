//! A registry on loopback that misbehaves on demand.
//!
//! Serves pulls of the distribution API from memory, one thread for each connection, and answers
//! each request on a connection of its own. [`Fault`]s say where it fails or lies; what was asked
//! of it can be read back.
//! *Source:* OCI distribution-spec v1.1 §Pull; distribution "Token Authentication Specification".

mod faults;
mod wire;

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use sha2::{Digest as _, Sha256};

pub use faults::{Auth, Fault};
pub use wire::Request;

/// What the registry knows; shared with the threads that serve it.
#[derive(Debug, Default)]
struct State {
    blobs: HashMap<String, Vec<u8>>,
    /// By `repository:tag` and `repository@digest`: media type and bytes.
    manifests: HashMap<String, (String, Vec<u8>)>,
    auth: Auth,
    faults: Vec<Fault>,
    requests: Vec<Request>,
}

/// A registry that runs until it is dropped.
#[derive(Debug)]
pub struct FakeRegistry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl FakeRegistry {
    /// Starts a registry on a free port of `127.0.0.1`.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // Ends with the test's process: `accept` has no other end.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || wire::serve(stream, address, &shared));
            }
        });
        Self { address, state }
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The same registry by a name that is another host to a client.
    #[must_use]
    pub fn other_host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// Keeps a blob; gives its digest.
    pub fn put_blob(&self, content: &[u8]) -> String {
        let digest = digest(content);
        self.with(|state| state.blobs.insert(digest.clone(), content.to_vec()));
        digest
    }

    /// Keeps a manifest under a tag and its digest; gives the digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, kind: &str, content: &[u8]) -> String {
        let digest = digest(content);
        let entry = (kind.to_owned(), content.to_vec());
        self.with(|state| {
            state
                .manifests
                .insert(format!("{repository}@{digest}"), entry.clone());
            state.manifests.insert(format!("{repository}:{tag}"), entry);
        });
        digest
    }

    /// Demands authentication from now on.
    pub fn demand(&self, auth: Auth) {
        self.with(|state| state.auth = auth);
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.with(|state| state.faults.push(fault));
    }

    /// Everything that was asked so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.with(|state| state.requests.clone())
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// `sha256:…` of some bytes.
#[must_use]
pub fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().fold("sha256:".to_owned(), |text, byte| {
        format!("{text}{byte:02x}")
    })
}
