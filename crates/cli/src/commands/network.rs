//! From the flags about a sandbox's network to its spec, and the texts about it.

use std::{
    fs::File,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use cofferdam::{
    ByteSize, Error, ErrorKind, NetworkAttachment, NetworkMode, NetworkSpec, PolicyText,
    PortMapping, Result, SecretSource, SecretSpec,
};

use crate::args::NetworkArgs;

/// Largest policy file, in bytes: a thousand rules take some 30 KiB.
const MAX_POLICY_BYTES: u64 = 1 << 20;

/// What the flags ask for. A flag about the network needs one.
pub(super) fn spec(args: &NetworkArgs) -> Result<NetworkSpec> {
    let mut rules = args.rules.0.clone();
    let mut profile = args.network_profile.clone();
    if let Some(path) = &args.policy {
        let policy = read_policy(path)?;
        rules.extend(policy.rules);
        profile = profile.or(policy.profile);
    }
    let is_mode = |name: &&String| name.parse::<NetworkMode>().is_ok();
    let (modes, named): (Vec<&String>, Vec<&String>) = args.network.iter().partition(is_mode);
    let modes = modes.iter().filter_map(|mode| mode.parse().ok());
    let asked = modes.reduce(|one: NetworkMode, other| match one {
        NetworkMode::None => one,
        _ => other,
    });
    let spec = NetworkSpec {
        mode: NetworkMode::None,
        networks: attachments(&named, &args.network_alias, args.ip)?,
        profile,
        rules,
        publish: ports(&args.publish)?,
        publish_all: args.publish_all,
        mac: args.mac_address,
        rate_up: limit(args.rate.rate_up),
        rate_down: limit(args.rate.rate_down),
        capture: args.net_capture.as_deref().map(absolute).transpose()?,
        dns: args.dns.clone(),
        dns_search: args.dns_search.clone(),
        dns_options: args.dns_option.clone(),
        hosts: args.add_host.clone(),
        secrets: secrets(&args.secret)?,
        secret_bypass: bypass(&args.secret_bypass)?,
    };
    let mode = asked.unwrap_or_default();
    if mode == NetworkMode::None && !spec.is_none() {
        let what = "There is no network for the flags about it";
        return Err(invalid(what).hint("Leave them out, or use `--network default`"));
    }
    Ok(NetworkSpec { mode, ..spec })
}

/// The places that flags ask for: the names that are no mode, each with the aliases.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] where an address or an alias has no network, or one address several.
fn attachments(
    names: &[&String],
    aliases: &[String],
    address: Option<std::net::Ipv4Addr>,
) -> Result<Vec<NetworkAttachment>> {
    let invalid = |what: &str, hint: &str| Err(Error::new(ErrorKind::InvalidSpec, what).hint(hint));
    match (names.len(), address) {
        (0, Some(_)) => {
            return invalid(
                "`--ip` is an address on a named network",
                "Name one with `--network NAME`; make it with `coffer network create NAME`",
            );
        }
        (2.., Some(_)) => {
            return invalid(
                "`--ip` is an address on one network, and there are more",
                "Connect the others with `coffer network connect` before the start",
            );
        }
        (0, None) if !aliases.is_empty() => {
            return invalid(
                "`--network-alias` is a name on a named network",
                "Name one with `--network NAME`; make it with `coffer network create NAME`",
            );
        }
        _ => {}
    }
    let attachment = |name: &&String| NetworkAttachment {
        network: (*name).clone(),
        aliases: aliases.to_vec(),
        address,
    };
    Ok(names.iter().map(attachment).collect())
}

/// The secrets of flags `--secret`. An error has no value in it.
fn secrets(texts: &[String]) -> Result<Vec<SecretSpec>> {
    let secrets = texts.iter().map(|text| {
        let secret = SecretSpec::parse(text).map_err(|error| {
            let hint = "Write `--secret NAME:HOST`, `NAME=@FILE:HOST` or `NAME=VALUE:HOST`";
            invalid(error.to_string()).hint(hint)
        })?;
        // The start may have another working directory.
        let source = match secret.source {
            SecretSource::File(file) => {
                let file = absolute(Path::new(&file))?;
                SecretSource::File(file.display().to_string())
            }
            other => other,
        };
        Ok(SecretSpec { source, ..secret })
    });
    secrets.collect()
}

/// The hosts of flags `--secret-bypass`.
fn bypass(hosts: &[String]) -> Result<Vec<String>> {
    let host = |text: &String| {
        let host = text.to_ascii_lowercase();
        match SecretSpec::is_host(&host) {
            true => Ok(host),
            false => Err(invalid(format!(
                "`--secret-bypass {text}`: it is no host name"
            ))),
        }
    };
    hosts.iter().map(host).collect()
}

/// The ports of flags `-p`.
pub(super) fn ports(texts: &[String]) -> Result<Vec<PortMapping>> {
    let ports = texts.iter().map(|text| PortMapping::parse_all(text));
    let ports: Vec<_> = ports
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| invalid(error.to_string()).hint("Write `-p [[IP:]HOST:]PORT[/udp]`"))?;
    Ok(ports.concat())
}

