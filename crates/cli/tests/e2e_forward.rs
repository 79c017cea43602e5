//! Byte streams to servers of a sandbox: `coffer forward` and `Sandbox::connect`. The sandboxes
//! have no network.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

#[path = "guest_program/mod.rs"]
mod guest_program;

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use cofferdam::{CofferOptions, GuestStream};
use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer, Sleeper},
    sandboxes::until,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long a socket of a test waits.
const LIMIT: Duration = Duration::from_secs(60);

/// Servers on the loopback: echo on 127.0.0.1:7, on [::1]:8 and on `/run/links/echo`; on port 9
/// one that sends `hello`, ends its direction, and writes what it gets to `/tmp/got`; on port 10
/// one that resets each connection after a byte; on port 11 one that sends without end.
const SERVERS: &str = r#"
use std::{io::*, net::*, os::fd::AsRawFd, os::unix::net::UnixListener, thread};

unsafe extern "C" { fn setsockopt(fd: i32, level: i32, name: i32, value: *const i32, len: u32) -> i32; }

fn serve(place: &str, work: fn(TcpStream)) {
    let listener = TcpListener::bind(place).unwrap();
    thread::spawn(move || for stream in listener.incoming() {
        let stream = stream.unwrap();
        thread::spawn(move || work(stream));
    });
}

fn echo(mut stream: TcpStream) {
    let mut reader = stream.try_clone().unwrap();
    let _ = copy(&mut reader, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

fn main() {
    serve("127.0.0.1:7", echo);
    serve("[::1]:8", echo);
    serve("127.0.0.1:9", |mut stream| {
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        std::fs::write("/tmp/part", all).unwrap();
        std::fs::rename("/tmp/part", "/tmp/got").unwrap();
    });
    serve("127.0.0.1:10", |mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        let linger = [1, 0];
        // SOL_SOCKET, SO_LINGER
        unsafe { setsockopt(stream.as_raw_fd(), 1, 13, linger.as_ptr(), 8) };
    });
    serve("127.0.0.1:11", |mut stream| while stream.write_all(&[7; 4096]).is_ok() {});
    std::fs::create_dir_all("/run/real").unwrap();
    std::os::unix::fs::symlink("/run/real", "/run/links").unwrap();
    let listener = UnixListener::bind("/run/real/echo").unwrap();
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut reader = stream.try_clone().unwrap();
        thread::spawn(move || { let _ = copy(&mut reader, &mut stream); let _ = stream.shutdown(Shutdown::Write); });
    }
}
"#;

/// A sandbox without a network in which [`SERVERS`] run.
fn servers(coffer: &Coffer) -> Sleeper<'_> {
    let script = "while ! [ -e /tmp/go ]; do usleep 20000; done; exec /tmp/servers";
    let sandbox = coffer.detached(&["--network", "none", BUSYBOX, "sh", "-c", script]);
    let put = "cat > /tmp/servers && chmod 755 /tmp/servers && touch /tmp/go";
    let put = coffer.run_with_input(
        ["exec", "-i", &sandbox.id, "sh", "-c", put],
        &guest_program::compile(SERVERS),
    );
    assert_eq!(put.code, 0, "{put:?}");
    until("the servers are ready", || {
        coffer.ok(["logs", &sandbox.id]).contains("ready")
    });
    sandbox
}

/// A `coffer forward`, killed at the end.
struct Forwarder {
    child: Child,
    places: Vec<String>,
}

impl Forwarder {
    fn new(coffer: &Coffer, sandbox: &str, ports: &[&str]) -> Self {
        let mut child = coffer
            .command(["forward", sandbox].iter().chain(ports))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines = lines.take(ports.len()).map(|line| {
            let line = line.unwrap();
            line.split_once(" -> ").unwrap().0.to_owned()
        });
        let places = lines.collect();
        Self { child, places }
    }

