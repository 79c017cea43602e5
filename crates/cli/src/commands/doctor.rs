//! `doctor` and `info`.

mod capabilities;

use cofferdam::{BackendReport, Coffer, HostReport, SandboxStatus};
use serde_json::json;

use crate::{args::DataArgs, exit_status::ExitStatus, output};

/// Says what the host can do, what is missing, what that costs and what mends it.
pub(crate) fn doctor(args: &DataArgs) -> ExitStatus {
    let report = Coffer::host_report_at_any_rate();
    let works = report.backends.iter().any(|backend| backend.usable)
        && report
            .checks
            .iter()
            // Without these it works, but less well.
            .all(|check| check.ok || ["memory", "templates"].contains(&check.name.as_str()));
    if args.json {
        output::json(&report);
    } else {
        print(&report);
    }
    if works {
        ExitStatus::Success
    } else {
        ExitStatus::Failure
    }
}

fn print(report: &HostReport) {
    row(report.kvm.is_usable(), "KVM", &report.kvm.detail);
    for fix in report.kvm.fixes.iter().filter(|_| !report.kvm.is_usable()) {
        mend(&fix.gain, fix.command.as_deref().unwrap_or(&fix.what));
    }
    for backend in &report.backends {
        let chosen = if backend.chosen { " (chosen)" } else { "" };
        let lacks_kvm = !backend.usable && backend.summary == report.kvm.detail;
        let summary = if lacks_kvm {
            "cannot run without KVM"
        } else {
            &backend.summary
        };
        row(
            backend.usable,
            &format!("{}{chosen}", backend.name),
            summary,
        );
        if backend.usable {
            output::line(format_args!("         isolation: {}", backend.isolation));
        } else if !lacks_kvm {
            for fix in &backend.fixes {
                mend(&fix.cost, fix.command.as_deref().unwrap_or(&fix.what));
            }
        }
    }
    for check in &report.checks {
        row(check.ok, &check.name, &check.detail);
        if let Some(cost) = check.cost.as_deref().filter(|_| !check.ok) {
            mend(
                cost,
                check.command.as_deref().unwrap_or("see the documentation"),
            );
        }
    }
}

fn row(ok: bool, name: &str, detail: &str) {
    let mark = if ok { "  ok" } else { "  --" };
    output::line(format_args!(
        "{mark}   {name}: {}",
        output::printable(detail)
    ));
}

fn mend(cost: &str, command: &str) {
    output::line(format_args!("         {cost}"));
    output::line(format_args!("         mend it: {command}"));
}

/// The program behind a backend and its version.
fn qemu(backend: &BackendReport) -> String {
    let program = backend.program.as_ref();
    let path = program.map_or_else(String::new, |path| path.display().to_string());
    format!("{path} {}", backend.version.as_deref().unwrap_or_default())
}

/// Shows the store, the counts and the backend.
pub(crate) fn info(coffer: &Coffer, args: &DataArgs) -> ExitStatus {
    let (sandboxes, images) = match (coffer.sandboxes(), coffer.images().list()) {
        (Ok(sandboxes), Ok(images)) => (sandboxes, images),
        (Err(error), _) | (_, Err(error)) => return ExitStatus::Error(error),
    };
    let report = coffer.host_report();
    let chosen = report.backends.iter().find(|backend| backend.chosen);
    let running = sandboxes
        .iter()
        .filter(|s| s.status == SandboxStatus::Running)
        .count();
    let backend = chosen.map_or("none", |backend| backend.name.as_str());
    let usage = match coffer.disk_usage() {
        Ok(usage) => usage,
        Err(error) => return ExitStatus::Error(error),
    };
    if args.json {
        output::json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "home": coffer.home(),
            "sandboxes": sandboxes.len(),
            "running": running,
            "images": images.len(),
            "templates": usage.templates.total(),
            "templates_bytes": usage.templates.size_bytes,
            "templates_limit_bytes": usage.templates_limit_bytes,
            "held_open_bytes": usage.held_open_bytes,
            "backend": chosen.map(|backend| &backend.name),
            "backend_version": chosen.and_then(|backend| backend.version.as_ref()),
            "qemu": chosen.and_then(|backend| backend.program.as_ref()),
            "isolation": chosen.map(|backend| &backend.isolation),
            "capabilities": chosen.map(|backend| &backend.capabilities),
            "platform": report.capabilities,
            "kernel": report.kernel,
        }));
        return ExitStatus::Success;
    }
    let kernel = report
        .kernel
        .map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    for (name, value) in [
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Store", coffer.home().display().to_string()),
        (
            "Sandboxes",
            format!("{} ({running} running)", sandboxes.len()),
        ),
        ("Images", images.len().to_string()),
        (
            "Templates",
            format!(
                "{} ({})",
                usage.templates.total(),
                output::size(usage.templates.size_bytes)
            ),
        ),
        ("Deleted, still open", output::size(usage.held_open_bytes)),
        ("Backend", backend.to_owned()),
        ("QEMU", chosen.map_or_else(String::new, qemu)),
        (
            "Isolation",
            chosen.map_or_else(String::new, |backend| backend.isolation.clone()),
        ),
        (
            "Machines",
            chosen.map_or_else(String::new, capabilities::of_backend),
        ),
        ("Platform", capabilities::of_platform(&report.capabilities)),
        ("Guest kernel", kernel),
    ] {
        output::line(format_args!("{name}: {value}"));
    }
    ExitStatus::Success
}
