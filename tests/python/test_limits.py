"""What topics and stores keep at most, and what they keep for later."""

from __future__ import annotations

import pickle
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import keepq
import pytest


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
