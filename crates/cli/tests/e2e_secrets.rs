//! Secrets: a real guest with curl, and HTTPS servers on the host's loopback. The guest, its memory
//! and the store never have a value.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind, Read as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::mpsc,
    thread,
};

use cofferdam_testkit::{
    coffer::Coffer, https::HttpsServer, image::busybox, sandboxes::until, skip,
};
use rustix::fs::{SeekFrom, seek};
use serde_json::Value;

const VALUE: &str = "value-that-no-guest-has-9d1c";
const HOST: &str = "api.secrets.test";
const IMAGE: &str = "curl:test";

/// A store with an image that has the host's curl, and a trust store as Debian has it.
struct Store {
    coffer: Coffer,
    server: HttpsServer,
    /// The trust store of the host's side.
    roots: PathBuf,
}

/// The files that a program needs, from the host.
fn closure(program: &Path) -> Option<BTreeSet<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output().ok()?;
    let text = String::from_utf8(listed.stdout).ok()?;
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files: BTreeSet<PathBuf> = words.map(PathBuf::from).collect();
    files.insert(program.to_owned());
    listed.status.success().then_some(files)
}

impl Store {
    /// None without curl on the host.
    fn new() -> Option<Self> {
        let Some(files) = closure(Path::new("/usr/bin/curl")) else {
            skip("the host has no /usr/bin/curl");
            return None;
        };
        let mut image = busybox()
            .directory("etc/ssl", 0o755)
            .directory("etc/ssl/certs", 0o755)
            .file(
                "etc/ssl/certs/ca-certificates.crt",
                0o644,
                b"# of the image\n",
            );
        for file in files {
            let content = fs::read(&file).unwrap();
            let name = file.strip_prefix("/").unwrap().to_str().unwrap();
            image = image.file(name, 0o755, &content);
        }
        let coffer = Coffer::private();
        let loaded = coffer.run_with_input(["load"], &image.archive(IMAGE));
        assert_eq!(loaded.code, 0, "{loaded:?}");
        let server = HttpsServer::start(&[HOST, "other.test"], &["h2", "http/1.1"]);
        // Beside the store, which is searched for what must not be in it.
        let roots = coffer.home().with_extension("pem");
        fs::write(&roots, &server.authority_pem).unwrap();
        Some(Self {
            coffer,
            server,
            roots,
        })
    }

