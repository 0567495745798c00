//! Containers on one volume: processes with equal PIDs and thread ids in namespaces of their own.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use keepq::sim::Rng;
use keepq::{Flush, Start as From};

use crate::children::{self, Child, PATIENCE, Place, Start, Watchdog, not_run, say};
use crate::{open, open_arg, store_var};

const TEST: &str =
    "namespaces::equal_pids_in_two_namespaces_do_not_confuse_the_living_and_the_dead";
const ROUNDS: u64 = 40;

fn hammer() {
    let (_store, topic, group) = open_arg();
    let path = children::arg("LEDGER");
    let mut ledger = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    let mut rng = Rng::new(children::number("SEED"));
    say(&format!(
        "pid {} {}",
        std::process::id(),
        children::number("SEED")
    ));
    for number in 0.. {
        let body = format!("{}-{number}", children::arg("SEED"));
        let flush = if rng.below(4) == 0 {
            Flush::Sync
        } else {
            Flush::Async
        };
        topic.message(body.as_bytes()).flush(flush).send().unwrap();
        ledger.write_all(format!("{body}\n").as_bytes()).unwrap();
        for delivery in group.receive_batch(4, Duration::ZERO).unwrap() {
            if rng.below(4) > 0 {
                delivery.ack().unwrap();
            }
        }
        if number % 50 == 49 {
            say("on");
            // Keeps the number of messages in bounds: goes on when it is told.
            children::listen();
        }
    }
}

fn container(place: &Place, seed: u64) -> Child {
    let vars = [
        store_var(place),
        ("SEED", seed.to_string()),
        ("LEDGER", place.file("ledger").display().to_string()),
    ];
    let start = Start {
        test: TEST,
        role: "hammer",
        vars: &vars,
        through: &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"],
    };
    Child::start_with(&start, |_| {})
}

/// Why this machine does not let us make namespaces.
fn refused() -> Option<String> {
    let mut command = std::process::Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "true"]);
    match command.output() {
        Ok(out) if out.status.success() => None,
        Ok(out) => Some(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
        Err(e) => Some(format!("unshare: {e}")),
    }
}

#[test]
fn equal_pids_in_two_namespaces_do_not_confuse_the_living_and_the_dead() {
    if children::role().is_some() {
        return hammer();
    }
    if let Some(why) = refused() {
        return not_run("PID namespaces", &why);
    }
    let _watchdog = Watchdog::new("the namespaces", Duration::from_secs(240));
    let place = Place::new("namespaces");
    let (store, _, group) = open(&place.store());
    let audit = store
        .group("t", "audit")
        .start(From::Earliest)
        .open()
        .unwrap();
    let mut rng = Rng::new(1);
    let mut both = [container(&place, 1), container(&place, 2)];
    for child in &both {
        assert!(
            child.expect("pid").starts_with("1 "),
            "each is the first of its namespace"
        );
    }
    for round in 0..ROUNDS {
        for child in &mut both {
            child.expect("on");
            child.tell("go on");
        }
        let pause = Duration::from_micros(rng.below(20_000));
        let victim = rng.index(2);
        assert!(
            both[victim]
                .hear_within(pause)
                .is_none_or(|line| line == "on")
        );
        both[victim].kill();
        // The other goes on, whoever its equal was.
        let other = &mut both[1 - victim];
        other.expect("on");
        other.tell("go on");
        both[victim] = container(&place, 3 + round);
        assert!(both[victim].expect("pid").starts_with("1 "));
    }
    for mut child in both {
        child.kill();
    }
    // What the dead sent last is found once it is on disk.
    assert!(store.flush(Some(PATIENCE)).unwrap());
    let text = std::fs::read_to_string(place.file("ledger")).unwrap();
    let confirmed: BTreeSet<&str> = text.lines().collect();
    let found = crate::drain(&audit);
    let lost: Vec<_> = confirmed
        .iter()
        .filter(|body| !found.contains(**body))
        .collect();
    assert!(lost.is_empty(), "confirmed and lost: {lost:?}");
    eprintln!(
        "{ROUNDS} kills, {} messages confirmed, {} found",
        confirmed.len(),
        found.len()
    );
    while let Some(got) = group.receive(Duration::from_millis(100)).unwrap() {
        got.ack().unwrap();
    }
    store.flush(Some(PATIENCE)).unwrap();
    assert!(store.verify().unwrap().is_ok());
}
