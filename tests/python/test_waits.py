"""Waits, threads and processes."""

from __future__ import annotations

import _thread
import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import keepq
import pytest
from conftest import soon

Run = Callable[..., subprocess.Popen[str]]

# Sends as many messages as it is told to, and says so when they are confirmed.
SENDER = """
import sys, keepq
path, n = sys.argv[1], int(sys.argv[2])
with keepq.open(path) as kq:
    for i in range(n):
        kq.topic("t").send(b"%d" % i)
print("sent", flush=True)
"""

# Says when it waits, receives one message, says what it is, and holds it until its input ends.
HOLDER = """
import sys, keepq
with keepq.open(sys.argv[1]) as kq:
    group = kq.group("t", "g")
    print("waiting", flush=True)
    msg = group.receive(timeout=30, detached=sys.argv[2] == "detached")
    print(msg.receipt, flush=True)
    sys.stdin.read()
"""


def line_of(child: subprocess.Popen[str]) -> str:
    """The next line a child says; fails with its errors when it said nothing."""
    assert child.stdout is not None and child.stderr is not None
    line = child.stdout.readline()
    assert line, child.stderr.read()
    return line.strip()


def test_iteration_gives_messages_until_the_group_is_closed(kq: keepq.Store) -> None:
    kq.topic("t").send_many([b"a", b"b", b"c"])
    group = kq.group("t", "g")
    seen = []
    for msg in group:
        with msg:
            seen.append(msg.body)
        if len(seen) == 3:
            group.close()
    assert seen == [b"a", b"b", b"c"]
    with pytest.raises(keepq.Closed):
        group.poll()
    assert kq.group("t", "g").poll() is None


def test_closing_a_group_ends_an_iteration_that_waits_in_another_thread(kq: keepq.Store) -> None:
    group = kq.group("t", "g")
    seen: list[bytes] = []
    first = threading.Event()

    def consume() -> None:
        for msg in group:
            with msg:
                seen.append(msg.body)
            first.set()

    thread = threading.Thread(target=consume)
    thread.start()
    kq.topic("t").send(b"x")
    assert first.wait(60)
    group.close()
    thread.join(60)
    assert not thread.is_alive()
    assert seen == [b"x"]


def test_other_threads_run_while_one_waits(kq: keepq.Store) -> None:
    group, topic = kq.group("t", "g"), kq.topic("t")
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(group.receive(timeout=30).body))
    thread.start()
    topic.send(b"from another thread")
    thread.join(60)
    assert not thread.is_alive() and got == [b"from another thread"]


def test_many_threads_send_and_receive_each_message_once(kq: keepq.Store) -> None:
    topic, each, threads = kq.topic("t"), 50, 4
    group = kq.group("t", "g")
    seen: list[bytes] = []

    def send(n: int) -> None:
        for i in range(each):
            topic.send(b"%d" % (n * each + i), flush="async")

    def receive() -> None:
        for msg in group:
            with msg:
                seen.append(msg.body)
            if len(seen) >= each * threads:
                group.close()

    all_threads = [threading.Thread(target=send, args=(n,)) for n in range(threads)]
    all_threads += [threading.Thread(target=receive) for _ in range(threads)]
    for thread in all_threads:
        thread.start()
    for thread in all_threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(map(int, seen)) == list(range(each * threads))


def test_threads_share_a_producer_and_every_message_is_stored(kq: keepq.Store) -> None:
    topic, producer, threads, each = kq.topic("t"), kq.producer("p"), 4, 100
    failed: list[object] = []

    def send() -> None:
        for _ in range(each):
            batch = [b"a", keepq.Msg(b"never", key="k" * 256), b"b"]
            many = producer.send_many(topic, batch, flush="async")
            # What is refused takes no number: what is behind it is sent all the same.
            failed.extend(index for index, _ in many.failed)
            assert not any(result.duplicate for result in many.ok)
            assert not producer.send(topic, b"c", flush="async").duplicate

    all_threads = [threading.Thread(target=send) for _ in range(threads)]
    for thread in all_threads:
        thread.start()
    for thread in all_threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failed == [1] * (threads * each)
    assert producer.next_seq == len(topic) == 3 * threads * each
    # What is not on disk yet is not to be seen.
    kq.flush()
    numbers = [message.producer_seq for message in topic.browse()]
    assert numbers == list(range(3 * threads * each))


