"""Keeps leases while messages are worked on: one thread in a process extends them in time.

It runs while there is something to keep and ends with the interpreter. A forked child begins with
nothing to keep: the parent's messages are the parent's.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from ._errors import Closed, Error, LeaseLost

if TYPE_CHECKING:
    from ._keepq import Group, Message

log = logging.getLogger("keepq")

# A lease is extended when a third of it is over, looked at so often that it never gets to half.
_DUE = 1 / 3
_LOOK = 1 / 6


class Kept:
    """A message whose lease is kept until release()."""

    __slots__ = ("due", "lease", "lost", "message")

    def __init__(self, message: Message, lease: float) -> None:
        self.message = message
        self.lease = lease
        self.due = time.monotonic() + lease * _DUE
        self.lost = False
        """The lease ended all the same: somebody else has the message, or will."""

    def release(self) -> None:
        """Stops keeping it. Doing so again does nothing."""
        _keeper.release(self)


class _Keeper:
    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._kept: dict[Kept, None] = {}
        self._thread: threading.Thread | None = None
        self._pause: float | None = None
        self._stop = False

    def keep(self, message: Message, lease: float) -> Kept:
        kept = Kept(message, lease)
        with self._changed:
            self._kept[kept] = None
            if self._thread is None and not self._stop:
                self._thread = threading.Thread(target=self._run, name="keepq-leases", daemon=True)
                self._thread.start()
            elif self._pause is None or lease * _LOOK < self._pause:
                self._changed.notify()
        return kept

    def release(self, kept: Kept) -> None:
        with self._changed:
            self._kept.pop(kept, None)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stop:
                    return
                leases = [kept.lease for kept in self._kept]
                self._pause = min(leases) * _LOOK if leases else None
                self._changed.wait(self._pause)
                # One that is due before the next look is extended now.
                soon = time.monotonic()
                due = [kept for kept in self._kept if kept.due <= soon]
            for kept in due:
                self._extend(kept)

    def _extend(self, kept: Kept) -> None:
        if kept not in self._kept:
            return  # Settled in the meantime.
        try:
            kept.message.extend(kept.lease)
            kept.due = time.monotonic() + kept.lease * _DUE
        except (LeaseLost, Closed) as error:
            lost = kept in self._kept
            self.release(kept)
            if lost and isinstance(error, LeaseLost):
                kept.lost = True
                log.warning("the lease of %r ended while it was worked on: %s", kept.message, error)
        except Error as error:
            # Tried again at the next look.
            log.warning("the lease of %r could not be extended: %s", kept.message, error)

    def stop(self) -> None:
        with self._changed:
            self._stop = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()


def keep(message: Message, lease: float) -> Kept:
    """Extends the lease of a message by `lease` seconds from now on, again and again, until
    release(), the end of the lease, the store or the process."""
    return _keeper.keep(message, lease)


def of(group: Group) -> float:
    """The lease of a group, in seconds."""
    return group._terms()[0]


def _after_fork() -> None:
    global _keeper
    _keeper = _Keeper()


def _at_exit() -> None:
    # A daemon thread that comes back from the engine while the interpreter is taken apart is not
    # safe; one that Python waits for would keep the program from ending.
    _keeper.stop()


_keeper = _Keeper()
os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
