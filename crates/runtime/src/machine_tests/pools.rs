//! Templates of images, and pools.

use cofferdam_backend::Backend;
use cofferdam_proto::Request;
use cofferdam_types::SandboxStatus;

use super::{Home, soon};
use crate::{
    client::Connection,
    host::guest,
    pool::{self, Pool},
    template::{self, DEFAULT_TIMEOUT, MachineShape, RootShape, TemplatePlan},
};

fn plan(home: &Home) -> TemplatePlan {
    let record = home.sandbox("planned", &["x"]).record;
    TemplatePlan {
        shape: MachineShape::of(&record.spec, record.image.disk_bytes),
        root: RootShape::of(&record.spec, record.image.manifest).unwrap(),
        rootfs: record.image.rootfs,
        image_name: record.image.name,
        warm_ups: Vec::new(),
        workload: None,
        limit: DEFAULT_TIMEOUT,
        auto_warm_ups: None,
    }
}

#[tokio::test]
async fn a_start_from_the_images_template_finds_the_root_mounted() {
    let home = Home::new();
    let plan = plan(&home);
    let kernel = home.dir.path().join("kernel");
    let guest = guest::find(&home.layout, kernel.to_str()).unwrap();
    let made = template::make_image(&home.layout, home.backend.as_ref(), &guest, &plan, false);
    assert!(soon(made).await.unwrap().is_some());
    let entry = home.sandbox("web", &["x"]);
    home.agent.did();
    let (_held, _) = soon(home.start(&entry)).await;
    assert_eq!(home.agent.did(), ["adopt start web", "start"]);
    assert!(home.degraded("web").is_empty());
    home.kill("web").await;
}

/// A pool for sandboxes like `web`, with its one standby.
async fn filled(home: &Home) -> Pool {
    let entry = home.sandbox("like", &["x"]);
    pool::keep_one(&home.layout, &entry, "fake").unwrap();
    let ordered = soon(home.ordered(1)).await;
    let name = ordered[0].strip_prefix("fill ").unwrap().to_owned();
    let pool = Pool::load(&home.layout, &name).unwrap();
    soon(pool::fill(&home.layout, &pool)).await.unwrap();
    pool
}

#[tokio::test]
async fn a_start_claims_a_standby_whose_machine_then_belongs_to_the_sandbox() {
    let home = Home::new();
    let pool = filled(&home).await;
    assert_eq!(pool.standbys(&home.layout).len(), 1);
    home.agent.did();
    let entry = home.sandbox("web", &["x"]);
    let (_held, stages) = soon(home.start(&entry)).await;
    assert_eq!(stages[0], "standby", "{stages:?}");
    assert_eq!(home.agent.did(), ["adopt start web", "start"]);
    assert_eq!(pool.standbys(&home.layout).len(), 0);
    // The backend finds the machine in the sandbox's directory now.
    home.crash(&entry);
    let ended = soon(home.runtime.wait(&entry)).await;
    assert!(ended.is_err());
    assert_eq!(home.status("web"), SandboxStatus::Failed);
}

#[tokio::test]
async fn a_standby_that_is_lost_is_no_obstacle_to_a_start() {
    let home = Home::new();
    let pool = filled(&home).await;
    // Its machine ends, and it with it.
    let standby = pool.standbys(&home.layout)[0];
    let run_dir = home.layout.sandbox(standby).run;
    home.backend.reap(&run_dir).unwrap();
    home.agent.did();
    let entry = home.sandbox("web", &["x"]);
    let (_held, stages) = soon(home.start(&entry)).await;
    assert!(!stages.contains(&"standby".to_owned()), "{stages:?}");
    assert_eq!(home.status("web"), SandboxStatus::Running);
    home.kill("web").await;
}

#[tokio::test]
async fn a_standby_that_is_asked_to_end_takes_what_is_left_of_its_pool_along() {
    let home = Home::new();
    let pool = filled(&home).await;
    let standby = pool.standbys(&home.layout)[0];
    let socket = home.layout.sandbox(standby).run.join("standby.sock");
    // The pool of another image has taken its place.
    std::fs::remove_file(pool.dir().join("pool.json")).unwrap();
    let mut client = soon(Connection::open(&socket, Request::Retire))
        .await
        .unwrap();
    soon(client.answer()).await.unwrap();
    let gone = async {
        while pool.dir().exists() {
            tokio::task::yield_now().await;
        }
    };
    soon(gone).await;
}
