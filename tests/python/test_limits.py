"""What topics and stores keep at most, and what they keep for later."""

from __future__ import annotations

import _thread
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import keepq
import pytest
from conftest import soon


def test_a_full_topic_refuses_and_has_room_after_an_ack(kq: keepq.Store) -> None:
    topic = kq.topic("t", max_messages=2)
    group = kq.group("t", "g")
    assert topic.config() == keepq.TopicConfig(None, 2, "raise", None, None)
    topic.send_many([b"1", b"22"])
    assert [stats.kept for stats in kq.stats().topics] == [(2, 3)]
    with pytest.raises(keepq.Full, match="max_messages"):
        topic.send(b"3")
    assert len(topic) == 2
    group.receive(timeout=5).ack()
    topic.send(b"3")
    assert topic.configure(max_messages=None).max_messages is None
    topic.send(b"4")


def test_a_limit_of_bytes_is_one_of_bodies(kq: keepq.Store) -> None:
    topic = kq.topic("t", max_bytes=100)
    topic.send(b"x" * 60, headers={"h": b"y" * 200})
    with pytest.raises(keepq.Full, match="max_bytes"):
        topic.send(b"x" * 41)
    with pytest.raises(keepq.LimitExceeded):
        topic.send(b"x" * 101)
    topic.send(b"x" * 40)


def test_a_send_waits_for_room_where_that_is_asked_for(kq: keepq.Store) -> None:
    topic, group = kq.topic("t", max_messages=1, when_full="block"), kq.group("t", "g")
    assert topic.config().when_full == "block"
    topic.send(b"1")
    with pytest.raises(keepq.Timeout, match="max_messages"):
        topic.send(b"2", timeout=0.1)
    sent: list[keepq.SendResult] = []
    thread = threading.Thread(target=lambda: sent.append(topic.send(b"2", timeout=60)))
    thread.start()
    group.receive(timeout=5).ack()
    thread.join(30)
    assert not thread.is_alive()
    assert [result.seq for result in sent] == [1]
    assert group.receive(timeout=5).body == b"2"


@pytest.mark.parametrize(
    ("retain", "age", "size"),
    [
        (timedelta(hours=2), 7200.0, None),
        (1 << 20, None, 1 << 20),
        ((timedelta(minutes=1), 5), 60.0, 5),
    ],
)
def test_what_is_retained_is_there_for_later_groups(
    kq: keepq.Store, retain: Any, age: float | None, size: int | None
) -> None:
    topic, early = kq.topic("t", retain=retain), kq.group("t", "early")
    config = topic.config()
    assert (config.retain_age, config.retain_bytes) == (age, size)
    topic.send_many([b"1", b"2"])
    early.ack_many(early.receive_batch(2, timeout=5))
    late = kq.group("t", "late")
    assert [message.body for message in late.receive_batch(2, timeout=5)] == [b"1", b"2"]
    # It is one option: what is named replaces both.
    changed = topic.configure(retain=7)
    assert (changed.retain_age, changed.retain_bytes) == (None, 7)
    assert topic.configure(when_full="block").retain_bytes == 7, "what is left out stays"
    gone = topic.configure(retain=None)
    assert (gone.retain_age, gone.retain_bytes) == (None, None)


def test_wrong_limits_are_refused(kq: keepq.Store) -> None:
    for name in ("max_bytes", "max_messages", "retain"):
        with pytest.raises(keepq.InvalidArgument, match="at least 1"):
            kq.topic("t", **{name: 0})  # type: ignore[arg-type]
    wrong: list[Any] = [1.5, "1h", True, (5, timedelta(1)), (1, 2), (timedelta(1), timedelta(1))]
    for retain in wrong:
        with pytest.raises(TypeError, match="retain"):
            kq.topic("t", retain=retain)
    with pytest.raises(keepq.InvalidArgument, match="'block' or 'raise'"):
        kq.topic("t", when_full="drop")  # type: ignore[arg-type]
    with pytest.raises(keepq.NotFound):
        kq.topic("t", max_bytes=5, create=False)


def test_another_limit_later_is_a_mismatch(kq: keepq.Store) -> None:
    kq.topic("t", max_bytes=5)
    for create in (True, False):
        with pytest.raises(keepq.ConfigMismatch, match="max_bytes"):
            kq.topic("t", max_bytes=6, create=create)
    assert kq.topic("t", max_bytes=5, create=False).config().max_bytes == 5


def test_a_pickled_topic_keeps_its_options(kq: keepq.Store) -> None:
    topic = kq.topic("t", max_bytes=50, max_messages=5, when_full="block", retain=(timedelta(1), 9))
    pickled, asked = pickle.dumps(topic), topic.config()
    topic.configure(max_messages=6)
    again: keepq.Topic = pickle.loads(pickled)
    assert again.config().max_messages == 6, "what is there is taken as it is"
    topic.delete()
    anew: keepq.Topic = pickle.loads(pickled)
    assert anew.config() == asked


def test_the_store_has_a_limit_of_its_own(path: Path) -> None:
    with keepq.open(path, max_bytes=10, when_full="raise") as kq:
        assert kq.config() == keepq.StoreConfig(10, "raise")
        kq.topic("a").send(b"x" * 6)
        with pytest.raises(keepq.Full, match="max_bytes"):
            kq.topic("b").send(b"x" * 6)
        with pytest.raises(keepq.ConfigMismatch, match="max_bytes"):
            keepq.open(path, max_bytes=11)
        pickled = pickle.dumps(kq)
        changed = kq.configure(max_bytes=None, when_full="block")
        assert changed == keepq.StoreConfig(None, "block")
        kq.topic("b").send(b"x" * 6)
        with pickle.loads(pickled) as again:
            assert again.config() == changed


