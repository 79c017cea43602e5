//! `forward` and its ports.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use clap::Args;

/// `forward`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coffer forward web 8080:80                      127.0.0.1:8080 leads to port 80 of the sandbox
  coffer forward web 80 5432                      the kernel chooses the host's ports
  coffer forward web 2375:/var/run/docker.sock    a Unix socket of the sandbox
  ssh -o ProxyCommand='coffer forward web --stdio 22' root@web")]
pub(crate) struct ForwardArgs {
    /// Sandbox that runs
    pub(crate) sandbox: String,
    /// Listen on the host; GUEST is a TCP port or the absolute path of a Unix socket
    #[arg(
        value_name = "[[IP:]HOST:]GUEST",
        required_unless_present = "stdio",
        conflicts_with = "stdio"
    )]
    pub(crate) ports: Vec<Forward>,
    /// Make one connection to GUEST and join it to standard input and output
    #[arg(long, value_name = "GUEST")]
    pub(crate) stdio: Option<Guest>,
    /// Print where it listens as JSON
    #[arg(long, conflicts_with = "stdio")]
    pub(crate) json: bool,
}

/// A place of the host and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Port 0: the kernel chooses.
    pub(crate) host: SocketAddr,
    pub(crate) guest: Guest,
}

/// A server of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    Port(u16),
    Socket(String),
}

impl FromStr for Guest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Socket(text.to_owned()));
        }
        match text.parse() {
            Ok(0) | Err(_) => Err(format!("`{text}` is neither a port nor an absolute path")),
            Ok(port) => Ok(Self::Port(port)),
        }
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "write `8080:80`, `80`, `127.0.0.2:8080:80` or `8080:/path/of/a/socket`";
        Self::parse(text).map_err(|error| format!("{error}; {hint}"))
    }
}

impl Forward {
    fn parse(text: &str) -> Result<Self, String> {
        // A path may have colons of its own.
        let end = text.find('/').unwrap_or(text.len());
        let (host, guest) = match text[..end].rfind(':') {
            Some(colon) => (Some(&text[..colon]), &text[colon + 1..]),
            None => (None, text),
        };
        let guest = guest.parse()?;
        let (address, port) = match host.map(|host| (host, host.rfind(':'))) {
            None => (None, "0"),
            // `[::1]:` has an address and no port.
            Some((host, Some(colon))) => (Some(&host[..colon]), &host[colon + 1..]),
            Some((host, None)) => (None, host),
        };
        let port = match port {
            "" => 0,
            port => port
                .parse()
                .map_err(|_| format!("`{port}` is no port of the host"))?,
        };
        let address = match address {
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(address) => address
                .strip_prefix('[')
                .and_then(|inner| inner.strip_suffix(']'))
                .unwrap_or(address)
                .parse()
                .map_err(|_| format!("`{address}` is no IP address"))?,
        };
        Ok(Self {
            host: SocketAddr::new(address, port),
            guest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_and_its_port_may_be_left_out() {
        for (text, host, guest) in [
            ("80", "127.0.0.1:0", Guest::Port(80)),
            ("8080:80", "127.0.0.1:8080", Guest::Port(80)),
            ("0:80", "127.0.0.1:0", Guest::Port(80)),
            ("127.0.0.2:8080:80", "127.0.0.2:8080", Guest::Port(80)),
            ("127.0.0.2::80", "127.0.0.2:0", Guest::Port(80)),
            ("[::1]:8080:80", "[::1]:8080", Guest::Port(80)),
            ("[::1]::80", "[::1]:0", Guest::Port(80)),
            ("/run/s", "127.0.0.1:0", Guest::Socket("/run/s".to_owned())),
            (
                "1:/a:b/c",
                "127.0.0.1:1",
                Guest::Socket("/a:b/c".to_owned()),
            ),
        ] {
            let parsed: Forward = text.parse().unwrap();
            assert_eq!(parsed.host, host.parse().unwrap(), "{text}");
            assert_eq!(parsed.guest, guest, "{text}");
        }
        for bad in [
            "",
            ":",
            "0",
            "x",
            "8080:",
            "8080:0",
            "x:80",
            "host:1:80",
            "1:2:80",
            "70000:1",
        ] {
            let error = bad.parse::<Forward>().unwrap_err();
            assert!(error.contains("write `8080:80`"), "{bad}: {error}");
        }
    }
}
