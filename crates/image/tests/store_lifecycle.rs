//! Names, removal, garbage, several processes at once, and hosts that refuse.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod store_support;

use std::{
    fs,
    io::{Cursor, Read},
    process::{Child, Command, Stdio},
    sync::Barrier,
    thread,
};

use cofferdam_image::{ErrorKind, ImageStore, LoadSource, NoProgress, Progress, ProgressEvent};
use cofferdam_types::Digest;
use store_support::{Sample, TestStore, amd64, files_below, load};

const NOBODY: &dyn Fn(&Digest) -> Option<String> = &|_| None;

#[test]
fn an_image_is_found_by_name_id_prefix_and_digest() {
    let test = TestStore::new();
    let sample = Sample::new("x");
    let manifest = test.load(sample.docker_archive(&["a"])).unwrap()[0]
        .image
        .manifest;
    let id = sample.id();
    let names = [
        "a",
        "a:latest",
        "docker.io/library/a",
        &id,
        &id[7..],
        &id[7..11],
        &id[..20],
        &manifest.to_string(),
        &format!("a@{manifest}"),
    ]
    .map(str::to_owned);
    for name in names {
        let found = test.store.resolve(&name, &amd64()).unwrap();
        assert_eq!(found.unwrap().id.to_string(), id, "{name}");
    }
    assert!(test.store.resolve("b", &amd64()).unwrap().is_none());
    assert!(
        test.store
            .resolve(&format!("b@{manifest}"), &amd64())
            .unwrap()
            .is_none()
    );
    let error = test.store.resolve("B A D", &amd64()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidReference);
}

#[test]
fn a_loaded_image_is_refused_for_another_platform_by_name_and_by_id() {
    let test = TestStore::new();
    let sample = Sample::new("x");
    test.load(sample.docker_archive(&["a"])).unwrap();
    let arm64 = "linux/arm64".parse().unwrap();
    for name in ["a", &sample.id()] {
        let error = test.store.resolve(name, &arm64).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PlatformMismatch);
    }
}

