//! A close settles everything, from wherever it is called.

use std::sync::Arc;
use std::sync::mpsc::channel;

use keepq::{Code, Outcome};

use crate::{Gate, PATIENCE, Place, Told, in_time, list};

#[test]
fn a_close_settles_everything_and_calls_everybody() {
    let place = Place::new("close");
    let (store, topic) = place.open();
    let told = Told::new();
    let mut pending = Vec::new();
    for i in 0..500_u32 {
        let one = topic.send_async(i.to_le_bytes()).unwrap();
        one.on_done(told.callback(i));
        pending.push(one);
        topic.send_oneway(i.to_le_bytes());
    }
    store.close().unwrap();
    let all = told.so_far();
    assert_eq!(all.len(), 500);
    for (i, (number, result)) in (0..).zip(all) {
        assert_eq!(number, i);
        assert!(result.unwrap().durable);
    }
    for one in &pending {
        assert!(one.is_done() && one.wait(None).unwrap().unwrap().durable);
    }
    let refused = topic.send_async(b"late").unwrap_err();
    assert_eq!(refused.code(), Code::Closed);
    assert_eq!(refused.outcome(), Some(Outcome::NotStored));
    pending[0].on_done(told.callback(1000));
    assert_eq!(told.so_far().len(), 1, "a late callback is called at once");
    store.close().unwrap();
    let (_store, topic) = place.open();
    assert_eq!(topic.len().unwrap(), 1000);
}

#[test]
fn the_last_handle_settles_everything_and_a_pending_is_none() {
    let place = Place::new("last");
    let (store, topic) = place.open();
    let told = Told::new();
    let one = topic.send_async(b"x").unwrap();
    one.on_done(told.callback(()));
    drop((store, topic));
    assert_eq!(told.so_far().len(), 1);
    assert!(one.is_done() && one.wait(None).unwrap().unwrap().durable);
    let (store, _topic) = place.open();
    assert!(!store.recovery().joined, "nobody else had it open any more");
    assert_eq!(store.stats().unwrap().members, 1);
}

#[test]
fn a_callback_may_close_the_store() {
    let place = Place::new("close-inside");
    let (store, topic) = place.open();
    let told = Told::new();
    let (gate, stand) = Gate::new();
    topic.send_async(b"gate").unwrap().on_done(stand);
    gate.wait_until_entered();
    let closing = store.clone();
    let callback = told.callback(0);
    topic.send_async(b"closes").unwrap().on_done(move |result| {
        closing.close().unwrap();
        callback(result);
    });
    for i in 1..=50 {
        let refused = Arc::new(topic.clone());
        let callback = told.callback(i);
        let pending = topic.send_async(b"x").unwrap();
        pending.on_done(move |result| {
            assert_eq!(refused.send(b"y").unwrap_err().code(), Code::Closed);
            assert_eq!(refused.send_async(b"y").unwrap_err().code(), Code::Closed);
            callback(result);
        });
    }
    gate.open();
    for i in 0..=50 {
        let (number, result) = told.next();
        assert_eq!(number, i);
        assert!(result.unwrap().durable);
    }
    in_time(move || store.close().unwrap());
    drop(topic);
    let (_store, topic) = place.open();
    assert_eq!(topic.len().unwrap(), 52);
}

#[test]
fn a_callback_may_drop_the_last_handle() {
    let place = Place::new("drop-inside");
    let (store, topic) = place.open();
    let told = Told::new();
    let (gate, stand) = Gate::new();
    topic.send_async(b"gate").unwrap().on_done(stand);
    gate.wait_until_entered();
    let second = topic.send_async(b"two").unwrap();
    let handles = (store, topic.clone());
    let callback = told.callback(1);
    topic.send_async(b"one").unwrap().on_done(move |result| {
        drop(handles);
        callback(result);
    });
    second.on_done(told.callback(2));
    drop(topic);
    gate.open();
    let mut order = [told.next().0, told.next().0];
    order.sort_unstable();
    assert_eq!(order, [1, 2]);
    in_time(move || assert!(second.wait(None).unwrap().unwrap().durable));
    // The thread of the store has let go of it as soon as it was dropped there.
    let (store, topic) = place.open();
    assert!(!store.recovery().joined);
    assert_eq!(topic.len().unwrap(), 3);
}

#[test]
fn a_callback_may_wait_for_a_send_while_the_store_is_closed() {
    let place = Place::new("wait-closing");
    let (store, topic) = place.open();
    let told = Told::new();
    let (gate, stand) = Gate::new();
    let first = topic.send_async(b"one").unwrap();
    let (give, given) = channel::<keepq::Pending>();
    let callback = told.callback(());
    first.on_done(move |result| {
        stand(result);
        let second = given.recv_timeout(PATIENCE).unwrap();
        callback(second.wait(None).map(|sent| sent.unwrap()));
    });
    gate.wait_until_entered();
    // Nobody settles it before the close: the thread is in the gate.
    let second = topic.send_async(b"two").unwrap();
    let refused = topic.clone();
    let closer = std::thread::spawn(move || store.close().unwrap());
    in_time(move || {
        while refused.len().is_ok() {
            std::thread::yield_now();
        }
    });
    give.send(second).unwrap();
    gate.open();
    assert!(told.next().1.unwrap().durable);
    in_time(move || closer.join().unwrap());
}

#[test]
fn a_close_ends_the_wait_for_room() {
    let place = Place::new("close-room");
    let (store, topic) = place.open_with(|options| {
        options
            .max_in_flight(1)
            .send_timeout(std::time::Duration::MAX)
    });
    let (gate, stand) = Gate::new();
    topic.send_async(b"gate").unwrap().on_done(stand);
    gate.wait_until_entered();
    let (begin, begun) = channel();
    let waiter = {
        let topic = topic.clone();
        std::thread::spawn(move || {
            begin.send(()).unwrap();
            topic.send_async(b"never").map(|_| ()).unwrap_err()
        })
    };
    begun.recv_timeout(PATIENCE).unwrap();
    let closer = std::thread::spawn(move || store.close().unwrap());
    // The close waits for the callback in the gate; the sender does not.
    assert_eq!(in_time(move || waiter.join().unwrap()).code(), Code::Closed);
    assert!(!closer.is_finished());
    gate.open();
    in_time(move || closer.join().unwrap());
    drop(topic);
    let (_store, topic) = place.open();
    assert_eq!(topic.len().unwrap(), 1);
}

#[test]
fn stores_closed_and_opened_again_share_nothing() {
    let place = Place::new("again");
    let results = list();
    for round in 0..20 {
        let (store, topic) = place.open();
        for _ in 0..5 {
            let results = Arc::clone(&results);
            let pending = topic.send_async(b"x").unwrap();
            pending.on_done(move |result| results.lock().push(result.unwrap().seq.unwrap()));
        }
        if round % 2 == 0 {
            store.close().unwrap();
        }
    }
    assert_eq!(*results.lock(), (0..100).collect::<Vec<u64>>());
}
