//! Event loops and executors are told of messages, and whoever gives up waiting loses none.
#![allow(clippy::unwrap_used)]

#[path = "children/mod.rs"]
mod children;

use std::collections::BTreeSet;
use std::future::Future;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use children::{PATIENCE, Place};
use futures_core::Stream;
use keepq::sim::Rng;
use keepq::{Code, Flush, Group, Store};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn open(place: &Place) -> (Store, Group) {
    let store = Store::options().flush(Flush::Async).open(place.store());
    let store = store.unwrap();
    let group = store.group("t", "g").open().unwrap();
    (store, group)
}

fn send(store: &Store, number: u64) {
    let topic = store.topic("t").unwrap();
    topic.send(number.to_string()).unwrap();
}

/// Whether it becomes readable in this time.
fn readable(fd: &impl AsFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let time = Timespec::try_from(time).unwrap();
    poll(&mut fds, Some(&time)).unwrap() == 1
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park_timeout(PATIENCE),
        }
    }
}

/// A waker that says in a channel that it was woken.
struct Tell(Sender<()>);

impl Wake for Tell {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
    }
}

fn telling() -> (Waker, Receiver<()>) {
    let (sender, told) = channel();
    (Waker::from(Arc::new(Tell(sender))), told)
}

#[test]
fn a_descriptor_is_readable_while_there_may_be_a_message() {
    let place = Place::new("ready");
    let (store, group) = open(&place);
    let (other, _) = open(&place);
    let ready = group.readiness().unwrap();
    assert!(group.receive(Duration::ZERO).unwrap().is_none());
    assert!(!readable(&ready, Duration::ZERO), "nothing was sent");
    for round in 0..20 {
        send(if round % 2 == 0 { &other } else { &store }, round);
        assert!(readable(&ready, PATIENCE), "round {round}");
        // It stays so until a receive has found nothing.
        assert!(readable(&ready, Duration::ZERO));
        let delivery = group.receive(Duration::ZERO).unwrap().unwrap();
        delivery.ack().unwrap();
        assert!(group.receive(Duration::ZERO).unwrap().is_none());
        assert!(!readable(&ready, Duration::ZERO), "round {round}");
    }
    let again = group.readiness().unwrap();
    send(&other, 20);
    assert!(readable(&again, PATIENCE), "the same for every call");
    store.close().unwrap();
    assert!(readable(&ready, PATIENCE), "whoever waits finds out");
    let closed = group.receive(Duration::ZERO).unwrap_err();
    assert_eq!(closed.code(), Code::Closed);
}

#[test]
fn a_message_that_comes_back_makes_it_readable() {
    let place = Place::new("ready-again");
    let (_store, group) = open(&place);
    let ready = group.readiness().unwrap();
    send(&_store, 1);
    for delay in [0, 20, 120] {
        assert!(readable(&ready, PATIENCE), "before {delay}");
        let mut got = group.receive(Duration::ZERO).unwrap();
        while got.is_none() {
            assert!(readable(&ready, PATIENCE), "before {delay}");
            got = group.receive(Duration::ZERO).unwrap();
        }
        let delivery = got.unwrap();
        assert!(group.receive(Duration::ZERO).unwrap().is_none());
        delivery.nack(Some(Duration::from_millis(delay))).unwrap();
    }
    assert!(readable(&ready, PATIENCE));
}

#[test]
fn a_blocked_receive_beside_it_gets_its_messages() {
    let place = Place::new("ready-beside");
    let (store, group) = open(&place);
    let _ready = group.readiness().unwrap();
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| {
            let mine = store.group("t", "g").open().unwrap();
            (0..50).for_each(|number: u64| {
                let got = mine.receive(PATIENCE).unwrap().expect("it comes");
                assert_eq!(got.body(), number.to_string().as_bytes());
                got.ack().unwrap();
            });
        });
        (0..50).for_each(|number| send(&store, number));
        blocked.join().unwrap();
    });
}

#[test]
fn a_future_is_woken_by_a_message() {
    let place = Place::new("ready-future");
    let (store, group) = open(&place);
    let (waker, told) = telling();
    let mut context = Context::from_waker(&waker);
    for number in 0..20 {
        let mut future = pin!(group.receive_async());
        while told.try_recv().is_ok() {}
        assert!(future.as_mut().poll(&mut context).is_pending());
        send(&store, number);
        loop {
            told.recv_timeout(PATIENCE).expect("the task is woken");
            if let Poll::Ready(got) = future.as_mut().poll(&mut context) {
                got.unwrap().ack().unwrap();
                break;
            }
        }
    }
}

#[test]
fn futures_given_up_at_random_lose_nothing() {
    let place = Place::new("ready-cancel");
    let (store, group) = open(&place);
    let mut rng = Rng::new(7);
    let (waker, _told) = telling();
    let mut context = Context::from_waker(&waker);
    let mut seen = BTreeSet::new();
    let mut sent = 0;
    for _ in 0..2_000 {
        match rng.below(3) {
            0 => {
                send(&store, sent);
                sent += 1;
            }
            // Made and dropped, never polled.
            1 => drop(group.receive_async()),
            _ => {
                let mut future = Box::pin(group.receive_async());
                if let Poll::Ready(got) = future.as_mut().poll(&mut context) {
                    let got = got.unwrap();
                    assert_eq!(got.attempt(), 1, "nothing was claimed in vain");
                    assert!(seen.insert(got.seq()));
                    got.ack().unwrap();
                }
            }
        }
    }
    while (seen.len() as u64) < sent {
        let got = block_on(group.receive_async()).unwrap();
        assert_eq!(got.attempt(), 1);
        assert!(seen.insert(got.seq()));
        got.ack().unwrap();
    }
    assert!(sent > 500);
    assert_eq!(group.stats().unwrap().in_flight, 0);
}

#[test]
fn streams_of_several_tasks_share_the_messages_and_end_with_the_store() {
    let place = Place::new("ready-stream");
    let (store, group) = open(&place);
    let (sender, got) = channel();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (group, sender) = (group.clone(), sender.clone());
            scope.spawn(move || {
                let mut stream = pin!(group.deliveries());
                loop {
                    let next = std::future::poll_fn(|context| stream.as_mut().poll_next(context));
                    match block_on(next).expect("it has no end") {
                        Ok(delivery) => {
                            delivery.ack().unwrap();
                            sender.send(delivery.seq()).unwrap();
                        }
                        Err(e) => break assert_eq!(e.code(), Code::Closed),
                    }
                }
            });
        }
        (0..300).for_each(|number| send(&store, number));
        let mut seen = BTreeSet::new();
        while seen.len() < 300 {
            assert!(seen.insert(got.recv_timeout(PATIENCE).unwrap()));
        }
        store.close().unwrap();
    });
}

#[test]
fn the_watch_keeps_no_store_open() {
    let place = Place::new("ready-drop");
    for _ in 0..3 {
        let (store, group) = open(&place);
        assert!(!store.recovery().joined, "nobody has it open");
        let ready = group.readiness().unwrap();
        drop(store);
        assert!(group.stats().is_ok());
        drop(group);
        drop(ready);
    }
}
