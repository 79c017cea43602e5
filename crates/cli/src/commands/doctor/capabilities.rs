//! What `info` shows of the capabilities of a backend and of a platform.

use cofferdam::{BackendReport, PlatformCapabilities};

/// What a machine of a backend can have, on one line.
pub(super) fn of_backend(backend: &BackendReport) -> String {
    let can = &backend.capabilities;
    let tier = serde_json::to_value(can.snapshot).unwrap_or_default();
    [
        format!("up to {} CPUs", can.max_vcpus),
        format!("up to {} disks", can.max_disks),
        format!("snapshots: {}", tier.as_str().unwrap_or_default()),
        yes_or_no("forks", can.fork),
        yes_or_no("pause", can.pause_resume),
        yes_or_no("network interface", can.network),
        yes_or_no("file channel", can.file_channel),
        yes_or_no("memory balloon", can.balloon),
        yes_or_no("confidential computing", can.confidential),
    ]
    .join(", ")
}

/// What this version offers on a platform, on one line.
pub(super) fn of_platform(can: &PlatformCapabilities) -> String {
    let word = |value: serde_json::Result<serde_json::Value>| {
        let value = value.unwrap_or_default();
        value.as_str().unwrap_or_default().replace('_', " ")
    };
    [
        format!(
            "{}/{}",
            word(serde_json::to_value(can.os)),
            can.architecture
        ),
        format!("machines: {}", word(serde_json::to_value(can.vm_backend))),
        format!(
            "guest channel: {}",
            word(serde_json::to_value(can.host_guest_channel))
        ),
        format!(
            "network: {}",
            word(serde_json::to_value(can.bridge_network_backend))
        ),
        yes_or_no("outbound traffic", can.bridge_outbound_nat),
        yes_or_no("published ports", can.published_ports),
        yes_or_no("terminals", can.interactive_pty),
        yes_or_no("attestation", can.attestation),
        yes_or_no("sealed storage", can.sealed_storage),
    ]
    .join(", ")
}

fn yes_or_no(what: &str, is_there: bool) -> String {
    if is_there {
        what.to_owned()
    } else {
        format!("no {what}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_says_what_it_has_and_what_it_lacks() {
        let text = of_platform(&PlatformCapabilities::current());
        assert!(text.contains("terminals"), "{text}");
        assert!(text.contains("no attestation"), "{text}");
        assert!(!text.contains('_'), "{text}");
    }
}
