//! Bringing a pool up to its size.

use std::{ffi::OsString, fs::File, path::Path, process::Stdio};

use cofferdam_base::LockFile;
use cofferdam_proto::Request;
use cofferdam_types::SandboxId;

use super::{Pool, StandbyPaths};
use crate::{
    base::{
        error::{Error, ErrorKind, Result, io},
        random,
        reap::reap_in_background,
    },
    client::spawn_with_socket,
    store::{layout::Layout, program},
};

/// Makes standbys, one after another, until the pool has its size or is gone.
pub(crate) async fn fill(layout: &Layout, pool: &Pool) -> Result<()> {
    let _lock = lock(pool).await?;
    pool.end_given_up(layout);
    if pool.is_automatic() {
        pool.end_other_automatic(layout).await;
    }
    while pool.dir.join("pool.json").exists() {
        let there = pool.standbys(layout).len();
        if there >= usize::try_from(pool.manifest.size).unwrap_or(usize::MAX) {
            return Ok(());
        }
        crate::host::room::expect_for_fork(layout, 0)?;
        start_one(layout, pool).await?;
    }
    Ok(())
}

/// Held while a pool is filled. Who finds it held waits: what was claimed meanwhile may have
/// been counted by nobody.
pub(super) async fn lock(pool: &Pool) -> Result<LockFile> {
    let path = pool.dir.join("fill.lock");
    let lock = tokio::task::spawn_blocking(move || LockFile::exclusive(&path)).await;
    lock.map_err(|error| Error::new(ErrorKind::Bug, "A task was lost").because(error))?
        .map_err(|error| io("Could not lock a pool", error))
}

/// Starts a standby and waits until it is ready.
async fn start_one(layout: &Layout, pool: &Pool) -> Result<()> {
    let id = SandboxId::from_random(random::bytes()?);
    let place = StandbyPaths::of(layout, pool, id);
    let log = File::options()
        .create(true)
        .append(true)
        .open(pool.dir.join("standby.log"))
        .map_err(|error| io("Could not open the standbys' log", error))?;
    let args = [
        program::STAND_BY.into(),
        layout.home().as_os_str().to_owned(),
        pool.manifest.name.clone().into(),
        id.to_string().into(),
    ];
    let mut connection = spawn_with_socket(layout, &args, log, Request::StandBy).await?;
    let answer = connection.answer().await;
    if answer.is_err() {
        place.remove(layout);
    }
    answer.map(drop)
}

/// Starts a process that fills a pool in the background.
pub(crate) fn spawn_fill(layout: &Layout, name: &str) -> Result<()> {
    #[cfg(test)]
    if layout.backends().takes_order(|| format!("fill {name}")) {
        return Ok(());
    }
    let log = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .open(layout.pools().join(name).join("fill.log"))
        .map_err(|error| io("Could not open a pool's log", error))?;
    let child = program::command(layout, program::FILL_POOL)?
        .arg(layout.home())
        .arg(name)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| io("Could not start to fill a pool", error))?;
    reap_in_background(child);
    Ok(())
}

/// `main` of a process that fills a pool: home and name; returns the exit code.
pub(crate) fn fill_main(args: &[OsString]) -> u8 {
    let _ = rustix::process::setsid();
    let run = || -> Result<()> {
        let [home, name] = args else {
            return Err(Error::new(
                ErrorKind::Bug,
                "To fill a pool takes a home and a name",
            ));
        };
        let layout = Layout::at(Path::new(home))?;
        let pool = Pool::load(&layout, &name.to_string_lossy())?;
        crate::base::task::block_on(fill(&layout, &pool))?
    };
    match run() {
        Ok(()) => 0,
        Err(error) => {
            crate::base::task::log_line(&error.chain());
            1
        }
    }
}
