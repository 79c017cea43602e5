//! Published ports: those that an image exposes, and those that the host can give.

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use cofferdam_net::{BoundPort, PublishSpec};
use cofferdam_types::{NetworkMode, NetworkSpec, PortMapping, PortProtocol};

use crate::base::error::{Error, ErrorKind, Result, io, lift};

/// Adds each port that an image exposes and `spec` leaves out, if `spec` asks for that. An entry
/// that is no port of TCP or UDP is left out, as by Docker. Source: OCI image-spec, config.md.
pub(crate) fn publish_exposed(spec: &mut NetworkSpec, exposed: &[String]) {
    if !spec.publish_all {
        return;
    }
    let ports = exposed
        .iter()
        .filter_map(|text| PortMapping::parse_all(text).ok());
    for port in ports.flatten() {
        let is_same =
            |other: &PortMapping| (other.guest, other.protocol) == (port.guest, port.protocol);
        if !spec.publish.iter().any(is_same) {
            spec.publish.push(port);
        }
    }
}

/// What a sandbox's network has of the host, taken before anything else is done for a start: its
/// listeners, whose ports nobody else can have any more, and the file of its capture. The network
/// takes them over.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(Mutex<Taken>);

/// What [`Endpoints`] hold.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) ports: Vec<(PortMapping, BoundPort)>,
    pub(super) capture: Option<File>,
}

impl Endpoints {
    /// Listens on the ports of `spec` and opens its capture.
    ///
    /// # Blocking
    /// For one system call or two for each port.
    ///
    /// # Errors
    /// [`ErrorKind::PortTaken`], [`ErrorKind::Permission`], [`ErrorKind::InvalidSpec`], and
    /// [`ErrorKind::Io`], with the port or the file; nothing listens then.
    pub(crate) fn take(spec: &NetworkSpec) -> Result<Self> {
        if spec.mode == NetworkMode::None {
            return Ok(Self::default());
        }
        let ports = bind_all(spec)?;
        let capture = spec.capture.as_deref().map(open_capture).transpose()?;
        Ok(Self(Mutex::new(Taken { ports, capture })))
    }

    /// Hands them over; nothing is left here.
    pub(super) fn hand_over(&self) -> Taken {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Opens the file of a capture, which the frames of an earlier one leave.
pub(super) fn open_capture(path: &Path) -> Result<File> {
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.map_err(|error| {
        let what = format!("Could not write the capture `{}`", path.display());
        io(what, error)
    })
}

fn bind_all(spec: &NetworkSpec) -> Result<Vec<(PortMapping, BoundPort)>> {
    let bound = spec.publish.iter().map(|port| Ok((*port, bind(port)?)));
    bound.collect()
}

/// Fails if the host cannot give a port of `spec` now. The ports are free again when this returns;
/// [`Endpoints::take`] decides.
///
/// # Errors
/// As [`Endpoints::take`].
pub(crate) fn expect_free(spec: &NetworkSpec) -> Result<()> {
    match spec.mode {
        NetworkMode::None => Ok(()),
        _ => bind_all(spec).map(drop),
    }
}

/// Listens on one port.
pub(super) fn bind(port: &PortMapping) -> Result<BoundPort> {
    lift(BoundPort::bind(&asked(port))).map_err(|error| explain(port, error))
}

/// A port as the stack takes it.
fn asked(port: &PortMapping) -> PublishSpec {
    PublishSpec {
        protocol: match port.protocol {
            PortProtocol::Tcp => cofferdam_net::Protocol::Tcp,
            PortProtocol::Udp => cofferdam_net::Protocol::Udp,
        },
        host: port.host,
        guest_port: port.guest,
    }
}

fn explain(port: &PortMapping, error: Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::PortTaken => {
            Some("Choose another port of the host, or let the system choose one".to_owned())
        }
        _ => error.hint_text().map(str::to_owned),
    };
    let what = format!("Could not publish `{}`", port.host);
    let explained = Error::new(error.kind(), what).because(error);
    match hint {
        Some(hint) => explained.hint(hint),
        None => explained,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(ports: &[&str]) -> NetworkSpec {
        let ports = ports.iter().map(|text| PortMapping::parse_all(text));
        NetworkSpec {
            mode: NetworkMode::Default,
            publish: ports
                .collect::<std::result::Result<Vec<_>, _>>()
                .unwrap()
                .concat(),
            ..NetworkSpec::default()
        }
    }

    fn shown(spec: &NetworkSpec) -> Vec<String> {
        spec.publish.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn exposed_ports_that_are_not_published_yet_are_where_that_is_asked_for() {
        let exposed = ["80/tcp", "53/udp", "443", "132/sctp", "x"].map(str::to_owned);
        let mut plain = spec(&["8080:80"]);
        publish_exposed(&mut plain, &exposed);
        assert_eq!(shown(&plain), ["127.0.0.1:8080->80/tcp"]);
        let mut all = spec(&["8080:80"]);
        all.publish_all = true;
        publish_exposed(&mut all, &exposed);
        let expected = [
            "127.0.0.1:8080->80/tcp",
            "127.0.0.1:0->53/udp",
            "127.0.0.1:0->443/tcp",
        ];
        assert_eq!(shown(&all), expected);
    }

    #[test]
    fn a_taken_port_is_found_before_a_start_and_a_free_one_stays_free() {
        // An address of the loopback that no other test takes: a port of 127.0.0.1 that is free
        // again may be given to one.
        let listener = std::net::TcpListener::bind("127.7.7.7:0").unwrap();
        let place = listener.local_addr().unwrap();
        let taken = spec(&["80", &format!("{place}:80")]);
        let error = expect_free(&taken).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PortTaken);
        assert!(error.to_string().contains(&place.to_string()), "{error}");
        drop(listener);
        for _ in 0..2 {
            expect_free(&taken).unwrap();
        }
        let bound = Endpoints::take(&taken).unwrap();
        assert_eq!(
            expect_free(&taken).unwrap_err().kind(),
            ErrorKind::PortTaken
        );
        drop(bound);
        expect_free(&taken).unwrap();
    }
}
