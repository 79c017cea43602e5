//! `net`.

use cofferdam::{
    Coffer, Error, ErrorKind, Flow, NetworkChange, NetworkDetails, NetworkMode, Result,
    SandboxNetwork,
};
use serde_json::json;

use super::network;
use crate::{args::NetArgs, exit_status::ExitStatus, output, time};

/// Shows the network of a sandbox, or changes it.
pub(crate) async fn net(coffer: &Coffer, args: &NetArgs) -> ExitStatus {
    show_or_change(coffer, args).await.into()
}

async fn show_or_change(coffer: &Coffer, args: &NetArgs) -> Result<()> {
    let change = change(args)?;
    let alone = NetworkChange {
        keep_flows: true,
        ..NetworkChange::default()
    };
    if change == alone {
        let what = "`--keep-flows` is about a change, and there is none";
        return Err(Error::new(ErrorKind::InvalidSpec, what)
            .hint("Give it with a rule, a profile or a policy"));
    }
    let sandbox = coffer.sandbox(&args.sandbox)?;
    let asks = args.reset || change != NetworkChange::default();
    let info = match asks {
        true => sandbox.change_network(change).await?,
        false => sandbox.network().await?,
    };
    if args.json {
        output::json(&json!(info));
    } else if asks {
        for line in changed(args, &info) {
            output::line(output::printable(&line));
        }
    } else {
        print(&info);
    }
    Ok(())
}

/// What the flags ask for.
fn change(args: &NetArgs) -> Result<NetworkChange> {
    let policy = args
        .policy
        .as_deref()
        .map(network::read_policy)
        .transpose()?;
    let profile = args.network_profile.clone();
    let rate = |rate: Option<cofferdam::ByteSize>| rate.map(cofferdam::ByteSize::bytes);
    Ok(NetworkChange {
        profile: profile.or_else(|| policy.as_ref()?.profile.clone()),
        rules: policy.map(|policy| policy.rules),
        rules_before: args.rules.0.clone(),
        publish: network::ports(&args.publish)?,
        unpublish: network::ports(&args.unpublish)?,
        rate_up: rate(args.rate.rate_up),
        rate_down: rate(args.rate.rate_down),
        keep_flows: args.keep_flows,
    })
}

/// What a script wants to have of a change: the ports, where ports were asked for, and the flows
/// that it has ended.
fn changed(args: &NetArgs, info: &NetworkDetails) -> Vec<String> {
    let mut lines = Vec::new();
    if !args.publish.is_empty() {
        let ports = info.ports.iter();
        lines
            .extend(ports.map(|port| format!("{}/{} -> {}", port.guest, port.protocol, port.host)));
    }
    if info.ended_flows > 0 {
        lines.push(format!(
            "Ended {} flows that are not allowed",
            info.ended_flows
        ));
    }
    lines
}

fn print(info: &NetworkDetails) {
    let mut lines = vec![format!("Network: {}", info.mode)];
    if info.mode != NetworkMode::None {
        lines.extend(about(info));
    }
    for line in lines {
        if !output::line(output::printable(&line)) {
            return;
        }
    }
    if !info.flows.is_empty() {
        output::line("Flows:");
        let rows: Vec<_> = info.flows.iter().map(row).collect();
        let header = [
            "PROTO", "LOCAL", "", "REMOTE", "NAME", "SENT", "RECEIVED", "AGE", "STATE",
        ];
        output::table(&header, &rows);
    }
    if info.flows_left_out > 0 {
        output::line(format!("and {} more flows", info.flows_left_out));
    }
    if !info.denials.is_empty() {
        output::line("Denied lately:");
    }
    for denial in &info.denials {
        let flag = denial.allow.as_ref();
        let flag = flag.map_or_else(String::new, |rule| format!(" (--allow {rule})"));
        let time = cofferdam::rfc3339(denial.time_ns);
        let line = format!("  {time} {}: {}{flag}", denial.destination, denial.reason);
        output::line(output::printable(&line));
    }
}

/// The lines about all but flows and denials.
fn about(info: &NetworkDetails) -> Vec<String> {
    let list = |addresses: &[std::net::IpAddr]| {
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    let mut lines = vec![
        format!("Address: {}", list(&info.addresses)),
        format!("Gateway: {}", list(&info.gateways)),
    ];
    lines.extend(info.networks.iter().map(place));
    lines.extend(info.mac.map(|mac| format!("MAC: {mac}")));
    lines.push(format!("Profile: {}", info.profile));
    if !info.rules.is_empty() {
        lines.push("Rules:".to_owned());
        lines.extend(info.rules.iter().map(|rule| format!("  {rule}")));
    }
    if !info.ports.is_empty() {
        lines.push(format!("Ports: {}", network::folded(&info.ports)));
    }
    for (way, rate) in [("up", info.rate_up), ("down", info.rate_down)] {
        lines.extend(rate.map(|rate| format!("Rate {way}: {rate}/s")));
    }
    if let Some(counters) = info.counters {
        let size = |bytes| cofferdam::ByteSize::from_bytes(bytes).to_string();
        lines.push(format!(
            "Traffic: {} sent, {} received, {} flows, {} denied",
            size(counters.sent_bytes),
            size(counters.received_bytes),
            counters.flows,
            counters.denied
        ));
    }
    lines
}

/// The line about a place on a named network.
fn place(place: &SandboxNetwork) -> String {
    let member = &place.member;
    let aliases = match member.aliases.as_slice() {
        [] => String::new(),
        aliases => format!(", aliases {}", aliases.join(" ")),
    };
    let internal = if place.internal { " (internal)" } else { "" };
    let (v4, v6) = (member.address, member.address_v6);
    format!("On {}{internal}: {v4}, {v6}{aliases}", place.network)
}

fn row(flow: &Flow) -> Vec<String> {
    let size = |bytes| cofferdam::ByteSize::from_bytes(bytes).to_string();
    let state = match (flow.established, flow.protocol.as_str()) {
        (true, _) => "established",
        (false, "tcp") => "connecting",
        (false, _) => "unanswered",
    };
    vec![
        flow.protocol.clone(),
        flow.local.to_string(),
        if flow.inbound { "<-" } else { "->" }.to_owned(),
        flow.remote.to_string(),
        output::printable(flow.name.as_deref().unwrap_or("-")),
        size(flow.sent_bytes),
        size(flow.received_bytes),
        time::span(u64::try_from(flow.age.as_nanos()).unwrap_or(u64::MAX)),
        state.to_owned(),
    ]
}
