//! `pool`.

use cofferdam::{Coffer, Error, ErrorKind, PoolInfo, PoolOptions, Result};
use serde_json::json;

use super::{for_each, spec, warm_up::WarmUpArgs};
use crate::{
    args::{PoolCreateArgs, PoolListArgs, PoolRmArgs, PoolVerb},
    exit_status::ExitStatus,
    output,
    progress::Bars,
    time,
};

/// Does what `pool` is to do.
pub(crate) async fn pool(coffer: &Coffer, verb: &PoolVerb, verbose: bool) -> ExitStatus {
    let result = match verb {
        PoolVerb::Create(args) => create(coffer, args, verbose).await,
        PoolVerb::List(args) => {
            list(coffer, args);
            Ok(())
        }
        PoolVerb::Rm(args) => return rm(coffer, args).await,
    };
    result.into()
}

async fn create(coffer: &Coffer, args: &PoolCreateArgs, verbose: bool) -> Result<()> {
    let mut spec = spec::spec(&args.sandbox)?;
    let asked = WarmUpArgs::new(&args.exec, None, &spec.command)?;
    if asked.wait_for.is_some() {
        let what = "A standby runs its commands to their end";
        return Err(Error::new(ErrorKind::InvalidSpec, what)
            .hint("A template may hold a running command: `coffer template build --wait-for`"));
    }
    let mut warm_ups = asked.warm_ups();
    if !asked.command.is_empty() {
        warm_ups.push(asked.command);
    }
    spec.command = Vec::new();
    let options = PoolOptions {
        name: spec.name.take(),
        size: args.size,
        warm_ups,
    };
    let bars = Bars::new(false, verbose);
    let info = coffer.pools().create(spec, &options, &bars).await?;
    bars.finish();
    if args.json {
        output::json(&info);
    } else {
        output::line(info.name);
    }
    Ok(())
}

fn list(coffer: &Coffer, args: &PoolListArgs) {
    let pools = coffer.pools().list();
    if args.json {
        output::json(&pools);
        return;
    }
    if args.quiet {
        // A closed pipe ends the list.
        let _ = pools.iter().all(|info| output::line(&info.name));
        return;
    }
    let now = cofferdam::unix_time_ns();
    let row = |info: &PoolInfo| {
        vec![
            info.name.clone(),
            output::printable(&info.image),
            format!("{}/{}", info.ready, info.size),
            info.vcpus.to_string(),
            format!("{}M", info.memory_bytes >> 20),
            time::ago(info.created_ns, now),
        ]
    };
    let rows: Vec<_> = pools.iter().map(row).collect();
    output::table(
        &["NAME", "IMAGE", "READY", "CPUS", "MEMORY", "CREATED"],
        &rows,
    );
}

async fn rm(coffer: &Coffer, args: &PoolRmArgs) -> ExitStatus {
    let mut removed = Vec::new();
    let result = for_each(&args.pools, async |name| {
        coffer.pools().remove(name).await?;
        if !args.json {
            output::line(name);
        }
        removed.push(name.to_owned());
        Ok(())
    })
    .await;
    if args.json {
        output::json(&json!({ "removed": removed }));
    }
    result
}
