//! `coffer snapshot import` of what a stranger made up, whole and sealed: the real program.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use cofferdam_testkit::{
    bundle::{Bundle, Part},
    coffer::Coffer,
    copies::Snapshot,
    exports::{Export, expect_content, import, reject},
    sandboxes::{unique_name, until},
};
use serde_json::{Value, json};

/// The pointers to all values in a manifest that hold no others.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, value)| (index.to_string(), value))
            .collect(),
        _ => Vec::new(),
    };
    if children.is_empty() {
        found.push(at.to_owned());
    }
    for (key, child) in children {
        leaves(child, &format!("{at}/{key}"), found);
    }
}

#[test]
fn a_field_of_another_type_is_refused_wherever_it_is() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::private();
    let bundle = Bundle::parse(&export.bytes);
    let manifest = bundle.manifest();
    let mut all = Vec::new();
    leaves(&manifest, "", &mut all);
    assert!(all.len() > 50, "{all:?}");
    for at in all {
        let mut manifest = manifest.clone();
        *manifest.pointer_mut(&at).unwrap() = json!({"another": ["type"]});
        reject(&there, &bundle.with_manifest(&manifest).bytes(), &at, &[]);
    }
    for at in [
        "",
        "/sandbox",
        "/sandbox/spec",
        "/sandbox/image",
        "/files/0",
    ] {
        let mut manifest = manifest.clone();
        manifest.pointer_mut(at).unwrap()["unknown"] = 1.into();
        reject(
            &there,
            &bundle.with_manifest(&manifest).bytes(),
            &format!("{at}/unknown"),
            &[],
        );
    }
}

#[test]
fn a_value_that_cannot_be_is_refused_wherever_it_is() {
    let name = unique_name("values");
    let export = Export::make(&Coffer::shared(), &["--name", &name]);
    let there = Coffer::private();
    let bundle = Bundle::parse(&export.bytes);
    let manifest = bundle.manifest();
    let zero = format!("sha256:{}", "0".repeat(64));
    let cases = [
        ("/format", json!(-1)),
        ("/format", json!(0)),
        ("/format", json!(u64::MAX)),
        ("/id", json!("../../../../tmp/x")),
        ("/id", json!("")),
        ("/id", json!(export.id.to_uppercase())),
        ("/name", json!("../x")),
        ("/name", json!("a/b")),
        ("/name", json!("")),
        ("/name", json!("x".repeat(300))),
        ("/name", json!("a\nb")),
        ("/created_ns", json!(-1)),
        ("/kind", json!("disk")),
        ("/kind", json!("other")),
        ("/pause_us", json!(0.5)),
        ("/sandbox/version", json!(2)),
        ("/sandbox/id", json!("../x")),
        ("/sandbox/name", json!("../x")),
        ("/sandbox/name", json!("")),
        ("/sandbox/hostname", json!("a b")),
        ("/sandbox/hostname", json!("")),
        ("/sandbox/stop_signal", json!(0)),
        ("/sandbox/stop_signal", json!(99999)),
        ("/sandbox/spec/name", json!("../x")),
        ("/sandbox/spec/hostname", json!("a b")),
        ("/sandbox/spec/memory", json!(u64::MAX)),
        ("/sandbox/spec/memory", json!(0)),
        ("/sandbox/spec/memory", json!(1_u64 << 40)),
        ("/sandbox/spec/memory", json!(256 << 20)),
        ("/sandbox/spec/upper/disk", json!(0)),
        ("/sandbox/spec/upper/disk", json!(u64::MAX)),
        ("/sandbox/spec/upper/disk", json!(5_u64 << 30)),
        ("/sandbox/spec/cpus", json!(0)),
        ("/sandbox/spec/cpus", json!(33_000)),
        ("/sandbox/spec/workdir", json!("relative")),
        ("/sandbox/spec/env", json!(["no value"])),
        (
            "/sandbox/spec/platform",
            json!({"os": "linux", "architecture": "s390x"}),
        ),
        ("/sandbox/image/id", json!(zero)),
        ("/sandbox/image/id", json!("sha256:../../x")),
        ("/sandbox/image/manifest", json!(zero)),
        ("/sandbox/image/disk_bytes", json!(4096)),
        ("/files", json!([])),
        ("/files/0/name", json!("../../memory")),
        ("/files/0/name", json!("state")),
        ("/files/0/bytes", json!(0)),
        ("/files/0/bytes", json!(u64::MAX)),
        ("/files/1/bytes", json!(1)),
        ("/files/2/bytes", json!(4096)),
        ("/files/0/digest", json!(zero)),
        ("/files/1/digest", json!(zero)),
        ("/files/2/digest", json!(zero)),
    ];
    for (at, value) in cases {
        let mut manifest = manifest.clone();
        *manifest.pointer_mut(at).unwrap() = value.clone();
        let about = format!("{at} as {value}");
        reject(
            &there,
            &bundle.with_manifest(&manifest).bytes(),
            &about,
            &[],
        );
    }
    assert_eq!(there.ok(["ps", "-aq"]), "");
}

