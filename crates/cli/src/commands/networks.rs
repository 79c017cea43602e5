//! `network`.

use cofferdam::{Coffer, ErrorKind, NetworkAttachment, NetworkInfo, NetworkOptions, Result};
use serde_json::{Value, json};

use super::{for_each, network_filter::Filters, spec};
use crate::{
    args::{
        NetworkConnectArgs, NetworkCreateArgs, NetworkDisconnectArgs, NetworkInspectArgs,
        NetworkListArgs, NetworkPruneArgs, NetworkRmArgs, NetworkVerb,
    },
    exit_status::ExitStatus,
    format::{self, Format, Row},
    go_template::Template,
    output,
};

/// What Docker calls the kind of a network.
const DRIVER: &str = "switch";
const SCOPE: &str = "local";

/// Does what `network` is to do.
pub(crate) async fn network(coffer: &Coffer, verb: &NetworkVerb) -> ExitStatus {
    match verb {
        NetworkVerb::Create(args) => create(coffer, args).into(),
        NetworkVerb::Ls(args) => list(coffer, args).into(),
        NetworkVerb::Inspect(args) => inspect(coffer, args),
        NetworkVerb::Rm(args) => rm(coffer, args).await,
        NetworkVerb::Prune(args) => prune(coffer, args).into(),
        NetworkVerb::Connect(args) => connect(coffer, args).await.into(),
        NetworkVerb::Disconnect(args) => disconnect(coffer, args).await.into(),
    }
}

fn create(coffer: &Coffer, args: &NetworkCreateArgs) -> Result<()> {
    let options = NetworkOptions {
        name: args.name.clone(),
        subnet: args.subnet,
        internal: args.internal,
        labels: spec::labels(&args.label),
    };
    let info = coffer.networks().create(&options)?;
    if args.json {
        output::json(&info);
    } else {
        output::line(info.id);
    }
    Ok(())
}

fn list(coffer: &Coffer, args: &NetworkListArgs) -> Result<()> {
    let format = Format::of_list(args.format.as_deref(), args.json)?;
    let filters = Filters::parse(&args.filter)?;
    let mut infos = coffer.networks().list()?;
    infos.retain(|info| filters.fit(info));
    let id = |info: &NetworkInfo| match args.no_trunc {
        true => info.id.clone(),
        false => info.id.chars().take(12).collect(),
    };
    if args.quiet {
        // A closed pipe ends the list.
        let _ = infos.iter().all(|info| output::line(id(info)));
        return Ok(());
    }
    match format {
        Format::Json => {
            output::json(&infos);
        }
        Format::Rows { template, header } => {
            let rows: Vec<Row> = infos.iter().map(|info| row(info, &id(info))).collect();
            let titles = [("ID", "NETWORK ID"), ("CreatedAt", "CREATED AT")];
            format::print_rows(&template, header, &titles, &rows)?;
        }
        Format::Table => {
            let row = |info: &NetworkInfo| {
                let (driver, scope) = (DRIVER.to_owned(), SCOPE.to_owned());
                vec![
                    id(info),
                    info.name.clone(),
                    driver,
                    scope,
                    info.subnet.clone(),
                ]
            };
            let rows: Vec<_> = infos.iter().map(row).collect();
            output::table(&["NETWORK ID", "NAME", "DRIVER", "SCOPE", "SUBNET"], &rows);
        }
    }
    Ok(())
}

/// A row by Docker's names.
fn row(info: &NetworkInfo, id: &str) -> Row {
    let labels = info
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    Row {
        fields: json!({
            "ID": id,
            "Name": info.name,
            "Driver": DRIVER,
            "Scope": SCOPE,
            "IPv4": "true",
            "IPv6": "true",
            "Internal": info.internal.to_string(),
            "Labels": labels.collect::<Vec<_>>().join(","),
            "CreatedAt": info.created,
            "Subnet": info.subnet,
        }),
        labels: Some(json!(info.labels)),
    }
}

/// All about a network by Docker's names.
fn dockers(info: &NetworkInfo) -> Value {
    let bits = info.subnet.rsplit_once('/').map_or("", |(_, bits)| bits);
    let members = info.members.iter().map(|member| {
        let fields = json!({
            "Name": member.name,
            "IPv4Address": format!("{}/{bits}", member.address),
            "IPv6Address": format!("{}/64", member.address_v6),
        });
        (member.sandbox.to_string(), fields)
    });
    json!({
        "Name": info.name,
        "Id": info.id,
        "Created": info.created,
        "Scope": SCOPE,
        "Driver": DRIVER,
        "EnableIPv4": true,
        "EnableIPv6": true,
        "IPAM": {"Config": [{"Subnet": info.subnet}, {"Subnet": info.subnet_v6}]},
        "Internal": info.internal,
        "Containers": members.collect::<serde_json::Map<_, _>>(),
        "Labels": info.labels,
    })
}

fn inspect(coffer: &Coffer, args: &NetworkInspectArgs) -> ExitStatus {
    let text = args.format.as_deref();
    let text = text.filter(|text| !matches!(*text, "" | "json"));
    let template = match text.map(Template::parse).transpose() {
        Ok(template) => template,
        Err(error) => return ExitStatus::Error(format::refused(&error, &[])),
    };
    let mut found = Vec::new();
    let mut failed = false;
    for name in &args.networks {
        let one = || -> Result<()> {
            let info = coffer.networks().inspect(name)?;
            let ours = json!(info);
            match &template {
                None => found.push(ours),
                Some(template) => {
                    output::line(format::render(template, &ours, &dockers(&info))?);
                }
            }
            Ok(())
        };
        if let Err(error) = { one }() {
            output::error(&error);
            failed = true;
        }
    }
    if template.is_none() {
        output::json(&found);
    }
    if failed {
        ExitStatus::Failure
    } else {
        ExitStatus::Success
    }
}

async fn rm(coffer: &Coffer, args: &NetworkRmArgs) -> ExitStatus {
    for_each(&args.networks, async |name| {
        match coffer.networks().remove(name) {
            Err(error) if args.force && error.kind() == ErrorKind::NotFound => {}
            other => {
                other?;
                output::line(name);
            }
        }
        Ok(())
    })
    .await
}

fn prune(coffer: &Coffer, args: &NetworkPruneArgs) -> Result<()> {
    if !args.force && !super::prune::confirmed("all networks that no sandbox is on")? {
        return Ok(());
    }
    let mut gone = Vec::new();
    for info in coffer.networks().list()? {
        if !info.members.is_empty() {
            continue;
        }
        match coffer.networks().remove_unused(&info.name) {
            Ok(()) => gone.push(info.name),
            // A sandbox has come since, or another command was faster.
            Err(error) if matches!(error.kind(), ErrorKind::InUse | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    if !gone.is_empty() {
        output::line("Deleted Networks:");
        // A closed pipe ends the list.
        let _ = gone.iter().all(output::line);
    }
    Ok(())
}

async fn connect(coffer: &Coffer, args: &NetworkConnectArgs) -> Result<()> {
    let asked = NetworkAttachment {
        network: args.network.clone(),
        aliases: args.alias.clone(),
        address: args.ip,
    };
    coffer
        .networks()
        .connect(&coffer.sandbox(&args.sandbox)?, &asked)
        .await
}

async fn disconnect(coffer: &Coffer, args: &NetworkDisconnectArgs) -> Result<()> {
    coffer
        .networks()
        .disconnect(&coffer.sandbox(&args.sandbox)?, &args.network)
        .await
}
