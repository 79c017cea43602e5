//! `run` and `create`.

use std::collections::BTreeMap;

use cofferdam::{
    ByteSize, Coffer, Error, ErrorKind, Result, Sandbox, SandboxSpec, Stage, TmpfsMount, UpperSpec,
};

use super::env;
use crate::{
    args::{CreateArgs, RunArgs, SandboxArgs},
    exit_status::ExitStatus,
    output,
    progress::Bars,
    streams::{self, Join},
};

/// Creates, starts and follows, or leaves, a sandbox.
pub(crate) async fn run(coffer: &Coffer, args: &RunArgs, verbose: bool) -> ExitStatus {
    let process = &args.sandbox.process;
    if !process.detach
        && let Some(status) = streams::check_terminal(process.interactive, process.tty)
    {
        return status;
    }
    let sandbox = match make(coffer, &args.sandbox, args.rm).await {
        Ok(sandbox) => sandbox,
        Err(error) => return ExitStatus::RunError(error),
    };
    if process.detach {
        return match sandbox.start().await {
            Ok(stages) => {
                print_stages(verbose, &stages);
                output::line(sandbox.id());
                ExitStatus::Success
            }
            Err(error) => ExitStatus::RunError(error),
        };
    }
    match sandbox.start_attached(process.interactive).await {
        Ok((session, stages)) => {
            print_stages(verbose, &stages);
            streams::join(
                session,
                Join {
                    stdin: process.interactive,
                    tty: process.tty,
                },
            )
            .await
        }
        Err(error) => ExitStatus::RunError(error),
    }
}

/// Creates a sandbox and prints its id.
pub(crate) async fn create(coffer: &Coffer, args: &CreateArgs) -> ExitStatus {
    match make(coffer, &args.sandbox, args.rm).await {
        Ok(sandbox) => {
            output::line(sandbox.id());
            ExitStatus::Success
        }
        // Docker's `create` fails with 1 where `run` fails with 125.
        Err(error) => ExitStatus::Error(error),
    }
}

async fn make(coffer: &Coffer, args: &SandboxArgs, auto_remove: bool) -> Result<Sandbox> {
    let spec = spec(args, auto_remove)?;
    let bars = Bars::new(false);
    coffer.create(spec, &bars).await
}

/// Prints where the time of a start went.
pub(crate) fn print_stages(verbose: bool, stages: &[Stage]) {
    if !verbose {
        return;
    }
    let millis = |micros: u64| format!("{}.{} ms", micros / 1000, micros % 1000 / 100);
    for stage in stages {
        output::note(format_args!("{:>12}  {}", millis(stage.micros), stage.name));
    }
    let total = stages.iter().map(|stage| stage.micros).sum();
    output::note(format_args!(
        "{:>12}  from request to running",
        millis(total)
    ));
}

fn spec(args: &SandboxArgs, auto_remove: bool) -> Result<SandboxSpec> {
    if let Some((flag, hint)) = args.later.refused() {
        let what = format!("`{flag}` is not supported in this version");
        return Err(Error::new(ErrorKind::Unsupported, what).hint(hint));
    }
    let default = SandboxSpec::default();
    let process = &args.process;
    let upper = match (args.read_only, args.disk) {
        (true, _) => UpperSpec::ReadOnly,
        (false, Some(size)) => UpperSpec::Disk(size),
        (false, None) => default.upper,
    };
    Ok(SandboxSpec {
        image: args.image().to_owned(),
        name: args.name.clone(),
        hostname: args.hostname.clone(),
        entrypoint: args
            .entrypoint
            .as_ref()
            .map(|program| match program.as_str() {
                "" => Vec::new(),
                program => vec![program.to_owned()],
            }),
        command: args.command().to_vec(),
        env: env::collect(&process.env, &process.env_file)?,
        workdir: process.workdir.clone(),
        user: process.user.clone(),
        labels: labels(&args.label),
        cpus: args.cpus.unwrap_or(default.cpus),
        memory: args.memory.unwrap_or(default.memory),
        upper,
        tmpfs: args
            .tmpfs
            .iter()
            .map(|text| tmpfs(text))
            .collect::<Result<_>>()?,
        shm_size: args.shm_size.unwrap_or(default.shm_size),
        stop_signal: args.stop_signal,
        stop_timeout_s: args.stop_timeout.unwrap_or(default.stop_timeout_s),
        platform: args.platform.clone(),
        pull: args.pull.unwrap_or_default(),
        kernel: args.kernel.clone(),
        backend: args.backend.clone(),
        stdin: process.interactive,
        tty: process.tty,
        auto_remove,
        limits: default.limits,
    })
}

fn labels(texts: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (text.clone(), String::new()),
    };
    texts.iter().map(pair).collect()
}

/// Reads `DIR[:size=1m,mode=755,ro,exec]`.
fn tmpfs(text: &str) -> Result<TmpfsMount> {
    let invalid = |what: String| Error::new(ErrorKind::InvalidSpec, what);
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = TmpfsMount {
        target: target.to_owned(),
        size: None,
        mode: 0o1777,
        read_only: false,
        exec: false,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", size) => {
                let size: ByteSize = size
                    .parse()
                    .map_err(|error| invalid(format!("`--tmpfs`: {error}")))?;
                mount.size = Some(size);
            }
            ("mode", mode) => {
                mount.mode = u32::from_str_radix(mode, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .ok_or_else(|| invalid(format!("`{mode}` is not an octal mode")))?;
            }
            ("ro", "") => mount.read_only = true,
            ("rw" | "noexec" | "nosuid" | "nodev", "") => {}
            ("exec", "") => mount.exec = true,
            _ => return Err(invalid(format!("`{option}` is not an option of `--tmpfs`"))),
        }
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_options_are_dockers() {
        let mount = tmpfs("/run:size=8m,mode=700,exec,nosuid").unwrap();
        assert_eq!(
            (mount.target.as_str(), mount.mode, mount.exec),
            ("/run", 0o700, true)
        );
        assert_eq!(mount.size, Some(ByteSize::from_mib(8)));
        for bad in ["/t:size=x", "/t:mode=99", "/t:uid=3"] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }
}
