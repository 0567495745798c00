"""Works on messages, retries what fails and shows what was given up: `python worker.py work.kq`.

Any number of these, in any number of processes, share the messages. Kill one while it works, and
another gets its message within a tenth of a second.
"""

import sys

import keepq

path = sys.argv[1] if len(sys.argv) > 1 else "work.kq"


def work(body: bytes) -> None:
    """Even numbers succeed, odd ones fail, words are refused."""
    if not body.isdigit():
        raise keepq.Reject(f"{body.decode()} is no number")
    if int(body) % 2:
        raise keepq.Retry(delay=0.01)


with keepq.open(path) as kq:
    kq.topic("numbers").send_many([b"2", b"3", b"4", b"five"])
    group = kq.group("numbers", "workers", max_attempts=3)
    for msg in group:
        with msg.keep_alive():
            work(msg.body)
            print("done:", msg.body.decode())
        stats = group.stats()
        if not (stats.ready or stats.delayed):
            group.close()  # ends the loop; a real worker would wait for more
    for letter in sorted(group.dlq, key=lambda letter: letter.body):
        print(f"given up after {letter.attempts}: {letter.body.decode()} ({letter.reason})")
