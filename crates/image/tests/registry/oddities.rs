//! Manifests, indexes and answers that are odd and that Docker or podman take.

use cofferdam_image::{ErrorKind, NoProgress};
use cofferdam_testkit::registry::{Auth, Fault, digest};
use serde_json::{Value, json};

use crate::{
    scene::{Scene, block_on, part},
    store_support::{OCI_INDEX, OCI_MANIFEST, Sample, gzip, tar},
};

/// A manifest as JSON.
fn manifest(sample: &Sample) -> Value {
    serde_json::from_slice(&sample.manifest()).unwrap()
}

/// Serves `manifest` in place of the sample's, and pulls.
fn pull_of(scene: &Scene, manifest: &Value) -> cofferdam_image::Result<cofferdam_image::Image> {
    let bytes = serde_json::to_vec(manifest).unwrap();
    scene.registry.put_manifest("x", "1", OCI_MANIFEST, &bytes);
    scene.pull()
}

#[test]
fn nulls_and_missing_or_vague_media_types_refuse_no_image() {
    let changes: [fn(&mut Value); 12] = [
        |m| m["layers"][0]["urls"] = Value::Null,
        |m| m["config"]["urls"] = Value::Null,
        |m| m["layers"][0]["urls"] = json!(["https://cdn.example/x"]),
        |m| m["layers"][0]["annotations"] = json!({"a": null}),
        |m| m["config"]["platform"] = Value::Null,
        |m| m["mediaType"] = Value::Null,
        |m| m["mediaType"] = json!(""),
        |m| drop(m.as_object_mut().unwrap().remove("schemaVersion")),
        |m| drop(m["layers"][0].as_object_mut().unwrap().remove("mediaType")),
        |m| m["layers"][0]["mediaType"] = json!(""),
        |m| m["config"]["mediaType"] = json!("application/octet-stream"),
        |m| m["config"]["mediaType"] = json!("text/html"),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let scene = Scene::new();
        let mut manifest = manifest(&scene.sample);
        change(&mut manifest);
        if let Err(error) = pull_of(&scene, &manifest) {
            panic!("change {number}: {}", error.chain());
        }
    }
}

