//! The contract tests: what holds for every backend, run against each implementation.
//!
//! A [`Harness`] makes a backend, specs and a way to talk to the guest; each check in [`CHECKS`]
//! is one sentence of the contract and fails with what it saw. [`backend_contract!`] makes a test
//! of each. A check that could not fail would prove nothing: the fake has a bug for each of them,
//! and its tests show that the bug is found.
//!
//! Checks block on guest replies and use no async runtime of their own; a backend that needs one
//! gets a runtime with more than one thread from the `run` argument of the macro.

mod capture_rules;
mod clock;
mod failures;
mod files;
mod guest;
mod lifecycle;
mod listing;
mod live_captures;
mod network;
mod outcome;
mod refusals;
mod snapshots;
mod writer;

use std::{os::unix::net::UnixStream, path::PathBuf, time::Duration};

pub use guest::{
    BLOCK_BYTES, DISAGREE, FRAME_TYPE, Guest, ROUND_BLOCKS, WireGuest, filling, operation,
};
pub use outcome::{Outcome, Violation};

use crate::{Backend, BoxFuture, Machine, MachineSpec};

/// What the checks need of an implementation.
pub trait Harness: Send + Sync {
    /// The backend under test.
    fn backend(&self) -> &dyn Backend;

    /// A spec with a run directory of its own, one vCPU, little memory and no disks.
    fn spec(&self) -> MachineSpec;

    /// An empty directory that lives as long as the harness.
    fn directory(&self) -> PathBuf;

    /// Longest time that a sound implementation takes for any one call, on a loaded host.
    fn limit(&self) -> Duration;

    /// Talks to the guest behind an agent channel, and waits until it is there.
    ///
    /// # Errors
    /// When the guest does not answer within a time that the harness sets.
    fn guest(&self, channel: UnixStream) -> std::io::Result<Box<dyn Guest>>;
}

/// One sentence of the contract.
#[derive(Clone, Copy)]
pub struct Check {
    /// The sentence, as a test's name.
    pub name: &'static str,
    /// Tells whether it holds.
    pub run: for<'a> fn(&'a dyn Harness) -> BoxFuture<'a, Outcome>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! checks {
    ($($module:ident::$name:ident,)*) => {
        /// Every check.
        pub const CHECKS: &[Check] = &[$(Check {
            name: stringify!($name),
            run: |harness| Box::pin($module::$name(harness)),
        }),*];

        /// Makes a test of every check.
        ///
        /// `harness` is a `fn() -> Option<impl Harness>`; `None` skips, after saying why. `run`
        /// is a `fn(BoxFuture<'_, Outcome>) -> Outcome` that drives a future to its end.
        #[macro_export]
        macro_rules! backend_contract {
            (harness = $harness:path, run = $run:path) => {
                $(#[test]
                fn $name() {
                    $crate::contract::test(stringify!($name), $harness, $run);
                })*
            };
        }
    };
}

checks! {
    lifecycle::a_started_machine_runs_and_answers,
    lifecycle::the_agent_channel_can_be_taken_once,
    lifecycle::a_killed_machine_ends_by_its_signal_for_everyone_who_waits,
    lifecycle::a_stopped_machine_ends_within_the_time_given,
    lifecycle::a_paused_guest_is_silent_and_goes_on_after_resume,
    lifecycle::calls_on_a_machine_that_has_ended_say_that_it_is_gone,
    lifecycle::dropping_the_last_handle_kills_the_machine,
    lifecycle::metrics_grow_and_logs_are_bounded_by_the_lines_asked_for,
    listing::the_list_tells_the_living_from_the_dead,
    listing::an_attached_handle_sees_and_ends_the_machine_but_does_not_own_it,
    failures::what_a_dead_owner_left_is_reaped_and_nothing_else,
    failures::a_moved_machine_is_found_in_its_new_directory_only,
    failures::failures_have_a_diagnosis_that_no_guest_can_word,
    refusals::the_capabilities_agree_with_each_other,
    refusals::what_is_not_among_the_capabilities_is_unsupported,
    refusals::impossible_specs_are_refused_before_anything_starts,
    refusals::a_balloon_follows_its_capability,
    snapshots::a_restored_guest_goes_on_where_it_was_captured,
    snapshots::a_capture_into_shared_memory_restores_too,
    snapshots::forks_of_one_snapshot_are_independent,
    snapshots::forks_leave_the_snapshot_as_it_was,
    snapshots::only_a_paused_machine_is_captured,
    snapshots::damaged_snapshots_are_refused_by_kind,
    snapshots::a_snapshot_fits_only_its_own_shape,
    snapshots::what_a_restored_machine_touched_is_within_its_memory,
    files::bytes_go_through_the_file_channel_beside_the_agents,
    files::restored_machines_have_file_channels_of_their_own,
    network::frames_go_both_ways_whole_and_alone,
    network::the_network_channel_can_be_taken_once_and_only_if_there_is_one,
    network::restored_machines_have_network_channels_of_their_own,
    network::a_live_capture_has_the_interface_and_the_machine_keeps_its_own,
    network::a_snapshot_fits_only_a_machine_with_the_same_interface,
    live_captures::a_captured_machine_and_its_capture_both_go_on_by_one,
    live_captures::memory_is_captured_as_it_was_at_the_moment,
    live_captures::a_capture_that_has_caught_up_is_of_the_moment_too,
    live_captures::zeroes_over_what_was_there_are_captured,
    live_captures::a_disk_is_captured_as_it_was_at_the_moment,
    live_captures::disk_and_memory_are_of_one_moment_while_the_guest_writes,
    live_captures::disks_alone_are_captured_without_memory,
    capture_rules::a_dropped_capture_leaves_no_file_and_the_machine_as_it_was,
    capture_rules::a_machine_has_one_capture_at_a_time,
    capture_rules::only_a_paused_machine_is_taken_and_only_once,
    capture_rules::a_plan_that_does_not_fit_is_refused_and_leaves_nothing,
    live_captures::a_machine_that_is_paused_all_along_is_captured_and_stays_paused,
    live_captures::captures_of_captures_hold_what_every_generation_wrote,
    live_captures::two_captures_of_one_machine_are_each_of_their_own_moment,
    capture_rules::a_capture_of_a_machine_that_ends_fails_and_leaves_nothing,
}

/// Runs one check as a test.
///
/// # Panics
/// With the violation, when the contract is broken.
pub fn test<H: Harness>(
    name: &str,
    harness: fn() -> Option<H>,
    run: fn(BoxFuture<'_, Outcome>) -> Outcome,
) {
    let Some(harness) = harness() else { return };
    let check = CHECKS.iter().find(|check| check.name == name);
    let check = check.unwrap_or_else(|| panic!("no check is called `{name}`"));
    if let Err(violation) = run((check.run)(&harness)) {
        panic!("{}: {violation}", harness.backend().name());
    }
}

/// A started machine and its guest, which has answered.
struct Running {
    machine: Box<dyn Machine>,
    guest: Box<dyn Guest>,
}

impl Running {
    async fn start(harness: &dyn Harness, spec: &MachineSpec) -> Result<Self, Violation> {
        let machine = harness.backend().start(spec).await?;
        Self::meet(harness, machine)
    }

    fn meet(harness: &dyn Harness, machine: Box<dyn Machine>) -> Result<Self, Violation> {
        let guest = harness.guest(machine.agent_channel()?)?;
        Ok(Self { machine, guest })
    }
}
