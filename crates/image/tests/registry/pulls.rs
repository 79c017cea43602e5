//! What a pull asks for and brings.

use std::sync::Mutex;

use cofferdam_image::{ErrorKind, NoProgress, Progress, ProgressEvent};
use cofferdam_testkit::registry::{Fault, digest};

use crate::{
    scene::{Scene, block_on, part},
    store_support::{self, OCI_INDEX, OCI_MANIFEST, Sample, amd64, files_below},
};

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
    // Nothing listens behind a connection's own end.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let port = connection.local_addr().unwrap().port();
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
        times: 1,
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
