//! A `Pending` is a future for any executor.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Wake, Waker};

use keepq::{Code, Pending, Result, Sent};

use crate::{Gate, PATIENCE, Place, in_time};

struct Tell(parking_lot::Mutex<Sender<()>>);

impl Wake for Tell {
    fn wake(self: Arc<Self>) {
        // Whoever is not there any more needs no waking.
        let _ = self.0.lock().send(());
    }
}

fn waker() -> (Waker, std::sync::mpsc::Receiver<()>) {
    let (tell, told) = channel();
    (Arc::new(Tell(tell.into())).into(), told)
}

fn poll(pending: &mut Pending, waker: &Waker) -> Poll<Result<Sent>> {
    Future::poll(Pin::new(pending), &mut Context::from_waker(waker))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let (waker, told) = waker();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => told.recv_timeout(PATIENCE).unwrap(),
        }
    }
}

/// Executors move futures between threads.
const _: () = {
    const fn moves_and_is_shared<T: Send + Sync + Unpin + 'static>() {}
    moves_and_is_shared::<Pending>();
};

#[test]
fn sends_can_be_awaited() {
    let place = Place::new("await");
    let (store, topic) = place.open();
    let sent = block_on(async {
        let both = (topic.send_async(b"one")?, topic.send_async(b"two")?);
        let second = both.1.await?;
        Ok::<_, keepq::Error>((both.0.await?, second))
    })
    .unwrap();
    assert!(sent.0.durable && sent.1.durable);
    assert_eq!((sent.0.seq, sent.1.seq), (Some(0), Some(1)));
    store.close().unwrap();
}

#[test]
fn only_the_last_waker_is_woken_and_a_dropped_future_unsends_nothing() {
    let place = Place::new("wakers");
    let (store, topic) = place.open();
    // While a callback runs, nobody is told of anything: both wakers are given in time.
    let (gate, stand) = Gate::new();
    topic.send_async(b"gate").unwrap().on_done(stand);
    gate.wait_until_entered();
    let mut pending = topic.send_async(b"x").unwrap();
    let mut dropped = topic.send_async(b"y").unwrap();
    let ((first, first_told), (last, last_told)) = (waker(), waker());
    let before = [
        poll(&mut pending, &first),
        poll(&mut pending, &last),
        poll(&mut dropped, &first),
    ];
    drop(dropped);
    gate.open();
    if before[1].is_pending() {
        last_told.recv_timeout(PATIENCE).unwrap();
    }
    let Poll::Ready(result) = poll(&mut pending, &last) else {
        panic!("it is done");
    };
    assert!(result.unwrap().durable);
    let Poll::Ready(again) = poll(&mut pending, &first) else {
        panic!("it stays done");
    };
    assert!(again.is_ok());
    in_time(move || store.close().unwrap());
    drop(first);
    assert!(
        first_told.try_iter().count() <= 1,
        "only for what was dropped"
    );
    drop(topic);
    assert_eq!(place.open().1.len().unwrap(), 3);
}

#[test]
fn a_future_of_a_closed_store_is_ready() {
    let place = Place::new("await-closed");
    let (store, topic) = place.open();
    let pending = topic.send_async(b"x").unwrap();
    store.close().unwrap();
    assert!(block_on(pending).unwrap().durable);
    assert_eq!(
        topic.send_async(b"y").map(|_| ()).unwrap_err().code(),
        Code::Closed
    );
}
