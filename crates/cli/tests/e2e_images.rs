//! Images from archives to guests: the real program, a real guest.
#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    fs,
    process::{Command, Stdio},
};

use cofferdam_testkit::{
    coffer::{BUSYBOX, Coffer},
    image::{ImageBuilder, busybox},
};
use serde_json::json;

fn load(coffer: &Coffer, image: ImageBuilder, name: &str) {
    let loaded = coffer.run_with_input(["load"], &image.archive(name));
    assert_eq!(loaded.code, 0, "{loaded:?}");
    assert!(loaded.text().contains(name), "{loaded:?}");
}

#[test]
fn an_images_user_directory_entrypoint_and_environment_are_used() {
    let coffer = Coffer::shared();
    let image = busybox()
        .config("User", json!("app"))
        .config("WorkingDir", json!("/srv/app"))
        .config(
            "Entrypoint",
            json!(["sh", "-c", "id -un; pwd; echo $COLOUR; echo $0"]),
        )
        .config("Cmd", json!(["from-cmd"]))
        .config("Env", json!(["PATH=/bin", "COLOUR=blue"]));
    load(&coffer, image, "config:test");
    assert_eq!(
        coffer.ok(["run", "--rm", "config:test"]),
        "app\n/srv/app\nblue\nfrom-cmd"
    );
    assert_eq!(
        coffer.ok(["run", "--rm", "config:test", "mine"]),
        "app\n/srv/app\nblue\nmine"
    );
    let root = coffer.ok(["run", "--rm", "-u", "0", "config:test"]);
    assert!(root.starts_with("root\n"), "{root}");
}

#[test]
fn upper_layers_hide_and_replace_what_is_below() {
    let coffer = Coffer::shared();
    let image = busybox()
        .file("old", 0o644, b"old")
        .file("changed", 0o644, b"below")
        .file("dir/below", 0o644, b"")
        .next_layer()
        .file(".wh.old", 0o644, b"")
        .file("changed", 0o755, b"above")
        .file("dir/.wh..wh..opq", 0o644, b"")
        .file_of("dir/above", 0o4711, (12, 34), b"");
    load(&coffer, image, "layers:test");
    let script =
        "ls -a /old 2>/dev/null; cat /changed; echo; ls /dir; stat -c '%a %u %g' /dir/above";
    let text = coffer.ok(["run", "--rm", "layers:test", "sh", "-c", script]);
    assert_eq!(text, "above\nabove\n4711 12 34");
}

#[test]
fn an_image_without_shell_passwd_or_anything_else_runs_its_program() {
    let coffer = Coffer::shared();
    let program = cofferdam_testkit::image::busybox_program();
    let image = ImageBuilder::new()
        .file("echo", 0o755, &program)
        .config("Entrypoint", json!(["/echo", "bare"]));
    load(&coffer, image, "bare:test");
    assert_eq!(coffer.ok(["run", "--rm", "bare:test"]), "bare");
    assert_eq!(coffer.ok(["run", "--rm", "-u", "77", "bare:test"]), "bare");
    let named = coffer.run(["run", "--rm", "-u", "somebody", "bare:test"]);
    assert_eq!(named.code, 125, "{named:?}");
    assert_eq!(
        coffer
            .run(["run", "--rm", "--entrypoint", "/sh", "bare:test"])
            .code,
        127
    );
}

#[test]
fn hostile_links_in_the_image_do_not_lead_out_of_it() {
    let coffer = Coffer::shared();
    let image = busybox()
        .symlink(
            "etc/resolv.conf",
            "/run/../../../../proc/1/root/etc/resolv.conf",
        )
        .symlink("etc/hosts", "/dev/null");
    load(&coffer, image, "links:test");
    let done = coffer.run(["run", "--rm", "links:test", "echo", "survived"]);
    assert_eq!(done.text(), "survived", "{done:?}");
}

#[test]
fn an_image_whose_mount_points_are_links_is_refused_by_name() {
    let coffer = Coffer::shared();
    for (number, place) in ["proc", "dev", "sys"].into_iter().enumerate() {
        let name = format!("link{number}:test");
        load(&coffer, busybox().symlink(place, "/etc"), &name);
        let done = coffer.run(["run", "--rm", &name, "true"]);
        assert_eq!(done.code, 125, "{done:?}");
        assert!(done.stderr.contains(&format!("/{place}")), "{done:?}");
    }
}

#[test]
fn images_are_listed_tagged_inspected_saved_and_removed() {
    let coffer = Coffer::private();
    let id = coffer.ok(["images", "-q"]);
    assert!(coffer.ok(["images"]).contains("busybox"));
    coffer.ok(["tag", BUSYBOX, "other:name"]);
    assert!(coffer.ok(["images"]).contains("other"));
    let inspected: serde_json::Value =
        serde_json::from_str(&coffer.ok(["inspect", BUSYBOX])).unwrap();
    assert!(
        inspected[0].to_string().contains("busybox:test"),
        "{inspected}"
    );
    assert!(!coffer.ok(["history", BUSYBOX]).is_empty());
    let listed: serde_json::Value = serde_json::from_str(&coffer.ok(["images", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");

    let archive = coffer.home().join("saved.tar");
    coffer.ok(["save", "-o", archive.to_str().unwrap(), BUSYBOX]);
    coffer.ok(["rmi", "other:name"]);
    coffer.ok(["rmi", BUSYBOX]);
    assert_eq!(coffer.ok(["images", "-q"]), "");
    coffer.ok(["load", "-i", archive.to_str().unwrap()]);
    assert_eq!(coffer.ok(["images", "-q"]), id);
    assert_eq!(coffer.ok(["run", "--rm", BUSYBOX, "echo", "back"]), "back");
}

#[test]
fn an_archive_goes_to_standard_output_whose_reader_may_go_away() {
    let coffer = Coffer::shared();
    let dir = tempfile::tempdir().unwrap();
    let mut command = coffer.command(["save", "-o", "-", BUSYBOX]);
    let saved = command.current_dir(dir.path()).output().unwrap();
    assert_eq!(saved.status.code(), Some(0), "{:?}", saved.stderr);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let loaded = Coffer::empty().run_with_input(["load"], &saved.stdout);
    assert_eq!(loaded.code, 0, "{loaded:?}");

    let mut child = coffer
        .command(["save", BUSYBOX])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!((ended.status.code(), &*stderr), (Some(141), ""));
}

#[test]
fn an_image_that_a_sandbox_uses_is_not_removed() {
    let coffer = Coffer::private();
    coffer.ok(["create", "--name", "user", BUSYBOX, "true"]);
    let refused = coffer.run(["rmi", BUSYBOX]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("user"), "{refused:?}");
    coffer.ok(["rm", "user"]);
    coffer.ok(["rmi", BUSYBOX]);
}

#[test]
fn an_oci_layout_by_other_tools_is_loaded_and_runs() {
    let have = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if !have("skopeo") {
        cofferdam_testkit::skip("skopeo is not installed");
        return;
    }
    let coffer = Coffer::shared();
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.tar");
    std::fs::write(&archive, busybox().archive("layout:test")).unwrap();
    let layout = dir.path().join("layout");
    let copied = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy"])
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!("oci:{}:layout", layout.display()))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
    let loaded = coffer.ok(["load", "-i", layout.to_str().unwrap()]);
    assert!(!loaded.is_empty());
    let id = loaded.rsplit(' ').next().unwrap();
    let name = id.trim_start_matches("sha256:");
    assert_eq!(
        coffer.ok(["run", "--rm", name, "echo", "from layout"]),
        "from layout"
    );
}