#[test]
fn list_inspect_and_history_tell_what_the_image_says() {
    let test = TestStore::new();
    let sample = Sample::new("x");
    test.load(sample.docker_archive(&["a"])).unwrap();
    let list = test.store.list().unwrap();
    assert_eq!(list[0].references, ["docker.io/library/a:latest"]);
    assert_eq!(list[0].created.as_deref(), Some("2024-01-02T03:04:05Z"));
    assert_eq!(
        list[0].size_bytes,
        (sample.layer.len() + sample.config.len()) as u64
    );
    assert!(list[0].rootfs_bytes.unwrap() > 0);

    let details = serde_json::to_value(test.store.inspect("a").unwrap()).unwrap();
    assert_eq!(details["RepoTags"][0], "a:latest");
    assert_eq!(details["Config"]["Labels"]["l"], "v");
    assert_eq!(details["Architecture"], "amd64");
    assert_eq!(details["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    assert_eq!(details["RawConfig"]["history"][0]["created_by"], "ADD file");

    let history = test.store.history("a").unwrap();
    assert_eq!(history[0].created_by, "CMD");
    assert_eq!(
        (history[0].size_bytes, history[1].size_bytes),
        (0, sample.layer.len() as u64)
    );
}

#[test]
fn a_name_moves_to_a_newer_image_and_the_old_one_dangles_until_pruned() {
    let test = TestStore::new();
    test.load(Sample::new("old").docker_archive(&["a"]))
        .unwrap();
    test.load(Sample::new("new").docker_archive(&["a"]))
        .unwrap();
    assert_eq!(test.store.list().unwrap().len(), 2);
    let removed = test.store.prune(false, NOBODY).unwrap();
    assert_eq!(removed.deleted.len(), 3, "manifest, config and layer");
    assert!(removed.untagged.is_empty());
    assert!(removed.freed_bytes > 0);
    let left = test.store.list().unwrap();
    assert_eq!(left[0].id.to_string(), Sample::new("new").id());
    assert_eq!(left.len(), 1);
}

#[test]
fn removing_the_last_name_removes_every_file_of_the_image() {
    let test = TestStore::new();
    test.load(Sample::new("x").docker_archive(&["a", "b"]))
        .unwrap();
    let removed = test.store.remove("a", false, NOBODY).unwrap();
    assert_eq!(removed.untagged, ["docker.io/library/a:latest"]);
    assert!(removed.deleted.is_empty());
    assert!(test.store.resolve("b", &amd64()).unwrap().is_some());
    let removed = test.store.remove("b", false, NOBODY).unwrap();
    assert_eq!(removed.deleted.len(), 3);
    assert_eq!(files_below(test.dir.path()), Vec::<String>::new());
    assert_eq!(
        test.store.remove("b", false, NOBODY).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn a_layer_that_two_images_share_stays_with_the_other() {
    let test = TestStore::new();
    let first = Sample::new("x");
    let text = String::from_utf8(first.config.clone())
        .unwrap()
        .replace("A=b", "A=c");
    let second = Sample {
        config: text.into(),
        ..first.clone()
    };
    test.load(first.docker_archive(&["a"])).unwrap();
    test.load(second.docker_archive(&["b"])).unwrap();
    assert_eq!(
        test.store.remove("a", false, NOBODY).unwrap().deleted.len(),
        2
    );
    let image = test.store.resolve("b", &amd64()).unwrap().unwrap();
    fs::remove_file(test.store.rootfs(&image, &NoProgress).unwrap().path).unwrap();
    test.store.rootfs(&image, &NoProgress).unwrap();
}

#[test]
fn an_id_with_two_names_goes_only_by_force() {
    let test = TestStore::new();
    let sample = Sample::new("x");
    test.load(sample.docker_archive(&["a", "b"])).unwrap();
    let error = test.store.remove(&sample.id(), false, NOBODY).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let removed = test.store.remove(&sample.id(), true, NOBODY).unwrap();
    assert_eq!(removed.untagged.len(), 2);
    assert!(test.store.list().unwrap().is_empty());
}

#[test]
fn an_image_in_use_stays_whatever_the_force() {
    let test = TestStore::new();
    let sample = Sample::new("x");
    test.load(sample.docker_archive(&["a"])).unwrap();
    let id: Digest = sample.id().parse().unwrap();
    let used = |asked: &Digest| (*asked == id).then(|| "the sandbox `box`".to_owned());
    let error = test.store.remove("a", false, &used).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("the sandbox `box`"));
    test.store.remove("a", true, &used).unwrap();
    assert!(test.store.resolve("a", &amd64()).unwrap().is_none());
    let image = test.store.resolve(&sample.id(), &amd64()).unwrap().unwrap();
    test.store.rootfs(&image, &NoProgress).unwrap();
    assert!(test.store.prune(true, &used).unwrap().deleted.is_empty());
    assert_eq!(test.store.prune(true, NOBODY).unwrap().deleted.len(), 3);
}

#[test]
fn a_lost_root_file_system_is_built_again_with_the_same_bytes() {
    let test = TestStore::new();
    let image = test
        .load(Sample::new("x").docker_archive(&["a"]))
        .unwrap()
        .remove(0)
        .image;
    let path = test.store.rootfs(&image, &NoProgress).unwrap().path;
    let start = |path: &std::path::Path| {
        let mut bytes = vec![0; 8192];
        fs::File::open(path)
            .unwrap()
            .read_exact(&mut bytes)
            .unwrap();
        bytes
    };
    let before = start(&path);
    fs::remove_file(&path).unwrap();
    assert_eq!(
        start(&test.store.rootfs(&image, &NoProgress).unwrap().path),
        before
    );
    test.store.remove("a", false, NOBODY).unwrap();
    let error = test.store.rootfs(&image, &NoProgress).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn loads_and_removals_at_once_all_succeed_or_fail_cleanly() {
    const ROUNDS: usize = 12;
    let test = TestStore::new();
    let archive = Sample::new("x").docker_archive(&["a"]);
    let barrier = Barrier::new(3);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // Each has a store of its own, as two processes have.
                let store = ImageStore::open(test.dir.path()).unwrap();
                barrier.wait();
                for _ in 0..ROUNDS {
                    load(&store, archive.clone()).unwrap();
                }
            });
        }
        scope.spawn(|| {
            let store = ImageStore::open(test.dir.path()).unwrap();
            barrier.wait();
            for _ in 0..ROUNDS {
                match store.remove("a", true, NOBODY) {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
                }
            }
        });
    });
    load(&test.store, archive).unwrap();
    let image = test.store.resolve("a", &amd64()).unwrap().unwrap();
    test.store.rootfs(&image, &NoProgress).unwrap();
    assert_eq!(
        files_below(test.dir.path()).len(),
        4,
        "three blobs and a root file system"
    );
}

