//! A sandbox with servers on published ports, and one with clients that may reach these ports.

use cofferdam_testkit::coffer::{Coffer, Sleeper};

use crate::image;

/// How the two are started.
const IDLE: [&str; 2] = ["sleep", "1000000"];

pub(crate) struct Pair<'a> {
    coffer: &'a Coffer,
    pub(crate) server: Sleeper<'a>,
    pub(crate) client: Sleeper<'a>,
}

impl<'a> Pair<'a> {
    /// Starts both, and runs `servers` in the first. `None`: the test is skipped.
    pub(crate) fn start(coffer: &'a Coffer, servers: &str, ports: &[&str]) -> Option<Self> {
        let image = image::load(coffer)?;
        let run = |flags: &[&str]| {
            let args = [&["--network", "default"], flags, &[image], &IDLE].concat();
            coffer.detached(&args)
        };
        let publish: Vec<&str> = ports.iter().flat_map(|port| ["-p", port]).collect();
        let server = run(&publish);
        let rules: Vec<String> = ports
            .iter()
            .map(|port| {
                let guest = port.rsplit_once(':').map_or(*port, |(_, guest)| guest);
                let place = coffer.ok(["port", &server.id, guest]);
                let protocol = port.split_once('/').map_or("tcp", |(_, protocol)| protocol);
                format!("host:{}/{protocol}", number(&place))
            })
            .collect();
        let allow: Vec<&str> = rules
            .iter()
            .flat_map(|rule| ["--allow", rule.as_str()])
            .collect();
        let client = run(&allow);
        server.sh(&format!("set -e; {servers}"));
        Some(Self {
            coffer,
            server,
            client,
        })
    }

    /// Runs a script where the servers are.
    pub(crate) fn server(&self, script: &str) -> String {
        self.server.sh(script)
    }

    /// Runs a script where the clients are.
    pub(crate) fn client(&self, script: &str) -> String {
        self.client.sh(script)
    }

    /// Address and port on the host of a port of the servers.
    pub(crate) fn place(&self, port: &str) -> String {
        self.coffer.ok(["port", &self.server.id, port])
    }

    /// The port on the host of a port of the servers.
    pub(crate) fn port(&self, port: &str) -> String {
        number(&self.place(port)).to_owned()
    }

    /// Where the clients reach a port of the servers.
    pub(crate) fn url(&self, scheme: &str, port: u16) -> String {
        let port = self.port(&port.to_string());
        let user = if scheme == "ssh" { "root@" } else { "" };
        format!("{scheme}://{user}host.coffer.internal:{port}")
    }

    /// Copies a file from the servers to the clients.
    pub(crate) fn copy(&self, path: &str) {
        let content = self.server.exec(&["cat", path]);
        let script = format!("mkdir -p \"$(dirname {path})\"; cat > {path}");
        let put = ["exec", "-i", &self.client.id, "sh", "-c", &script];
        let put = self.coffer.run_with_input(put, &content.stdout);
        assert_eq!(put.code, 0, "{put:?}");
    }
}

fn number(place: &str) -> &str {
    place.rsplit_once(':').unwrap().1
}
