//! What goes wrong on the simulated machine, and when.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{
    CallKind, Fault, FaultPlan, SimOptions, SimWorld, announced_site, calls_announced,
    set_point_hook,
};
use keepq::{Flush, Result, Topic};

use crate::Seen;
use crate::members::{Member, open, open_with, options};

/// A machine with a store in which a topic is.
pub(crate) fn start(options: SimOptions) -> (SimWorld, Member, Topic) {
    let world = SimWorld::new(options);
    let member = open(&world);
    let topic = member.store.topic("t").unwrap();
    topic.send(b"first").unwrap();
    (world, member, topic)
}

/// Another process on the machine.
pub(crate) fn second(world: &SimWorld) -> (Member, Topic) {
    let member = open_with(world, options());
    let topic = member.store.topic("t").unwrap();
    (member, topic)
}

/// A send that must fail; `observer` tells whether it appended.
pub(crate) fn fails<T>(observer: &Topic, send: impl FnOnce() -> Result<T>) -> Seen {
    let before = observer.len().unwrap();
    let Err(error) = send() else {
        panic!("the send succeeds");
    };
    let after = observer.len().unwrap();
    assert!(
        after - before <= 1,
        "one send appends {} messages",
        after - before
    );
    Seen {
        error,
        appended: after > before,
    }
}

/// Sends until it fails, at the latest when the segment and the ring are full.
pub(crate) fn fails_in_the_end(topic: &Topic, timeout: Duration) -> Seen {
    for _ in 0..200 {
        let send = || {
            topic
                .message(&[7; 1000])
                .flush(Flush::Async)
                .timeout(timeout)
                .send()
        };
        let before = topic.len().unwrap();
        if let Err(error) = send() {
            let appended = topic.len().unwrap() > before;
            return Seen { error, appended };
        }
    }
    panic!("every send succeeds");
}

/// From the next disk call of this kind on, all fail.
pub(crate) fn fail_from_next(world: &SimWorld, kind: CallKind, errno: i32) {
    let (machine, mut last) = (world.clone(), calls_announced());
    set_point_hook(Some(Box::new(move || {
        let new = calls_announced() != last;
        last = calls_announced();
        if new && announced_site().is_some_and(|site| site.kind == kind) {
            machine.plan_fault(FaultPlan {
                nth_call: 1,
                error: Fault::Errno(errno),
                sticky: false,
            });
        }
    })));
}

/// Runs `other` while `member` flushes: right before its fdatasync, with the flush lock held.
pub(crate) fn during_a_flush(member: &Member, other: impl FnOnce() -> Seen + 'static) -> Seen {
    let seen = Rc::new(RefCell::new(None));
    let (mut act, put, mut last) = (Some(other), Rc::clone(&seen), calls_announced());
    member.send_async("t", 1, 50);
    set_point_hook(Some(Box::new(move || {
        let new = calls_announced() != last;
        last = calls_announced();
        if new && announced_site().is_some_and(|site| site.kind == CallKind::Fdatasync) {
            if let Some(act) = act.take() {
                let seen = act();
                *put.borrow_mut() = Some(seen);
            }
        }
    })));
    let flushed = member.store.flush(None);
    set_point_hook(None);
    assert!(flushed.unwrap());
    seen.take().expect("the flush syncs a file")
}

/// Sends as another process at the `point`-th kill point of a send of `member`; None if that send
/// has fewer.
pub(crate) fn within_a_send(point: u32, member: &Member, topic: Topic) -> Option<Result<Seen>> {
    let seen = Rc::new(RefCell::new(None));
    let (put, mut count) = (Rc::clone(&seen), 0);
    set_point_hook(Some(Box::new(move || {
        count += 1;
        if count == point {
            let before = topic.len().unwrap();
            // Another process is another thread at least.
            let sent = std::thread::scope(|scope| {
                let send = topic.message(b"x").flush(Flush::Async);
                let send = send.timeout(Duration::from_millis(200));
                scope.spawn(|| send.send()).join().unwrap()
            });
            let appended = topic.len().unwrap() > before;
            *put.borrow_mut() = Some(match sent {
                Ok(_) => None,
                Err(error) => Some(Seen { error, appended }),
            });
        }
    })));
    member.send_async("t", 1, 50);
    set_point_hook(None);
    let seen = seen.take()?;
    Some(seen.ok_or_else(|| keepq::Error::new(keepq::Code::NotFound, "it succeeds")))
}