/// A policy file; the error names it and the line.
pub(super) fn read_policy(path: &Path) -> Result<PolicyText> {
    let failed = || invalid(format!("Could not read the policy `{}`", path.display()));
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_POLICY_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| failed().because(error))?;
    if text.len() as u64 > MAX_POLICY_BYTES {
        return Err(failed().because("file is larger than 1 MiB"));
    }
    text.parse().map_err(|error: Error| {
        let hint = error.hint_text().map(str::to_owned);
        let outer = failed().because(error);
        match hint {
            Some(hint) => outer.hint(hint),
            None => outer,
        }
    })
}

/// The path as the supervisor can open it, which has another working directory.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| {
        invalid(format!("`{}` is no path of a file", path.display())).because(error)
    })
}

/// A rate; 0 is no limit.
pub(super) fn limit(rate: Option<ByteSize>) -> Option<ByteSize> {
    rate.filter(|rate| rate.bytes() != 0)
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidSpec, what)
}

/// Published ports as Docker prints them: a run of ports of one address is one range.
pub(super) fn folded(ports: &[PortMapping]) -> String {
    let mut sorted = ports.to_vec();
    sorted.sort_by_key(|port| (port.host.ip(), port.protocol, port.guest, port.host.port()));
    let mut runs: Vec<(PortMapping, u16)> = Vec::new();
    for port in sorted {
        match runs.last_mut() {
            Some((first, more)) if follows(first, *more, &port) => *more += 1,
            _ => runs.push((port, 0)),
        }
    }
    let texts = runs.iter().map(|(first, more)| match more {
        0 => first.to_string(),
        more => format!(
            "{}-{}->{}-{}/{}",
            first.host,
            first.host.port() + more,
            first.guest,
            first.guest + more,
            first.protocol
        ),
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// Whether `port` comes next after a run that begins with `first` and has so many more.
fn follows(first: &PortMapping, more: u16, port: &PortMapping) -> bool {
    let next = |port: u16| port.checked_add(more).and_then(|port| port.checked_add(1));
    let host = next(first.host.port()).map(|next| SocketAddr::new(first.host.ip(), next));
    host == Some(port.host)
        && next(first.guest) == Some(port.guest)
        && first.protocol == port.protocol
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_follow_each_other_are_one_range_as_dockers() {
        let ports = |texts: &[&str]| {
            let owned: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
            folded(&super::ports(&owned).unwrap())
        };
        assert_eq!(
            ports(&["8000-8010:8000-8010"]),
            "127.0.0.1:8000-8010->8000-8010/tcp"
        );
        assert_eq!(
            ports(&["9000-9001:80-81", "53:53/udp", "[::1]:9002:82"]),
            "127.0.0.1:9000-9001->80-81/tcp, 127.0.0.1:53->53/udp, [::1]:9002->82/tcp"
        );
        assert_eq!(
            ports(&["9000:80", "9001:82", "9003:83"]),
            "127.0.0.1:9000->80/tcp, 127.0.0.1:9001->82/tcp, 127.0.0.1:9003->83/tcp"
        );
        assert_eq!(ports(&["65535:65535"]), "127.0.0.1:65535->65535/tcp");
        assert_eq!(ports(&[]), "");
    }

    #[test]
    fn an_error_of_a_policy_file_names_it_and_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy");
        std::fs::write(&path, "profile none\nallow example.com:443\n").unwrap();
        let read = read_policy(&path).unwrap();
        assert_eq!(read.profile.as_deref(), Some("none"));
        assert_eq!(read.rules, ["allow example.com:443"]);
        std::fs::write(&path, "# mine\nallow example.com:http\n").unwrap();
        let error = read_policy(&path).unwrap_err();
        let chain = error.chain();
        assert!(chain.contains(path.to_str().unwrap()), "{chain}");
        assert!(
            chain.contains("line 2") && chain.contains("http"),
            "{chain}"
        );
        let missing = read_policy(&dir.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::InvalidSpec);
        std::fs::write(&path, "#".repeat((1 << 20) + 1)).unwrap();
        assert!(read_policy(&path).unwrap_err().chain().contains("1 MiB"));
    }
}
