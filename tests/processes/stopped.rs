//! A stopped process that holds a lock is waited for, named, and never robbed.

use std::collections::BTreeSet;
use std::time::Duration;

use keepq::{Code, Flush, Outcome, Topic};
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::children::{self, Child, PATIENCE, Place, Signal, Watchdog, say};
use crate::{drain, open, open_arg, signal_at_point, store_var};

fn sender() {
    let (_store, topic, _) = open_arg();
    let flush = if children::number("SYNC") == 1 {
        Flush::Sync
    } else {
        Flush::Async
    };
    say("ready");
    children::listen();
    let point = children::number("POINT");
    let stopped = signal_at_point(point, Signal::STOP);
    let mut sent = 0;
    while !stopped.get() {
        let body = format!("stopped {point} {flush:?} {sent}");
        topic.message(body.as_bytes()).flush(flush).send().unwrap();
        sent += 1;
    }
    say(&format!("sent {sent}"));
    children::listen();
}

/// Waits until the child is stopped; false if it ended.
fn is_stopped(child: &Child) -> bool {
    let pid = Pid::from_raw(i32::try_from(child.pid()).unwrap()).unwrap();
    let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
    status.stopped()
}

/// Sends beside a stopped child; the error, if that child is in the way. Without it a send comes to
/// its end, however long the disk and the other threads of this process may take.
fn beside(
    topic: &Topic,
    child: &Child,
    body: &str,
    expected: &mut BTreeSet<String>,
) -> Option<Code> {
    let mut patience = Duration::from_millis(150);
    loop {
        let body = format!("{body} {}", patience.as_millis());
        let sent = topic.message(body.as_bytes()).timeout(patience).send();
        let Err(e) = sent else {
            expected.insert(body);
            return None;
        };
        assert!(e.is_retriable(), "{e}");
        if e.code() == Code::Busy {
            assert_eq!(e.outcome(), Some(Outcome::NotStored), "{e}");
        } else {
            // Appended, but the stopped one is in the middle of the flush.
            let told = (e.code(), e.outcome());
            assert_eq!(
                told,
                (Code::FlushTimeout, Some(Outcome::MaybeStored)),
                "{e}"
            );
            expected.insert(body);
        }
        let name = format!("process {}", child.pid());
        if e.message().contains(&name) {
            return Some(e.code());
        }
        patience *= 4;
        assert!(patience < 4 * PATIENCE, "{e} does not name {name}");
    }
}

#[test]
fn a_stopped_holder_of_a_lock_is_named_and_never_robbed() {
    let test = "stopped::a_stopped_holder_of_a_lock_is_named_and_never_robbed";
    if children::role().is_some() {
        return sender();
    }
    let _watchdog = Watchdog::new("the stopped holders", Duration::from_secs(240));
    let place = Place::new("stopped");
    let (store, topic, group) = open(&place.store());
    let (mut busy, mut in_doubt, mut free) = (0, 0, 0);
    let mut expected = BTreeSet::new();
    for (point, sync) in (1..=24).flat_map(|p| [(p, 0), (p, 1)]) {
        let vars = [
            store_var(&place),
            ("POINT", point.to_string()),
            ("SYNC", sync.to_string()),
        ];
        let mut child = Child::start(test, "sender", &vars);
        child.expect("ready");
        child.tell("go on");
        assert!(is_stopped(&child), "a send passes more than {point} points");
        match beside(
            &topic,
            &child,
            &format!("living {point} {sync}"),
            &mut expected,
        ) {
            None => free += 1,
            Some(Code::Busy) => busy += 1,
            Some(_) => in_doubt += 1,
        }
        child.signal(Signal::CONT);
        let sent: u32 = child.expect("sent").parse().unwrap();
        let flush = if sync == 1 { Flush::Sync } else { Flush::Async };
        expected.extend((0..sent).map(|number| format!("stopped {point} {flush:?} {number}")));
        let after = format!("after {point} {sync}");
        topic.send(&after).unwrap();
        expected.insert(after);
        child.tell("end");
        child.finish();
    }
    eprintln!("{busy} were told who is in the way, {in_doubt} left in doubt, {free} not hindered");
    assert!(busy > 0, "no stop hit the inside of the engine lock");
    assert!(in_doubt > 0, "no stop hit the inside of a flush");
    assert_eq!(drain(&group), expected, "nothing was robbed, nothing lost");
    assert!(store.verify().unwrap().is_ok());
}
