//! SIGKILL at many points of what changes a store: the sandbox that was there lives or can be
//! started, what is listed is whole, and nothing else is left.
//!
//! Each verb is timed once undisturbed, then killed after 1/n, 2/n and so on of that time.
//! `COFFER_CRASH_POINTS` says how large n is.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

mod processes;
mod scene;

use std::fs;

use processes::Victims;
use scene::Scene;

#[test]
fn a_killed_run_leaves_a_sandbox_that_starts_or_none() {
    let scene = Scene::new();
    let run = [
        "run",
        "-d",
        "--name",
        "made",
        scene::IMAGE,
        "sleep",
        "1000000",
    ];
    scene.at_many_points(&run, &[Victims::Client, Victims::Everything], |scene| {
        // The name is free again, or the sandbox's that is there.
        for id in scene.others() {
            scene.revive(&id);
            scene.remove(&id);
        }
    });
}

#[test]
fn a_killed_fork_leaves_whole_forks_or_none() {
    let scene = Scene::new();
    let fork = ["fork", "--count", "2", "--name", "made", scene.parent()];
    let victims = [Victims::Client, Victims::Everything, Victims::Supervisors];
    scene.at_many_points(&fork, &victims, |scene| {
        for id in scene.others() {
            // One that was there already, and whose own supervisor was killed, starts again.
            let info = scene.coffer().inspect(&id);
            let failure = info["failure"].as_str().unwrap_or_default();
            assert!(
                info["status"] == "running" || failure.contains("supervisor was killed"),
                "{info}"
            );
            scene.revive(&id);
            scene.remove(&id);
        }
    });
}

#[test]
fn a_parent_killed_while_it_is_forked_or_captured_can_be_started() {
    let scene = Scene::new();
    scene.at_many_points(&["fork", scene.parent()], &[Victims::Parent], |scene| {
        for id in scene.others() {
            assert_eq!(scene.coffer().ok(["exec", &id, "hostname"]), id[..12]);
            scene.remove(&id);
        }
    });
    let create = ["snapshot", "create", "--name", "made", scene.parent()];
    scene.at_many_points(&create, &[Victims::Parent], Scene::remove_snapshots);
}

#[test]
fn a_killed_snapshot_is_whole_or_not_there() {
    let scene = Scene::new();
    for kind in ["--full", "--disk"] {
        let create = ["snapshot", "create", kind, "--name", "made", scene.parent()];
        scene.at_many_points(&create, &[Victims::Client], Scene::remove_snapshots);
    }
}

#[test]
fn a_killed_export_or_import_leaves_a_whole_one_or_none() {
    let scene = Scene::new();
    let coffer = scene.coffer();
    let file = coffer.home().join("exported");
    let path = file.to_str().unwrap();
    let id = coffer.ok(["snapshot", "create", scene.parent()]);
    let export = ["snapshot", "export", "-q", "-o", path, &id];
    scene.at_many_points(&export, &[Victims::Client], |_| {
        let entries = fs::read_dir(coffer.home()).unwrap();
        let debris = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .find(|name| name.contains("exported") && name != "exported");
        assert_eq!(debris, None);
        if file.exists() {
            coffer.ok(["snapshot", "rm", &id]);
            coffer.ok(["snapshot", "import", "-q", path]);
            coffer.ok(["snapshot", "verify", &id]);
            fs::remove_file(&file).unwrap();
        }
    });
    coffer.ok(["snapshot", "export", "-q", "-o", path, &id]);
    coffer.ok(["snapshot", "rm", &id]);
    let import = ["snapshot", "import", "-q", path];
    scene.at_many_points(&import, &[Victims::Client], Scene::remove_snapshots);
}

#[test]
fn a_killed_prune_or_removal_leaves_what_is_listed_whole() {
    let scene = Scene::new();
    let coffer = scene.coffer();
    let file = coffer.home().join("exported");
    let path = file.to_str().unwrap();
    let id = coffer.ok(["snapshot", "create", "--disk", scene.parent()]);
    coffer.ok(["snapshot", "export", "-q", "-o", path, &id]);
    coffer.ok(["snapshot", "rm", &id]);
    let prune = ["snapshot", "prune", "--all", "--force"];
    scene.prepared(
        |_| {
            coffer.ok(["snapshot", "import", "-q", path]);
            coffer.ok(["snapshot", "create", "--disk", scene.parent()]);
        },
        &prune,
        &[Victims::Client],
        Scene::remove_snapshots,
    );
    scene.prepared(
        |_| {
            coffer.ok([
                "run",
                "-d",
                "--name",
                "made",
                scene::IMAGE,
                "sleep",
                "1000000",
            ]);
        },
        &["rm", "-f", "made"],
        &[Victims::Client, Victims::Everything],
        |scene| {
            for id in scene.others() {
                scene.revive(&id);
                scene.remove(&id);
            }
        },
    );
}

#[test]
fn a_killed_restore_leaves_a_snapshot_that_restores() {
    let scene = Scene::new();
    let coffer = scene.coffer();
    let made = coffer.ok([
        "run",
        "-d",
        "--name",
        "made",
        scene::IMAGE,
        "sleep",
        "1000000",
    ]);
    coffer.ok([
        "exec",
        &made,
        "sh",
        "-c",
        "echo of the snapshot > /dev/shm/moment",
    ]);
    let snapshot = coffer.ok(["snapshot", "create", &made]);
    let moment = || coffer.ok(["exec", &made, "cat", "/dev/shm/moment"]);
    scene.prepared(
        |_| {
            coffer.run(["kill", &made]);
        },
        &["restore", &snapshot],
        &[Victims::Client, Victims::Everything],
        |_| {
            coffer.run(["kill", &made]);
            coffer.ok(["restore", &snapshot]);
            assert_eq!(moment(), "of the snapshot");
        },
    );
}

#[test]
fn a_killed_template_build_leaves_none_or_one_that_works() {
    let scene = Scene::new();
    let coffer = scene.coffer();
    let build = ["template", "build", "--exec", "true", scene::IMAGE];
    let victims = [Victims::Client, Victims::Everything];
    scene.at_many_points(&build, &victims, |scene| {
        let run = ["run", "--rm", scene::IMAGE, "echo", "works"];
        assert_eq!(coffer.ok(run), "works");
        scene.expect_templates();
    });
}
