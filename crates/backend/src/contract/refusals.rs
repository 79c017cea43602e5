//! What a backend says that it can do, and what it refuses.

use cofferdam_types::MacAddress;

use super::{
    Harness, Outcome, Running,
    clock::bounded,
    outcome::{ensure, refused},
};
use crate::{
    BlockDevice, CapturePlan, ConfidentialConfig, ErrorKind, MachineSpec, NetworkInterface,
    SnapshotFiles, SnapshotTier,
};

pub(super) async fn the_capabilities_agree_with_each_other(harness: &dyn Harness) -> Outcome {
    let backend = harness.backend();
    let can = backend.capabilities();
    ensure(!can.fork || can.snapshot >= SnapshotTier::Memory, || {
        "it forks without snapshots of memory".to_owned()
    })?;
    ensure(can.max_vcpus >= 1 && can.max_disks >= 2, || {
        "a machine has no processor, or not the disks of a sandbox".to_owned()
    })?;
    ensure(!backend.name().is_empty(), || "it has no name".to_owned())?;
    let probe = backend.probe();
    ensure(probe.usable, || {
        format!("it is not usable here: {}", probe.summary)
    })?;
    let key = backend.compatibility_key()?;
    ensure(!key.is_empty() && !key.contains('\n'), || {
        format!("its key is {key:?}")
    })?;
    let again = backend.compatibility_key()?;
    ensure(key == again, || {
        format!("its key is {key:?}, then {again:?}")
    })
}

/// Starting `change`d specs must fail with one of `kinds`, and leave no machine.
async fn refuses(
    harness: &dyn Harness,
    what: &str,
    kinds: &[ErrorKind],
    change: impl FnOnce(&mut MachineSpec),
) -> Outcome {
    let parent = harness.directory();
    let mut spec = harness.spec();
    spec.run_dir = parent.join("run");
    change(&mut spec);
    let result = bounded(harness, what, harness.backend().start(&spec)).await?;
    refused(what, result, kinds)?;
    let left = harness.backend().list(parent).await?;
    ensure(left.is_empty(), || format!("{what} left {left:?}"))
}

pub(super) async fn what_is_not_among_the_capabilities_is_unsupported(
    harness: &dyn Harness,
) -> Outcome {
    let can = harness.backend().capabilities();
    let kinds = [ErrorKind::Unsupported];
    if !can.network {
        let network = NetworkInterface {
            mac: MacAddress::from_random([1; 6]),
            mtu: 1500,
        };
        refuses(harness, "a network", &kinds, |spec| {
            spec.network = Some(network);
        })
        .await?;
    }
    if !can.file_channel {
        refuses(harness, "a file channel", &kinds, |spec| {
            spec.file_channel = true;
        })
        .await?;
    }
    if !can.confidential {
        let confidential = ConfidentialConfig {
            kind: "snp".to_owned(),
            config: harness.directory().join("config"),
        };
        refuses(harness, "confidential computing", &kinds, |spec| {
            spec.confidential = Some(confidential);
        })
        .await?;
    }
    let Running { machine, .. } = Running::start(harness, &harness.spec()).await?;
    let dir = harness.directory();
    let files = SnapshotFiles {
        memory: dir.join("memory"),
        state: dir.join("state"),
    };
    if can.snapshot < SnapshotTier::Live {
        let plan = CapturePlan {
            memory: Some(files.clone()),
            disks: Vec::new(),
        };
        refused("begin_capture", machine.begin_capture(plan).await, &kinds)?;
    }
    if can.snapshot < SnapshotTier::Memory {
        refused("snapshot", machine.snapshot(files.clone()).await, &kinds)?;
        let spec = harness.spec();
        let restored = harness.backend().restore(&files, &spec).await;
        refused("restore", restored, &kinds)?;
    }
    bounded(harness, "kill", machine.kill()).await??;
    Ok(())
}

pub(super) async fn impossible_specs_are_refused_before_anything_starts(
    harness: &dyn Harness,
) -> Outcome {
    let kinds = [ErrorKind::InvalidSpec];
    let most = harness.backend().capabilities().max_vcpus;
    refuses(harness, "no processor", &kinds, |spec| spec.vcpus = 0).await?;
    if let Some(more) = most.checked_add(1) {
        refuses(harness, "too many processors", &kinds, |spec| {
            spec.vcpus = more;
        })
        .await?;
    }
    refuses(harness, "no memory", &kinds, |spec| spec.memory_mib = 0).await?;
    refuses(harness, "4 PiB of memory", &kinds, |spec| {
        spec.memory_mib = u32::MAX;
    })
    .await?;
    let missing = harness.directory().join("missing");
    let kernel = missing.clone();
    refuses(harness, "a missing kernel", &kinds, |spec| {
        spec.kernel = kernel;
    })
    .await?;
    let text = harness.directory().join("text");
    std::fs::write(&text, "not a kernel\n")?;
    refuses(harness, "a text file for a kernel", &kinds, |spec| {
        spec.kernel = text;
    })
    .await?;
    let disk = |id: String, path| BlockDevice {
        id,
        path,
        read_only: true,
    };
    refuses(harness, "a missing disk", &kinds, |spec| {
        spec.block_devices.push(disk("disk".to_owned(), missing));
    })
    .await?;
    let file = harness.directory().join("disk");
    std::fs::write(&file, [0; 4096])?;
    let more = harness.backend().capabilities().max_disks + 1;
    refuses(harness, "too many disks", &kinds, |spec| {
        spec.block_devices = (0..more)
            .map(|number| disk(format!("disk{number}"), file.clone()))
            .collect();
    })
    .await?;
    if !harness.backend().capabilities().network {
        return Ok(());
    }
    refuses(harness, "an MTU of 0", &kinds, |spec| {
        spec.network = Some(NetworkInterface {
            mac: MacAddress::from_random([1; 6]),
            mtu: 0,
        });
    })
    .await
}

pub(super) async fn a_balloon_follows_its_capability(harness: &dyn Harness) -> Outcome {
    let spec = harness.spec();
    let Running { machine, mut guest } = Running::start(harness, &spec).await?;
    let result = bounded(harness, "balloon", machine.balloon(spec.memory_mib / 2)).await?;
    if harness.backend().capabilities().balloon {
        result?;
        guest.tick()?;
        let more = bounded(harness, "balloon", machine.balloon(spec.memory_mib + 1)).await?;
        refused("more memory than there is", more, &[ErrorKind::InvalidSpec])
    } else {
        refused("balloon", result, &[ErrorKind::Unsupported])
    }
}
