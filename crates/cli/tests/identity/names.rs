//! Random numbers and names: each fork's own, from its first instruction on.

use std::{collections::BTreeSet, env};

use cofferdam_testkit::{coffer::Coffer, copies::Snapshot, sandboxes::until};

use super::{IMAGE, ask, coffer, live};

/// Forks of one call; they live at the same time.
const BATCH: usize = 24;

/// What `probe draw` has printed of both its threads.
fn draws(coffer: &Coffer, id: &str) -> Vec<String> {
    let mut lines = Vec::new();
    until("a fork's draws", || {
        let text = coffer.ok(["logs", id]);
        lines = text.lines().map(str::to_owned).collect();
        lines.len() == 2
    });
    lines
}

#[test]
fn every_fork_draws_random_numbers_of_its_own_before_anything_else() {
    let coffer = coffer();
    let count = env::var("COFFER_IDENTITY_FORKS").map_or(BATCH, |text| text.parse().unwrap());
    let parent = coffer.detached(&[IMAGE, "probe", "draw"]);
    until("its first draws", || {
        coffer.ok(["logs", &parent.id]) == "drawing"
    });
    let mut drawn = BTreeSet::new();
    let mut machine_ids = BTreeSet::new();
    let mut hostnames = BTreeSet::new();
    let mut made = 0;
    while made < count {
        let batch = BATCH.min(count - made).to_string();
        let ids = coffer.ok(["fork", "--count", &batch, &parent.id]);
        let forks: Vec<_> = ids.lines().map(|id| coffer.keep(id.to_owned())).collect();
        assert_eq!(forks.len().to_string(), batch);
        for fork in &forks {
            for line in draws(&coffer, &fork.id) {
                let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
                let [name, machine_id, numbers @ ..] = &words[..] else {
                    panic!("{line}");
                };
                assert_eq!(*name, fork.id[..12], "{line}");
                hostnames.insert(name.clone());
                machine_ids.insert(machine_id.clone());
                assert_eq!(numbers.len(), 3, "{line}");
                for number in numbers {
                    assert!(drawn.insert(number.clone()), "{number} was drawn twice");
                }
            }
        }
        made += forks.len();
    }
    assert_eq!((hostnames.len(), machine_ids.len()), (count, count));
    assert_eq!(drawn.len(), 6 * count);
    // The parent was told no new name, and so has nothing to print.
    assert_eq!(coffer.ok(["logs", &parent.id]), "drawing");
}

#[test]
fn a_generator_that_a_process_has_seeded_repeats_itself_and_the_kernels_does_not() {
    let coffer = coffer();
    let parent = live(&coffer, &[]);
    ask(&parent, "numbers");
    let (one, other) = (parent.fork(&[]), parent.fork(&[]));
    let [parents, ones, others] = [&parent, &one, &other].map(|sandbox| ask(sandbox, "numbers"));
    let [(a, x), (b, y), (c, z)] =
        [&parents, &ones, &others].map(|text| text.split_once(' ').unwrap());
    // Not what anybody wants, but what a copy of a process's memory is.
    assert_eq!((a, a), (b, c));
    assert!(x != y && y != z && z != x, "{x} {y} {z}");
}

#[test]
fn a_running_processs_variable_stays_and_a_new_ones_is_the_forks() {
    let coffer = coffer();
    let parent = live(&coffer, &[]);
    let fork = parent.fork(&[]);
    assert_eq!(ask(&fork, "variable HOSTNAME"), parent.id[..12]);
    assert_eq!(fork.sh("echo $HOSTNAME"), fork.id[..12]);
    assert_eq!(fork.sh("hostname"), fork.id[..12]);
}

#[test]
fn a_restored_sandbox_is_who_it_was() {
    let coffer = coffer();
    let sandbox = live(&coffer, &["--hostname", "web"]);
    let names = "hostname; cat /etc/hostname /etc/hosts; echo $HOSTNAME";
    let before = sandbox.sh(names);
    let drawn = ask(&sandbox, "numbers");
    let snapshot = Snapshot::of(&coffer, &sandbox.id, &[]);
    let after = ask(&sandbox, "numbers");
    coffer.ok(["kill", &sandbox.id]);
    coffer.ok(["restore", &snapshot.id]);
    assert_eq!(sandbox.sh(names), before);
    // The same one, but not the same random numbers a second time.
    let again = ask(&sandbox, "numbers");
    let [drawn, after, again] = [&drawn, &after, &again].map(|text| text.split_once(' ').unwrap());
    assert_eq!(again.0, after.0);
    assert!(again.1 != after.1 && after.1 != drawn.1);
}
