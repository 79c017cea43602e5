//! The fake keeps the contract; a fake with a bug is caught by the check that is there for it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    future::Future,
    os::unix::net::UnixStream,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use cofferdam_backend::{
    Backend, BoxFuture, MachineSpec,
    contract::{CHECKS, Guest, Harness, Outcome, WireGuest},
    fake::{Bug, FakeBackend, KERNEL_MAGIC},
};

/// A thread answers in microseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Long enough for an answer that should not come.
const SILENCE: Duration = Duration::from_millis(50);

struct FakeHarness {
    backend: FakeBackend,
    dir: tempfile::TempDir,
    next: AtomicU32,
}

impl FakeHarness {
    fn new(backend: FakeBackend) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kernel"), KERNEL_MAGIC).unwrap();
        Self {
            backend,
            dir,
            next: AtomicU32::new(0),
        }
    }
}

impl Harness for FakeHarness {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    fn spec(&self) -> MachineSpec {
        let at = |name: &str| self.dir.path().join(name);
        let run_dir = at(&format!(
            "run-{}",
            self.next.fetch_add(1, Ordering::Relaxed)
        ));
        serde_json::from_value(serde_json::json!({
            "id": "12".repeat(32),
            "vcpus": 1,
            "memory_mib": 2,
            "kernel": at("kernel"),
            "console_log": at("console.log"),
            "vmm_log": at("vmm.log"),
            "run_dir": run_dir,
        }))
        .unwrap()
    }

    fn directory(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.path().join(format!("dir-{number}"));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(3)
    }

    fn guest(&self, channel: UnixStream) -> std::io::Result<Box<dyn Guest>> {
        let mut guest = WireGuest::new(channel, ANSWER_LIMIT, SILENCE)?;
        guest.tick()?;
        Ok(Box::new(guest))
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on(future: BoxFuture<'_, Outcome>) -> Outcome {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => thread::park(),
        }
    }
}

fn sound() -> Option<FakeHarness> {
    Some(FakeHarness::new(FakeBackend::new()))
}

mod contract {
    cofferdam_backend::backend_contract!(harness = super::sound, run = super::block_on);
}

fn plain() -> Option<FakeHarness> {
    Some(FakeHarness::new(FakeBackend::new().plain()))
}

/// The contract holds for a backend with the least that there may be, too.
mod plain_contract {
    cofferdam_backend::backend_contract!(harness = super::plain, run = super::block_on);
}

/// Runs the check that is there for `bug` against a fake that has it.
fn caught(bug: Bug, name: &str) {
    let check = CHECKS.iter().find(|check| check.name == name).unwrap();
    let harness = FakeHarness::new(FakeBackend::with_bug(bug));
    let outcome = block_on((check.run)(&harness));
    assert!(outcome.is_err(), "`{name}` does not notice {bug:?}");
}

macro_rules! bugs {
    ($($test:ident: $bug:ident => $check:ident,)*) => {
        $(#[test]
        fn $test() {
            caught(Bug::$bug, stringify!($check));
        })*

        #[test]
        fn every_check_has_a_bug_that_it_finds() {
            let covered = [$(stringify!($check)),*];
            for check in CHECKS {
                assert!(covered.contains(&check.name), "{}", check.name);
            }
        }
    };
}