#[test]
fn a_removal_does_not_take_a_blob_from_a_load_that_counts_on_it() {
    /// Removes the image as soon as the load has taken its blobs over.
    struct RemoveMeanwhile<'a>(&'a ImageStore);
    impl Progress for RemoveMeanwhile<'_> {
        fn event(&self, event: ProgressEvent<'_>) {
            if let ProgressEvent::Phase {
                phase: cofferdam_image::Phase::Unpacking,
                ..
            } = event
            {
                self.0.remove("a", true, NOBODY).unwrap();
            }
        }
    }
    let test = TestStore::new();
    let sample = Sample::new("x");
    test.load(sample.docker_archive(&["a"])).unwrap();
    let source = LoadSource::Reader(Box::new(Cursor::new(sample.docker_archive(&["b"]))));
    test.store
        .load(source, &amd64(), &RemoveMeanwhile(&test.store))
        .unwrap();
    let image = test.store.resolve("b", &amd64()).unwrap().unwrap();
    fs::remove_file(test.store.rootfs(&image, &NoProgress).unwrap().path).unwrap();
    test.store.rootfs(&image, &NoProgress).unwrap();
}

/// The name under which a test runs itself as another process.
const CHILD_STORE: &str = "COFFER_TEST_CHILD_STORE";

/// Not a test of its own: what the killed process of the next test does.
#[test]
fn child_that_loads_until_it_is_killed() {
    let Some(root) = std::env::var_os(CHILD_STORE) else {
        return;
    };
    let store = ImageStore::open(root.as_ref()).unwrap();
    /// An archive, and then nothing for ever.
    struct Endless(Cursor<Vec<u8>>);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.read(buffer)?;
            if count == 0 {
                // Tells the parent that the files are there, and waits to be killed.
                eprintln!("spooled");
                thread::park();
            }
            Ok(count)
        }
    }
    let archive = Sample::new("x").docker_archive(&["a"]);
    let cut = archive.len() - 2048;
    let source = Endless(Cursor::new(archive[..cut].to_vec()));
    let _ = store.load(LoadSource::Reader(Box::new(source)), &amd64(), &NoProgress);
}

fn spawn_loading_child(test: &TestStore) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_that_loads_until_it_is_killed",
            "--nocapture",
        ])
        .env(CHILD_STORE, test.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = String::new();
    let stderr = child.stderr.as_mut().unwrap();
    while !seen.contains("spooled") {
        let mut byte = [0];
        assert_eq!(
            stderr.read(&mut byte).unwrap(),
            1,
            "the child ended early: {seen}"
        );
        seen.push(char::from(byte[0]));
    }
    child
}

