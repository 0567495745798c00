//! Broadcast consumers without a name: killed processes leave none, and living ones lose none, also
//! when they fork or have the store open several times.

use std::time::{Duration, Instant};

use keepq::{Group, Store};

use crate::children::{self, Child, PATIENCE, Place, Signal, say};
use crate::forks::{exit_code, fork};
use crate::{open, open_arg, store_var};

fn unnamed(store: &Store) -> Group {
    store.group("t", "news").broadcast_unnamed().open().unwrap()
}

/// The names of those there are.
fn names(store: &Store) -> Vec<String> {
    let groups = store.stats().unwrap().groups.into_iter().map(|g| g.name);
    groups.filter(|name| name.starts_with("news%%")).collect()
}

/// Waits until exactly these are left; how long that took.
fn left(store: &Store, expected: &[&str]) -> Duration {
    let begun = Instant::now();
    loop {
        let names = names(store);
        if names == expected {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "{names:?}, not {expected:?}");
        std::thread::yield_now();
    }
}

fn all(group: &Group) -> Vec<String> {
    crate::drain(group).into_iter().collect()
}

#[test]
fn a_killed_process_leaves_no_unnamed_consumer_and_takes_no_other_along() {
    let test = "consumers::a_killed_process_leaves_no_unnamed_consumer_and_takes_no_other_along";
    if children::role().is_some() {
        let (store, _, _) = open_arg();
        let group = unnamed(&store);
        let held = group.receive(PATIENCE).unwrap().unwrap();
        say(&format!("has {}", held.seq()));
        children::listen();
        panic!("it is killed before");
    }
    let place = Place::new("unnamed");
    let (store, topic, _group) = open(&place.store());
    // A second open of this process is a member of its own.
    let (second, _, _) = open(&place.store());
    let (mine, theirs) = (unnamed(&store), unnamed(&second));
    topic.send(b"0").unwrap();
    let mut took = Vec::new();
    for _ in 0..5 {
        let mut child = Child::start(test, "killed", &[store_var(&place)]);
        child.expect("has 0");
        assert_eq!(names(&store).len(), 3);
        child.kill();
        let mut expected = [mine.name(), theirs.name()];
        expected.sort_unstable();
        took.push(left(&store, &expected));
    }
    crate::mostly_at_once("consumers of the dead ended", took);
    second.close().unwrap();
    assert_eq!(names(&store), [mine.name()]);
    assert_eq!(all(&mine), ["0"]);
    // Nobody is left to end this one, and who opens the store next does.
    let mut child = Child::start(test, "killed", &[store_var(&place)]);
    child.expect("has 0");
    drop((mine, theirs, second));
    store.close().unwrap();
    child.kill();
    let (store, _, _) = open(&place.store());
    assert!(store.recovery().warm);
    assert_eq!(names(&store), [""; 0]);
}

fn forker() {
    let (store, topic, _) = open_arg();
    let group = unnamed(&store);
    let mine = std::mem::ManuallyDrop::new(group);
    let child = fork(|| {
        // SAFETY: the child has a memory of its own, and takes it out once.
        let group = unsafe { std::ptr::read(&raw const *mine) };
        // SAFETY: ends the child at once if it hangs.
        unsafe { libc::alarm(120) };
        // Dropped there, it is no business of the parent's.
        drop(group);
        drop(store.clone());
        0
    });
    assert_eq!(exit_code(child), 0);
    topic.send(b"after the fork").unwrap();
    let got = mine.receive(PATIENCE).unwrap().unwrap();
    say(&String::from_utf8_lossy(got.body()));
    got.ack().unwrap();
    children::listen();
    let living = fork(|| {
        children::listen();
        0
    });
    say(&format!("child {living}"));
    children::listen();
}

#[test]
fn a_forked_child_neither_ends_its_parents_consumer_nor_keeps_it() {
    let test = "consumers::a_forked_child_neither_ends_its_parents_consumer_nor_keeps_it";
    if children::role().is_some() {
        return forker();
    }
    let place = Place::new("unnamed-fork");
    let (store, topic, _group) = open(&place.store());
    let mut child = Child::start(test, "forker", &[store_var(&place)]);
    child.expect("after the fork");
    topic.send(b"wake the keeper").unwrap();
    assert_eq!(names(&store).len(), 1);
    child.tell("fork again");
    let grandchild: i32 = child.expect("child").parse().unwrap();
    assert!(grandchild > 1);
    child.signal(Signal::KILL);
    left(&store, &[]);
    let proc = format!("/proc/{grandchild}");
    assert!(
        std::path::Path::new(&proc).exists(),
        "while the forked child still lives"
    );
    // Its standard input ends with this handle, and so does the grandchild.
    drop(child);
}