#[test]
fn a_machine_with_other_processors_than_its_manifest_says_never_runs() {
    let (here, there) = (Coffer::shared(), Coffer::private());
    let export = Export::make(&here, &[]);
    let bundle = Bundle::parse(&export.bytes);
    let mut manifest = bundle.manifest();
    assert_eq!(manifest["sandbox"]["spec"]["cpus"], 2000);
    manifest["sandbox"]["spec"]["cpus"] = 1000.into();
    // Only the device state itself tells.
    let done = import(&there, &bundle.with_manifest(&manifest).bytes(), &[]);
    assert_eq!(done.code, 0, "{done:?}");
    there.refused(
        &["fork", "-n", "never", &export.id],
        &["needs 2 processors"],
    );
    until("its end", || there.ok(["ps", "-aq"]).is_empty());
}

#[test]
fn a_snapshot_that_names_anothers_id_does_not_take_its_place() {
    let coffer = Coffer::private();
    let [victim, other] = ["victim", "other"].map(|name| {
        let sandbox = coffer.script(&format!("echo {name} > /who"));
        coffer.ok(["wait", &sandbox.id]);
        sandbox
    });
    let disk = || {
        let info = Snapshot::of(&coffer, &victim.id, &[]).inspect();
        info["manifest"]["files"][0]["digest"].clone()
    };
    let before = disk();
    let snapshot = Snapshot::of(&coffer, &other.id, &[]);
    let exported = coffer.run(["snapshot", "export", &snapshot.id]).stdout;
    coffer.ok(["snapshot", "rm", &snapshot.id]);
    let bundle = Bundle::parse(&exported);
    let mut manifest = bundle.manifest();
    manifest["sandbox"]["id"] = victim.id.clone().into();
    let done = import(&coffer, &bundle.with_manifest(&manifest).bytes(), &[]);
    assert_eq!(done.code, 0, "{done:?}");
    coffer.refused(&["restore", &snapshot.id], &["another sandbox"]);
    assert_eq!(disk(), before);
}

#[test]
fn paths_of_another_host_mean_nothing_here() {
    let (here, there) = (Coffer::shared(), Coffer::private());
    let export = Export::make(&here, &[]);
    let bundle = Bundle::parse(&export.bytes);
    let mut manifest = bundle.manifest();
    manifest["sandbox"]["spec"]["kernel"] = "/etc/passwd".into();
    manifest["sandbox"]["image"]["rootfs"] = "/etc/passwd".into();
    let done = import(&there, &bundle.with_manifest(&manifest).bytes(), &[]);
    assert_eq!(done.code, 0, "{done:?}");
    let imported = there.ok(["snapshot", "inspect", &export.id]);
    assert!(!imported.contains("/etc/passwd"), "{imported}");
    let fork = there.keep(there.ok(["fork", &export.id]));
    expect_content(&fork);
}

#[test]
fn files_missing_doubled_strange_or_of_another_length_are_refused() {
    let export = Export::make(&Coffer::shared(), &[]);
    let there = Coffer::private();
    let bundle = Bundle::parse(&export.bytes);
    let altered = |change: &dyn Fn(&mut Vec<Part>)| {
        let mut bundle = bundle.clone();
        change(&mut bundle.parts);
        bundle.bytes()
    };
    for name in ["memory", "state", "upper.ext4"] {
        let parts = bundle.file(name);
        let without = altered(&|all| drop(all.drain(parts.clone())));
        reject(&there, &without, &format!("no {name}"), &[]);
        let copy = bundle.parts[parts.clone()].to_vec();
        let twice = altered(&|all| drop(all.splice(parts.end..parts.end, copy.clone())));
        reject(&there, &twice, &format!("two of {name}"), &[]);
        let emptied = altered(&|all| drop(all.drain(parts.start + 1..parts.end - 1)));
        reject(&there, &emptied, &format!("{name} of zeroes"), &[]);
        for length in [0, 1, u64::MAX] {
            let other = altered(&|all| {
                all[parts.start].payload[..8].copy_from_slice(&length.to_le_bytes());
            });
            reject(&there, &other, &format!("{name} of {length} bytes"), &[]);
        }
        for strange in [
            "../../x",
            "/etc/passwd",
            "manifest.json",
            "other",
            "",
            "memory/x",
            "MEMORY",
        ] {
            let renamed = altered(&|all| {
                all[parts.start].payload.truncate(8);
                all[parts.start].payload.extend(strange.as_bytes());
            });
            reject(&there, &renamed, &format!("{name} as {strange}"), &[]);
        }
    }
    let end = bundle.parts.len() - 1;
    for strange in ["manifest.json", "lock", "other"] {
        let mut head = 0_u64.to_le_bytes().to_vec();
        head.extend(strange.as_bytes());
        let parts = [Part::new(*b"FILE", head), Part::new(*b"DONE", Vec::new())];
        let more = altered(&|all| drop(all.splice(end..end, parts.clone())));
        reject(&there, &more, &format!("{strange} besides"), &[]);
    }
    let headless = altered(&|all| drop(all.remove(0)));
    reject(&there, &headless, "no manifest", &[]);
    let endless = altered(&|all| drop(all.pop()));
    reject(&there, &endless, "no end", &[]);
}
