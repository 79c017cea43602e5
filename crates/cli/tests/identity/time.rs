//! Clocks and what waits for them.

use std::{collections::BTreeMap, time::Duration};

use cofferdam_testkit::{
    coffer::{Coffer, Sleeper},
    copies::{Snapshot, assert_right},
    sandboxes::until,
};

use super::{coffer, live, numbers, unix_ns};

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// The resolution of what the kernel says of the time since boot.
const HUNDREDTH: i128 = NANOS_PER_SECOND / 100;

/// A guest's clocks in nanoseconds; that since boot by two looks around the others.
#[derive(Debug)]
struct Times {
    wall: i128,
    monotonic: i128,
    boot: (i128, i128),
}

impl Times {
    fn of(sandbox: &Sleeper<'_>) -> Self {
        let [wall, monotonic, before, after] = numbers(sandbox, "now")[..] else {
            panic!("it says four numbers");
        };
        Self {
            wall,
            monotonic,
            boot: (before, after),
        }
    }
}

#[test]
fn the_clocks_that_count_from_boot_go_on_from_the_moment_of_the_capture() {
    let coffer = coffer();
    let parent = live(&coffer, &[]);
    let snapshot = Snapshot::of(&coffer, &parent.id, &[]);
    let captured = Times::of(&parent);
    // Two seconds pass for the parent that do not for the capture.
    until("two seconds", || {
        Times::of(&parent).wall > captured.wall + 2 * NANOS_PER_SECOND
    });
    let from = unix_ns();
    let fork = snapshot.fork(&[]);
    let now = Times::of(&fork);
    let to = unix_ns();
    assert!(
        now.wall - captured.wall > 2 * NANOS_PER_SECOND,
        "{now:?} {captured:?}"
    );
    let [from, seen, to] =
        [from, now.wall, to].map(|ns| Duration::from_nanos(u64::try_from(ns).unwrap()));
    assert_right(seen, from, to);
    // The others went on no longer than the fork was there.
    let lived = i128::try_from((to - from).as_nanos()).unwrap();
    assert!(
        now.monotonic - captured.monotonic <= lived,
        "{now:?} {captured:?} {lived}"
    );
    assert!(
        now.boot.0 - captured.boot.1 <= lived,
        "{now:?} {captured:?} {lived}"
    );
    // And side by side: what lies between them is the same as before.
    let between = |times: &Times| {
        let Times {
            monotonic, boot, ..
        } = times;
        (
            monotonic - boot.1 - HUNDREDTH,
            monotonic - boot.0 + HUNDREDTH,
        )
    };
    let (a, b) = (between(&captured), between(&now));
    assert!(a.0 <= b.1 && b.0 <= a.1, "{a:?} {b:?}");
}

/// A sandbox with three things armed for the same moment, and its capture from before that: when
/// they are due by the monotonic and by the wall clock.
fn armed(coffer: &Coffer) -> (Sleeper<'_>, Snapshot<'_>, i128, i128) {
    // A busy host may need longer for the capture.
    for seconds in [2, 4, 8, 16, 32] {
        let parent = live(coffer, &[]);
        let [due, wall] = numbers(&parent, &format!("arm {seconds}"))[..] else {
            panic!("it says two numbers");
        };
        let snapshot = Snapshot::of(coffer, &parent.id, &[]);
        // A fork needs a while too before its processes go on.
        if Times::of(&parent).monotonic < due - i128::from(seconds) * NANOS_PER_SECOND / 2 {
            return (parent, snapshot, due, wall);
        }
    }
    panic!("no capture in half a minute");
}

#[test]
fn what_waits_for_a_time_span_wakes_late_and_what_waits_for_a_time_of_day_does_not() {
    let coffer = coffer();
    let (parent, snapshot, due, wall) = armed(&coffer);
    // All three have gone off in the parent, in time.
    let events = |id: &str| -> BTreeMap<String, (i128, i128)> {
        let text = coffer.ok(["logs", id]);
        let lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        lines
            .map(|words| {
                let [monotonic, wall] = [1, 2].map(|word| words[word].parse().unwrap());
                (words[0].to_owned(), (monotonic, wall))
            })
            .collect()
    };
    until("the parent's timers", || events(&parent.id).len() == 3);
    let from = unix_ns();
    assert!(from > wall);
    let fork = snapshot.fork(&[]);
    until("the fork's timers", || events(&fork.id).len() == 3);
    let seen = events(&fork.id);
    // A time of day that has passed meanwhile: at once, before the others have waited their span.
    assert!(seen["wall"].0 < due, "{seen:?} {due}");
    for waits in ["sleep", "timer"] {
        let (monotonic, woken) = seen[waits];
        assert!(monotonic >= due, "{waits} {seen:?} {due}");
        assert!(woken > from, "{waits} {seen:?} {from}");
        // As late as the time that the fork spent in the capture.
        let (_, parents) = events(&parent.id)[waits];
        let late = woken - parents;
        assert!(late > 0 && woken > wall, "{waits} {seen:?}");
    }
}
