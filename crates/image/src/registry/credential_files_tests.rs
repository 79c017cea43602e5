//! Which entry of which file counts, and what is passed over.

use super::*;

fn found(host: &str, repository: &str, config: &str) -> Found {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(find(host, repository, Some(dir.path())))
}

fn password(user: &str, password: &str) -> Credentials {
    Credentials::Password {
        user: user.into(),
        password: password.into(),
    }
}

#[test]
fn entries_are_found_by_host_and_by_old_urls() {
    for (host, key) in [
        ("r.example", "r.example"),
        ("r.example", "https://r.example/v1/"),
        ("r.example", "http://r.example"),
        ("r.example", "r.example/v2/"),
        ("r.example", "R.Example"),
        ("r.example:5000", "r.example:5000"),
        ("docker.io", "https://index.docker.io/v1/"),
        ("docker.io", "docker.io"),
        ("docker.io", "registry-1.docker.io"),
    ] {
        let config = format!(r#"{{"auths":{{"{key}":{{"auth":"dTpwOnE="}}}}}}"#);
        let found = found(host, "a/b", &config);
        assert_eq!(found.credentials, Some(password("u", "p:q")), "{key}");
        assert!(found.warnings.is_empty());
    }
    let other = r#"{"auths":{"r.example:1":{"auth":"dTpw"},"r.example/other":{"auth":"dTpw"}}}"#;
    assert_eq!(found("r.example", "a/b", other).credentials, None);
}

#[test]
fn the_most_exact_entry_wins() {
    let config = r#"{"auths":{
        "http://r":{"username":"stale","password":"1"}, "https://r/v1/":{"username":"stale","password":"2"},
        "r":{"username":"host","password":""}, "r/a":{"username":"above","password":""},
        "r/a/b":{"username":"own","password":""}, "r/a/bc":{"username":"other","password":""}}}"#;
    for (repository, user) in [("a/b", "own"), ("a/c", "above"), ("x/a/b", "host")] {
        let found = found("r", repository, config).credentials;
        assert_eq!(found, Some(password(user, "")), "{repository}");
    }
    let stale =
        r#"{"auths":{"http://r":{"auth":""},"https://r/v1/":{"username":"u","password":"2"}}}"#;
    assert_eq!(found("r", "x", stale).credentials, Some(password("u", "2")));
}

#[test]
fn an_identity_token_wins_over_auth_and_that_over_a_user_name() {
    let config = r#"{"auths":{"r":{"auth":"dTpw","identitytoken":"t","username":"x"}}}"#;
    let token = Credentials::IdentityToken("t".into());
    assert_eq!(found("r", "x", config).credentials, Some(token));
    let config = r#"{"auths":{"r":{"auth":"dTpw","username":"x","password":"y"}}}"#;
    assert_eq!(
        found("r", "x", config).credentials,
        Some(password("u", "p"))
    );
}

#[test]
fn nulls_and_keys_in_another_case_are_read_as_go_does() {
    let config = r#"{"Auths":{"r":{"Auth":"dTpw","identitytoken":null},"s":null},
        "credHelpers":null,"credsStore":null,"HttpHeaders":{"X":"y"}}"#;
    let found = found("r", "x", config);
    assert_eq!(found.credentials, Some(password("u", "p")));
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
}

#[test]
fn what_is_broken_is_passed_over_with_a_warning_that_does_not_quote_it() {
    for config in [
        "",
        r#"{"auths": "secret"#,
        r#"{"auths":{"r":{"auth":"c2VjcmV0"}}}"#,
        r#"{"auths":{"r":{"auth":"?secret?"}}}"#,
        r#"{"auths":{"r":{"auth":5,"password":"secret"}}}"#,
        r#"{"credsStore":"../../bin/secret"}"#,
        r#"{"credHelpers":{"r":"cofferdam-test-absent"}}"#,
    ] {
        let found = found("r", "x", config);
        assert_eq!(found.credentials, None, "{config}");
        assert_eq!(found.warnings.len(), 1, "{config}");
        let quotes = found.warnings[0].contains("secret") && !config.contains("credsStore");
        assert!(!quotes, "{:?}", found.warnings);
    }
}

#[test]
fn a_broken_entry_for_another_host_says_nothing() {
    let config = r#"{"auths":{"other":{"auth":5},"r":{"auth":"dTpw"}}}"#;
    let found = found("r", "x", config);
    assert_eq!(found.credentials, Some(password("u", "p")));
    assert!(found.warnings.is_empty());
}

#[test]
fn a_missing_program_does_not_keep_from_the_files_entry() {
    let config = r#"{"credsStore":"cofferdam-test-absent","auths":{"r":{"auth":"dTpw"}}}"#;
    let found = found("r", "x", config);
    assert_eq!(found.credentials, Some(password("u", "p")));
    assert!(found.warnings[0].contains("docker-credential-cofferdam-test-absent"));
}
