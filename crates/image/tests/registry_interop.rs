//! Pulls from a registry that others wrote, of an image that others pushed, over HTTP and TLS.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

mod store_support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use cofferdam_image::{ErrorKind, Image, NoProgress, PullOptions, Result};
use store_support::{Sample, TestStore, amd64};

/// Debian's registry, ended with the value.
struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    /// Starts it on a port that the kernel chooses and waits until it says which.
    fn start(dir: &Path, tls: Option<(&Path, &Path)>) -> Self {
        let tls = tls.map_or(String::new(), |(certificate, key)| {
            format!(
                "  tls: {{certificate: {}, key: {}}}\n",
                certificate.display(),
                key.display()
            )
        });
        let config = dir.join("config.yml");
        let data = dir.join("data");
        let text = format!(
            "version: 0.1\nlog: {{formatter: text}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: 127.0.0.1:0\n{tls}",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "the registry ended before it listened"
            );
            if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                break digits.parse().unwrap();
            }
        };
        // A full pipe must not stop it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, port }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lacks(tools: &[&str]) -> bool {
    let missing = tools.iter().find(|tool| {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|dir| dir.join(tool).exists());
        !found
    });
    if let Some(tool) = missing {
        cofferdam_testkit::skip(&format!("there is no {tool}"));
    }
    missing.is_some()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Pushes a sample with skopeo.
fn push(sample: &Sample, dir: &Path, registry: &Registry, name: &str, format: &str) {
    let archive = dir.join("image.tar");
    fs::write(&archive, sample.layout_tar("")).unwrap();
    run(Command::new("skopeo")
        .args([
            "copy",
            "--insecure-policy",
            "--dest-tls-verify=false",
            "--format",
            format,
        ])
        .arg(format!("oci-archive:{}", archive.display()))
        .arg(format!("docker://127.0.0.1:{}/{name}", registry.port)));
}

fn pull(test: &TestStore, reference: &str, options: &PullOptions) -> Result<Image> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let reference = reference.parse()?;
    runtime.block_on(test.store.pull(&reference, &amd64(), options, &NoProgress))
}

fn options() -> PullOptions {
    PullOptions {
        mirrors: Some(String::new()),
        ..PullOptions::default()
    }
}

#[test]
fn images_that_skopeo_pushed_are_pulled_in_both_manifest_forms() {
    if lacks(&["docker-registry", "skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path(), None);
    let sample = Sample::new("x").gzipped();
    for format in ["oci", "v2s2"] {
        push(
            &sample,
            dir.path(),
            &registry,
            &format!("a/b:{format}"),
            format,
        );
        let test = TestStore::new();
        let reference = format!("127.0.0.1:{}/a/b:{format}", registry.port);
        let image = pull(&test, &reference, &options()).unwrap();
        assert_eq!(image.id.to_string(), sample.id(), "{format}");
        test.store.rootfs(&image, &NoProgress).unwrap();
    }
    let reference = format!("127.0.0.1:{}/a/b:none", registry.port);
    let error = pull(&TestStore::new(), &reference, &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn tls_is_trusted_with_the_authority_that_is_named_and_not_without() {
    if lacks(&["docker-registry", "skopeo", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    run(Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca",
        ])
        .args(["-addext", "basicConstraints=critical,CA:TRUE", "-keyout"])
        .arg(at("ca.key"))
        .arg("-out")
        .arg(at("ca.pem")));
    run(Command::new("openssl")
        .args([
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=registry",
            "-keyout",
        ])
        .arg(at("key.pem"))
        .arg("-out")
        .arg(at("request.pem")));
    fs::write(
        at("names"),
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )
    .unwrap();
    run(Command::new("openssl")
        .args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in"])
        .arg(at("request.pem"))
        .arg("-CA")
        .arg(at("ca.pem"))
        .arg("-CAkey")
        .arg(at("ca.key"))
        .arg("-extfile")
        .arg(at("names"))
        .arg("-out")
        .arg(at("cert.pem")));
    let registry = Registry::start(dir.path(), Some((&at("cert.pem"), &at("key.pem"))));
    push(&Sample::new("x"), dir.path(), &registry, "a:1", "oci");

    let host = format!("127.0.0.1:{}", registry.port);
    let mirrors = Some(format!("example.invalid=https://{host}"));
    let untrusting = PullOptions {
        mirrors,
        ca_file: Some(at("ca.pem")),
        ..PullOptions::default()
    };
    pull(&TestStore::new(), "example.invalid/a:1", &untrusting).unwrap();

    // The mirror's own name for itself: without a fallback, its failure is the pull's.
    let mirrors = Some(format!("{host}=https://{host}"));
    let strange = PullOptions {
        mirrors,
        ca_file: None,
        retry_wait: std::time::Duration::from_millis(1),
        ..PullOptions::default()
    };
    let error = pull(&TestStore::new(), &format!("{host}/a:1"), &strange).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted, "{error:?}");
}
