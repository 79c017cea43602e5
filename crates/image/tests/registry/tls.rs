//! Registries on this host that speak TLS, with a certificate of their own.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use cofferdam_image::ErrorKind;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::scene::{Scene, block_on};

/// Made by `openssl req -x509 -newkey rsa:2048 -nodes -days 36500 -subj /CN=localhost -addext
/// subjectAltName=DNS:localhost,IP:127.0.0.1`: signed by itself, and marked as an authority.
const CERTIFICATE: &[u8] = include_bytes!("self_signed.pem");
const KEY: &[u8] = include_bytes!("self_signed.key");

/// Speaks TLS in front of a plain registry; gives its port.
fn tls_in_front_of(registry: &str) -> u16 {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let registry = registry.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, registry) = (Arc::clone(&config), registry.clone());
            // A client that refuses the certificate ends its connection.
            std::thread::spawn(move || forward(stream, config, &registry));
        }
    });
    port
}

/// Passes one request on, and its answer back.
fn forward(stream: TcpStream, config: Arc<ServerConfig>, registry: &str) -> Option<()> {
    let mut client = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
    }
    let mut plain = TcpStream::connect(registry).ok()?;
    plain.write_all(&request).ok()?;
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).ok()?;
    client.write_all(&answer).ok()?;
    client.conn.send_close_notify();
    client.flush().ok()
}

fn pull(scene: &Scene, host: &str) -> cofferdam_image::Result<cofferdam_image::Image> {
    let reference = format!("{host}/x:1").parse().unwrap();
    let platform = "linux/amd64".parse().unwrap();
    let pull = scene.test.store.pull(
        &reference,
        &platform,
        &scene.options,
        &cofferdam_image::NoProgress,
    );
    block_on(pull)
}

#[test]
fn a_registry_on_this_host_is_asked_by_tls_first_and_its_own_certificate_is_enough() {
    let mut scene = Scene::new();
    let port = tls_in_front_of(&scene.registry.host());
    let authorities = scene.config.path().join("ca.pem");
    std::fs::write(&authorities, CERTIFICATE).unwrap();
    scene.options.ca_file = Some(authorities);
    for host in ["localhost", "127.0.0.1"] {
        pull(&scene, &format!("{host}:{port}")).unwrap();
    }
}

#[test]
fn a_certificate_that_nobody_trusts_is_the_reason_that_is_told() {
    let mut scene = Scene::new();
    let port = tls_in_front_of(&scene.registry.host());
    let error = pull(&scene, &format!("localhost:{port}")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    assert!(
        error.to_string().contains("certificate"),
        "{}",
        error.chain()
    );
    assert!(error.hint_text().unwrap().contains("COFFER_CA_FILE"));
    // It is trusted for the names that stand in it, and no other.
    let authorities = scene.config.path().join("ca.pem");
    std::fs::write(&authorities, CERTIFICATE).unwrap();
    scene.options.ca_file = Some(authorities);
    assert!(pull(&scene, &format!("127.0.0.2:{port}")).is_err());
}
