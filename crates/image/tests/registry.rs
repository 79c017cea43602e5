//! Pulls from a registry that misbehaves.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod store_support;

use std::{
    future::Future, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Mutex, time::Duration,
};

use cofferdam_image::{
    Error, ErrorKind, Image, NoProgress, Progress, ProgressEvent, PullOptions, Result,
};
use cofferdam_testkit::registry::{Auth, FakeRegistry, Fault, digest};
use store_support::{OCI_INDEX, OCI_MANIFEST, Sample, TestStore, amd64, files_below};

/// A registry with one image, a store to pull it into, and no credentials.
struct Scene {
    registry: FakeRegistry,
    test: TestStore,
    sample: Sample,
    options: PullOptions,
    config: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let registry = FakeRegistry::start();
        // Large enough for several reads, and not compressible to nothing.
        let noise: Vec<u8> = (0..400_000_u32)
            .flat_map(|i| (i ^ i << 7).to_le_bytes())
            .collect();
        let sample = Sample::of("amd64", &store_support::tar(&[("f", &noise)])).gzipped();
        sample.push(&registry, "x", "1");
        let config = tempfile::tempdir().unwrap();
        let options = PullOptions {
            mirrors: Some(String::new()),
            docker_config: Some(config.path().to_owned()),
            stall_timeout: Duration::from_secs(10),
            retry_wait: Duration::from_millis(1),
            ..PullOptions::default()
        };
        Self {
            registry,
            test: TestStore::new(),
            sample,
            options,
            config,
        }
    }

    fn layer(&self) -> String {
        digest(&self.sample.layer)
    }

    fn pull(&self) -> Result<Image> {
        self.pull_with("x:1", &NoProgress)
    }

    fn pull_with(&self, name: &str, progress: &dyn Progress) -> Result<Image> {
        let reference = format!("{}/{name}", self.registry.host()).parse()?;
        block_on(
            self.test
                .store
                .pull(&reference, &amd64(), &self.options, progress),
        )
    }

    /// A pull that must fail and leave nothing.
    fn refused(&self) -> Error {
        let error = self.pull().expect_err("the pull fails");
        assert!(self.test.store.list().unwrap().is_empty());
        assert_eq!(
            files_below(self.test.dir.path()),
            Vec::<String>::new(),
            "{error:?}"
        );
        error
    }

    fn login(&self, content: &str) {
        std::fs::write(self.config.path().join("config.json"), content).unwrap();
    }

    fn asked_for(&self, part: &str) -> usize {
        self.registry
            .requests()
            .iter()
            .filter(|r| r.path.contains(part))
            .count()
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn part(digest: &str) -> String {
    digest[7..].to_owned()
}

#[test]
fn a_pull_brings_the_image_its_name_its_digest_and_its_root() {
    let scene = Scene::new();
    let image = scene.pull().unwrap();
    assert_eq!(image.id.to_string(), scene.sample.id());
    let host = scene.registry.host();
    for name in [
        format!("{host}/x:1"),
        format!("{host}/x@{}", image.manifest),
    ] {
        assert_eq!(
            scene.test.store.resolve(&name, &amd64()).unwrap().unwrap(),
            image
        );
    }
    scene.test.store.rootfs(&image, &NoProgress).unwrap();
}

#[test]
fn a_second_pull_asks_for_the_manifest_only() {
    let scene = Scene::new();
    scene.pull().unwrap();
    let before = scene.registry.requests().len();
    scene.pull().unwrap();
    assert_eq!(scene.registry.requests().len(), before + 1);
}

#[test]
fn layers_of_the_store_are_not_fetched_again() {
    let scene = Scene::new();
    scene.pull().unwrap();
    let config = String::from_utf8(scene.sample.config.clone())
        .unwrap()
        .replace("A=b", "A=c");
    Sample {
        config: config.into(),
        ..scene.sample.clone()
    }
    .push(&scene.registry, "x", "2");
    scene.pull_with("x:2", &NoProgress).unwrap();
    assert_eq!(scene.asked_for(&part(&scene.layer())), 1);
}

#[test]
fn progress_adds_up_to_the_layer() {
    #[derive(Default)]
    struct Sum(Mutex<(u64, u64, u32)>);
    impl Progress for Sum {
        fn event(&self, event: ProgressEvent<'_>) {
            let mut sum = self.0.lock().unwrap();
            match event {
                // The config is no layer and is not reported.
                ProgressEvent::LayerStarted { total_bytes, .. } => sum.0 += total_bytes,
                ProgressEvent::LayerAdvanced { bytes, .. } => sum.1 += bytes,
                ProgressEvent::LayerDone {
                    already_present: false,
                    ..
                } => sum.2 += 1,
                _ => {}
            }
        }
    }
    let scene = Scene::new();
    let sum = Sum::default();
    scene.pull_with("x:1", &sum).unwrap();
    let size = scene.sample.layer.len() as u64;
    assert_eq!(*sum.0.lock().unwrap(), (size, size, 1));
}

#[test]
fn an_index_gives_the_wanted_platform_and_by_digest_too() {
    let scene = Scene::new();
    let arm = Sample::of("arm64", &store_support::tar(&[("f", b"arm")]));
    arm.push(&scene.registry, "x", "arm");
    let entry = |sample: &Sample, architecture: &str| {
        let manifest = sample.manifest();
        format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            digest(&manifest),
            manifest.len()
        )
    };
    let index = |entries: &[String]| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
            entries.join(",")
        )
    };
    let both = index(&[entry(&arm, "arm64"), entry(&scene.sample, "amd64")]);
    let digest = scene
        .registry
        .put_manifest("x", "multi", OCI_INDEX, both.as_bytes());
    let image = scene.pull_with("x:multi", &NoProgress).unwrap();
    assert_eq!(image.id.to_string(), scene.sample.id());
    let pinned = format!("x@{digest}");
    assert_eq!(scene.pull_with(&pinned, &NoProgress).unwrap(), image);
    let name = format!("{}/{pinned}", scene.registry.host());
    assert_eq!(
        scene.test.store.resolve(&name, &amd64()).unwrap().unwrap(),
        image
    );

    let only_arm = index(&[entry(&arm, "arm64")]);
    scene
        .registry
        .put_manifest("x", "multi-arm", OCI_INDEX, only_arm.as_bytes());
    let error = scene.pull_with("x:multi-arm", &NoProgress).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PlatformMismatch);
    // A single manifest shows its platform only in its config.
    let error = scene.pull_with("x:arm", &NoProgress).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PlatformMismatch);
}