def test_ctrl_c_ends_a_wait(kq: keepq.Store) -> None:
    group = kq.group("t", "g")
    # A run in the background begins with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), soon(_thread.interrupt_main):
            group.receive(timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_handler_runs_during_a_wait(kq: keepq.Store) -> None:
    kq.topic("t")
    group = kq.group("t", "g")

    def send(*_: object) -> None:
        kq.topic("t").send(b"from the handler")

    before = signal.signal(signal.SIGUSR1, send)
    try:
        with soon(lambda: os.kill(os.getpid(), signal.SIGUSR1)):
            assert group.receive(timeout=60).body == b"from the handler"
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_descriptor_tells_when_there_is_a_message(kq: keepq.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g")
    assert group.fileno() == group.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(group, selectors.EVENT_READ)
        assert group.poll() is None
        assert selector.select(0.05) == []
        topic.send(b"a")
        for _ in range(2):
            assert selector.select(60)
            msg = group.poll()
            assert msg is not None
            msg.nack(0)
        [held] = group.receive_batch(5, timeout=0)
        assert held.body == b"a"
        assert group.poll() is None
        assert selector.select(0.05) == []
        kq.close()
        assert selector.select(60), "a closed store is told of, too"
    with pytest.raises(keepq.Closed):
        group.poll()


def test_a_message_that_is_polled_can_be_detached(kq: keepq.Store) -> None:
    kq.topic("t").send(b"x")
    group = kq.group("t", "g")
    msg = group.poll(detached=True)
    assert msg is not None
    receipt = msg.receipt
    del msg
    assert group.poll() is None
    kq.ack(receipt)


def test_another_process_sends(kq: keepq.Store, path: Path, run_python: Run) -> None:
    child = run_python(SENDER, path, 3)
    group = kq.group("t", "g")
    bodies = []
    for _ in range(3):
        with group.receive(timeout=30) as msg:
            bodies.append(msg.body)
    assert bodies == [b"0", b"1", b"2"]
    assert line_of(child) == "sent"
    assert child.wait(60) == 0


def test_a_waiting_process_is_woken(kq: keepq.Store, path: Path, run_python: Run) -> None:
    child = run_python(HOLDER, path, "attached")
    assert line_of(child) == "waiting"
    kq.topic("t").send(b"x")
    receipt = line_of(child)
    kq.ack(receipt)
    with pytest.raises(keepq.LeaseLost):
        kq.ack(receipt)


def test_a_killed_process_gives_its_message_back(
    kq: keepq.Store, path: Path, run_python: Run
) -> None:
    kq.topic("t").send(b"x")
    child = run_python(HOLDER, path, "attached")
    assert line_of(child) == "waiting"
    line_of(child)
    group = kq.group("t", "g")
    assert group.poll() is None
    assert child.pid > 1
    child.kill()
    child.wait(60)
    msg = group.receive(timeout=60)
    assert (msg.body, msg.attempt) == (b"x", 2)


def test_a_detached_lease_outlives_its_process(
    kq: keepq.Store, path: Path, run_python: Run
) -> None:
    kq.topic("t").send(b"x")
    group = kq.group("t", "g", lease=600)
    child = run_python(HOLDER, path, "detached")
    assert line_of(child) == "waiting"
    receipt = line_of(child)
    assert child.pid > 1
    child.kill()
    child.wait(60)
    with pytest.raises(keepq.Empty):
        group.receive(timeout=0.3)
    kq.ack(receipt)
    assert group.stats().in_flight == 0


def test_the_command_line_is_in_the_package(path: Path, run_python: Run) -> None:
    code = "import sys; sys.argv[0] = 'keepq'; from keepq.__main__ import main; sys.exit(main())"
    child = run_python(code, "--help")
    out, error = child.communicate(timeout=60)
    assert child.returncode == 0, error
    assert "send" in out and "recv" in out
    child = run_python(code, "recv", "t", "-g", "g", "--store", path, "--wait", "0")
    child.communicate(timeout=60)
    assert child.returncode == 4, "a missing store is exit code 4"
    assert not path.exists()
