//! Forked children know that they are no members, and cost their parents nothing.

use std::time::{Duration, Instant};

use keepq::Code;

use crate::children::{self, Child, PATIENCE, Place, Signal, say};
use crate::{open, open_arg, store_var};

const TEST: &str = "forks::a_forked_child_is_no_member_and_costs_its_parent_nothing";

/// Forks; the child runs this and ends with its result as exit code.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child calls `child`, which uses handles that refuse before they lock anything,
    // and ends without cleaning up.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let code = child();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(code) }
    }
    pid
}

pub(crate) fn exit_code(pid: i32) -> i32 {
    assert!(pid > 1);
    let mut status = 0;
    // SAFETY: waits for a child made above.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "the child ended by a signal");
    libc::WEXITSTATUS(status)
}

fn close_everything() {
    // SAFETY: the forked child uses no descriptor any more.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
}

fn forker() {
    let (store, topic, group) = open_arg();
    let held = group.receive(Duration::ZERO).unwrap().unwrap();
    let ready = group.readiness().unwrap();
    let receipt = held.receipt();
    // What the child drops is a copy of what its parent goes on using.
    let mine = std::mem::ManuallyDrop::new((ready, held, group));
    let child = fork(|| {
        // SAFETY: the child has a memory of its own, and takes them out once.
        let (ready, held, group) = unsafe { std::ptr::read(&raw const *mine) };
        // SAFETY: ends the child at once if it hangs.
        unsafe { libc::alarm(120) };
        let refused = [
            topic.send(b"x").map(|_| ()).unwrap_err(),
            group.receive(Duration::ZERO).map(|_| ()).unwrap_err(),
            held.ack().unwrap_err(),
            store.flush(None).map(|_| ()).unwrap_err(),
            store.stats().map(|_| ()).unwrap_err(),
        ];
        let all = refused.iter().all(|e| e.code() == Code::ForkedHandle);
        // Closing there is fine, and no business of the parent's.
        let closed = store.close().is_ok();
        let same = held.receipt() == receipt;
        // Nobody watches here, and nothing is given back.
        drop((ready, held, group));
        close_everything();
        i32::from(!(all && closed && same))
    });
    assert_eq!(exit_code(child), 0, "the child's handles refuse");
    let ran = std::process::Command::new("true").status().unwrap();
    assert!(ran.success());
    topic.send(b"after the fork").unwrap();
    say("forked");
    children::listen();
    // A child that lives on, with all it inherited.
    let living = fork(|| {
        children::listen();
        0
    });
    say(&format!("child {living}"));
    children::listen();
}

#[test]
fn a_forked_child_is_no_member_and_costs_its_parent_nothing() {
    if children::role().is_some() {
        return forker();
    }
    let place = Place::new("forks");
    let (store, topic, group) = open(&place.store());
    topic.send(b"held").unwrap();
    let mut child = Child::start(TEST, "forker", &[store_var(&place)]);
    child.expect("forked");
    // Its child closed everything and is gone; the lease is still its own.
    assert_eq!(store.stats().unwrap().members, 2);
    let next = group.receive(PATIENCE).unwrap().unwrap();
    assert_eq!(next.body(), b"after the fork");
    next.ack().unwrap();
    assert!(group.receive(Duration::from_millis(200)).unwrap().is_none());
    child.tell("fork again");
    let grandchild: i32 = child.expect("child").parse().unwrap();
    assert!(grandchild > 1);
    child.signal(Signal::KILL);
    let begun = Instant::now();
    let back = group.receive(PATIENCE).unwrap().unwrap();
    eprintln!("the lease came back after {:?}", begun.elapsed());
    assert_eq!((back.body(), back.attempt()), (b"held".as_slice(), 2));
    let proc = format!("/proc/{grandchild}");
    assert!(
        std::path::Path::new(&proc).exists(),
        "while the forked child still lives"
    );
    back.ack().unwrap();
    // Its standard input ends with this handle, and so does the grandchild.
    drop(child);
    let until = Instant::now() + PATIENCE;
    while store.stats().unwrap().members > 1 {
        assert!(Instant::now() < until, "the dead one is still a member");
        std::thread::yield_now();
    }
}