bugs! {
    a_mute_guest_is_noticed: NeverAnswers => a_started_machine_runs_and_answers,
    a_second_channel_is_noticed: GivesChannelTwice => the_agent_channel_can_be_taken_once,
    a_hanging_wait_is_noticed: HangsInWait =>
        a_killed_machine_ends_by_its_signal_for_everyone_who_waits,
    a_hidden_kill_is_noticed: HidesKill =>
        a_killed_machine_ends_by_its_signal_for_everyone_who_waits,
    an_endless_stop_is_noticed: StopsForEver => a_stopped_machine_ends_within_the_time_given,
    an_ignored_pause_is_noticed: IgnoresPause =>
        a_paused_guest_is_silent_and_goes_on_after_resume,
    a_hidden_pause_is_noticed: HidesPause => a_paused_guest_is_silent_and_goes_on_after_resume,
    metrics_of_the_dead_are_noticed: MeasuresTheDead =>
        calls_on_a_machine_that_has_ended_say_that_it_is_gone,
    a_machine_that_outlives_its_handle_is_noticed: OutlivesItsHandle =>
        dropping_the_last_handle_kills_the_machine,
    logs_without_bound_are_noticed: LogsTooMuch =>
        metrics_grow_and_logs_are_bounded_by_the_lines_asked_for,
    a_list_of_the_dead_is_noticed: ListsTheDead => the_list_tells_the_living_from_the_dead,
    an_attached_handle_that_owns_is_noticed: AttachedOwns =>
        an_attached_handle_sees_and_ends_the_machine_but_does_not_own_it,
    contradicting_capabilities_are_noticed: ContradictsItself =>
        the_capabilities_agree_with_each_other,
    a_network_left_out_is_noticed: DropsNetwork =>
        what_is_not_among_the_capabilities_is_unsupported,
    a_snapshot_that_is_no_capability_is_noticed: ContradictsItself =>
        what_is_not_among_the_capabilities_is_unsupported,
    a_kernel_of_any_kind_is_noticed: TakesAnyKernel =>
        impossible_specs_are_refused_before_anything_starts,
    a_boasted_balloon_is_noticed: BoastsBalloon => a_balloon_follows_its_capability,
    forgotten_memory_is_noticed: ForgetsMemory => a_restored_guest_goes_on_where_it_was_captured,
    forgotten_shared_memory_is_noticed: ForgetsSharedMemory =>
        a_capture_into_shared_memory_restores_too,
    shared_forks_are_noticed: SharesForks => forks_of_one_snapshot_are_independent,
    a_written_snapshot_is_noticed: WritesSnapshot => forks_leave_the_snapshot_as_it_was,
    a_capture_of_a_running_machine_is_noticed: CapturesRunning =>
        only_a_paused_machine_is_captured,
    taken_damage_is_noticed: TakesDamage => damaged_snapshots_are_refused_by_kind,
    a_taken_shape_is_noticed: TakesAnyShape => a_snapshot_fits_only_its_own_shape,
    memory_taken_early_is_noticed: TakesMemoryEarly =>
        a_captured_machine_and_its_capture_both_go_on_by_one,
    memory_taken_late_is_noticed: TakesMemoryLate =>
        a_captured_machine_and_its_capture_both_go_on_by_one,
    a_lost_page_is_noticed: LosesAPage => memory_is_captured_as_it_was_at_the_moment,
    memory_of_when_it_was_caught_up_is_noticed: TakesMemoryEarly =>
        a_capture_that_has_caught_up_is_of_the_moment_too,
    pages_taken_early_are_noticed: TakesMemoryEarly => memory_is_captured_as_it_was_at_the_moment,
    pages_taken_late_are_noticed: TakesMemoryLate => memory_is_captured_as_it_was_at_the_moment,
    lost_zeroes_are_noticed: LosesZeroes => zeroes_over_what_was_there_are_captured,
    a_disk_taken_early_is_noticed: TakesDiskEarly => a_disk_is_captured_as_it_was_at_the_moment,
    a_disk_taken_late_is_noticed: TakesDiskLate => a_disk_is_captured_as_it_was_at_the_moment,
    a_disk_older_than_memory_is_noticed: TakesDiskEarly =>
        disk_and_memory_are_of_one_moment_while_the_guest_writes,
    a_disk_younger_than_memory_is_noticed: TakesDiskLate =>
        disk_and_memory_are_of_one_moment_while_the_guest_writes,
    memory_younger_than_a_disk_is_noticed: TakesMemoryLate =>
        disk_and_memory_are_of_one_moment_while_the_guest_writes,
    memory_that_was_not_asked_for_is_noticed: AlwaysCapturesMemory =>
        disks_alone_are_captured_without_memory,
    files_of_a_dropped_capture_are_noticed: LeavesFiles =>
        a_dropped_capture_leaves_no_file_and_the_machine_as_it_was,
    a_second_capture_is_noticed: CapturesTwice => a_machine_has_one_capture_at_a_time,
    a_running_moment_is_noticed: CapturesRunning => only_a_paused_machine_is_taken_and_only_once,
    a_second_moment_is_noticed: TakesAgain => only_a_paused_machine_is_taken_and_only_once,
    changed_files_are_noticed: ChangesFiles =>
        bytes_go_through_the_file_channel_beside_the_agents,
    a_forgotten_file_channel_is_noticed: ForgetsFiles =>
        restored_machines_have_file_channels_of_their_own,
    cut_frames_are_noticed: CutsFrames => frames_go_both_ways_whole_and_alone,
    a_second_network_channel_is_noticed: GivesChannelTwice =>
        the_network_channel_can_be_taken_once_and_only_if_there_is_one,
    a_forgotten_network_is_noticed: ForgetsNetwork =>
        restored_machines_have_network_channels_of_their_own,
    a_network_forgotten_by_a_capture_is_noticed: ForgetsNetwork =>
        a_live_capture_has_the_interface_and_the_machine_keeps_its_own,
    an_interface_that_does_not_fit_is_noticed: TakesAnyShape =>
        a_snapshot_fits_only_a_machine_with_the_same_interface,
    a_survivor_of_a_reap_is_noticed: ReapsNothing =>
        what_a_dead_owner_left_is_reaped_and_nothing_else,
    a_record_of_a_reaped_machine_is_noticed: LeavesRecords =>
        what_a_dead_owner_left_is_reaped_and_nothing_else,
    a_reaped_neighbour_is_noticed: ReapsNeighbours =>
        what_a_dead_owner_left_is_reaped_and_nothing_else,
    a_machine_that_stays_behind_is_noticed: StaysBehind =>
        a_moved_machine_is_found_in_its_new_directory_only,
    a_missing_diagnosis_is_noticed: DiagnosesNothing =>
        failures_have_a_diagnosis_that_no_guest_can_word,
    the_guests_own_words_are_noticed: QuotesTheGuest =>
        failures_have_a_diagnosis_that_no_guest_can_word,
    a_diagnosis_of_nothing_is_noticed: BlamesTheHost =>
        failures_have_a_diagnosis_that_no_guest_can_word,
    memory_that_is_not_there_is_noticed: TouchesTooMuch => what_a_restored_machine_touched_is_within_its_memory,
    overwritten_files_are_noticed: OverwritesFiles =>
        a_plan_that_does_not_fit_is_refused_and_leaves_nothing,
    a_resuming_capture_is_noticed: ResumesInCapture =>
        a_machine_that_is_paused_all_along_is_captured_and_stays_paused,
    a_forgotten_generation_is_noticed: CapturesOnlyTheFirst =>
        captures_of_captures_hold_what_every_generation_wrote,
    a_repeated_capture_is_noticed: RepeatsTheFirstCapture =>
        two_captures_of_one_machine_are_each_of_their_own_moment,
    a_capture_of_the_dead_is_noticed: CapturesTheDead =>
        a_capture_of_a_machine_that_ends_fails_and_leaves_nothing,
}