#[test]
fn what_a_killed_load_left_is_invisible_and_goes_with_the_next_open() {
    let test = TestStore::new();
    let mut child = spawn_loading_child(&test);
    assert!(!files_below(test.dir.path()).is_empty());
    // While its owner lives, nobody sweeps it.
    drop(ImageStore::open(test.dir.path()).unwrap());
    assert!(!files_below(test.dir.path()).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(test.store.list().unwrap().is_empty());
    drop(ImageStore::open(test.dir.path()).unwrap());
    assert_eq!(files_below(test.dir.path()), Vec::<String>::new());
}

#[test]
fn blobs_that_no_index_names_go_with_the_next_change() {
    let test = TestStore::new();
    let orphan = test.dir.path().join("blobs/sha256").join("ab".repeat(32));
    fs::write(&orphan, b"left by a kill between rename and publish").unwrap();
    test.load(Sample::new("x").docker_archive(&["a"])).unwrap();
    assert!(!orphan.exists());
}

#[test]
fn an_index_of_another_version_is_refused() {
    let test = TestStore::new();
    fs::write(
        test.dir.path().join("index.json"),
        r#"{"version":99,"images":[],"references":{}}"#,
    )
    .unwrap();
    assert_eq!(
        test.store.list().unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn a_damaged_index_is_named_with_what_to_do() {
    let test = TestStore::new();
    for content in ["", "{", "no json", r#"{"version":1}"#, "\u{0}"] {
        fs::write(test.dir.path().join("index.json"), content).unwrap();
        let error = test.store.list().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{content:?}");
        assert!(
            error.to_string().contains("index.json` is damaged"),
            "{error}"
        );
        assert!(
            error
                .hint_text()
                .is_some_and(|hint| hint.contains("Remove"))
        );
    }
}

/// A tmpfs, gone with the value.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None` where this process may not mount.
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "cofferdam-test"])
            .arg(dir.path())
            .output();
        done.is_ok_and(|output| output.status.success())
            .then_some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_no_space_and_leaves_nothing() {
    let Some(disk) = Tmpfs::mount("size=1m") else {
        cofferdam_testkit::skip("no tmpfs can be mounted here");
        return;
    };
    let store = ImageStore::open(disk.0.path()).unwrap();
    let noise: Vec<u8> = (0..3_u32 << 20)
        .map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let sample = Sample::of("amd64", &store_support::tar(&[("f", &noise)]));
    let error = load(&store, sample.docker_archive(&["a"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.hint_text().is_some());
    assert!(store.list().unwrap().is_empty());
    assert_eq!(files_below(disk.0.path()), Vec::<String>::new());
}

#[test]
fn a_disk_that_fills_while_the_root_is_built_is_no_space_too() {
    // Room for the archive's blobs, not for the root file system beside them.
    let Some(disk) = Tmpfs::mount("size=4m") else {
        cofferdam_testkit::skip("no tmpfs can be mounted here");
        return;
    };
    let store = ImageStore::open(disk.0.path()).unwrap();
    let noise: Vec<u8> = (0..3_u32 << 20)
        .map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let sample = Sample::of("amd64", &store_support::tar(&[("f", &noise)]));
    let error = load(&store, sample.docker_archive(&["a"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(files_below(disk.0.path()), Vec::<String>::new());
}

#[test]
fn a_place_that_cannot_be_written_is_a_permission_error() {
    let root;
    let disk;
    let path = if rustix::process::geteuid().is_root() {
        disk = Tmpfs::mount("ro");
        let Some(disk) = &disk else {
            cofferdam_testkit::skip("root cannot mount a tmpfs here");
            return;
        };
        disk.0.path()
    } else {
        use std::os::unix::fs::PermissionsExt as _;
        root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o500)).unwrap();
        root.path()
    };
    let error = ImageStore::open(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(error.hint_text().is_some());
}

#[test]
fn what_images_share_is_freed_with_the_last_of_them() {
    let test = TestStore::new();
    let first = Sample::new(&"x".repeat(100_000));
    let config = String::from_utf8(first.config.clone()).unwrap();
    let second = Sample {
        config: config.replace("A=b", "A=c").into(),
        ..first.clone()
    };
    test.load(first.docker_archive(&["first"])).unwrap();
    test.load(second.docker_archive(&["second"])).unwrap();
    let ids = [first.id(), second.id()];
    let usage = |used: &[bool]| {
        let in_use = |id: &cofferdam_types::Digest| {
            let at = ids.iter().position(|known| *known == id.to_string());
            used[at.unwrap()]
        };
        test.store.usage(&in_use).unwrap()
    };
    let layer = first.layer.len() as u64;
    let none = usage(&[false, false]);
    assert_eq!(none.reclaimable_bytes, none.size_bytes);
    let one = usage(&[true, false]);
    assert!(one.size_bytes - one.reclaimable_bytes >= layer);
    assert_eq!(one.images.len(), 2);
    assert_eq!(
        (one.images[0].names[0].as_str(), one.images[0].in_use),
        ("second:latest", false)
    );
    // The layer is the other's too.
    assert_eq!(one.reclaimable_bytes, one.images[0].unique_bytes);
    assert_eq!(usage(&[true, true]).reclaimable_bytes, 0);
}
