"""Purging and deleting topics and groups."""

from __future__ import annotations

import threading

import keepq
import pytest


def test_a_purge_takes_what_there_is_and_nothing_later(kq: keepq.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g")
    topic.send_many([b"1", b"2", b"3", b"4"])
    group.receive(timeout=5).reject("bad")
    done, held = group.receive_batch(2, timeout=5)
    done.ack()
    assert topic.purge() == 2, "one in flight, one never looked at"
    assert group.poll() is None
    with pytest.raises(keepq.LeaseLost):
        held.ack()
    assert len(group.dlq) == 1
    topic.send(b"5")
    assert group.receive(timeout=5).body == b"5"


def test_a_purged_topic_without_groups_has_nothing_left(kq: keepq.Store) -> None:
    topic = kq.topic("t")
    topic.send_many([b"1", b"2", b"3"])
    assert topic.purge() == 3
    assert len(topic) == 0
    assert topic.purge() == 0
    assert list(topic.browse()) == []


def test_a_deleted_topic_is_gone_for_every_handle(kq: keepq.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g")
    topic.send(b"old")
    group.receive(timeout=5).reject("bad")
    topic.send(b"older")
    topic.delete()
    for use in (lambda: topic.send(b"x"), lambda: len(topic), topic.purge, topic.delete):
        with pytest.raises(keepq.NotFound):
            use()
    for look in (group.poll, group.stats, group.delete):
        with pytest.raises(keepq.NotFound):
            look()
    with pytest.raises(keepq.NotFound):
        kq.topic("t", create=False)
    assert kq.stats().topics == ()
    again = kq.topic("t")
    assert len(again) == 0
    again.send(b"new")
    fresh = kq.group("t", "g")
    assert fresh.receive(timeout=5).body == b"new"
    assert len(fresh.dlq) == 0


def test_a_deleted_group_is_gone_and_the_others_go_on(kq: keepq.Store) -> None:
    topic, gone, stays = kq.topic("t"), kq.group("t", "gone"), kq.group("t", "stays")
    topic.send_many([b"1", b"2"])
    stays.ack_many(stays.receive_batch(2, timeout=5))
    gone.receive(timeout=5).reject("bad")
    gone.delete()
    with pytest.raises(keepq.NotFound):
        gone.poll()
    with pytest.raises(keepq.NotFound):
        kq.group("t", "gone", create=False)
    assert [group.name for group in kq.stats().groups] == ["stays"]
    topic.send(b"3")
    assert stays.receive(timeout=5).body == b"3"
    anew = kq.group("t", "gone", start="latest", lease=7)
    assert (len(anew.dlq), anew.config().lease, anew.stats().lag) == (0, 7, 0)


def test_a_receive_that_waits_is_told_of_the_deletion(kq: keepq.Store) -> None:
    topic, group = kq.topic("t"), kq.group("t", "g")
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            group.receive(timeout=60)
        except keepq.Error as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    topic.delete()
    thread.join(30)
    assert not thread.is_alive()
    assert [type(error) for error in ended] == [keepq.NotFound]


def test_what_only_looks_deletes_nothing(kq: keepq.Store) -> None:
    kq.topic("t").send(b"x")
    kq.group("t", "g")
    with keepq.open(kq.path, read_only=True) as looking:
        topic, group = looking.topic("t"), looking.group("t", "g")
        for change in (topic.purge, topic.delete, group.delete):
            with pytest.raises(keepq.Error) as raised:
                change()
            assert raised.value.name == "ReadOnly"
    assert len(kq.topic("t")) == 1
