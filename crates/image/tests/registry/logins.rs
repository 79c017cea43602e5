//! Tokens, logins and credential programs.

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

use cofferdam_image::ErrorKind;
use cofferdam_testkit::registry::Auth;

use crate::scene::{Scene, Warnings};

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
fn a_credential_program_that_is_missing_is_named_when_the_registry_wants_credentials() {
    let scene = Scene::new();
    scene
        .registry
        .demand(Auth::Basic("user".into(), "pass".into()));
    scene.login(r#"{"credsStore":"cofferdam-test-absent"}"#);
    let error = scene.refused();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        error
            .chain()
            .contains("`docker-credential-cofferdam-test-absent` is not installed"),
        "{error:?}"
    );
}

#[test]
fn what_is_wrong_with_logins_is_a_warning_where_none_is_needed() {
    for config in [
        "",
        "{",
        r#"{"credsStore":"cofferdam-test-absent"}"#,
        r#"{"auths":{"HOST":{"auth":5}}}"#,
    ] {
        let scene = Scene::new();
        scene.registry.demand(Auth::Token(None));
        scene.login(&config.replace("HOST", &scene.registry.host()));
        let warnings = Warnings::default();
        scene.pull_with("x:1", &warnings).unwrap();
        assert_eq!(warnings.taken().len(), 1, "{config}");
    }
}

#[test]
fn unknown_authentication_is_refused_by_its_name() {
    let scene = Scene::new();
    scene.registry.demand(Auth::Unknown);
    let error = scene.refused();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("`Moonlight`"), "{error}");
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
        .args([
            "--exact",
            "logins::child_that_pulls_with_a_credential_program",
        ])
        .env(CHILD, "1")
        .env("PATH", path)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("1 passed"), "{printed}");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
