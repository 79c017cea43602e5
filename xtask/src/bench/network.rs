//! The network: what it costs a start and a fork, and how it carries bytes beside QEMU's own
//! user-space network and passt with the same guest.
//!
//! The peers take the place of the stack below an unchanged `coffer`: a script stands for QEMU and
//! hands it another `-netdev`. The address of the guest is the same everywhere.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    bundle::DEBIAN,
    measure::{self, Pair, Times},
    outcome::{Outcome, outcome},
    store::Bench,
};
use crate::{packages, process, workspace};

/// One transfer.
const MEBIBYTES: usize = 64;
const REQUESTS: usize = 200;

/// Longest wait for a server or a connection.
const LIMIT: Duration = Duration::from_secs(60);

/// An HTTP server on port 80, after the interface has got the MTU of its argument. passt sends to a
/// guest only once it has heard of it.
const SERVER: &str = "import fcntl,socket,struct,sys
s=socket.socket(); fcntl.ioctl(s,0x8922,struct.pack('16si8x',b'eth0',int(sys.argv[1])))
socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'x',('198.18.0.1',9))
s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.bind(('',80)); s.listen(64)
while 1:
  c=s.accept()[0]; c.recv(4096); c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nhello\\n'); c.close()";

const SEND: &str = "import socket,sys
s=socket.create_connection((sys.argv[1],int(sys.argv[2]))); b=bytes(1<<20)
for _ in range(int(sys.argv[3])): s.sendall(b)";

const RECEIVE: &str = "import socket,sys
s=socket.create_connection((sys.argv[1],int(sys.argv[2]))); b=bytearray(1<<18)
while s.recv_into(b): pass";

/// What carries the frames of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Cofferdam,
    Slirp,
    Passt,
}

impl Carrier {
    /// The host's loopback, as the guest reaches it.
    const fn host(self) -> &'static str {
        match self {
            Self::Cofferdam => "198.18.0.2",
            Self::Slirp | Self::Passt => "198.18.0.1",
        }
    }

    /// Largest packet, as its documentation recommends.
    const fn mtu(self) -> &'static str {
        match self {
            Self::Cofferdam | Self::Passt => "65520",
            Self::Slirp => "1500",
        }
    }
}

/// A sandbox with a server. It ends when this is dropped.
struct Guest<'a> {
    bench: &'a Bench<'a>,
    carrier: Carrier,
    name: String,
    /// Port of the host that leads to the server.
    port: u16,
    passt: Option<Child>,
}

impl<'a> Guest<'a> {
    fn start(bench: &'a Bench<'a>, carrier: Carrier) -> Result<Self> {
        let port = free_port()?;
        let directory = bench.dir().join(format!("network-{carrier:?}"));
        fs::create_dir_all(&directory)?;
        let mut guest = Self {
            bench,
            carrier,
            name: format!("network-{carrier:?}").to_lowercase(),
            port,
            passt: None,
        };
        let mut run = bench.coffer(&["run", "-d", "--name", &guest.name]);
        let publish = format!("127.0.0.1:{port}:80");
        match carrier {
            Carrier::Cofferdam => {
                run.args(["--allow", "host", "-p", &publish]);
            }
            Carrier::Slirp => {
                let backend = format!(
                    "user,id=net0,net=198.18.0.0/16,host=198.18.0.1,dns=198.18.0.9,\
                     hostfwd=tcp:127.0.0.1:{port}-198.18.0.3:80"
                );
                let program = bench.qemu.program();
                run.env("COFFER_QEMU", instead_of(program, &directory, &backend)?);
            }
            Carrier::Passt => {
                let socket = directory.join("passt.sock");
                guest.passt = Some(start_passt(&socket, port)?);
                let socket = socket.display();
                let backend =
                    format!("stream,id=net0,server=off,addr.type=unix,addr.path={socket}");
                let program = bench.qemu.program();
                run.env("COFFER_QEMU", instead_of(program, &directory, &backend)?);
            }
        }
        run.args([
            DEBIAN,
            "--",
            "/usr/bin/python3",
            "-c",
            SERVER,
            carrier.mtu(),
        ]);
        process::capture(&mut run)?;
        let begin = Instant::now();
        while guest.request().is_err() {
            ensure!(begin.elapsed() < LIMIT, "No server answers in {LIMIT:?}");
        }
        Ok(guest)
    }