def test_a_oneway_send_says_what_it_does_without_room(kq: keepq.Store) -> None:
    topic, producer = kq.topic("t", max_messages=2), kq.producer("p")
    topic.send_oneway(b"1", when_full="raise")
    producer.send_oneway(topic, b"2", when_full="block")
    assert len(topic) == 2
    topic.send_oneway(b"3", when_full="raise")
    assert (len(topic), kq.stats().oneway_failed) == (2, 1)
    with pytest.raises(keepq.InvalidArgument, match="'block' or 'raise'"):
        producer.send_oneway(topic, b"4", when_full="drop")  # type: ignore[arg-type]


def full_topic(kq: keepq.Store, name: str = "t") -> keepq.Topic:
    """A topic whose sends wait for room: it keeps one message, which is there."""
    topic = kq.topic(name, max_messages=1, when_full="block")
    topic.send(b"first")
    return topic


SENDS: dict[str, Callable[[keepq.Topic, keepq.Producer], object]] = {
    "send": lambda topic, _: topic.send(b"x", timeout=2.9),
    "long send": lambda topic, _: topic.send(b"x", timeout=60),
    "endless send": lambda topic, _: topic.send(b"x", timeout=None),
    "send_async": lambda topic, _: topic.send_async(b"x", timeout=60),
    "send_oneway": lambda topic, _: topic.send_oneway(b"x", timeout=60),
    "send_many": lambda topic, _: topic.send_many([b"x"], timeout=60),
    "producer": lambda topic, producer: producer.send(topic, b"x", timeout=60),
    "producer's send_async": lambda topic, producer: producer.send_async(topic, b"x", timeout=60),
    "producer's send_oneway": lambda topic, producer: producer.send_oneway(topic, b"x", timeout=60),
    "producer's send_many": lambda topic, producer: producer.send_many(topic, [b"x"], timeout=60),
}


@pytest.mark.parametrize("name", SENDS)
def test_ctrl_c_ends_a_wait_for_room(kq: keepq.Store, name: str) -> None:
    topic, producer = full_topic(kq), kq.producer("p")
    # A run in the background begins with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), soon(_thread.interrupt_main):
            SENDS[name](topic, producer)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (len(topic), producer.next_seq, kq.stats().oneway_failed) == (1, 0, 0)


@pytest.mark.parametrize("name", SENDS)
def test_a_signal_handler_can_make_room(kq: keepq.Store, name: str) -> None:
    topic, group, producer = full_topic(kq), kq.group("t", "g"), kq.producer("p")

    def make_room(*_: object) -> None:
        group.receive(timeout=5).ack()

    before = signal.signal(signal.SIGUSR1, make_room)
    try:
        with soon(lambda: os.kill(os.getpid(), signal.SIGUSR1)):
            result = SENDS[name](topic, producer)
    finally:
        signal.signal(signal.SIGUSR1, before)
    if isinstance(result, Future):
        assert result.result(timeout=30).durable
    with group.receive(timeout=5) as message:
        assert (message.body, message.seq) == (b"x", 1)


@pytest.mark.parametrize("timeout", [0, 0.3])
def test_what_finds_no_room_in_its_time_was_not_sent(kq: keepq.Store, timeout: float) -> None:
    topic, producer = full_topic(kq), kq.producer("p")
    sends: list[Callable[[], object]] = [
        lambda: topic.send(b"x", timeout=timeout),
        lambda: topic.send_async(b"x", timeout=timeout),
        lambda: producer.send(topic, b"x", timeout=timeout),
        lambda: producer.send_async(topic, b"x", timeout=timeout),
    ]
    for send in sends:
        began = time.monotonic()
        with pytest.raises(keepq.Timeout, match="max_messages") as caught:
            send()
        assert caught.value.outcome == "not_stored"
        assert timeout <= time.monotonic() - began < timeout + 60
    topic.send_oneway(b"x", timeout=timeout)
    producer.send_oneway(topic, b"x", timeout=timeout)
    assert (len(topic), producer.next_seq, kq.stats().oneway_failed) == (1, 0, 2)
    kq.flush(timeout=30)


def test_many_messages_are_sent_as_there_is_room_for_them_in_their_order(kq: keepq.Store) -> None:
    topic = kq.topic("t", max_bytes=100, when_full="block")
    group, producer = kq.group("t", "g"), kq.producer("p")
    bodies = [bytes([n]) * (60 if n % 2 else 30) for n in range(40)]
    results: list[keepq.SendMany] = []

    def send() -> None:
        results.append(topic.send_many(bodies, timeout=60))
        results.append(producer.send_many(topic, bodies, timeout=60))

    thread = threading.Thread(target=send)
    thread.start()
    got: list[bytes] = []
    while len(got) < 80:
        with group.receive(timeout=30) as message:
            got.append(message.body)
    thread.join(30)
    assert not thread.is_alive()
    assert got == bodies + bodies
    assert [result.seq for many in results for result in many.ok] == list(range(80))
    late = topic.send_many([b"a" * 90, b"b" * 20, b"c"], timeout=0.1)
    assert [result.seq for result in late.ok] == [80]
    assert [(index, type(error)) for index, error in late.failed] == [
        (1, keepq.Timeout),
        (2, keepq.Timeout),
    ], "what waits in vain holds up those behind it"
