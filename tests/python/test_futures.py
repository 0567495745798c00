"""The future of a send is a concurrent.futures.Future to everybody who takes one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import gc
import logging
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future
from pathlib import Path
from typing import Any

import keepq
import pytest

# Seconds. Whatever takes as long has failed.
LONG = 60


class Held:
    """A store whose thread for results is held in a callback, so that nothing is delivered."""

    def __init__(self, kq: keepq.Store) -> None:
        self.topic = kq.topic("t")
        self._entered, self._released = threading.Event(), threading.Event()
        self.first = self.topic.send_async(b"first", on_success=self._hold)
        assert self._entered.wait(LONG)

    def _hold(self, _: object) -> None:
        self._entered.set()
        assert self._released.wait(LONG)

    def send(self) -> Future[keepq.SendResult]:
        """One whose result waits for release()."""
        return self.topic.send_async(b"x", on_success=lambda _: None)

    def release(self) -> None:
        self._released.set()


@pytest.fixture
def held(kq: keepq.Store) -> Iterator[Held]:
    made = Held(kq)
    yield made
    made.release()


class Numbers:
    """A future of an executor, to compare with."""

    def __init__(self) -> None:
        self.future: Future[int] = Future()
        self.future.set_running_or_notify_cancel()

    def end(self) -> None:
        self.future.set_result(1)


def facts(future: Future[Any]) -> list[object]:
    """What a future says of itself."""
    return [
        isinstance(future, Future),
        future.__class__ is Future,
        future.done(),
        future.running(),
        future.cancelled(),
        future.cancel(),
    ]


def test_it_says_of_itself_what_any_running_and_finished_future_does(held: Held) -> None:
    ours, theirs = held.send(), Numbers()
    running = facts(ours)
    assert running == facts(theirs.future)
    for future in (ours, theirs.future):
        for seconds in (0, 0.01, -1):
            for ask in (future.result, future.exception):
                with pytest.raises(concurrent.futures.TimeoutError):
                    ask(timeout=seconds)
    assert "state=running" in repr(ours)
    held.release()
    theirs.end()
    ours.result(timeout=LONG)
    assert facts(ours) == facts(theirs.future) != running
    assert ours.exception() is theirs.future.exception() is None
    assert ours.result() is ours.result(0)
    assert "state=finished returned SendResult" in repr(ours)


def test_nobody_else_ends_it(kq: keepq.Store) -> None:
    future = kq.topic("t").send_async(b"x")
    ends: list[Callable[[], object]] = [
        lambda: future.set_result(future.result(timeout=LONG)),
        lambda: future.set_exception(ValueError()),
        future.set_running_or_notify_cancel,
        lambda: pickle.dumps(future),
        lambda: copy.copy(future),
    ]
    for end in ends:
        with pytest.raises((RuntimeError, TypeError)):
            end()
    assert future.result(timeout=LONG).seq == 0


def test_a_program_waits_for_some_or_all(held: Held) -> None:
    executor = Numbers()
    sent = [held.send() for _ in range(3)]
    mixed: list[Future[Any]] = [*sent, executor.future]
    assert concurrent.futures.wait(mixed, timeout=0) == (set(), set(mixed))
    executor.end()
    assert concurrent.futures.wait(mixed, LONG, FIRST_COMPLETED) == ({executor.future}, set(sent))
    threading.Timer(0.01, held.release).start()
    # They were not done when this began, or some were: it ends in either case.
    assert concurrent.futures.wait(sent, LONG) == (set(sent), set())
    assert concurrent.futures.wait(sent, 0, FIRST_EXCEPTION) == (set(sent), set())
    assert sorted(future.result(0).seq or 0 for future in sent) == [1, 2, 3]


def test_many_threads_wait_in_every_way_while_results_come(path: Path) -> None:
    with keepq.open(path, max_in_flight=64) as kq:
        topic = kq.topic("t")
        futures: list[Future[keepq.SendResult]] = []
        called: list[Future[keepq.SendResult]] = []
        failed: list[BaseException] = []
        halfway, sent = threading.Event(), threading.Event()

        def send() -> None:
            for number in range(400):
                future = topic.send_async(b"x", timeout=LONG)
                if number % 3 == 0:
                    future.add_done_callback(called.append)
                futures.append(future)
                if number == 200:
                    halfway.set()
            halfway.set()

        def results() -> None:
            assert all(future.result(timeout=LONG).durable for future in list(futures))

        def completed() -> None:
            mine = list(futures)
            assert set(concurrent.futures.as_completed(mine, timeout=LONG)) == set(mine)

        def wait_for_all() -> None:
            mine = list(futures)
            assert concurrent.futures.wait(mine, LONG).done == set(mine)

        def wait_for_each() -> None:
            left = set(futures)
            while left:
                done, left = concurrent.futures.wait(left, LONG, FIRST_COMPLETED)
                assert done and all(future.done() for future in done)

        def again_and_again(work: Callable[[], None]) -> None:
            try:
                halfway.wait(LONG)
                while not sent.is_set():
                    work()
                work()
            except BaseException as error:
                failed.append(error)

        ways = [results, completed, wait_for_all, wait_for_each]
        threads = [threading.Thread(target=again_and_again, args=(way,)) for way in ways]
        senders = [threading.Thread(target=send) for _ in range(2)]
        for thread in [*threads, *senders]:
            thread.start()
        for thread in senders:
            thread.join(LONG)
        sent.set()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive()
        kq.flush(timeout=LONG)
        assert failed == []
        assert len(futures) == 800
        # Each of them once.
        assert sorted(map(id, called)) == sorted(
            id(future) for future in futures if future in set(called)
        )
        assert len(called) == 2 * 134


def test_callbacks_are_called_once_and_in_order_before_and_after(held: Held) -> None:
    future = held.send()
    called: list[tuple[int, bool]] = []

    def note(number: int) -> Callable[[Future[keepq.SendResult]], None]:
        return lambda ended: called.append((number, ended.done()))

    for number in range(3):
        future.add_done_callback(note(number))
    assert called == []
    held.release()
    assert concurrent.futures.wait([future], LONG).done
    held.topic.send_async(b"last", on_success=lambda _: None).result(timeout=LONG)
    assert called == [(0, True), (1, True), (2, True)]
    threads = []
    future.add_done_callback(lambda ended: threads.append((threading.get_ident(), ended)))
    assert threads == [(threading.get_ident(), future)], "at once, by who adds it"


def test_callbacks_that_raise_are_logged_and_hold_up_nobody(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(_: object) -> None:
        raise ValueError("on purpose")

    def worse(_: object) -> None:
        raise SystemExit("on purpose")

    future = held.send()
    called: list[object] = []
    for callback in (bad, worse, called.append):
        future.add_done_callback(callback)
    later = held.send()
    with caplog.at_level(logging.ERROR):
        held.release()
        later.result(timeout=LONG)
        future.add_done_callback(bad)
    assert called == [future]
    logged = [(record.name, record.exc_info and record.exc_info[0]) for record in caplog.records]
    assert logged == [
        ("concurrent.futures", ValueError),
        ("keepq", SystemExit),
        ("concurrent.futures", ValueError),
    ]


def test_an_event_loop_awaits_it(kq: keepq.Store) -> None:
    topic = kq.topic("t")

    async def run() -> list[int | None]:
        futures = [asyncio.wrap_future(topic.send_async(b"x")) for _ in range(50)]
        given_up = asyncio.wrap_future(topic.send_async(b"x"))
        given_up.cancel()
        results = await asyncio.wait_for(asyncio.gather(*futures), LONG)
        # It is sent all the same.
        last = await asyncio.wait_for(asyncio.wrap_future(topic.send_async(b"x")), LONG)
        return [result.seq for result in [*results, last]]

    assert asyncio.run(run()) == [*range(50), 51]
    assert len(topic) == 52


def test_it_outlives_its_store(path: Path) -> None:
    with keepq.open(path) as kq:
        topic = kq.topic("t")
        futures = [topic.send_async(b"x") for _ in range(20)]
    called: list[object] = []
    for future in futures:
        future.add_done_callback(called.append)
    assert called == futures
    assert concurrent.futures.wait(futures, 0).done == set(futures)
    assert all(future.result(0).durable for future in futures)


def test_callbacks_added_while_the_store_is_closed_are_called(path: Path) -> None:
    for _ in range(20):
        kq = keepq.open(path)
        called: list[object] = []
        topic = kq.topic("t")
        futures = [topic.send_async(b"x") for _ in range(50)]
        thread = threading.Thread(target=kq.close)
        thread.start()
        for future in futures:
            future.add_done_callback(called.append)
        thread.join(LONG)
        assert concurrent.futures.wait(futures, LONG).done == set(futures)
        for future in futures:
            future.result(timeout=LONG)
        # Those that were added too late for the thread were called by who added them.
        assert len(called) == 50


def test_callbacks_of_sends_beside_a_close_are_called_once(path: Path) -> None:
    """A send that was accepted tells its callback, however the close falls."""
    accepted = 0
    for _ in range(100):
        kq = keepq.open(path, flush="async")
        topic = kq.topic("t")
        called: list[object] = []
        futures: list[object] = []

        def send(
            topic: keepq.Topic = topic,
            called: list[object] = called,
            futures: list[object] = futures,
        ) -> None:
            with contextlib.suppress(keepq.Closed):
                for _ in range(200):
                    futures.append(topic.send_async(b"x", on_success=called.append))

        senders = [threading.Thread(target=send) for _ in range(2)]
        for sender in senders:
            sender.start()
        kq.close()
        for sender in senders:
            sender.join(LONG)
        assert len(called) == len(futures)
        accepted += len(futures)
    assert accepted > 0


def test_a_circle_is_garbage(kq: keepq.Store) -> None:
    class Callback:
        future: object

        def __call__(self, _: object) -> None:
            pass

    future, callback = kq.topic("t").send_async(b"x"), Callback()
    callback.future = future
    future.add_done_callback(callback)
    gone: list[Callable[[], object]] = [weakref.ref(future), weakref.ref(callback)]
    kq.flush(timeout=LONG)
    future.result(timeout=LONG)
    # The flush returns when the thread has come back for the next batch.
    kq.flush(timeout=LONG)
    del future, callback
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