    /// Runs `coffer` with the value in its environment.
    fn with_value(&self, args: &[&str]) -> Output {
        self.coffer
            .command(args)
            .env("TOKEN", VALUE)
            .env("SSL_CERT_FILE", &self.roots)
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.with_value(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Starts a sandbox with a secret and more flags.
    fn start(&self, flags: &[&str]) -> String {
        let rule = format!("host:{}", self.server.address.port());
        let host = format!("{HOST}:host-gateway");
        let mut args = vec!["run", "-d", "--allow", &rule, "--add-host", &host];
        args.extend(["--add-host", "other.test:host-gateway"]);
        args.extend(flags);
        args.extend([IMAGE, "sh", "-c", "while :; do sleep 1000; done"]);
        self.ok(&args)
    }

    /// What curl in a sandbox gets from a host, with the placeholder in a field.
    fn curl(&self, sandbox: &str, flags: &str) -> String {
        let port = self.server.address.port();
        let script = format!(
            "curl -sS -m 60 {flags} -H \"Authorization: Bearer $TOKEN\" https://{HOST}:{port}/ 2>&1"
        );
        let output = self.with_value(&["exec", sandbox, "sh", "-c", &script]);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether the server got the value in its last request.
    fn server_got_the_value(&self) -> bool {
        let last = self.server.requests().pop().unwrap_or_default();
        last.contains(&format!("authorization: Bearer {VALUE}"))
    }

    fn denied(&self, sandbox: &str) -> Vec<Value> {
        let filter = format!("sandbox={sandbox}");
        let args = [
            "events", "--json", "--since", "0", "--until", "0s", "--filter", &filter,
        ];
        let text = self.ok(&[&args[..], &["--filter", "type=network_denied"]].concat());
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.roots);
        for id in self.coffer.ok(["ps", "-aq"]).split_whitespace() {
            let _ = self.coffer.run(["rm", "-f", id]);
        }
    }
}

/// The files below `directory` that have `word` in them. A template that is made in the background
/// moves its files, and then the search begins again: none may be missed.
fn files_with(directory: &Path, word: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    until("a search in which no file was moved", || {
        match search(directory, word.as_bytes()) {
            Ok(files) => {
                found = files;
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                false
            }
        }
    });
    found
}

fn search(directory: &Path, word: &[u8]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let kind = fs::symlink_metadata(&path)?;
        if kind.is_dir() {
            found.extend(search(&path, word)?);
        } else if kind.is_file() && has(&path, word)? {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether a file has a word in it. Memory files are mostly holes, which are passed over.
fn has(path: &Path, word: &[u8]) -> io::Result<bool> {
    let mut file = fs::File::open(path)?;
    let mut at = 0;
    // No data behind `at` is an error, and the end.
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        let end = seek(&file, SeekFrom::Hole(start))?;
        seek(&file, SeekFrom::Start(start))?;
        let mut data = Vec::new();
        (&mut file).take(end - start).read_to_end(&mut data)?;
        let mut rest = data.as_slice();
        while let Some(found) = rest.iter().position(|byte| *byte == word[0]) {
            if rest[found..].starts_with(word) {
                return Ok(true);
            }
            rest = &rest[found + 1..];
        }
        at = end;
    }
    Ok(false)
}

#[test]
fn the_server_gets_the_value_and_neither_guest_nor_store_has_it() {
    let Some(store) = Store::new() else { return };
    let secret = format!("TOKEN:{HOST}");
    let sandbox = store.start(&["--secret", &secret]);
    let placeholder = store.ok(&["exec", &sandbox, "sh", "-c", "echo $TOKEN"]);
    assert!(
        placeholder.starts_with("coffer-secret-TOKEN-"),
        "{placeholder}"
    );
    for flags in ["--http1.1", "--http2"] {
        let answer = store.curl(&sandbox, flags);
        assert!(store.server_got_the_value(), "{flags}: {answer}");
        assert!(
            answer.contains("Bearer ****") && !answer.contains(VALUE),
            "{answer}"
        );
    }
    // Without the variables, curl reads the image's own trust store.
    let bundle = "--cacert /etc/ssl/certs/ca-certificates.crt";
    assert!(store.curl(&sandbox, bundle).contains("Bearer ****"));
    let inspected = store.ok(&["inspect", &sandbox]);
    assert!(
        inspected.contains(&placeholder) && !inspected.contains(VALUE),
        "{inspected}"
    );

    store.ok(&["snapshot", "create", "--name", "moment", &sandbox]);
    let home = store.coffer.home();
    let with_placeholder = files_with(home, &placeholder);
    let is_memory = |path: &PathBuf| path.file_name().is_some_and(|name| name == "memory");
    assert!(
        with_placeholder.iter().any(is_memory),
        "{with_placeholder:?}"
    );
    assert_eq!(files_with(home, VALUE), Vec::<PathBuf>::new());
}

#[test]
fn a_fork_and_a_second_start_get_the_value_again() {
    let Some(store) = Store::new() else { return };
    let secret = format!("TOKEN:{HOST}");
    let sandbox = store.start(&["--name", "first", "--secret", &secret]);
    let fork = store.ok(&["fork", &sandbox]);
    assert!(
        store.curl(&fork, "").contains("Bearer ****"),
        "{}",
        store.curl(&fork, "")
    );
    assert!(store.server_got_the_value());
    store.ok(&["stop", "-t", "0", &sandbox]);
    let refused = store.coffer.run(["start", "first"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(
        refused.stderr.contains("no variable `TOKEN`"),
        "{refused:?}"
    );
    store.ok(&["start", "first"]);
    let answer = store.curl("first", "");
    assert!(answer.contains("Bearer ****"), "{answer}");
    // The certificate of the first start is gone.
    let script = "grep -c 'Begin of the authority' /etc/ssl/certs/ca-certificates.crt";
    assert_eq!(store.ok(&["exec", "first", "sh", "-c", script]), "1");
}

#[test]
fn a_restore_gets_the_value_again() {
    let Some(store) = Store::new() else { return };
    let secret = format!("TOKEN:{HOST}");
    let sandbox = store.start(&["--name", "kept", "--secret", &secret]);
    store.ok(&["snapshot", "create", "--name", "moment", &sandbox]);
    store.ok(&["rm", "-f", &sandbox]);
    let refused = store.coffer.run(["restore", "moment"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(
        refused.stderr.contains("no variable `TOKEN`"),
        "{refused:?}"
    );
    store.ok(&["restore", "moment"]);
    let answer = store.curl("kept", "");
    assert!(answer.contains("Bearer ****"), "{answer}");
    assert!(store.server_got_the_value());
}

#[test]
fn a_placeholder_that_leaves_without_tls_is_blocked_and_reported() {
    let Some(store) = Store::new() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut text = Vec::new();
            let _ = stream.unwrap().read_to_end(&mut text);
            sender.send(text).unwrap();
        }
    });
    let (secret, rule) = (
        format!("TOKEN=@{}:{HOST}", store.roots.display()),
        format!("host:{port}"),
    );
    // A certificate has line ends, so it is no value.
    let refused = store.with_value(&["run", "--rm", "--secret", &secret, IMAGE, "true"]);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("printable"),
        "{refused:?}"
    );
    let secret = format!("TOKEN={VALUE}:{HOST}");
    let sandbox = store.start(&["--allow", &rule, "--secret", &secret]);
    let script = format!("curl -sS -m 60 http://host.coffer.internal:{port}/$TOKEN 2>&1; true");
    let answer = store.ok(&["exec", &sandbox, "sh", "-c", &script]);
    assert!(answer.contains("reset"), "{answer}");
    let text = receiver.recv().unwrap();
    assert!(text.is_empty(), "{}", String::from_utf8_lossy(&text));
    until("the event is there", || {
        store
            .denied(&sandbox)
            .iter()
            .any(|event| event.to_string().contains("`TOKEN`"))
    });
    // The host of the secret gets the value of a text too.
    assert!(store.curl(&sandbox, "").contains("Bearer ****"));
    assert!(store.server_got_the_value());
}
