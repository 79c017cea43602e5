//! Tests of named networks on a temporary home.

use std::{
    thread,
    time::{Duration, Instant},
};

use cofferdam_types::NetworkAttachment;

use super::{directory::MembersFile, *};
use crate::store::{SandboxRecord, tests::record};

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let layout = crate::store::layout::Layout::at(&dir.path().join("home")).unwrap();
    (dir, Store::open(layout).unwrap())
}

fn options(name: &str, subnet: Option<&str>) -> NetworkOptions {
    NetworkOptions {
        name: name.to_owned(),
        subnet: subnet.map(|text| text.parse().unwrap()),
        ..NetworkOptions::default()
    }
}

/// A sandbox that is there.
fn sandbox(store: &Store, byte: u8, networks: &[NetworkAttachment]) -> SandboxRecord {
    let mut record = record(byte, &format!("s{byte}"));
    record.spec.network.networks = networks.to_vec();
    store.insert(&record, |_| Ok(())).unwrap();
    record
}

fn at(network: &str, address: &str) -> NetworkAttachment {
    NetworkAttachment {
        address: Some(address.parse().unwrap()),
        ..NetworkAttachment::new(network)
    }
}

#[test]
fn subnets_are_chosen_apart_and_those_that_overlap_are_refused() {
    let (_dir, store) = open();
    let networks = store.networks();
    let first = networks.create(&options("a", None)).unwrap();
    networks
        .create(&options("b", Some("198.19.1.0/24")))
        .unwrap();
    let third = networks.create(&options("c", None)).unwrap();
    assert_eq!(first.subnet.to_string(), "198.19.0.0/24");
    assert_eq!(third.subnet.to_string(), "198.19.2.0/24");
    assert_ne!(first.subnet_v6, third.subnet_v6);
    for (subnet, word) in [
        ("198.19.0.0/16", "network `a`"),
        ("198.19.2.128/25", "network `c`"),
        ("198.18.9.0/24", "the links of sandboxes"),
        ("127.1.0.0/16", "the loopback"),
        ("239.0.0.0/24", "multicast"),
    ] {
        let error = networks.create(&options("x", Some(subnet))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        assert!(error.to_string().contains(word), "{error}");
    }
    networks.remove("a").unwrap();
    let again = networks.create(&options("d", None)).unwrap();
    assert_eq!(again.subnet, first.subnet);
}

#[test]
fn names_are_unique_and_none_means_something_else() {
    let (_dir, store) = open();
    let networks = store.networks();
    let made = networks.create(&options("lan", None)).unwrap();
    let kind = |name: &str| networks.create(&options(name, None)).unwrap_err().kind();
    assert_eq!(kind("lan"), ErrorKind::NameTaken);
    for bad in ["", "none", "default", "a/b", "..", ".lock", "-x"] {
        assert_eq!(kind(bad), ErrorKind::InvalidSpec, "{bad}");
    }
    assert_eq!(networks.find(&made.id[..6]).unwrap(), made);
    assert_eq!(
        networks.find("lost").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(networks.list().unwrap(), [made]);
}

#[test]
fn a_sandbox_keeps_its_address_and_a_removed_one_frees_it() {
    let (_dir, store) = open();
    let networks = store.networks();
    networks
        .create(&options("lan", Some("10.1.0.0/29")))
        .unwrap();
    let asked = [NetworkAttachment::new("lan")];
    let numbers = |record: &SandboxRecord| -> Vec<u32> {
        let places = networks.places(record).unwrap();
        places.iter().map(|(_, member)| member.number).collect()
    };
    let all: Vec<_> = (1..=5).map(|byte| sandbox(&store, byte, &asked)).collect();
    for (record, number) in all.iter().zip(2..) {
        assert_eq!(numbers(record), [number]);
        assert_eq!(numbers(record), [number]);
    }
    let late = sandbox(&store, 6, &asked);
    let error = networks.places(&late).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("no free address"), "{error}");
    store.remove(all[1].id).unwrap();
    assert_eq!(networks.members_of("lan").unwrap().len(), 4);
    assert_eq!(numbers(&late), [3]);
}

#[test]
fn a_live_sandbox_joins_a_network_once_and_what_is_taken_back_is_gone() {
    let (_dir, store) = open();
    let networks = store.networks();
    networks.create(&options("lan", None)).unwrap();
    let record = sandbox(&store, 1, &[]);
    let asked = NetworkAttachment::new("lan");
    networks.attach_new(&record, &asked).unwrap();
    let twice = networks.attach_new(&record, &asked).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::WrongState);
    let wired = networks.wired(&networks.of_sandbox(record.id).unwrap());
    assert_eq!(wired.unwrap()[0].name, "lan");
    networks.expect_may_leave(&record, "lan").unwrap();
    networks.forget(&record, "lan").unwrap();
    assert!(networks.of_sandbox(record.id).unwrap().is_empty());
    let gone = networks.expect_may_leave(&record, "lan").unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    networks.attach_new(&record, &asked).unwrap();
}