    fn connect(&self, index: usize) -> TcpStream {
        let stream = TcpStream::connect(&self.places[index]).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn kill(mut self) -> String {
        self.child.kill().unwrap();
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// Bytes in which a lost, doubled or moved one shows.
fn pattern(count: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(count)
        .collect()
}

/// Sends bytes and their end, and returns what comes back.
fn echo(mut stream: TcpStream, bytes: Vec<u8>) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let back = read_all(&mut stream);
    sender.join().unwrap();
    back
}

/// Connections that are there in the guest, to and from any port.
fn established(sandbox: &Sleeper<'_>) -> usize {
    let list = sandbox.sh("cat /proc/net/tcp /proc/net/tcp6");
    let words = list
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    words.filter(|state| *state == "01").count()
}

#[test]
fn sixteen_mebibytes_and_a_hundred_connections_come_back_byte_for_byte() {
    let coffer = Coffer::shared();
    let sandbox = servers(&coffer);
    assert_eq!(sandbox.sh("ls /sys/class/net"), "lo");
    let forwarder = Forwarder::new(
        &coffer,
        &sandbox.id,
        &["0:7", "8", "127.0.0.1::/run/links/echo"],
    );
    let bytes = pattern(16 << 20);
    assert!(echo(forwarder.connect(0), bytes.clone()) == bytes);
    for index in [1, 2] {
        assert_eq!(echo(forwarder.connect(index), b"small".to_vec()), b"small");
    }
    let streams: Vec<TcpStream> = (0..100).map(|_| forwarder.connect(0)).collect();
    let echoes = streams.into_iter().enumerate().map(|(index, stream)| {
        thread::spawn(move || {
            let bytes = pattern(10_000 + index);
            assert!(echo(stream, bytes.clone()) == bytes, "{index}");
        })
    });
    let echoes: Vec<_> = echoes.collect();
    echoes.into_iter().for_each(|echo| echo.join().unwrap());
    until("all connections have ended", || established(&sandbox) == 0);
}

#[test]
fn a_server_may_end_its_direction_first_and_a_reset_is_a_reset() {
    let coffer = Coffer::shared();
    let sandbox = servers(&coffer);
    let forwarder = Forwarder::new(&coffer, &sandbox.id, &["9", "10", "12"]);
    let mut half = forwarder.connect(0);
    assert_eq!(read_all(&mut half), b"hello");
    half.write_all(b"still here").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    until("the server has the rest", || {
        sandbox.exec(&["cat", "/tmp/got"]).text() == "still here"
    });
    let mut reset = forwarder.connect(1);
    reset.write_all(b"x").unwrap();
    let failed = reset.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::ConnectionReset);
    // Where nothing listens, the peer is reset, and others go on.
    let mut refused = forwarder.connect(2);
    let failed = refused.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::ConnectionReset);
    assert_eq!(read_all(&mut forwarder.connect(0)), b"hello");
    let said = forwarder.kill();
    assert!(
        said.contains("Nothing in the guest listens on port 12"),
        "{said}"
    );
}

