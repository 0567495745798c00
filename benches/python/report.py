"""What is printed and written: a row for each entrant, a verdict for each target."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rounds import Entrant, ratio


@dataclass(frozen=True)
class Row:
    """One entrant in one measurement."""

    target: str
    work: str
    name: str
    figure: float | None
    unit: str
    keepq_is: float | None
    """keepq's figure divided by this one, as the median of the rounds."""
    note: str


@dataclass(frozen=True)
class Verdict:
    """A target, and what came of it."""

    target: str
    what: str
    measured: float | None
    needed: float
    at_least: bool
    """At least what is needed; otherwise at most."""
    note: str = ""

    @property
    def word(self) -> str:
        """Met, missed or NOT RUN."""
        if self.measured is None:
            return "NOT RUN"
        enough = self.measured >= self.needed if self.at_least else self.measured <= self.needed
        return "met" if enough else "missed"


def number(value: float | None) -> str:
    """Few digits after the point, and groups of three before it."""
    if value is None:
        return "-"
    size = abs(value)
    digits = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}"


@dataclass
class Report:
    """Everything that was measured."""

    header: str
    rows: list[Row] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)

    def add(self, target: str, work: str, unit: str, entrants: list[Entrant]) -> None:
        """Enters one measurement, keepq's ratio to each beside it."""
        keepq = next((e for e in entrants if e.name == "keepq"), None)
        for entrant in entrants:
            times = ratio(keepq, entrant) if keepq and entrant is not keepq else None
            note = entrant.note if entrant.failed is None else f"NOT RUN: {entrant.failed}"
            self.row(Row(target, work, entrant.name, entrant.figure, unit, times, note))

    def row(self, row: Row) -> None:
        """Enters and prints a row."""
        self.rows.append(row)
        times = "" if row.keepq_is is None else f"keepq x {number(row.keepq_is)}"
        figure = f"{number(row.figure)} {row.unit}" if row.figure is not None else "-"
        print(f"  {row.work:<38} {row.name:<26} {figure:>18} {times:>16}  {row.note}", flush=True)

    def judge(self, verdict: Verdict) -> None:
        """Enters and prints a verdict."""
        self.verdicts.append(verdict)
        sign = ">=" if verdict.at_least else "<="
        said = f"{number(verdict.measured)}, needed {sign} {number(verdict.needed)}"
        print(f"  {verdict.target}: {verdict.what}: {said}: {verdict.word}", flush=True)

    def write(self, place: Path) -> None:
        """Writes report.md and results.json."""
        place.joinpath("report.md").write_text(self.markdown(), encoding="utf-8")
        verdicts = [{**asdict(verdict), "verdict": verdict.word} for verdict in self.verdicts]
        results = {
            "machine": self.header,
            "targets": verdicts,
            "figures": [asdict(row) for row in self.rows],
            "settings": self.settings,
            "not_run": self.not_run,
        }
        text = json.dumps(results, indent=1) + "\n"
        place.joinpath("results.json").write_text(text, encoding="utf-8")

    def markdown(self) -> str:
        """The report for people."""
        lines = ["# keepq's Python module beside its peers", "", self.header, "", "## Targets", ""]
        lines += ["| target | what | measured | needed | |", "|---|---|---|---|---|"]
        for v in self.verdicts:
            needed = f"{'>=' if v.at_least else '<='} {number(v.needed)}"
            word = f"{v.word} ({v.note})" if v.note else v.word
            lines.append(f"| {v.target} | {v.what} | {number(v.measured)} | {needed} | {word} |")
        lines += ["", "## Figures", "", "Medians; the ratio is keepq's figure to the other's.", ""]
        lines += ["| target | work | who | figure | unit | keepq is | note |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for r in self.rows:
            cells = (r.target, r.work, r.name, number(r.figure), r.unit, number(r.keepq_is), r.note)
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", "## Settings", "", *(f"- {line}" for line in self.settings)]
        if self.not_run:
            lines += ["", "## Not run", "", *(f"- {line}" for line in self.not_run)]
        return "\n".join(lines) + "\n"
