//! Data by the names that Docker gives them, for templates that were written for it.

use cofferdam::{SandboxInfo, SandboxNetwork, SandboxStatus};
use serde_json::{Value, json};

use crate::{format::Row, output, time};

/// Headers of `ps --format table …` that are not the field's name.
pub(super) const SANDBOX_TITLES: &[(&str, &str)] = &[
    ("ID", "SANDBOX ID"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
];

/// Headers of `images --format table …`.
pub(super) const IMAGE_TITLES: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("CreatedBy", "CREATED BY"),
];

/// A row of `ps`, with the texts of its table.
pub(super) fn sandbox_row(
    info: &SandboxInfo,
    id: &str,
    command: &str,
    status: &str,
    now: u64,
) -> Row {
    let labels = info
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    let fields = json!({
        "ID": id,
        "Names": info.name,
        "Image": output::printable(&info.image),
        "Command": command,
        "CreatedAt": info.created,
        "RunningFor": time::ago(info.created_ns, now),
        "Status": status,
        "State": state(info.status),
        "Labels": labels.collect::<Vec<_>>().join(","),
        "Ports": ports(info),
        "Networks": network_mode(info),
        // There are no volumes in this version.
        "Mounts": "", "LocalVolumes": "0",
        "ExitCode": info.exit_code,
    });
    Row {
        fields,
        labels: Some(json!(info.labels)),
    }
}

/// A sandbox as Docker's `inspect` shows a container.
pub(super) fn sandbox(info: &SandboxInfo) -> Value {
    let (program, arguments) = info
        .command
        .split_first()
        .map_or(("", &[][..]), |(program, arguments)| {
            (program.as_str(), arguments)
        });
    let never = "0001-01-01T00:00:00Z";
    let spec = &info.spec;
    json!({
        "Id": info.id,
        "Name": format!("/{}", info.name),
        "Created": info.created,
        "Path": program,
        "Args": arguments,
        "Image": info.image_id,
        "Platform": "linux",
        "State": {
            "Status": state(info.status),
            "Running": matches!(info.status, SandboxStatus::Running | SandboxStatus::Paused),
            "Paused": info.status == SandboxStatus::Paused,
            "Restarting": false,
            "OOMKilled": info.oom_killed,
            "Dead": info.status == SandboxStatus::Failed,
            "Pid": info.machine_pid.unwrap_or(0),
            "ExitCode": info.exit_code.unwrap_or(0),
            "Error": info.failure.as_deref().unwrap_or(""),
            "StartedAt": info.started.as_deref().unwrap_or(never),
            "FinishedAt": info.finished.as_deref().unwrap_or(never),
        },
        "Config": {
            "Hostname": info.hostname,
            "User": info.user,
            "Env": info.env,
            "Cmd": info.command,
            "Entrypoint": spec.entrypoint,
            "Image": info.image,
            "WorkingDir": info.workdir,
            "Labels": info.labels,
            "Tty": spec.tty,
            "OpenStdin": spec.stdin,
            "StopTimeout": spec.stop_timeout_s,
        },
        "HostConfig": {
            "AutoRemove": spec.auto_remove,
            "Memory": spec.memory.bytes(),
            "PidsLimit": spec.limits.pids,
            "CpuShares": spec.limits.cpu_shares.unwrap_or(0),
            "CpusetCpus": spec.limits.cpuset.as_deref().unwrap_or(""),
            "NanoCpus": nano_cpus(spec),
            "Init": spec.init,
            "GroupAdd": spec.privileges.groups,
            "NetworkMode": network_mode(info),
            "LogConfig": {"Type": "json-file", "Config": {}},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        },
        "NetworkSettings": {"IPAddress": "", "Ports": bindings(info), "Networks": {}},
        "Mounts": [],
        "RestartCount": 0,
    })
}

/// The published ports, as `docker ps` shows them.
pub(super) fn ports(info: &SandboxInfo) -> String {
    super::network::folded(&info.ports)
}

/// Docker's default network is called `bridge` there.
fn network_mode(info: &SandboxInfo) -> String {
    match info.spec.network.networks.first() {
        Some(named) => named.network.clone(),
        None => info.spec.network.mode.to_string(),
    }
}

/// Adds a sandbox's places on named networks.
pub(super) fn add_networks(sandbox: &mut Value, networks: &[SandboxNetwork]) {
    let place = |each: &SandboxNetwork| {
        let fields = json!({
            "IPAddress": each.member.address.to_string(),
            "GlobalIPv6Address": each.member.address_v6.to_string(),
            "Aliases": each.member.aliases,
        });
        (each.network.clone(), fields)
    };
    let places: serde_json::Map<_, _> = networks.iter().map(place).collect();
    sandbox["NetworkSettings"]["Networks"] = Value::Object(places);
}

/// The published ports as `docker inspect` has them.
fn bindings(info: &SandboxInfo) -> Value {
    let mut all = serde_json::Map::new();
    for port in &info.ports {
        let key = format!("{}/{}", port.guest, port.protocol);
        let binding = json!({
            "HostIp": port.host.ip().to_string(),
            "HostPort": port.host.port().to_string(),
        });
        let list = all.entry(key).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(binding);
        }
    }
    Value::Object(all)
}

/// Processors in thousand-millionths.
fn nano_cpus(spec: &cofferdam::SandboxSpec) -> u64 {
    let whole = u64::from(spec.cpus.vcpus()) * 1000;
    let millis = spec.cpus.quota_millis().map_or(whole, u64::from);
    millis * 1_000_000
}

/// Docker's word for a status.
fn state(status: SandboxStatus) -> String {
    match status {
        SandboxStatus::Stopped => "exited".to_owned(),
        SandboxStatus::Failed => "dead".to_owned(),
        SandboxStatus::Starting => "created".to_owned(),
        SandboxStatus::Stopping => "running".to_owned(),
        other => other.to_string(),
    }
}