#[test]
fn a_size_that_is_no_number_is_refused() {
    let scene = Scene::new();
    let mut manifest = manifest(&scene.sample);
    manifest["layers"][0]["size"] = json!("5");
    let error = pull_of(&scene, &manifest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// An index entry for a manifest, with a platform.
fn entry(sample: &Sample, platform: &Value) -> Value {
    let bytes = sample.manifest();
    json!({"mediaType": OCI_MANIFEST, "digest": digest(&bytes), "size": bytes.len(),
        "platform": platform})
}

fn with_config(sample: &Sample, change: impl FnOnce(&mut Value)) -> Sample {
    let mut config: Value = serde_json::from_slice(&sample.config).unwrap();
    change(&mut config);
    Sample {
        config: serde_json::to_vec(&config).unwrap(),
        ..sample.clone()
    }
}

#[test]
fn a_platform_is_taken_from_what_is_there() {
    let scene = Scene::new();
    let nameless = with_config(&scene.sample, |config| {
        config["architecture"] = json!("");
        config["os"] = Value::Null;
    });
    let arm = Sample::of("arm64", &tar(&[("f", b"arm")]));
    for sample in [&nameless, &arm] {
        sample.push(&scene.registry, "x", "other");
    }
    let odd = json!({"digest": "sha512:00", "size": "x", "platform": 5});
    for (entries, platform) in [
        // The index's word.
        (
            vec![
                odd.clone(),
                entry(&nameless, &json!({"os": "linux", "architecture": "arm64"})),
                entry(&nameless, &json!({"os": "linux", "architecture": "amd64"})),
            ],
            "linux/amd64",
        ),
        // The configs' word, where the index says nothing.
        (
            vec![
                odd,
                entry(&arm, &Value::Null),
                entry(&scene.sample, &json!({})),
            ],
            "linux/amd64",
        ),
        // Nobody's word: the host's.
        (vec![entry(&nameless, &Value::Null)], "linux/amd64"),
    ] {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        let bytes = serde_json::to_vec(&index).unwrap();
        scene.registry.put_manifest("x", "1", OCI_INDEX, &bytes);
        let image = scene.pull().unwrap();
        assert_eq!(image.platform.to_string(), platform, "{index}");
    }
}

#[test]
fn an_empty_token_beside_an_access_token_is_none() {
    for answer in [
        r#"{"token":"","access_token":"let-me-in"}"#,
        r#"{"token":null,"access_token":"let-me-in","expires_in":"300"}"#,
        r#"{"Token":"let-me-in"}"#,
    ] {
        let scene = Scene::new();
        scene.registry.demand(Auth::Token(None));
        scene.registry.inject(Fault::Body {
            path: "/token".into(),
            headers: Vec::new(),
            body: answer.into(),
        });
        scene.pull().unwrap();
    }
}

#[test]
fn a_server_that_refuses_parts_is_asked_for_everything() {
    for status in [416, 400] {
        let scene = Scene::new();
        scene.registry.inject(Fault::RefuseRanges(status));
        scene.registry.inject(Fault::Cut {
            path: part(&scene.layer()),
            at: 1000,
            times: 1,
        });
        scene.pull().unwrap();
    }
}

#[test]
fn no_coding_is_asked_for_and_a_coded_answer_is_decoded() {
    let scene = Scene::new();
    for (path, body) in [
        ("manifests".to_owned(), scene.sample.manifest()),
        (part(&scene.sample.id()), scene.sample.config.clone()),
        (part(&scene.layer()), scene.sample.layer.clone()),
    ] {
        scene.registry.inject(Fault::Body {
            path,
            headers: vec![("Content-Encoding", "gzip".into())],
            body: gzip(&body),
        });
    }
    let image = scene.pull().unwrap();
    assert_eq!(image.id.to_string(), scene.sample.id());
    let asked = scene.registry.requests();
    assert!(
        asked
            .iter()
            .all(|r| r.accept_encoding.as_deref() == Some("identity")),
        "{asked:?}"
    );
}

#[test]
fn a_layer_that_is_served_by_the_name_of_its_own_compression_is_taken_as_it_is() {
    let scene = Scene::new();
    scene.registry.inject(Fault::Body {
        path: part(&scene.layer()),
        headers: vec![("Content-Encoding", "gzip".into())],
        body: scene.sample.layer.clone(),
    });
    scene.pull().unwrap();
}

#[test]
fn a_coded_answer_of_something_else_is_refused() {
    for body in [gzip(b"something else"), b"no gzip at all".repeat(9)] {
        let scene = Scene::new();
        scene.registry.inject(Fault::Body {
            path: part(&scene.layer()),
            headers: vec![("Content-Encoding", "gzip".into())],
            body,
        });
        let kind = scene.refused().kind();
        assert!(
            matches!(kind, ErrorKind::DigestMismatch | ErrorKind::Registry),
            "{kind:?}"
        );
    }
}

#[test]
fn a_missing_blob_is_named() {
    for (digest, what) in [(0, "layer"), (1, "config")] {
        let scene = Scene::new();
        let digest = [scene.layer(), scene.sample.id()][digest].clone();
        scene.registry.inject(Fault::Status {
            path: part(&digest),
            status: 404,
            times: 9,
            retry_after: None,
        });
        let error = scene.refused();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let words = format!("lacks the {what} `{digest}`");
        assert!(error.to_string().contains(&words), "{error}");
    }
}

#[test]
fn an_image_that_was_loaded_for_another_platform_is_told_at_once() {
    let scene = Scene::new();
    let arm = Sample::of("arm64", &tar(&[("f", b"arm")]));
    let store = &scene.test.store;
    let platform = "linux/arm64".parse().unwrap();
    let archive = std::io::Cursor::new(arm.docker_archive(&["pf:arm"]));
    let source = cofferdam_image::LoadSource::Reader(Box::new(archive));
    store.load(source, &platform, &NoProgress).unwrap();
    let amd64 = "linux/amd64".parse().unwrap();
    let error = store.resolve("pf:arm", &amd64).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PlatformMismatch);
    // What was pulled can be pulled for this platform too.
    arm.push(&scene.registry, "x", "1");
    let reference = format!("{}/x:1", scene.registry.host()).parse().unwrap();
    block_on(store.pull(&reference, &platform, &scene.options, &NoProgress)).unwrap();
    assert_eq!(store.resolve(&reference.to_string(), &amd64).unwrap(), None);
}
