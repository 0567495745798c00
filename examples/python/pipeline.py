"""Sends many messages without waiting for each: `python pipeline.py shop.kq 1000`.

The disk works on batches while the program goes on. Results come to a callback, on one thread of
the store, or to futures.
"""

import sys
from collections import Counter

import keepq

path = sys.argv[1] if len(sys.argv) > 1 else "shop.kq"
count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
outcomes: Counter[str] = Counter()


def sent(result: keepq.SendResult) -> None:
    outcomes[result.status.name] += 1


def failed(error: keepq.Error) -> None:
    outcomes[error.name] += 1


with keepq.open(path) as kq:
    lines = kq.topic("lines")
    first = lines.send_async(b"line 0")
    for i in range(1, count):
        lines.send_async(b"line %d" % i, on_success=sent, on_exception=failed)
    kq.flush(timeout=60)  # everything is on disk, and every callback has returned
    print("first:", first.result().seq, "outcomes:", dict(outcomes))
