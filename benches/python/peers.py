"""Who takes part, and how each is set up: for every work the best settings it has.

A peer is a class made with a directory and with whether its sends are to be on the disk when they
return. Loops are written out in each, so that none pays for a call that the others do not make.
What a peer lacks it does not define. Received bodies are compared with those that were sent, by
everybody in the same way.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from bodies import check


class Peer:
    """A queue. The texts say how it is set up for each work; None = it cannot do that."""

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    sync: ClassVar[str | None] = None
    lazy: ClassVar[str | None] = None
    take_by: ClassVar[str | None] = None
    never_syncs: ClassVar[bool] = False
    """Whether its async sends never reach the disk by themselves."""
    waits_for_disk: ClassVar[bool] = True
    """Whether its sync sends do."""
    hops: ClassVar[bool] = False
    """Whether a receive in another process waits for messages."""
    depth: ClassVar[int] = 5_000
    """How many messages wait before the receives: a number that the peer bears."""

    def __init__(self, place: Path, *, sync: bool) -> None:
        raise NotImplementedError

    def send_all(self, bodies: list[bytes]) -> None:
        """Sends one by one."""
        raise NotImplementedError

    send_batch: Callable[[list[bytes]], object] | None = None
    """Sends many in one call."""

    def take(self, expected: list[bytes]) -> None:
        """Receives and acknowledges one by one."""
        raise NotImplementedError

    take_batch: Callable[[list[bytes]], object] | None = None
    """Receives many in one call, and acknowledges them in one."""

    def receive(self) -> tuple[bytes, Callable[[], object]]:
        """Waits for one message. Gives its body and what acknowledges it."""
        raise NotImplementedError

    def tidy(self) -> None:
        """What the peer wants done now and then, outside of the time."""

    def close(self) -> None:
        """Lets go of it."""

    @classmethod
    def label(cls) -> str:
        """Its name and version."""
        return f"{cls.name} {version(cls.package)}" if cls.package else cls.name


class Keepq(Peer):
    name = "keepq"
    package = "keepq"
    sync = "as it is opened by default"
    lazy = 'a store opened with flush="async"; send(body, flush="async"), send_many(bodies)'
    take_by = "receive and Message.ack; receive_batch and ack_many: leases, acks in the log"
    hops = True
    depth = 1_000_000

    def __init__(self, place: Path, *, sync: bool) -> None:
        import keepq

        # What a topic of a sync store shows to consumers is on the disk: hops would wait for it.
        self.store = keepq.open(place, flush="sync" if sync else "async")
        self.topic = self.store.topic("t")
        self.is_sync = sync
        self.group = self.store.group("t", "g")

    def send_all(self, bodies: list[bytes]) -> None:
        send = self.topic.send
        if self.is_sync:
            for body in bodies:
                send(body)
        else:
            for body in bodies:
                send(body, flush="async")

    def send_batch(self, bodies: list[bytes]) -> None:
        if self.topic.send_many(bodies).failed:
            raise RuntimeError("some of a batch were not sent")

    def take(self, expected: list[bytes]) -> None:
        receive = self.group.receive
        got = []
        for _ in expected:
            message = receive()
            got.append(message.body)
            message.ack()
        check(got, expected)

    def take_batch(self, expected: list[bytes]) -> None:
        got: list[bytes] = []
        while len(got) < len(expected):
            messages = self.group.receive_batch(len(expected) - len(got))
            got += [message.body for message in messages]
            self.group.ack_many(messages)
        check(got, expected)

    def receive(self) -> tuple[bytes, Callable[[], object]]:
        message = self.group.receive()
        return message.body, message.ack

    def tidy(self) -> None:
        self.store.flush()

    def close(self) -> None:
        self.store.close()


class KeepqStore(Keepq):
    """As Keepq, but for where the flush is named."""

    name = "keepq, flush of the store"
    sync = None  # type: ignore[assignment]
    lazy = 'a store opened with flush="async", then send(body)'
    take_by = None  # type: ignore[assignment]
    hops = False
    send_batch = None  # type: ignore[assignment]

    def send_all(self, bodies: list[bytes]) -> None:
        send = self.topic.send
        for body in bodies:
            send(body)


class _Bytes:
    """A serializer that does nothing."""

    dumps = loads = staticmethod(lambda value: value)


class PersistQueue(Peer):
    name = "persist-queue"
    package = "persist-queue"
    sync = "SQLiteAckQueue, WAL, synchronous = FULL, no serializer"
    lazy = "SQLiteAckQueue, WAL, synchronous = OFF, no serializer"
    take_by = "SQLiteAckQueue: get, then ack by the message's id"
    never_syncs = True

    def __init__(self, place: Path, *, sync: bool) -> None:
        from persistqueue import SQLiteAckQueue

        self.queue = SQLiteAckQueue(str(place), serializer=_Bytes)
        level = "FULL" if sync else "OFF"
        self.queue._putter.execute(f"PRAGMA synchronous = {level}")

    def send_all(self, bodies: list[bytes]) -> None:
        put = self.queue.put
        for body in bodies:
            put(body)

    def take(self, expected: list[bytes]) -> None:
        get, ack = self.queue.get, self.queue.ack
        got = []
        for _ in expected:
            item = get(block=False, raw=True)
            got.append(item["data"])
            ack(id=item["pqid"])
        check(got, expected)

    def tidy(self) -> None:
        # It keeps what was acked, and looks through all of it at every get.
        self.queue.clear_acked_data(max_delete=0, keep_latest=0)

    def close(self) -> None:
        self.queue.close()


class LiteQueue(Peer):
    name = "litequeue"
    package = "litequeue"
    sync = "WAL, synchronous = FULL"
    lazy = "WAL, synchronous = OFF"
    take_by = "pop (locked), then done"
    never_syncs = True

    def __init__(self, place: Path, *, sync: bool) -> None:
        import litequeue

        place.mkdir(parents=True, exist_ok=True)
        self.queue: Any = litequeue.LiteQueue(str(place / "q.db"))
        level = "FULL" if sync else "OFF"
        self.queue.conn.execute(f"PRAGMA synchronous = {level}")

    def send_all(self, bodies: list[bytes]) -> None:
        put = self.queue.put
        for body in bodies:
            put(body.decode())

    def take(self, expected: list[bytes]) -> None:
        pop, done = self.queue.pop, self.queue.done
        got = []
        for _ in expected:
            task = pop()
            got.append(task.data.encode())
            done(task.message_id)
        check(got, expected)

    def tidy(self) -> None:
        self.queue.prune()

    def close(self) -> None:
        self.queue.conn.close()


class LmdbQueue(Peer):
    name = "lmdb-queue"
    package = "lmdb-queue"
    lazy = "sync=False, a writable map of 4 GiB, no threads of its own"
    take_by = "get (leased), then ack"
    never_syncs = True
    hops = True
    depth = 20_000

    def __init__(self, place: Path, *, sync: bool) -> None:
        import equeue

        place.mkdir(parents=True, exist_ok=True)
        options = {"do_recover": False, "do_vacuum": False}
        self.queue: Any = equeue.Queue(place, sync=sync, map_size=4 << 30, **options)

    def send_all(self, bodies: list[bytes]) -> None:
        put = self.queue.put
        for body in bodies:
            put(body)

    def take(self, expected: list[bytes]) -> None:
        get = self.queue.get
        got = []
        for _ in expected:
            record = get(timeout=10)
            got.append(record.payload)
            record.ack()
        check(got, expected)

    def receive(self) -> tuple[bytes, Callable[[], object]]:
        record = self.queue.get()
        return record.payload, record.ack

    def close(self) -> None:
        self.queue.close()


class LmdbQueueSync(LmdbQueue):
    """Its durable setting. It flushes its map with MS_ASYNC, which waits for nothing."""

    name = "lmdb-queue, sync=True"
    sync = "sync=True, which starts the writing of its map and does not wait for it"
    waits_for_disk = False
    lazy = None  # type: ignore[assignment]
    take_by = None  # type: ignore[assignment]
    hops = False


class RocksQ(Peer):
    name = "rocksq"
    package = "rocksq"
    lazy = "blocking.PersistentQueueWithCapacity, push without the GIL"
    take_by = "pop, which removes: there are no leases and no acks"
    depth = 20_000

    def __init__(self, place: Path, *, sync: bool) -> None:
        from rocksq.blocking import PersistentQueueWithCapacity

        self.queue: Any = PersistentQueueWithCapacity(str(place), 1 << 40)

    def send_all(self, bodies: list[bytes]) -> None:
        push = self.queue.push
        for body in bodies:
            push([body])

    def send_batch(self, bodies: list[bytes]) -> None:
        self.queue.push(bodies)

    def close(self) -> None:
        # It is closed when it is dropped.
        del self.queue

    def take(self, expected: list[bytes]) -> None:
        pop = self.queue.pop
        check([pop(1)[0] for _ in expected], expected)

    def take_batch(self, expected: list[bytes]) -> None:
        check(list(self.queue.pop(len(expected))), expected)


class Honker(Peer):
    name = "honker"
    package = "honker"
    lazy = "WAL, synchronous = NORMAL, the only setting that it has; bodies are JSON"
    take_by = "claim_one (leased), then ack; claim_batch, then ack_batch"
    depth = 5_000

    def __init__(self, place: Path, *, sync: bool) -> None:
        import honker

        place.mkdir(parents=True, exist_ok=True)
        self.store: Any = honker.open(str(place / "q.db"))
        self.queue: Any = self.store.queue("t")

    def send_all(self, bodies: list[bytes]) -> None:
        enqueue = self.queue.enqueue
        for body in bodies:
            enqueue(body.decode())

    def send_batch(self, bodies: list[bytes]) -> None:
        enqueue = self.queue.enqueue
        with self.store.transaction() as tx:
            for body in bodies:
                enqueue(body.decode(), tx=tx)

    def take(self, expected: list[bytes]) -> None:
        claim = self.queue.claim_one
        got = []
        for _ in expected:
            job = claim("w")
            got.append(job.payload.encode())
            if not job.ack():
                raise RuntimeError("an ack came too late")
        check(got, expected)

    def take_batch(self, expected: list[bytes]) -> None:
        jobs = self.queue.claim_batch("w", len(expected))
        got = [job.payload.encode() for job in jobs]
        self.queue.ack_batch([job.id for job in jobs], "w")
        check(got, expected)

    def close(self) -> None:
        self.store.close()


class LocalQueue(Peer):
    name = "localqueue"
    package = "localqueue"
    sync = "DurabilityMode.DURABLE (synchronous = FULL), no serializer"
    lazy = "DurabilityMode.RELAXED (synchronous = NORMAL), no serializer"
    take_by = "get (leased), then ack"
    hops = True

    def __init__(self, place: Path, *, sync: bool) -> None:
        import localqueue

        mode = localqueue.DurabilityMode
        level = mode.DURABLE if sync else mode.RELAXED
        self.queue: Any = localqueue.SimpleQueue(str(place), durability=level, serializer=_Bytes())

    def send_all(self, bodies: list[bytes]) -> None:
        put = self.queue.put
        for body in bodies:
            put(body)

    def send_batch(self, bodies: list[bytes]) -> None:
        self.queue.put_many(bodies)

    def take(self, expected: list[bytes]) -> None:
        get, ack = self.queue.get, self.queue.ack
        got = []
        for _ in expected:
            job = get(block=False)
            got.append(job.data)
            ack(job)
        check(got, expected)

    def receive(self) -> tuple[bytes, Callable[[], object]]:
        job = self.queue.get()
        return job.data, lambda: self.queue.ack(job)

    def close(self) -> None:
        self.queue.close()


class Memory(Peer):
    name = "queue.Queue"
    lazy = "in memory, of one process"
    take_by = "get, then task_done"
    never_syncs = True
    depth = 300_000

    def __init__(self, place: Path, *, sync: bool) -> None:
        self.queue: queue.Queue[bytes] = queue.Queue()

    def send_all(self, bodies: list[bytes]) -> None:
        put = self.queue.put
        for body in bodies:
            put(body)

    def take(self, expected: list[bytes]) -> None:
        get, done = self.queue.get, self.queue.task_done
        got = []
        for _ in expected:
            got.append(get())
            done()
        check(got, expected)


PEERS: list[type[Peer]] = [
    Keepq,
    KeepqStore,
    PersistQueue,
    LiteQueue,
    LmdbQueue,
    LmdbQueueSync,
    RocksQ,
    Honker,
    LocalQueue,
    Memory,
]