#[test]
fn a_stream_over_standard_input_and_output_is_one_connection() {
    let coffer = Coffer::shared();
    let sandbox = servers(&coffer);
    let echoed = coffer.run_with_input(["forward", &sandbox.id, "--stdio", "7"], b"one line");
    assert_eq!(
        (echoed.code, echoed.text().as_str()),
        (0, "one line"),
        "{echoed:?}"
    );
    let refused = coffer.run(["forward", &sandbox.id, "--stdio", "12"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("hint: "), "{refused:?}");
    let absent = coffer.run(["forward", &sandbox.id, "--stdio", "/run/none"]);
    assert!(absent.stderr.contains("`/run/none`"), "{absent:?}");
    // `curl` reads a page of a server that has no network.
    sandbox.sh("mkdir /www && echo page > /www/index.html && httpd -p 127.0.0.1:80 -h /www");
    let forwarder = Forwarder::new(&coffer, &sandbox.id, &["80"]);
    let url = format!("http://{}/index.html", forwarder.places[0]);
    let page = Command::new("curl")
        .args(["-sS", "--max-time", "60", &url])
        .output();
    let page = page.unwrap();
    assert_eq!(String::from_utf8_lossy(&page.stdout), "page\n", "{page:?}");
    // The end of the sandbox is the end of the command.
    coffer.ok(["kill", &sandbox.id]);
    let mut forwarder = forwarder;
    assert!(forwarder.child.wait().unwrap().success());
    let gone = coffer.run(["forward", &sandbox.id, "80"]);
    assert_eq!(gone.code, 1, "{gone:?}");
    assert!(gone.stderr.contains("coffer start"), "{gone:?}");
}

#[test]
fn a_killed_client_leaves_nothing_and_a_slow_reader_delays_no_command() {
    let coffer = Coffer::shared();
    let sandbox = servers(&coffer);
    let forwarder = Forwarder::new(&coffer, &sandbox.id, &["11", "7"]);
    // Eight that read nothing, and one that sends what nobody reads back.
    let mut slow: Vec<TcpStream> = (0..8).map(|_| forwarder.connect(0)).collect();
    let mut deaf = forwarder.connect(1);
    deaf.set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let full = deaf.write_all(&vec![1; 64 << 20]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    // The forwarder has accepted all of them before it has connected the last to the guest.
    until("nine connections in the guest", || {
        established(&sandbox) >= 18
    });
    // A command that waited for a reader would wait for ever: none reads yet.
    for _ in 0..3 {
        assert_eq!(sandbox.sh("echo quick"), "quick");
    }
    let mut first = [0; 1];
    slow[0].read_exact(&mut first).unwrap();
    assert_eq!(first, [7]);
    let pid = Pid::from_raw(i32::try_from(forwarder.child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    until("the guest has no connection left", || {
        established(&sandbox) == 0
    });
}

/// The sandbox as a program with the SDK sees it.
fn with_sdk(coffer: &Coffer, work: impl AsyncFnOnce(cofferdam::Coffer)) {
    let program = coffer.command(["version"]).get_program().to_owned();
    let options = CofferOptions::new().home(coffer.home()).program(program);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let sdk = cofferdam::Coffer::open_with(&options).unwrap();
    runtime.block_on(work(sdk));
}

async fn echoes(stream: &mut GuestStream, word: &[u8]) -> bool {
    let mut back = vec![0; word.len()];
    stream.write_all(word).await.is_ok()
        && stream.read_exact(&mut back).await.is_ok()
        && back == word
}

#[test]
fn a_program_connects_and_a_fork_inherits_no_stream() {
    let coffer = Coffer::shared();
    let sandbox = servers(&coffer);
    with_sdk(&coffer, async |sdk| {
        let source = sdk.sandbox(&sandbox.id).unwrap();
        let refused = source.connect(12).await.unwrap_err();
        assert_eq!(refused.kind(), cofferdam::ErrorKind::ConnectionRefused);
        let mut stream = source.connect(7).await.unwrap();
        assert!(echoes(&mut stream, b"before").await);
        // The capture of a fork leaves the source's stream alone.
        let fork = coffer.keep(coffer.ok(["fork", &sandbox.id]));
        assert!(echoes(&mut stream, b"after").await);
        until("the fork has no connection", || established(&fork) == 0);
        let copy = sdk.sandbox(&fork.id).unwrap();
        let mut other = copy.connect(7).await.unwrap();
        assert!(echoes(&mut other, b"in the fork").await);
        // A pause keeps the stream; a new one needs a guest that runs.
        coffer.ok(["pause", &sandbox.id]);
        let paused = source.connect(7).await.unwrap_err();
        assert_eq!(paused.kind(), cofferdam::ErrorKind::WrongState);
        coffer.ok(["unpause", &sandbox.id]);
        assert!(echoes(&mut stream, b"unpaused").await);
        // Both ends.
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        let mut reset = source.connect(10).await.unwrap();
        reset.write_all(b"x").await.unwrap();
        let failed = reset.read(&mut [0]).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::ConnectionReset);
        // What was written and flushed by nobody still arrives.
        let mut left = source.connect(9).await.unwrap();
        left.write_all(b"left behind").await.unwrap();
        drop(left);
        // The tasks of the stream run while this one waits.
        until_async(async || sandbox.exec(&["cat", "/tmp/got"]).text() == "left behind").await;
        // The end of the sandbox is an error of its streams.
        let mut last = copy.connect(7).await.unwrap();
        coffer.ok(["kill", &fork.id]);
        // The server's end may come before that of the sandbox.
        match last.read(&mut [0]).await {
            Ok(read) => assert_eq!(read, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionAborted),
        }
        let gone = copy.connect(7).await.unwrap_err();
        assert_eq!(gone.kind(), cofferdam::ErrorKind::WrongState);
    });
}

async fn until_async(mut happened: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !happened().await {
        assert!(began.elapsed() < LIMIT, "never came");
        tokio::task::yield_now().await;
    }
}
