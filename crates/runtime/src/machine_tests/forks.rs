//! Forks and captures of running sandboxes.

use cofferdam_types::SandboxStatus;

use super::{Home, soon};
use crate::{ErrorKind, ForkOptions, ForkSource};

#[tokio::test]
async fn forks_go_on_with_identities_of_their_own_and_the_source_goes_on_too() {
    let home = Home::new();
    let entry = home.sandbox("web", &["x"]);
    let (_held, _) = soon(home.start(&entry)).await;
    home.agent.did();
    let entry = home.runtime.find("web").unwrap();
    let options = ForkOptions {
        count: 2,
        name: Some("copy".to_owned()),
        ..ForkOptions::default()
    };
    let mut seen = 0;
    let mut made = |_: &crate::Entry| seen += 1;
    let source = ForkSource::Sandbox(&entry);
    let forked = soon(home.runtime.fork(source, &options, &mut made))
        .await
        .unwrap();
    assert!(forked.failure.is_none(), "{:?}", forked.failure);
    assert_eq!((forked.made.len(), seen), (2, 2));
    assert!(forked.pause_us.is_some());
    let did = home.agent.did();
    assert_eq!(did[..2], ["freeze", "thaw"], "{did:?}");
    for fork in &forked.made {
        assert_eq!(home.status(&fork.record.name), SandboxStatus::Running);
        let adopted = format!("adopt fork {}", fork.record.hostname);
        assert!(did.contains(&adopted), "{did:?}");
        assert_ne!(fork.record.hostname, "web");
    }
    assert_eq!(did.iter().filter(|what| *what == "inherit").count(), 2);
    assert_eq!(did.iter().filter(|what| *what == "boot").count(), 0);
    assert_eq!(home.status("web"), SandboxStatus::Running);
    // One that ends takes no other along.
    let first = &forked.made[0];
    home.kill(&first.record.name).await;
    assert_eq!(home.status("web"), SandboxStatus::Running);
    assert_eq!(
        home.status(&forked.made[1].record.name),
        SandboxStatus::Running
    );
    home.kill(&forked.made[1].record.name).await;
    home.kill("web").await;
}

#[tokio::test]
async fn a_fork_that_cannot_be_restored_is_an_error_and_leaves_no_sandbox() {
    let home = Home::new();
    let entry = home.sandbox("web", &["x"]);
    let (_held, _) = soon(home.start(&entry)).await;
    let entry = home.runtime.find("web").unwrap();
    home.backend.fail_restores(1);
    let options = ForkOptions::default();
    let source = ForkSource::Sandbox(&entry);
    let forked = soon(home.runtime.fork(source, &options, &mut |_| {})).await;
    // There is no other way to the moment that was captured.
    assert_eq!(forked.unwrap_err().kind(), ErrorKind::BadSnapshot);
    assert_eq!(home.runtime.list().unwrap().len(), 1);
    assert_eq!(home.status("web"), SandboxStatus::Running);
    home.kill("web").await;
}
