"""Ctrl-C and time-outs of calls that wait for a disk, or another process, that stands still."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import keepq
import pytest

Run = Callable[..., subprocess.Popen[str]]
Stall = Callable[[keepq.Store], contextlib.AbstractContextManager[None]]

# Nearly all of its time it leads flushes.
LEADER = """
import sys, keepq
with keepq.open(sys.argv[1]) as kq:
    topic = kq.topic("other")
    print("begins", flush=True)
    while True:
        topic.send(b"x" * 1000)
"""

# There was no room in the time, or the process that could make some stands still.
LATE = (keepq.Timeout, keepq.Busy)

# Seconds. No test waits for so long: whatever ends before was ended by something else.
LONG = 100


def state(pid: int) -> str:
    """The letter of a process in /proc: T is stopped."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return text.rpartition(")")[2].split()[0]


def stop(child: subprocess.Popen[str]) -> None:
    """Stops it, and waits until it is."""
    assert child.pid > 1 and child.poll() is None
    os.kill(child.pid, signal.SIGSTOP)
    while state(child.pid) != "T":
        os.sched_yield()


def go_on(child: subprocess.Popen[str]) -> None:
    assert child.pid > 1 and child.poll() is None
    os.kill(child.pid, signal.SIGCONT)


@pytest.fixture
def stall(path: Path, run_python: Run) -> Stall:
    """Has another process stand still in the middle of a flush during a block."""

    @contextlib.contextmanager
    def stalled(kq: keepq.Store) -> Iterator[None]:
        child = run_python(LEADER, path)
        assert child.stdout is not None and child.stdout.readline() == "begins\n"
        stop_in_a_flush(child, kq)
        try:
            yield
            assert state(child.pid) == "T", "the flush was still to come"
        finally:
            # No close may wait for it.
            go_on(child)
            child.kill()

    return stalled


def stop_in_a_flush(child: subprocess.Popen[str], kq: keepq.Store) -> None:
    probe, sent = kq.topic("probe"), kq.topic("other")
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        stop(child)
        try:
            probe.send(b"probe", timeout=0)
        except keepq.SendError as error:
            if f"process {child.pid} is writing" in str(error):
                return
        except keepq.Error:
            pass  # It holds the lock of the log.
        before = len(sent)
        go_on(child)
        # It has to get somewhere else before it is stopped again.
        while len(sent) == before and time.monotonic() < end:
            os.sched_yield()
        time.sleep(random.uniform(0, 0.0005))
    raise AssertionError("it was never stopped in the middle of a flush")


@contextlib.contextmanager
def interrupted_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Ctrl-C in the block as soon as the condition holds; the block ends by that."""
    # A run in the background begins with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    over, main = threading.Event(), threading.get_ident()

    def interrupt() -> None:
        while not condition() and not over.wait(0.001):
            pass
        if not over.is_set():
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            try:
                yield
            finally:
                over.set()
                thread.join()
    finally:
        signal.signal(signal.SIGINT, before)


SENDS: list[Callable[[keepq.Topic, keepq.Producer], object]] = [
    lambda topic, _: topic.send(b"a", timeout=LONG),
    lambda topic, _: topic.send(b"a", timeout=None),
    lambda topic, _: topic.send_many([b"a"], timeout=LONG),
    lambda topic, producer: producer.send(topic, b"a", timeout=LONG),
    lambda topic, producer: producer.send_many(topic, [b"a"], timeout=LONG),
]


@pytest.mark.parametrize("send", SENDS, ids=["send", "for ever", "many", "numbered", "its many"])
def test_ctrl_c_ends_the_wait_for_a_flush_and_the_message_stays_sent(
    kq: keepq.Store, stall: Stall, send: Callable[[keepq.Topic, keepq.Producer], object]
) -> None:
    topic, group, producer = kq.topic("t"), kq.group("t", "g"), kq.producer("p")
    with stall(kq), interrupted_when(lambda: len(topic) == 1):
        send(topic, producer)
    with group.receive(timeout=LONG) as message:
        assert message.body == b"a"
    kq.flush(timeout=LONG)
    assert len(topic) == 1


ACKS: list[Callable[[keepq.Store, keepq.Group, keepq.Message], object]] = [
    lambda kq, group, message: message.ack(),
    lambda kq, group, message: message.ack(flush="sync"),
    lambda kq, group, message: message.reject("why"),
    lambda kq, group, message: kq.ack_many([message]),
    lambda kq, group, message: group.ack_many([message]),
    lambda kq, group, message: kq.ack(message.receipt),
    lambda kq, group, message: kq.reject(message.receipt, "why"),
]
NAMES = ["ack", "sync", "reject", "many", "of the group", "receipt", "rejected receipt"]


@pytest.mark.parametrize("ack", ACKS, ids=NAMES)
def test_ctrl_c_ends_the_wait_of_an_ack_which_holds(
    path: Path, stall: Stall, ack: Callable[[keepq.Store, keepq.Group, keepq.Message], object]
) -> None:
    with keepq.open(path, send_timeout=LONG) as kq:
        topic, group = kq.topic("t"), kq.group("t", "g", ack_flush="sync")
        # The first dead letter makes their stream, which waits for a flush of its own.
        for body in (b"first", b"a"):
            topic.send(body)
        group.receive(timeout=LONG).reject("why")
        message = group.receive(timeout=LONG)
        with stall(kq), interrupted_when(lambda: group.stats().in_flight == 0), message:
            ack(kq, group, message)
        # Neither the end of the block nor that of the message takes it back.
        del message
        assert group.poll() is None
        assert group.stats().in_flight == 0


def fill(topic: keepq.Topic) -> int:
    """Fills what is not flushed yet up to the brim; gives how many messages the topic has then."""
    try:
        while True:
            # Shorter times end when another thread has the lock of the log for a moment.
            topic.send(b"x" * 1000, flush="async", timeout=0.5)
    except LATE:
        return len(topic)


# Those that wait for room among what is not flushed.
WAITS: list[Callable[[keepq.Topic, keepq.Producer], object]] = [
    lambda topic, _: topic.send(b"x" * 1000, flush="async", timeout=LONG),
    lambda topic, _: topic.send_many([b"x" * 1000], flush="async", timeout=LONG),
    lambda topic, _: topic.send_async(b"x" * 1000, timeout=LONG),
    lambda topic, _: topic.send_oneway(b"x" * 1000, timeout=LONG),
    lambda topic, producer: producer.send(topic, b"x" * 1000, timeout=LONG),
]


@pytest.mark.parametrize("send", WAITS, ids=["send", "many", "async", "one-way", "numbered"])
def test_ctrl_c_ends_the_wait_for_room_in_the_log(
    path: Path, stall: Stall, send: Callable[[keepq.Topic, keepq.Producer], object]
) -> None:
    main = threading.get_ident()

    def waits() -> bool:
        frame = sys._current_frames()[main]
        return frame.f_code.co_name == "<lambda>" and state(main_task()) == "S"

    with keepq.open(path, ring_size=1 << 20) as kq:
        topic, producer = kq.topic("t"), kq.producer("p")
        with stall(kq):
            kept = fill(topic)
            with interrupted_when(waits):
                send(topic, producer)
            assert len(topic) == kept, "nothing was stored"
        topic.send(b"x" * 1000, timeout=LONG)


def main_task() -> int:
    """The main thread's task, which has the number of its process."""
    return os.getpid()


