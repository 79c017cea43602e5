//! `port`.

use cofferdam::{Coffer, Error, ErrorKind, PortMapping, PortProtocol, Result, SandboxInfo};

use crate::{args::PortArgs, exit_status::ExitStatus, output};

/// Lists the published ports of a sandbox.
pub(crate) fn port(coffer: &Coffer, args: &PortArgs) -> ExitStatus {
    match list(coffer, args) {
        Ok(()) => ExitStatus::Success,
        Err(error) => ExitStatus::Error(error),
    }
}

fn list(coffer: &Coffer, args: &PortArgs) -> Result<()> {
    let info = coffer.sandbox(&args.sandbox)?.info()?;
    if args.json {
        output::json(&info.ports);
        return Ok(());
    }
    match &args.port {
        None => {
            for port in &info.ports {
                let line = format!("{}/{} -> {}", port.guest, port.protocol, port.host);
                if !output::line(line) {
                    break;
                }
            }
            Ok(())
        }
        Some(text) => one(&info, text),
    }
}

/// The places of the host that lead to one port of the guest.
fn one(info: &SandboxInfo, text: &str) -> Result<()> {
    let (port, protocol) = parse(text)?;
    let fits = |mapping: &&PortMapping| mapping.guest == port && mapping.protocol == protocol;
    let places: Vec<_> = info.ports.iter().filter(fits).collect();
    if places.is_empty() {
        let what = format!("`{}` publishes no port `{port}/{protocol}`", info.name);
        return Err(Error::new(ErrorKind::NotFound, what)
            .hint("Publish one with `coffer run -p`, and start the sandbox"));
    }
    for mapping in places {
        output::line(mapping.host.to_string());
    }
    Ok(())
}

fn parse(text: &str) -> Result<(u16, PortProtocol)> {
    let invalid = || Error::new(ErrorKind::InvalidSpec, format!("`{text}` is no port"));
    let (port, protocol) = match text.split_once('/') {
        None => (text, PortProtocol::Tcp),
        Some((port, "tcp")) => (port, PortProtocol::Tcp),
        Some((port, "udp")) => (port, PortProtocol::Udp),
        Some(_) => return Err(invalid()),
    };
    Ok((port.parse().map_err(|_| invalid())?, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_name_its_protocol() {
        assert_eq!(parse("80").unwrap(), (80, PortProtocol::Tcp));
        assert_eq!(parse("80/tcp").unwrap(), (80, PortProtocol::Tcp));
        assert_eq!(parse("53/udp").unwrap(), (53, PortProtocol::Udp));
        for bad in ["", "x", "80/udp/tcp", "70000", "/tcp"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
