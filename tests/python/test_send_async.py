"""Asynchronous and one-way sends: futures, callbacks, room, and what ends them."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import subprocess
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import keepq
import pytest

Run = Callable[..., subprocess.Popen[str]]


def test_a_future_gets_the_result_of_its_send(kq: keepq.Store) -> None:
    topic = kq.topic("t")
    futures = [topic.send_async(b"%d" % i, key="k", headers={"h": b"v"}) for i in range(100)]
    assert all(isinstance(f, concurrent.futures.Future) for f in futures)
    results = [f.result(timeout=60) for f in futures]
    assert [r.seq for r in results] == list(range(100))
    assert all(r.durable and r.status is keepq.SendStatus.SEND_OK for r in results)
    message = kq.group("t", "g").receive(timeout=5)
    assert (message.id, message.body, message.key) == (results[0].id, b"0", "k")
    assert message.headers == {"h": b"v"}


def test_an_asynchronous_flush_is_confirmed_at_once(kq: keepq.Store) -> None:
    future = kq.topic("t").send_async(b"x", flush="async")
    assert future.done()
    assert not future.result().durable


def test_callbacks_get_results_in_order_on_one_other_thread(kq: keepq.Store) -> None:
    topic, got, threads = kq.topic("t"), [], set()

    def note(result: keepq.SendResult) -> None:
        got.append(result.seq)
        threads.add(threading.get_ident())

    for i in range(200):
        topic.send_async(b"x", flush="async" if i % 7 == 0 else None, on_success=note)
    kq.flush(timeout=60)
    assert sorted(seq for seq in got if seq is not None) == list(range(200))
    sync = [seq for seq in got if seq is not None and seq % 7 != 0]
    assert sync == sorted(sync)
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_a_refused_send_raises_from_the_call_and_waits_for_nothing(kq: keepq.Store) -> None:
    called: list[object] = []
    with pytest.raises(keepq.LimitExceeded) as caught:
        kq.topic("t").send_async(
            b"x", key="k" * 256, on_success=called.append, on_exception=called.append
        )
    assert caught.value.outcome == "not_stored"
    kq.flush(timeout=60)
    assert called == []


def test_a_callback_that_raises_is_logged_and_nothing_is_lost(
    kq: keepq.Store, caplog: pytest.LogCaptureFixture
) -> None:
    topic = kq.topic("t")
    good: list[keepq.SendResult] = []

    def bad(_: object) -> None:
        raise SystemExit("on purpose")

    with caplog.at_level(logging.ERROR, logger="keepq"):
        first = topic.send_async(b"a", on_success=bad)
        second = topic.send_async(b"b", on_success=good.append)
        kq.flush(timeout=60)
    assert first.result().seq == 0
    assert good == [second.result()]
    [record] = caplog.records
    assert record.name == "keepq" and record.exc_info is not None
    assert str(record.exc_info[1]) == "on purpose"


def test_a_future_cannot_be_cancelled(kq: keepq.Store) -> None:
    topic = kq.topic("t")
    future = topic.send_async(b"x")
    assert not future.cancel()
    assert future.result(timeout=60).seq == 0
    assert len(topic) == 1


def test_callbacks_may_send_flush_and_close(path: Path) -> None:
    kq = keepq.open(path)
    topic, done, order = kq.topic("t"), threading.Event(), []

    def last(result: keepq.SendResult) -> None:
        order.append(result.seq)
        kq.flush(timeout=60)
        kq.close()
        done.set()

    def first(result: keepq.SendResult) -> None:
        order.append(result.seq)
        topic.send_async(b"b", on_success=last)

    topic.send_async(b"a", on_success=first)
    assert done.wait(60)
    kq.close()
    assert order == [0, 1]
    with pytest.raises(keepq.Closed):
        topic.send_async(b"c")


def test_when_too_many_are_in_flight_a_send_waits_or_is_refused(path: Path) -> None:
    release, entered = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        release.wait(30)

    with keepq.open(path, max_in_flight=2) as kq:
        topic = kq.topic("t")
        topic.send_async(b"a", on_success=hold)
        assert entered.wait(60)
        topic.send_async(b"b", on_success=hold)
        with pytest.raises(keepq.Full, match="max_in_flight") as full:
            topic.send_async(b"c", when_full="raise")
        with pytest.raises(keepq.Timeout) as late:
            topic.send_async(b"c", timeout=0.2)
        assert full.value.outcome == late.value.outcome == "not_stored"
        assert full.value.retriable
        with pytest.raises(keepq.InvalidArgument, match="sometimes"):
            topic.send_async(b"c", when_full="sometimes")  # type: ignore[arg-type]
        waits = threading.Thread(target=lambda: topic.send_async(b"c"))
        waits.start()
        release.set()
        waits.join(60)
        assert not waits.is_alive()
        kq.flush(timeout=60)
        assert len(topic) == 3


def test_a_callback_that_sends_does_not_wait_for_the_room_only_it_can_make(path: Path) -> None:
    with keepq.open(path, max_in_flight=1) as kq:
        topic, left = kq.topic("t"), [5]

        def again(_: object) -> None:
            left[0] -= 1
            if left[0]:
                topic.send_async(b"x", on_success=again, timeout=5)

        topic.send_async(b"x", on_success=again)
        assert wait_for(lambda: left[0] == 0, kq)
        assert len(topic) == 5


def wait_for(condition: Callable[[], bool], kq: keepq.Store) -> bool:
    """Flushes until it holds: each flush waits for the callbacks of what was sent before."""
    for _ in range(1000):
        if condition():
            return True
        kq.flush(timeout=60)
    return False


def test_close_delivers_every_result(path: Path) -> None:
    got: list[object] = []
    kq = keepq.open(path)
    topic = kq.topic("t")
    futures = [topic.send_async(b"x", on_success=got.append) for _ in range(500)]
    kq.close()
    assert len(got) == 500
    assert all(f.done() and f.result().durable for f in futures)


def test_a_store_that_is_dropped_delivers_every_result(path: Path) -> None:
    def send() -> list[concurrent.futures.Future[keepq.SendResult]]:
        topic = keepq.open(path).topic("t")
        return [topic.send_async(b"x") for _ in range(100)]

    futures = send()
    gc.collect()
    assert [f.result(timeout=60).seq for f in futures] == list(range(100))


def test_results_are_not_kept_alive(kq: keepq.Store) -> None:
    class Callback:
        def __call__(self, _: object) -> None:
            pass

    callback = Callback()
    gone = weakref.ref(callback)
    kq.topic("t").send_async(b"x", on_success=callback).result(timeout=60)
    # The flush returns when the thread has come back for the next batch.
    kq.flush(timeout=60)
    del callback
    gc.collect()
    assert gone() is None


def test_many_threads_send_asynchronously(path: Path) -> None:
    with keepq.open(path, max_in_flight=64) as kq:
        topic = kq.topic("t")
        results: list[int | None] = []

        def send() -> None:
            futures = [topic.send_async(b"x", timeout=30) for _ in range(300)]
            results.extend(f.result(timeout=30).seq for f in futures)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert sorted(seq for seq in results if seq is not None) == list(range(1200))


def test_one_way_sends_arrive_and_failures_are_counted(kq: keepq.Store) -> None:
    topic = kq.topic("t")
    topic.send_oneway(b"x", key="k")
    topic.send_oneway(b"x", key="k" * 256)
    kq.flush(timeout=60)
    assert kq.group("t", "g").receive(timeout=5).key == "k"
    assert (len(topic), kq.stats().oneway_failed) == (1, 1)
    with pytest.raises(TypeError):
        topic.send_oneway("text")


def test_a_producer_sends_asynchronously_and_one_way(kq: keepq.Store) -> None:
    loader, topic = kq.producer("loader"), kq.topic("t")
    first = loader.send_async("t", b"0", seq=0)
    again = loader.send_async(topic, b"0", seq=0)
    assert not first.result(timeout=60).duplicate and again.result(timeout=60).duplicate
    loader.send_oneway("t", b"1")
    loader.send_oneway("t", b"9", seq=9)
    kq.flush(timeout=60)
    assert (loader.next_seq, len(topic), kq.stats().oneway_failed) == (2, 1 + 1, 1)
    with pytest.raises(keepq.ProducerGap):
        loader.send_async("t", b"9", seq=9)


# Leaves with sends in flight, in the way its argument says.
LEAVER = """
import os, sys, keepq
kq = keepq.open(sys.argv[1])
topic = kq.topic("t")
def tell(result):
    os.write(1, b"%d\\n" % result.seq)
futures = [topic.send_async(b"x", on_success=tell) for _ in range(200)]
if sys.argv[2] == "exits":
    sys.exit(0)
if sys.argv[2] == "raises":
    raise RuntimeError("on purpose")
os._exit(0)
"""


@pytest.mark.parametrize("way", ["exits", "raises"])
def test_the_end_of_the_interpreter_loses_no_callback(
    path: Path, run_python: Run, way: str
) -> None:
    out, error = run_python(LEAVER, path, way).communicate(timeout=60)
    assert out.split() == [str(i) for i in range(200)], error
    assert ("on purpose" in error) == (way == "raises")
    assert len(error.splitlines()) <= 4, error


def test_an_end_without_goodbye_loses_no_message(path: Path, run_python: Run) -> None:
    child = run_python(LEAVER, path, "vanishes")
    child.communicate(timeout=60)
    assert child.returncode == 0
    with keepq.open(path) as kq:
        assert len(kq.topic("t")) == 200
