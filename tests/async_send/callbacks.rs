//! Who is called, how often, in which order, on which thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use keepq::{Code, Flush, OutMessage, Outcome};

use crate::{PATIENCE, Place, Told, in_time, list};

#[test]
fn callbacks_come_once_each_in_the_order_of_the_sends() {
    let place = Place::new("order");
    let (store, topic) = place.open();
    let told = Told::new();
    for i in 0..1000_u32 {
        let pending = topic.send_async(i.to_le_bytes()).unwrap();
        pending.on_done(told.callback(i));
    }
    for i in 0..1000 {
        let (number, result) = told.next();
        let sent = result.unwrap();
        assert_eq!((number, sent.seq), (i, Some(u64::from(i))));
        assert!(sent.durable && !sent.duplicate);
        assert!(store.stats().unwrap().durable > sent.id.lsn());
    }
    store.close().unwrap();
    assert!(told.so_far().is_empty(), "nobody is called twice");
}

#[test]
fn a_result_is_the_same_however_it_is_asked_for() {
    let place = Place::new("asked");
    let (store, topic) = place.open();
    let told = Told::new();
    let pending = topic.send_async(b"x").unwrap();
    pending.on_done(told.callback("early"));
    pending.on_done(told.callback("early too"));
    let sent = pending.wait(PATIENCE).unwrap().unwrap();
    assert!(sent.durable && pending.is_done());
    assert_eq!(pending.poll().unwrap(), Some(sent.clone()));
    assert_eq!(pending.wait(Duration::ZERO).unwrap(), Some(sent.clone()));
    pending.on_done(told.callback("late"));
    for when in ["early", "early too", "late"] {
        let (which, result) = told.next();
        assert_eq!((which, result.unwrap()), (when, sent.clone()));
    }
    drop(pending);
    store.close().unwrap();
    assert!(told.so_far().is_empty());
}

#[test]
fn an_asynchronous_flush_confirms_at_once_and_still_calls() {
    let place = Place::new("at-once");
    let (store, topic) = place.open_with(|options| options.flush(Flush::Async));
    let told = Told::new();
    for i in 0..100_u32 {
        let pending = topic.send_async(b"x").unwrap();
        assert!(pending.is_done());
        assert!(!pending.poll().unwrap().unwrap().durable);
        pending.on_done(told.callback(i));
    }
    for i in 0..100 {
        assert_eq!(told.next().0, i);
    }
    let asked = topic.message(b"y").flush(Flush::Sync).send_async().unwrap();
    assert!(asked.wait(None).unwrap().unwrap().durable);
    store.close().unwrap();
    assert!(told.so_far().is_empty());
}

#[test]
fn what_is_dropped_is_sent_all_the_same() {
    let place = Place::new("dropped");
    let (store, topic) = place.open();
    for _ in 0..10 {
        drop(topic.send_async(b"x").unwrap());
        topic.send_oneway(b"y");
    }
    topic.message(b"z").key("k").send_oneway();
    assert!(store.flush(PATIENCE.into()).unwrap());
    let stats = store.stats().unwrap();
    assert_eq!((stats.topics[0].next_seq, stats.oneway_failed), (21, 0));
    let group = store.group("t", "g").open().unwrap();
    let got = group.receive_batch(100, Duration::ZERO).unwrap();
    assert_eq!(got.len(), 21);
    assert_eq!(got[20].key(), Some("k"));
}

#[test]
fn many_threads_are_told_of_their_own_messages() {
    const THREADS: usize = 4;
    const EACH: usize = 500;
    let place = Place::new("threads");
    let (store, topic) = place.open();
    let calls: Arc<Vec<AtomicU32>> = Arc::new((0..THREADS * EACH).map(|_| 0.into()).collect());
    let seqs = list();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (topic, calls, seqs) = (topic.clone(), Arc::clone(&calls), Arc::clone(&seqs));
            scope.spawn(move || {
                for i in 0..EACH {
                    let number = thread * EACH + i;
                    let (calls, seqs) = (Arc::clone(&calls), Arc::clone(&seqs));
                    let pending = topic.send_async(number.to_le_bytes()).unwrap();
                    pending.on_done(move |result| {
                        calls[number].fetch_add(1, Ordering::Relaxed);
                        seqs.lock().push((thread, result.unwrap().seq.unwrap()));
                    });
                    if i % 50 == 0 {
                        assert!(pending.wait(None).unwrap().unwrap().durable);
                    }
                }
            });
        }
    });
    store.close().unwrap();
    assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1));
    let seqs = seqs.lock();
    for thread in 0..THREADS {
        let own = seqs
            .iter()
            .filter(|(of, _)| *of == thread)
            .map(|(_, seq)| *seq);
        assert!(
            own.is_sorted(),
            "the callbacks of thread {thread} are out of order"
        );
    }
    let mut all: Vec<u64> = seqs.iter().map(|(_, seq)| *seq).collect();
    all.sort_unstable();
    assert_eq!(all, (0..(THREADS * EACH) as u64).collect::<Vec<_>>());
}

