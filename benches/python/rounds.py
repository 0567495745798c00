"""Taking turns: all entrants in every round, so that a drift of the machine hits all of them."""

from __future__ import annotations

import ctypes
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

# How long each entrant works in each round, in seconds.
SLOT = 0.25


@dataclass
class Entrant:
    """Something that is measured once in each round."""

    name: str
    note: str
    turn: Callable[[], float]
    """Gives one figure: a rate or a time."""
    end: Callable[[], None] = lambda: None
    """Checks what was sent, and cleans up."""
    figures: list[float] = field(default_factory=list)
    failed: str | None = None

    @property
    def figure(self) -> float | None:
        """The median of its rounds."""
        if self.failed is not None or not self.figures:
            return None
        return statistics.median(self.figures)


def broken(name: str, why: str) -> Entrant:
    """One that could not even begin."""

    def turn() -> float:
        raise RuntimeError(why)

    return Entrant(name, "", turn)


def attempt(name: str, make: Callable[[], Entrant]) -> Entrant:
    """An entrant, or the reason why there is none."""
    try:
        return make()
    except Exception as error:
        return broken(name, reason(error))


def reason(error: BaseException) -> str:
    """One line."""
    first = (str(error).strip() or "it gave no reason").splitlines()[0]
    return first if type(error) is RuntimeError else f"{type(error).__name__}: {first}"


def alternate(rounds: int, entrants: list[Entrant], place: Path) -> list[Entrant]:
    """Every entrant once in each round, and once before to warm up. One that fails is out."""
    for number in range(rounds + 1):
        for entrant in entrants:
            if entrant.failed is not None:
                continue
            try:
                figure = entrant.turn()
                if number > 0:
                    entrant.figures.append(figure)
            except Exception as error:
                entrant.failed = reason(error)
            settle_disk(place)
    for entrant in entrants:
        try:
            entrant.end()
        except Exception as error:
            entrant.failed = entrant.failed or reason(error)
    return entrants


def ratio(of: Entrant, to: Entrant) -> float | None:
    """The median of the rounds' ratios of one entrant to another."""
    if of.figure is None or to.figure is None:
        return None
    return statistics.median(a / b for a, b in zip(of.figures, to.figures, strict=True))


def rate(work: Callable[[int], int], slot: float = SLOT) -> float:
    """Messages per second of `work` during a slot of time. It gets how many were done before, and
    gives how many it did: none = there is nothing left to do."""
    done = 0
    started = perf_counter()
    while True:
        now = work(done)
        done += now
        took = perf_counter() - started
        if took >= slot or now == 0:
            return done / took


_libc = ctypes.CDLL(None, use_errno=True)


def settle_disk(place: Path) -> None:
    """Brings everything written so far to the disk, so that the next one does not pay for it."""
    handle = os.open(place, os.O_RDONLY)
    try:
        if _libc.syncfs(handle) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(handle)