    /// One HTTP request to the guest.
    fn request(&self) -> Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.ends_with("hello\n"), "The server said {answer:?}");
        Ok(())
    }

    fn requests(&self) -> Result<Duration> {
        let begin = Instant::now();
        (0..REQUESTS).try_for_each(|_| self.request())?;
        Ok(begin.elapsed())
    }

    /// Time from the accepted connection to the last byte, at the host.
    fn transfer(&self, script: &str) -> Result<Duration> {
        let server = TcpListener::bind(("127.0.0.1", 0))?;
        let port = server.local_addr()?.port().to_string();
        let mebibytes = MEBIBYTES.to_string();
        let args = ["exec", &self.name, "/usr/bin/python3", "-c", script];
        let mut client = self.bench.coffer(&args);
        client.args([self.carrier.host(), &port, &mebibytes]);
        let mut client = client.stdin(Stdio::null()).spawn()?;
        let (mut stream, _) = server.accept()?;
        stream.set_read_timeout(Some(LIMIT))?;
        let begin = Instant::now();
        let mut buffer = vec![0; 1 << 20];
        if script == SEND {
            let mut received = 0;
            while received < MEBIBYTES << 20 {
                let length = stream.read(&mut buffer)?;
                ensure!(length > 0, "The guest sent {received} bytes only");
                received += length;
            }
        } else {
            (0..MEBIBYTES).try_for_each(|_| stream.write_all(&buffer))?;
            stream.shutdown(std::net::Shutdown::Write)?;
            // The guest closes when it has read all of it.
            ensure!(stream.read(&mut buffer)? == 0, "The guest answers");
        }
        let time = begin.elapsed();
        drop(stream);
        let status = client.wait()?;
        ensure!(status.success(), "The guest's program: {status}");
        Ok(time)
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = process::capture(&mut self.bench.coffer(&["rm", "-f", &self.name]));
        if let Some(passt) = &mut self.passt {
            let _ = passt.kill();
            let _ = passt.wait();
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A script that runs QEMU with another network backend.
fn instead_of(qemu: &Path, directory: &Path, backend: &str) -> Result<PathBuf> {
    let script = directory.join("qemu");
    let text = format!(
        "#!/bin/sh\nleft=$#\nnext=\nwhile [ $left -gt 0 ]; do\n  word=$1; shift; left=$((left - 1))\n  \
         [ -z \"$next\" ] || word='{backend}'\n  next=\n  [ \"$word\" != -netdev ] || next=1\n  \
         set -- \"$@\" \"$word\"\ndone\nexec '{}' \"$@\"\n",
        qemu.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

/// Starts passt for the guest's address, and waits for its socket.
fn start_passt(socket: &Path, port: u16) -> Result<Child> {
    let root = packages::unpack("passt", &workspace::target().join("packages"))?;
    let _ = fs::remove_file(socket);
    let mut passt = Command::new(root.join("usr/bin/passt"));
    passt.args(["--foreground", "--quiet", "--ipv4-only", "--socket"]);
    passt.arg(socket).args(["--address", "198.18.0.3"]);
    passt.args(["--netmask", "255.255.0.0", "--gateway", "198.18.0.1"]);
    passt.args([
        "--mtu",
        "65520",
        "--tcp-ports",
        &format!("127.0.0.1/{port}:80"),
    ]);
    if fs::metadata("/proc/self")?.uid() == 0 {
        // It gives root up by default, and then cannot reach a socket of root's directories.
        passt.args(["--runas", "0"]);
    }
    let child = passt.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.context("Could not start passt")?;
    let begin = Instant::now();
    while !socket.exists() {
        ensure!(begin.elapsed() < LIMIT, "passt makes no socket");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child)
}

impl Bench<'_> {
    /// What does a network cost a start?
    pub(super) fn start_with_network(&self) -> Result<Outcome> {
        let run = |network| {
            let args = [
                "run",
                "--rm",
                "--network",
                network,
                DEBIAN,
                "--",
                "/bin/true",
            ];
            Ok(self.coffer(&args))
        };
        // Each has a template of its own, which is made after its first run.
        (0..5).try_for_each(|_| {
            measure::time(run("none")?)?;
            measure::time(run("default")?).map(drop)
        })?;
        let pair = measure::pair(self.runs, || run("default"), || run("none"))?;
        let more = pair.ours.median_ms() - pair.theirs.median_ms();
        Ok(Outcome {
            note: format!("{more:.0} ms more"),
            ..outcome(
                "run --rm /bin/true with a network",
                pair,
                "--network none",
                "at most 10 ms more",
            )
        })
    }

    /// What does it cost a fork?
    pub(super) fn fork_with_network(&self) -> Result<Outcome> {
        self.with_sandbox(&["--network", "none"], |plain| {
            self.with_sleeper(|networked| {
                let fork = |of: &str| {
                    let _ = process::capture(&mut self.coffer(&["rm", "-f", "copy"]));
                    Ok(self.coffer(&["fork", "--name", "copy", of]))
                };
                let pair = measure::pair(self.runs, || fork(networked), || fork(plain));
                let _ = process::capture(&mut self.coffer(&["rm", "-f", "copy"]));
                Ok(outcome(
                    "fork with a network",
                    pair?,
                    "--network none",
                    "reported",
                ))
            })
        })
    }

    /// How does it carry bytes and requests?
    pub(super) fn network_beside_peers(&self) -> Result<Vec<Outcome>> {
        let ours = Guest::start(self, Carrier::Cofferdam)?;
        let mut all = Vec::new();
        for (carrier, peer) in [
            (Carrier::Slirp, "QEMU -netdev user"),
            (Carrier::Passt, "passt"),
        ] {
            let theirs = Guest::start(self, carrier)?;
            let target = "not slower than the faster peer";
            let up = in_turn(self.runs / 3, &ours, &theirs, |guest| guest.transfer(SEND))?;
            all.push(outcome(
                "64 MiB from the guest to the host",
                up,
                peer,
                target,
            ));
            let down = in_turn(self.runs / 3, &ours, &theirs, |guest| {
                guest.transfer(RECEIVE)
            })?;
            all.push(outcome(
                "64 MiB from the host to the guest",
                down,
                peer,
                target,
            ));
            let requests = in_turn(self.runs / 3, &ours, &theirs, |guest| guest.requests())?;
            all.push(outcome(
                "200 requests to an HTTP server in the guest",
                requests,
                peer,
                target,
            ));
        }
        Ok(all)
    }
}

/// Measures two guests in turn, after one measurement of each that is not counted.
fn in_turn(
    runs: usize,
    ours: &Guest<'_>,
    theirs: &Guest<'_>,
    measure: impl Fn(&Guest<'_>) -> Result<Duration>,
) -> Result<Pair> {
    measure(ours)?;
    measure(theirs)?;
    let times = (0..runs).map(|_| Ok((measure(ours)?, measure(theirs)?)));
    let times: Vec<(Duration, Duration)> = times.collect::<Result<_>>()?;
    let mut ratios: Vec<f64> = times
        .iter()
        .map(|(a, b)| a.as_secs_f64() / b.as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    Ok(Pair {
        ratio: *ratios.get(runs / 2).context("Nothing was measured")?,
        ours: Times::of(times.iter().map(|(ours, _)| *ours).collect())?,
        theirs: Times::of(times.iter().map(|(_, theirs)| *theirs).collect())?,
    })
}