#[test]
fn a_panic_in_a_callback_ends_only_that_one() {
    let place = Place::new("panics");
    let (store, topic) = place.open();
    let told = Told::new();
    for i in 0..20 {
        let pending = topic.send_async(b"x").unwrap();
        let callback = told.callback(i);
        pending.on_done(move |result| {
            assert!(i % 3 != 0, "this callback is meant to panic");
            callback(result);
        });
        pending.on_done(told.callback(100 + i));
    }
    for i in 0..20 {
        if i % 3 != 0 {
            assert_eq!(told.next().0, i);
        }
        assert_eq!(told.next().0, 100 + i);
    }
    assert!(
        topic
            .send_async(b"y")
            .unwrap()
            .wait(None)
            .unwrap()
            .unwrap()
            .durable
    );
    store.close().unwrap();
    assert!(told.so_far().is_empty());
}

/// Sends the next message from the callback of the one before.
fn chain(topic: &keepq::Topic, left: u32, done: std::sync::mpsc::Sender<()>) {
    let Some(left) = left.checked_sub(1) else {
        return done.send(()).unwrap();
    };
    let next = topic.clone();
    let pending = topic.send_async(left.to_le_bytes()).unwrap();
    pending.on_done(move |result| {
        result.unwrap();
        chain(&next, left, done);
    });
}

#[test]
fn a_callback_may_send_again_and_again() {
    for flush in [Flush::Sync, Flush::Async] {
        let place = Place::new("chain");
        let (store, topic) = place.open_with(|options| options.flush(flush).max_in_flight(1));
        let (done, is_done) = channel();
        chain(&topic, 3000, done);
        is_done.recv_timeout(PATIENCE).unwrap();
        assert_eq!(topic.len().unwrap(), 3000);
        store.close().unwrap();
    }
}

/// Sends on and on from its callbacks, until it is told to stop.
fn chain_until(topic: &keepq::Topic, stop: Arc<AtomicU32>) {
    if stop.load(Ordering::Relaxed) == 0 {
        let next = topic.clone();
        let pending = topic
            .message(b"on")
            .flush(Flush::Async)
            .send_async()
            .unwrap();
        pending.on_done(move |_| chain_until(&next, stop));
    }
}

#[test]
fn callbacks_without_end_keep_nobody_from_the_disk() {
    let place = Place::new("endless");
    let (store, topic) = place.open();
    let stop = Arc::new(AtomicU32::new(0));
    chain_until(&topic, Arc::clone(&stop));
    let told = Told::new();
    topic.send_async(b"x").unwrap().on_done(told.callback(()));
    let in_the_end = told.told.recv_timeout(PATIENCE);
    stop.store(1, Ordering::Relaxed);
    assert!(in_the_end.unwrap().1.unwrap().durable);
    in_time(move || store.close().unwrap());
}

#[test]
fn a_callback_may_wait_for_another_send() {
    let place = Place::new("waits");
    let (store, topic) = place.open();
    let told = Told::new();
    let callback = told.callback(());
    let (inner_store, inner_topic) = (store.clone(), topic.clone());
    topic.send_async(b"one").unwrap().on_done(move |result| {
        let second = inner_topic.send_async(b"two").unwrap();
        assert!(second.wait(None).unwrap().unwrap().durable);
        assert!(inner_topic.send(b"three").unwrap().durable);
        assert!(inner_store.flush(None).unwrap());
        callback(result);
    });
    assert!(told.next().1.unwrap().durable);
    in_time(move || store.close().unwrap());
    drop(topic);
    assert_eq!(place.open().1.len().unwrap(), 3);
}

#[test]
fn a_numbered_send_is_appended_once_and_its_duplicate_named() {
    let place = Place::new("numbered");
    let (store, topic) = place.open();
    let producer = store.producer("loader").unwrap();
    // The second of them goes in chunks, whose identity only its record names.
    let bodies = [vec![1; 100], vec![2; 600_000]];
    let message = |number: usize| OutMessage {
        body: &bodies[number],
        ..OutMessage::default()
    };
    for number in [0, 1] {
        let seq = Some(number as u64);
        let send = || producer.send_async(&topic, seq, &message(number)).unwrap();
        let [first, again] = [send(), send()].map(|one| one.wait(None).unwrap().unwrap());
        assert!(first.durable && again.durable);
        assert_eq!((first.duplicate, again.duplicate), (false, true));
        assert_eq!((first.id, first.seq), (again.id, again.seq));
        producer.send_oneway(&topic, seq, &message(number));
    }
    let gap = producer
        .send_async(&topic, Some(3), &message(0))
        .unwrap_err();
    assert_eq!(gap.code(), Code::ProducerGap);
    assert_eq!(gap.outcome(), Some(Outcome::NotStored));
    producer.send_oneway(&topic, Some(3), &message(0));
    producer.send_oneway(&topic, None, &message(0));
    assert_eq!((producer.next_seq().unwrap(), topic.len().unwrap()), (3, 3));
    let newer = store.producer("loader").unwrap();
    producer.send_oneway(&topic, None, &message(0));
    assert_eq!(store.stats().unwrap().oneway_failed, 2);
    let last = newer.send_async(&topic, None, &message(0)).unwrap();
    assert_eq!(last.wait(None).unwrap().unwrap().seq, Some(3));
    store.close().unwrap();
}