#[test]
fn an_unknown_tag_is_not_found() {
    let scene = Scene::new();
    let error = scene.pull_with("x:nope", &NoProgress).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint_text().is_some());
}

#[test]
fn schema_1_and_unknown_media_types_are_unsupported() {
    let scene = Scene::new();
    let kind = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    scene
        .registry
        .put_manifest("x", "1", kind, br#"{"schemaVersion":1,"fsLayers":[]}"#);
    assert_eq!(scene.refused().kind(), ErrorKind::Unsupported);
    scene.registry.put_manifest(
        "x",
        "1",
        "application/x",
        br#"{"schemaVersion":2,"cake":1}"#,
    );
    assert_eq!(scene.refused().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_token_is_fetched_once_and_used() {
    let scene = Scene::new();
    scene.registry.demand(Auth::Token(None));
    scene.pull().unwrap();
    assert_eq!(scene.asked_for("/token"), 1);
}

#[test]
fn a_login_is_sent_to_the_token_service() {
    let scene = Scene::new();
    scene
        .registry
        .demand(Auth::Token(Some(("user".into(), "pass".into()))));
    let error = scene.refused();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.hint_text().unwrap().contains("login"));
    // base64 of `user:pass`.
    scene.login(&format!(
        r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#,
        scene.registry.host()
    ));
    scene.pull().unwrap();
}

#[test]
fn basic_authentication_takes_the_login_and_never_shows_it() {
    let scene = Scene::new();
    scene
        .registry
        .demand(Auth::Basic("user".into(), "pass".into()));
    assert_eq!(scene.refused().kind(), ErrorKind::Unauthorized);
    let host = scene.registry.host();
    scene.login(&format!(
        r#"{{"auths":{{"{host}":{{"username":"user","password":"s3cret"}}}}}}"#
    ));
    let error = scene.refused();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    let text = format!("{error:?} {:?} {:?}", error.hint_text(), scene.options);
    assert!(!text.contains("s3cret"), "{text}");
    scene.login(&format!(
        r#"{{"auths":{{"{host}":{{"username":"user","password":"pass"}}}}}}"#
    ));
    scene.pull().unwrap();
}

#[test]
fn a_credential_program_is_asked_when_the_configuration_names_one() {
    let scene = Scene::new();
    scene
        .registry
        .demand(Auth::Basic("user".into(), "pass".into()));
    scene.login(r#"{"credsStore":"cofferdam-test-absent"}"#);
    let error = scene.refused();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        error
            .to_string()
            .contains("`docker-credential-cofferdam-test-absent`"),
        "{error}"
    );
}

#[test]
fn unknown_authentication_is_refused_by_its_name() {
    let scene = Scene::new();
    scene.registry.demand(Auth::Unknown);
    let error = scene.refused();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("`Moonlight`"), "{error}");
}

#[test]
fn a_server_error_that_passes_is_tried_again() {
    let scene = Scene::new();
    for path in ["manifests".to_owned(), part(&scene.layer())] {
        scene.registry.inject(Fault::Status {
            path,
            status: 500,
            times: 2,
            retry_after: None,
        });
    }
    scene.pull().unwrap();
}

#[test]
fn a_server_error_that_stays_is_given_up() {
    let scene = Scene::new();
    let path = "manifests".into();
    scene.registry.inject(Fault::Status {
        path,
        status: 503,
        times: 99,
        retry_after: None,
    });
    assert_eq!(scene.refused().kind(), ErrorKind::Registry);
    assert_eq!(scene.asked_for("manifests"), 4);
}

#[test]
fn too_many_requests_waits_as_asked_but_not_for_an_hour() {
    let scene = Scene::new();
    let fault = |retry_after| Fault::Status {
        path: "manifests".into(),
        status: 429,
        times: 1,
        retry_after: Some(retry_after),
    };
    scene.registry.inject(fault(3600));
    let error = scene.refused();
    assert_eq!(error.kind(), ErrorKind::Registry);
    assert!(error.hint_text().unwrap().contains("log in"));
    scene.registry.inject(fault(0));
    scene.pull().unwrap();
}

#[test]
fn statuses_become_kinds() {
    for (status, kind) in [
        (401, ErrorKind::Unauthorized),
        (403, ErrorKind::Unauthorized),
        (404, ErrorKind::NotFound),
        (418, ErrorKind::Registry),
    ] {
        let scene = Scene::new();
        let path = "manifests".into();
        scene.registry.inject(Fault::Status {
            path,
            status,
            times: 99,
            retry_after: None,
        });
        assert_eq!(scene.refused().kind(), kind, "{status}");
        assert_eq!(
            scene.asked_for("manifests"),
            1,
            "{status} is not tried again"
        );
    }
}

#[test]
fn a_broken_transfer_is_taken_up_where_it_broke() {
    let scene = Scene::new();
    let layer = part(&scene.layer());
    let at = scene.sample.layer.len() / 3;
    scene.registry.inject(Fault::Cut {
        path: layer.clone(),
        at,
        times: 2,
    });
    scene.pull().unwrap();
    let starts: Vec<_> = scene
        .registry
        .requests()
        .into_iter()
        .filter(|request| request.path.contains(&layer))
        .map(|request| request.range_start)
        .collect();
    assert_eq!(starts, [None, Some(at), Some(2 * at)]);
}

#[test]
fn a_server_without_ranges_is_read_from_the_start_again() {
    let scene = Scene::new();
    scene.registry.inject(Fault::NoRanges);
    scene.registry.inject(Fault::Cut {
        path: part(&scene.layer()),
        at: 1000,
        times: 1,
    });
    scene.pull().unwrap();
}

#[test]
fn a_transfer_that_never_gets_on_is_given_up() {
    let scene = Scene::new();
    scene.registry.inject(Fault::Cut {
        path: part(&scene.layer()),
        at: 0,
        times: 99,
    });
    assert_eq!(scene.refused().kind(), ErrorKind::Registry);
    assert_eq!(scene.asked_for(&part(&scene.layer())), 4);
}

#[test]
fn a_stall_is_a_timeout() {
    for path in ["blobs", "manifests"] {
        let mut scene = Scene::new();
        scene.options.stall_timeout = Duration::from_millis(100);
        scene.registry.inject(Fault::Stall {
            path: path.into(),
            at: 10,
        });
        assert_eq!(scene.refused().kind(), ErrorKind::Timeout, "{path}");
    }
}

#[test]
fn a_corrupt_byte_is_a_digest_mismatch() {
    let scene = Scene::new();
    for digest in [scene.layer(), scene.sample.id()] {
        let scene = Scene::new();
        scene.registry.inject(Fault::Corrupt {
            path: part(&digest),
            at: 100,
        });
        assert_eq!(scene.refused().kind(), ErrorKind::DigestMismatch);
    }
}

#[test]
fn a_manifest_that_is_not_the_pinned_or_the_claimed_one_is_a_digest_mismatch() {
    let scene = Scene::new();
    let claim = digest(b"something else");
    scene.registry.inject(Fault::ClaimDigest { digest: claim });
    assert_eq!(scene.refused().kind(), ErrorKind::DigestMismatch);

    let scene = Scene::new();
    let pinned = digest(&scene.sample.manifest());
    scene.registry.inject(Fault::Corrupt {
        path: "manifests".into(),
        at: 5,
    });
    let error = scene
        .pull_with(&format!("x@{pinned}"), &NoProgress)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[test]
fn lies_about_lengths_are_found_before_the_disk_fills() {
    let scene = Scene::new();
    let size = scene.sample.layer.len();
    for length in [size - 1, size + 1, 4 * size] {
        let scene = Scene::new();
        scene.registry.inject(Fault::Length {
            path: part(&scene.layer()),
            length,
        });
        let error = scene.refused();
        assert_eq!(error.kind(), ErrorKind::Registry, "{length}");
        assert_eq!(scene.asked_for(&part(&scene.layer())), 1);
    }
}

#[test]
fn a_huge_manifest_is_too_large() {
    let scene = Scene::new();
    scene.registry.inject(Fault::Length {
        path: "manifests".into(),
        length: 5 << 20,
    });
    assert_eq!(scene.refused().kind(), ErrorKind::TooLarge);
}

#[test]
fn a_redirect_to_another_host_gets_no_credentials() {
    let scene = Scene::new();
    let storage = FakeRegistry::start();
    scene.sample.push(&storage, "x", "1");
    scene.registry.demand(Auth::Token(None));
    let to = format!("http://{}", storage.other_host());
    scene.registry.inject(Fault::Redirect {
        path: "blobs".into(),
        to,
    });
    scene.pull().unwrap();
    let seen = storage.requests();
    assert_eq!(seen.len(), 2, "config and layer");
    assert!(
        seen.iter().all(|request| request.authorization.is_none()),
        "{seen:?}"
    );
    assert!(
        scene
            .registry
            .requests()
            .iter()
            .any(|request| request.authorization.is_some())
    );
}

#[test]
fn redirects_have_an_end_and_stay_encrypted() {
    let scene = Scene::new();
    let to = format!("http://{}", scene.registry.host());
    scene.registry.inject(Fault::Redirect {
        path: "blobs".into(),
        to,
    });
    assert_eq!(scene.refused().kind(), ErrorKind::Registry);

    let scene = Scene::new();
    let to = "http://storage.invalid".to_owned();
    scene.registry.inject(Fault::Redirect {
        path: "blobs".into(),
        to,
    });
    assert_eq!(scene.refused().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_when_it_fails() {
    let mut scene = Scene::new();
    let mirror = FakeRegistry::start();
    scene.options.mirrors = Some(format!("{}={}", scene.registry.host(), mirror.host()));
    scene.pull().unwrap();
    assert_eq!(mirror.requests().len(), 1, "it was asked, and had nothing");
    scene.sample.push(&mirror, "y", "1");
    scene.pull_with("y:1", &NoProgress).unwrap();
    assert_eq!(scene.asked_for("/y/"), 0);
}

#[test]
fn a_mirror_that_breaks_within_a_layer_is_replaced_by_the_registry() {
    let mut scene = Scene::new();
    let mirror = FakeRegistry::start();
    scene.sample.push(&mirror, "x", "1");
    let path = part(&scene.layer());
    mirror.inject(Fault::Corrupt { path, at: 100 });
    scene.options.mirrors = Some(format!("{}={}", scene.registry.host(), mirror.host()));
    scene.pull().unwrap();
    assert_eq!(scene.asked_for(&part(&scene.layer())), 1);
    assert_eq!(
        scene.asked_for(&part(&scene.sample.id())),
        0,
        "the mirror's config is kept"
    );
}

#[test]
fn a_name_of_two_platforms_goes_for_both_and_an_id_for_its_own() {
    let arm64 = "linux/arm64".parse().unwrap();
    let scene = Scene::new();
    let reference = format!("{}/x:1", scene.registry.host()).parse().unwrap();
    let nobody = |_: &_| None;
    let pull_both = || {
        scene.sample.push(&scene.registry, "x", "1");
        let amd = scene.pull().unwrap();
        let arm = Sample::of("arm64", &store_support::tar(&[("f", b"arm")]));
        arm.push(&scene.registry, "x", "1");
        let store = &scene.test.store;
        let pull = store.pull(&reference, &arm64, &scene.options, &NoProgress);
        (amd, block_on(pull).unwrap())
    };
    let store = &scene.test.store;
    let name = reference.to_string();
    let (amd, arm) = pull_both();
    assert_eq!(store.resolve(&name, &amd64()).unwrap().unwrap(), amd);
    assert_eq!(store.resolve(&name, &arm64).unwrap().unwrap(), arm);
    let removed = store.remove(&name, false, &nobody).unwrap();
    assert_eq!(removed.untagged, std::slice::from_ref(&name));
    assert_eq!(files_below(scene.test.dir.path()), Vec::<String>::new());

    let (amd, arm) = pull_both();
    assert!(
        store
            .remove(&amd.id.to_string(), false, &nobody)
            .unwrap()
            .untagged
            .is_empty()
    );
    assert!(store.resolve(&name, &amd64()).unwrap().is_none());
    assert_eq!(store.resolve(&name, &arm64).unwrap().unwrap(), arm);
}

#[test]
fn nobody_there_is_a_registry_error_at_once() {
    let scene = Scene::new();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let reference = format!("127.0.0.1:{port}/x:1").parse().unwrap();
    let platform = amd64();
    let pull = scene
        .test
        .store
        .pull(&reference, &platform, &scene.options, &NoProgress);
    assert_eq!(block_on(pull).unwrap_err().kind(), ErrorKind::Registry);
}

#[test]
fn a_dropped_pull_leaves_nothing() {
    let scene = Scene::new();
    let layer = part(&scene.layer());
    scene.registry.inject(Fault::Stall {
        path: layer,
        at: 1000,
    });
    /// Tells when the layer has begun to come.
    struct Begun(tokio::sync::Notify);
    impl Progress for Begun {
        fn event(&self, event: ProgressEvent<'_>) {
            if matches!(event, ProgressEvent::LayerAdvanced { .. }) {
                self.0.notify_one();
            }
        }
    }
    let begun = Begun(tokio::sync::Notify::new());
    let reference = format!("{}/x:1", scene.registry.host()).parse().unwrap();
    let platform = amd64();
    block_on(async {
        tokio::select! {
            _ = scene.test.store.pull(&reference, &platform, &scene.options, &begun) => {
                panic!("the pull should hang");
            }
            () = begun.0.notified() => {}
        }
    });
    assert_eq!(files_below(scene.test.dir.path()), Vec::<String>::new());
}

#[test]
fn two_pulls_at_once_both_succeed() {
    let scene = Scene::new();
    let reference = format!("{}/x:1", scene.registry.host()).parse().unwrap();
    let other = cofferdam_image::ImageStore::open(scene.test.dir.path()).unwrap();
    let (platform, options) = (amd64(), &scene.options);
    let (one, two) = block_on(async {
        tokio::join!(
            scene
                .test
                .store
                .pull(&reference, &platform, options, &NoProgress),
            other.pull(&reference, &platform, options, &NoProgress),
        )
    });
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(scene.test.store.list().unwrap().len(), 1);
    assert_eq!(files_below(scene.test.dir.path()).len(), 4);
}

/// The name under which a test runs itself with another `PATH`.
const CHILD: &str = "COFFER_TEST_HELPER_CHILD";

/// Not a test of its own: pulls with a credential program on the path.
#[test]
fn child_that_pulls_with_a_credential_program() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let scene = Scene::new();
    scene
        .registry
        .demand(Auth::Basic("user".into(), "pass".into()));
    let host = scene.registry.host();
    scene.login(&format!(r#"{{"credHelpers":{{"{host}":"fake"}}}}"#));
    scene.pull().unwrap();
}

#[test]
fn a_credential_program_is_given_the_host_and_its_answer_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let program: PathBuf = dir.path().join("docker-credential-fake");
    let script = "#!/bin/sh\n[ \"$1\" = get ] || exit 1\nread -r host\ncase $host in 127.0.0.1:*) ;; *) exit 1;; esac\n\
        echo '{\"ServerURL\":\"x\",\"Username\":\"user\",\"Secret\":\"pass\"}'\n";
    // `read` wants a line; the protocol gives none, so the script must not fail on that.
    let script = script.replace("read -r host\n", "read -r host || true\n");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap()
    );
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_pulls_with_a_credential_program"])
        .env(CHILD, "1")
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