#[test]
fn a_removed_sandbox_that_comes_back_has_its_address_again_if_nobody_else_has_it() {
    let (_dir, store) = open();
    let networks = store.networks();
    networks.create(&options("lan", None)).unwrap();
    let asked = [NetworkAttachment::new("lan")];
    let number = |record: &SandboxRecord| networks.places(record).unwrap()[0].1.number;
    let all = [1, 2, 3].map(|byte| sandbox(&store, byte, &asked));
    assert_eq!(all.each_ref().map(number), [2, 3, 4]);
    store.remove(all[1].id).unwrap();
    store.remove(all[2].id).unwrap();
    // Their entries go with a change.
    networks.attach(&all[0], &asked[0]).unwrap();
    store.insert(&all[2], |_| Ok(())).unwrap();
    assert_eq!(number(&all[2]), 4);
    let other = sandbox(&store, 4, &asked);
    assert_eq!(number(&other), 3);
    store.insert(&all[1], |_| Ok(())).unwrap();
    assert_eq!(number(&all[1]), 5);
}

#[test]
fn an_address_that_is_asked_for_is_given_or_refused() {
    let (_dir, store) = open();
    let networks = store.networks();
    networks
        .create(&options("lan", Some("10.1.0.0/24")))
        .unwrap();
    let one = sandbox(&store, 1, &[at("lan", "10.1.0.77")]);
    let (network, member) = networks.places(&one).unwrap().remove(0);
    assert_eq!(
        network.subnet.address(member.number).to_string(),
        "10.1.0.77"
    );
    let kind = |byte, address: &str| {
        let record = sandbox(&store, byte, &[at("lan", address)]);
        networks.places(&record).unwrap_err().kind()
    };
    assert_eq!(kind(2, "10.1.0.77"), ErrorKind::InUse);
    for (byte, address) in (3..).zip(["10.1.0.0", "10.1.0.1", "10.1.0.255", "10.2.0.5"]) {
        assert_eq!(kind(byte, address), ErrorKind::InvalidSpec, "{address}");
    }
    let aliases = ["a b", "localHOST", "github.com", "host.coffer.internal"];
    for (byte, alias) in (9..).zip(aliases) {
        let mut bad = NetworkAttachment::new("lan");
        bad.aliases = vec![alias.to_owned()];
        let record = sandbox(&store, byte, &[bad]);
        let error = networks.places(&record).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{alias}");
    }
}

