//! Errors that pass, errors that stay, broken transfers, lies, redirects, mirrors.

use std::time::Duration;

use cofferdam_image::{ErrorKind, NoProgress};
use cofferdam_testkit::registry::{Auth, FakeRegistry, Fault, digest};

use crate::scene::{Scene, part};

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
            times: 99,
        });
        assert_eq!(scene.refused().kind(), ErrorKind::Timeout, "{path}");
    }
}

#[test]
fn a_transfer_that_stalls_is_taken_up_where_it_stands() {
    let mut scene = Scene::new();
    scene.options.stall_timeout = Duration::from_secs(2);
    let layer = part(&scene.layer());
    scene.registry.inject(Fault::Stall {
        path: layer.clone(),
        at: 10,
        times: 1,
    });
    scene.pull().unwrap();
    let requests = scene.registry.requests().into_iter();
    let starts: Vec<_> = requests
        .filter(|request| request.path.contains(&layer))
        .map(|request| request.range_start)
        .collect();
    assert_eq!(starts, [None, Some(10)]);
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
