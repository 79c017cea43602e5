//! Another host: a network namespace at the other end of a virtual cable.
//!
//! A test that needs an address which is neither private nor its own host's runs again in a
//! namespace of its own, where such an address disturbs nobody. It needs user namespaces and the
//! programs `unshare`, `nsenter` and `ip`; where one of them does not work, the test is skipped
//! with a word about it.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Says that a test already runs in its namespace.
const INSIDE: &str = "COFFERDAM_NET_TEST_INSIDE";

/// The address of the other host.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);

/// A process that keeps the other host's namespace.
pub(crate) struct Outside(Child);

impl Outside {
    /// In the namespace of `test`: the other host. Elsewhere: none, after the test has run in its
    /// namespace and passed, or was skipped.
    pub(crate) fn of_test(test: &str) -> Option<Self> {
        if std::env::var_os(INSIDE).is_some() {
            return Some(Self::new());
        }
        // The whole way, so that what is missing is seen here and not as a failed test.
        let able = Command::new("unshare")
            .args(["-r", "-n", "sh", "-c"])
            .arg("ip link add v0 type veth peer name v1 && nsenter -t $$ -n true")
            .output();
        if !able.is_ok_and(|output| output.status.success()) {
            cofferdam_testkit::skip("no network namespace can be made here");
            return None;
        }
        let output = Command::new("unshare")
            .args(["-r", "-n"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let passed = output.status.success() && text.contains("1 passed");
        assert!(passed, "{text}{}", String::from_utf8_lossy(&output.stderr));
        None
    }

    fn new() -> Self {
        // It ends when this process does, because its input ends then.
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let id = child.id();
        shell(&format!(
            "ip link set lo up && ip link add v0 type veth peer name v1 netns {id} &&
             ip addr add 1.2.3.1/24 dev v0 && ip link set v0 up &&
             nsenter -t {id} -n sh -c 'ip addr add {OUTSIDE}/24 dev v1 && ip link set v1 up'"
        ));
        Self(child)
    }

    /// A listener of the other host.
    pub(crate) fn listen(&self) -> TcpListener {
        let namespace = File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        // A socket stays in the namespace of the thread that made it.
        let listen = move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).unwrap();
            TcpListener::bind(SocketAddr::new(IpAddr::V4(OUTSIDE), 0)).unwrap()
        };
        thread::spawn(listen).join().unwrap()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // An ended input ends it.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Runs a script that has to succeed.
pub(crate) fn shell(script: &str) {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {text}");
}
