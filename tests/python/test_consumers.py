"""Consumers without a name, which end with what has them; and RocketMQ's waits."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import keepq
import pytest


def names(kq: keepq.Store) -> list[str]:
    """Of all consumers without a name."""
    return [group.name for group in kq.stats().groups if group.name.startswith("g%%")]


def wait_for(kq: keepq.Store, count: int) -> None:
    """Waits until so many of them are left."""
    until = time.monotonic() + 60
    while len(names(kq)) != count:
        assert time.monotonic() < until, names(kq)
        time.sleep(0.01)


def test_each_consumer_without_a_name_gets_every_message_and_ends(kq: keepq.Store) -> None:
    topic = kq.topic("t")
    topic.send(b"1")
    one = kq.group("t", "g", broadcast=True)
    two = kq.group("t", "g", broadcast=True, start="latest")
    assert one.name.startswith("g%%") and one.name != two.name
    topic.send(b"2")
    assert [m.body for m in one.receive_batch(9, timeout=5)] == [b"1", b"2"]
    message = two.receive(timeout=5)
    assert message.body == b"2"
    assert sorted(names(kq)) == sorted([one.name, two.name])
    del one
    gc.collect()
    assert names(kq) == [two.name]
    # What it received holds it, too.
    name = two.name
    del two
    gc.collect()
    assert names(kq) == [name]
    message.reject("bad")
    assert kq.topic(f"%DLQ%t%{name}", create=False).name
    del message
    gc.collect()
    assert names(kq) == []
    with pytest.raises(keepq.NotFound):
        kq.topic(f"%DLQ%t%{name}", create=False)
    with pytest.raises(keepq.NotFound):
        kq.group("t", "g", broadcast=True, create=False)


def test_a_consumer_without_a_name_ends_with_its_store(path: Path, kq: keepq.Store) -> None:
    with keepq.open(path) as other:
        group = other.group("t", "g", broadcast=True)
        assert names(kq) == [group.name]
    assert names(kq) == []
    with pytest.raises(keepq.Closed):
        group.receive(timeout=0)


def test_a_consumer_without_a_name_ends_with_its_process(
    path: Path, kq: keepq.Store, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    kq.topic("t").send(b"1")
    mine = kq.group("t", "g", broadcast=True)
    code = """
import sys, keepq
group = keepq.open(sys.argv[1]).group("t", "g", broadcast=True)
print(group.receive(timeout=30).body, flush=True)
sys.stdin.read()
"""
    child = run_python(code, path)
    assert child.stdout is not None
    assert child.stdout.readline() == "b'1'\n"
    assert len(names(kq)) == 2
    child.kill()
    child.wait()
    wait_for(kq, 1)
    assert mine.receive(timeout=5).body == b"1"


def test_a_forked_child_is_another_consumer_without_a_name(kq: keepq.Store) -> None:
    kq.topic("t").send(b"1")
    group = kq.group("t", "g", broadcast=True)
    assert group.receive(timeout=5).body == b"1"
    child = os.fork()
    if child == 0:
        try:
            # It begins as every new one does.
            message = group.receive(timeout=60)
            message.ack()
            os._exit(0 if message.body == b"1" and message.attempt == 1 else 3)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    kq.topic("t").send(b"2")
    wait_for(kq, 1)
    assert group.receive(timeout=5).body == b"1", "given back when its message was dropped"
    assert names(kq) == [group.name]


def test_a_pickled_consumer_without_a_name_is_another_one(kq: keepq.Store) -> None:
    kq.topic("t").send(b"1", tag="x")
    group = kq.group("t", "g", broadcast=True, tags=["x"], backoff="rocketmq")
    again: keepq.Group = pickle.loads(pickle.dumps(group))
    assert again.name != group.name
    assert again.receive(timeout=5).body == b"1"
    config = again.config()
    assert (config.tags, config.backoff) == (("x",), "rocketmq")
    del again
    gc.collect()
    assert names(kq) == [group.name]


def test_a_worker_may_be_a_consumer_without_a_name(path: Path, kq: keepq.Store) -> None:
    kq.topic("t").send_many([b"1", b"2", b"3"])
    app = keepq.Worker(path)
    seen: list[bytes] = []

    @app.handler("t", group="g", broadcast=True, backoff="rocketmq", concurrency=2)
    def handle(message: keepq.Message) -> None:
        seen.append(message.body)
        if len(seen) == 3:
            assert len(names(kq)) == 1
            app.stop()

    assert app.run()
    assert sorted(seen) == [b"1", b"2", b"3"]
    assert names(kq) == []


def test_rocketmqs_waits_are_an_option_of_groups(kq: keepq.Store) -> None:
    group = kq.group("t", "g", backoff="rocketmq")
    assert group.config().backoff == "rocketmq"
    assert kq.group("t", "g", backoff="rocketmq").config() == group.config()
    with pytest.raises(keepq.ConfigMismatch, match=r"rocketmq.*first=1000ms"):
        kq.group("t", "g", backoff=keepq.Backoff())
    quick = keepq.Backoff(first=0.01, jitter=0)
    assert group.configure(backoff=quick).backoff == quick
    with pytest.raises(keepq.ConfigMismatch, match=r"first=10ms.*rocketmq"):
        kq.group("t", "g", backoff="rocketmq")
    assert group.configure(backoff="rocketmq").backoff == "rocketmq"
    again: keepq.Group = pickle.loads(pickle.dumps(group))
    assert again.config().backoff == "rocketmq"
    kq.topic("t").send(b"1")
    group.receive(timeout=5).nack()
    assert group.stats().delayed == 1
    # The first wait is ten seconds.
    with pytest.raises(keepq.Empty):
        group.receive(timeout=2)
