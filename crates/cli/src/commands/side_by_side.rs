//! One action on each of many names at once, as for stops that wait for their sandboxes.

use cofferdam::Result;
use futures_util::{StreamExt as _, stream};

use crate::{exit_status::ExitStatus, output};

/// Most actions at once.
const MAX_AT_ONCE: usize = 16;

/// Does one thing to each of many, several at once, and prints what each returns, if anything,
/// in the order of the names; goes on after an error and fails at the end.
pub(super) async fn side_by_side(
    names: &[String],
    action: impl AsyncFn(&str) -> Result<Option<String>>,
) -> ExitStatus {
    let action = &action;
    let mut results = stream::iter(names)
        .map(async |name| action(name).await)
        .buffered(MAX_AT_ONCE);
    let mut failed = false;
    while let Some(result) = results.next().await {
        match result {
            Ok(Some(text)) => drop(output::line(text)),
            Ok(None) => {}
            Err(error) => {
                output::error(&error);
                failed = true;
            }
        }
    }
    if failed {
        ExitStatus::Failure
    } else {
        ExitStatus::Success
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::Barrier;

    use super::*;

    #[test]
    fn actions_run_at_once_and_all_are_done_after_an_error() {
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        let (done, barrier) = (Cell::new(0), Barrier::new(3));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let status = runtime.block_on(side_by_side(&names, async |name| {
            // None gets past this alone.
            barrier.wait().await;
            done.set(done.get() + 1);
            match name {
                "b" => Err(cofferdam::Error::new(
                    cofferdam::ErrorKind::NotFound,
                    "No b",
                )),
                name => Ok(Some(name.to_owned())),
            }
        }));
        assert!(matches!(status, ExitStatus::Failure));
        assert_eq!(done.get(), 3);
    }
}
