//! A forked child knows nothing of its parent's sends, and waits for nothing.
#![allow(unsafe_code)] // It forks.

use keepq::{Code, Outcome};

use crate::{Gate, Place, Told};

#[test]
fn a_forked_child_is_refused_and_hangs_nowhere() {
    let place = Place::new("forks");
    let (store, topic) = place.open();
    let told = Told::new();
    let known = topic.send_async(b"known").unwrap();
    assert!(known.wait(None).unwrap().unwrap().durable);
    let (gate, stand) = Gate::new();
    topic.send_async(b"gate").unwrap().on_done(stand);
    gate.wait_until_entered();
    // The thread is in the gate. What is sent now has no result unless somebody asks for it.
    let open = topic.send_async(b"open").unwrap();
    open.on_done(told.callback("given in the parent"));
    // SAFETY: the child uses handles that refuse before they lock anything, and ends without
    // cleaning up.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: ends the child at once if it hangs.
        unsafe { libc::alarm(120) };
        let error = open.wait(None).unwrap_err();
        let polled = open.poll().unwrap_err();
        let called = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = std::sync::Arc::clone(&called);
        open.on_done(move |result| {
            let forked = result.is_err_and(|e| e.code() == Code::ForkedHandle);
            count.fetch_add(u32::from(forked), std::sync::atomic::Ordering::Relaxed);
        });
        let refused = topic.send_async(b"x").unwrap_err();
        topic.send_oneway(b"x");
        let right = [
            error.code() == Code::ForkedHandle,
            error.outcome() == Some(Outcome::MaybeStored),
            polled.code() == Code::ForkedHandle,
            open.is_done(),
            called.load(std::sync::atomic::Ordering::Relaxed) == 1,
            refused.code() == Code::ForkedHandle,
            refused.outcome() == Some(Outcome::NotStored),
            known
                .wait(None)
                .is_ok_and(|sent| sent.is_some_and(|sent| sent.durable)),
            store.close().is_ok(),
        ];
        drop((open, store, topic));
        let wrong = right.iter().position(|right| !right);
        let code = wrong.map_or(0, |at| i32::try_from(at).unwrap_or(0) + 1);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(code) }
    }
    assert!(pid > 1);
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(
        libc::WIFEXITED(status),
        "the child ended by a signal: it hung"
    );
    assert_eq!(
        libc::WEXITSTATUS(status),
        0,
        "which of the child's answers is wrong, from 1"
    );
    gate.open();
    assert!(open.wait(None).unwrap().unwrap().durable);
    assert_eq!(told.next().0, "given in the parent");
    store.close().unwrap();
    assert!(told.so_far().is_empty());
}