#[test]
fn who_leaves_stays_away_and_who_comes_keeps_both_places() {
    let (_dir, store) = open();
    let networks = store.networks();
    for name in ["one", "two"] {
        networks.create(&options(name, None)).unwrap();
    }
    let mut asked = NetworkAttachment::new("one");
    asked.aliases = vec!["alias".to_owned()];
    let record = sandbox(&store, 1, &[asked]);
    networks
        .attach(&record, &NetworkAttachment::new("two"))
        .unwrap();
    let names = || -> Vec<String> {
        let places = networks.places(&record).unwrap();
        places
            .into_iter()
            .map(|(network, _)| network.name)
            .collect()
    };
    assert_eq!(names(), ["one", "two"]);
    let of_fork = networks.for_fork(&record, true).unwrap();
    assert_eq!(of_fork, ["one", "two"].map(NetworkAttachment::new));
    networks.detach(&record, "one").unwrap();
    assert_eq!(names(), ["two"]);
    let error = networks.detach(&record, "one").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // A network that is gone is missed at the start.
    networks.remove("one").unwrap();
    assert_eq!(
        networks.places(&record).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn a_network_with_a_member_that_runs_is_not_removed() {
    let (_dir, store) = open();
    let networks = store.networks();
    networks.create(&options("lan", None)).unwrap();
    let record = sandbox(&store, 1, &[NetworkAttachment::new("lan")]);
    networks.places(&record).unwrap();
    let lock = store.try_lock(record.id).unwrap().unwrap();
    let state = crate::store::SandboxState {
        status: cofferdam_types::SandboxStatus::Running,
        ..crate::store::SandboxState::created()
    };
    store.set_state(record.id, &state).unwrap();
    let error = networks.remove("lan").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("`s1`"), "{error}");
    // It was killed.
    drop(lock);
    networks.remove("lan").unwrap();
}

#[test]
fn many_at_once_get_different_addresses() {
    let (_dir, store) = open();
    store.networks().create(&options("lan", None)).unwrap();
    let records: Vec<_> = (1..=16)
        .map(|byte| sandbox(&store, byte, &[NetworkAttachment::new("lan")]))
        .collect();
    let mut numbers: Vec<u32> = thread::scope(|scope| {
        let place = |record| {
            let store = &store;
            scope.spawn(move || store.networks().places(record).unwrap()[0].1.number)
        };
        let threads: Vec<_> = records.iter().map(place).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (2..18).collect::<Vec<_>>());
}

#[test]
fn the_directory_of_a_stack_follows_the_file() {
    let (_dir, store) = open();
    let networks = store.networks();
    networks.create(&options("lan", None)).unwrap();
    let directory = MembersFile::new(networks.members_path("lan"));
    let (start, look) = (Instant::now(), Duration::from_millis(100));
    assert!(directory.at(start).is_empty());
    let mut asked = NetworkAttachment::new("lan");
    asked.aliases = vec!["db".to_owned()];
    let record = sandbox(&store, 1, &[asked]);
    networks.places(&record).unwrap();
    // A look holds for a time.
    assert!(directory.at(start + look / 2).is_empty());
    let members = directory.at(start + look);
    assert_eq!(members[0].number, 2);
    assert_eq!(members[0].names, ["s1", &record.id.short(), "db"]);
    // A file that cannot be read changes nothing, and is read again.
    let path = networks.members_path("lan");
    let good = std_fs::read(&path).unwrap();
    std_fs::write(&path, "{").unwrap();
    assert_eq!(directory.at(start + 2 * look), members);
    std_fs::write(&path, good).unwrap();
    assert_eq!(directory.at(start + 3 * look), members);
    networks.detach(&record, "lan").unwrap();
    assert!(directory.at(start + 4 * look).is_empty());
}

fn internal(name: &str) -> NetworkOptions {
    NetworkOptions {
        internal: true,
        ..options(name, None)
    }
}

#[test]
fn the_last_internal_network_of_a_sandbox_stays() {
    let (_dir, store) = open();
    let networks = store.networks();
    networks.create(&internal("in")).unwrap();
    networks.create(&options("out", None)).unwrap();
    let record = sandbox(&store, 1, &[NetworkAttachment::new("in")]);
    networks.places(&record).unwrap();
    let error = networks.detach(&record, "in").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert!(error.to_string().contains("internal"), "{error}");
    let error = networks.remove("in").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("`s1`"), "{error}");
    // With another one that says what it reaches, it may go.
    networks
        .attach(&record, &NetworkAttachment::new("out"))
        .unwrap();
    networks.detach(&record, "in").unwrap();
    networks.detach(&record, "out").unwrap();
    networks.remove("in").unwrap();
}

#[test]
fn a_member_of_a_network_that_cannot_be_read_does_not_start() {
    let (_dir, store) = open();
    let networks = store.networks();
    for name in ["bad", "good"] {
        networks.create(&internal(name)).unwrap();
    }
    let of_bad = sandbox(&store, 1, &[]);
    networks
        .attach(&of_bad, &NetworkAttachment::new("bad"))
        .unwrap();
    let of_good = sandbox(&store, 2, &[NetworkAttachment::new("good")]);
    networks.places(&of_good).unwrap();
    let damage = |file: &str| std_fs::write(networks.dir().join("bad").join(file), "{").unwrap();
    damage("network.json");
    let error = networks.places(&of_bad).unwrap_err();
    assert!(error.to_string().contains("network.json"), "{error}");
    assert!(networks.for_fork(&of_bad, true).is_err());
    assert!(networks.create(&options("next", None)).is_err());
    assert_eq!(networks.places(&of_good).unwrap().len(), 1);
    // Then nobody knows who is on it.
    damage("members.json");
    assert!(networks.places(&of_good).is_err());
}

#[test]
fn an_unused_network_is_one_without_members() {
    let (_dir, store) = open();
    let networks = store.networks();
    networks.create(&options("lan", None)).unwrap();
    let record = sandbox(&store, 1, &[NetworkAttachment::new("lan")]);
    networks.places(&record).unwrap();
    let error = networks.remove_unused("lan").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    networks.detach(&record, "lan").unwrap();
    networks.remove_unused("lan").unwrap();
    assert_eq!(networks.list().unwrap(), []);
}

#[test]
fn who_starts_at_this_moment_keeps_its_networks() {
    let (_dir, store) = open();
    let networks = store.networks();
    networks.create(&options("lan", None)).unwrap();
    let record = sandbox(&store, 1, &[]);
    let entry = store.find("s1").unwrap();
    let asked = NetworkAttachment::new("lan");
    // A start holds the lock before it changes the state.
    let lock = store.try_lock(record.id).unwrap().unwrap();
    let error = networks.connect(&entry, &asked).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    drop(lock);
    networks.connect(&entry, &asked).unwrap();
    let lock = store.try_lock(record.id).unwrap().unwrap();
    let error = networks.disconnect(&entry, "lan").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    drop(lock);
    networks.disconnect(&entry, "lan").unwrap();
    store.remove(record.id).unwrap();
    let error = networks.connect(&entry, &asked).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