@pytest.mark.parametrize("seconds", [0.9, 2.0])
def test_a_send_takes_its_time_once(path: Path, stall: Stall, seconds: float) -> None:
    with keepq.open(path, ring_size=1 << 20) as kq:
        topic = kq.topic("t")
        ways: list[Callable[[], object]] = [
            lambda: topic.send(b"x" * 1000, timeout=seconds),
            lambda: topic.send_async(b"x" * 1000, timeout=seconds),
            lambda: topic.send_many([b"x" * 1000] * 3, timeout=seconds).failed[0][1],
        ]
        with stall(kq):
            fill(topic)
            for way in ways:
                began = time.monotonic()
                with contextlib.suppress(*LATE):
                    assert isinstance(way(), LATE)
                took = time.monotonic() - began
                # Begun anew it would be twice the time.
                assert seconds * 0.95 <= took < seconds * 1.8, took


def test_a_send_that_is_not_confirmed_ends_its_future_with_the_error(
    kq: keepq.Store, stall: Stall
) -> None:
    topic = kq.topic("t")
    called: list[object] = []
    with stall(kq):
        futures = [topic.send_async(b"x", timeout=0.3) for _ in range(4)]
        futures[3].add_done_callback(called.append)
        one = concurrent.futures.wait(futures, LONG, concurrent.futures.FIRST_EXCEPTION)
        assert one.done <= set(futures) and one.done
        assert concurrent.futures.wait(futures, LONG).done == set(futures)
        for future in futures:
            with pytest.raises(keepq.SendError) as caught:
                future.result(timeout=LONG)
            assert caught.value is future.exception() and caught.value.outcome == "maybe_stored"
            assert "state=finished raised SendError" in repr(future)
        # Nobody has asked before it ended.
        late = topic.send_async(b"x", timeout=0.3)
        with pytest.raises(keepq.SendError):
            late.result(timeout=LONG)
        told: list[object] = []
        late.add_done_callback(told.append)
        assert told == [late]
    kq.flush(timeout=LONG)
    assert called == [futures[3]]


def test_ctrl_c_ends_the_wait_for_a_future(kq: keepq.Store, stall: Stall) -> None:
    topic = kq.topic("t")
    with stall(kq):
        plain, told = (topic.send_async(b"x", timeout=LONG) for _ in range(2))
        told.add_done_callback(lambda _: None)
        main = threading.get_ident()

        def waits() -> bool:
            frame: FrameType | None = sys._current_frames()[main]
            while frame is not None and frame.f_code.co_name != "ask":
                frame = frame.f_back
            return frame is not None

        def ask(future: concurrent.futures.Future[keepq.SendResult]) -> None:
            future.result(timeout=LONG)

        for future in (plain, told):
            with interrupted_when(waits):
                ask(future)
            assert not future.done()
    assert plain.result(timeout=LONG).durable and told.result(timeout=LONG).durable
