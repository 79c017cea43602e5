//! From the flags about a sandbox's network to its spec, and the texts about it.

use std::{
    fs::File,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use cofferdam::{
    ByteSize, Error, ErrorKind, NamedSecret, NetworkAttachment, NetworkMode, NetworkSpec,
    PolicyText, PortMapping, Result, SecretSource, SecretSpec, SecretValue, read_secret,
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

/// The values of flags `--secret` of a start. An error has no value in it.
pub(super) fn secret_values(texts: &[String]) -> Result<Vec<NamedSecret>> {
    let value = |text: &String| {
        let (name, value) = match text.split_once('=') {
            None => (text.as_str(), None),
            Some((name, value)) => (name, Some(value)),
        };
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_part) {
            let hint =
                "Write `--secret NAME`, `NAME=@FILE` or `NAME=VALUE`; a secret keeps its hosts";
            let what = format!("`{}` is no name of a secret", name.escape_debug());
            return Err(invalid(what).hint(hint));
        }
        let value = match value.map(|value| (value, value.strip_prefix('@'))) {
            None => read_secret(name, &SecretSource::Environment)?,
            Some((_, Some(file))) => read_secret(name, &SecretSource::File(file.to_owned()))?,
            Some((text, None)) => SecretValue::new(text.to_owned())
                .map_err(|error| invalid(format!("Secret `{name}`")).because(error))?,
        };
        let name = name.to_owned();
        Ok(NamedSecret { name, value })
    };
    texts.iter().map(value).collect()
}

/// The values of secrets that a start by this process needs, before the sandbox is made: what has no
/// value, or waits for one, leaves no sandbox behind.
pub(super) fn read_secrets(spec: &NetworkSpec) -> Result<Vec<NamedSecret>> {
    let is_read = |secret: &&SecretSpec| secret.value.is_none();
    let value = |secret: &SecretSpec| {
        let value = read_secret(&secret.name, &secret.source)?;
        let name = secret.name.clone();
        Ok(NamedSecret { name, value })
    };
    spec.secrets.iter().filter(is_read).map(value).collect()
}

/// A sentence about the values of a new sandbox that are stored nowhere, for one that this process
/// does not start.
pub(super) fn lost_values(spec: &NetworkSpec) -> Option<String> {
    let given = spec
        .secrets
        .iter()
        .filter(|secret| secret.source == SecretSource::Given);
    let names: Vec<String> = given.map(|secret| format!("`{}`", secret.name)).collect();
    (!names.is_empty()).then(|| {
        format!(
            "The value of {} is not stored: give it again with `coffer start --secret NAME=VALUE`",
            names.join(", ")
        )
    })
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
    let read = match path == Path::new("-") {
        true => std::io::stdin()
            .take(MAX_POLICY_BYTES + 1)
            .read_to_string(&mut text),
        false => File::open(path)
            .and_then(|file| file.take(MAX_POLICY_BYTES + 1).read_to_string(&mut text)),
    };
    read.map_err(|error| failed().because(error))?;
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
    fn values_of_a_start_are_read_from_text_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("value");
        std::fs::write(&file, "of-the-file\n").unwrap();
        let texts = ["A=text=more".to_owned(), format!("B=@{}", file.display())];
        let values = secret_values(&texts).unwrap();
        let read: Vec<_> = values
            .iter()
            .map(|secret| (secret.name.as_str(), secret.value.expose()))
            .collect();
        assert_eq!(read, [("A", "text=more"), ("B", "of-the-file")]);
        for bad in ["=value", "A:api.example.com", "A=", "NO_SUCH_VARIABLE_HERE"] {
            let error = secret_values(&[bad.to_owned()]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{bad}");
        }
    }

    #[test]
    fn a_value_that_is_not_stored_is_named() {
        let secrets = |texts: &[&str]| NetworkSpec {
            secrets: secrets(&texts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap(),
            ..NetworkSpec::default()
        };
        assert_eq!(lost_values(&secrets(&["A:a.org", "B=@/file:b.org"])), None);
        let lost = lost_values(&secrets(&["A:a.org", "C=value:c.org"])).unwrap();
        assert!(lost.contains("`C`") && !lost.contains("`A`"), "{lost}");
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
