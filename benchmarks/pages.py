"""Put the figures of the last runs into the pages: `python -m benchmarks.pages`, after `make bench` and `make profile`.

A page holds a block `<!-- figures: NAME -->` … `<!-- end of figures -->` for each set of figures; what is between is
replaced, nothing else. So no figure is copied by hand, and none is there that was not measured. A block whose run has
not been made stays as it is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report import cases_table, told_of
from benchmarks.result import OUT, in_words
from benchmarks.running import ROOT
from benchmarks.ways import IDLE, PROCESSES

PAGES: Final = (ROOT / "docs" / "performance.md", ROOT / "docs" / "scaling.md")
RATES: Final = (10_000, 100_000, 1_000_000)
#: Share of a core that is planned for; the rest is for peaks, compaction and a neighbour that has failed.
BUSY: Final = 0.6
#: Topics through which the bytes of an event go, and days that they stay there.
TOPICS, DAYS = 2, 7
_BLOCK: Final = "<!-- figures: {name} -->\n{text}\n<!-- end of figures -->"

Found = Mapping[str, Any]


def results(found: Found) -> list[str]:
    """The rows of a run."""
    return [f"`{found['command']}`, {told_of(found)}.", "", *cases_table(found["cases"])]


def stages(found: Found) -> list[str]:
    """The budget by stage, and by process where the whole way was measured."""
    rows = found["stages"].items()
    lines = [
        f"`make profile`, {found['date']}; {in_words(found['machine'])}.",
        "",
        "| stage | ours, CPU µs an event | library calls alone | distance |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {one['ours']:g} | {_or_none(one['floor'])} | {_distance(one)} |" for name, one in rows),
    ]
    if "ways" in found:
        lines += ["", "Over the whole way, CPU µs an event:", "", *_ways(found["ways"], PROCESSES, "us")]
        lines += ["", "And cores, of those the machine has:", "", *_ways(found["ways"], (*PROCESSES, IDLE), "cores")]
    return lines


def _ways(found: Found, names: Sequence[str], kind: str) -> list[str]:
    head = ("", "events/s", *names)
    rows = [
        (way, f"{one['events_per_s']:,.0f}", *(f"{one[kind][name]:g}" for name in names)) for way, one in found.items()
    ]
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def sizes(found: Found) -> list[str]:
    """What 10 k, 100 k and 1 M events/s take, by what each process spent an event."""
    spent, size = next(iter(found["ways"].values()))["us"], found["bytes"]
    head = ["events/s", *(f"{name}, cores" for name in spent)]
    head += ["stream workers", "partitions", "into the log, MB/s", "kept in the log, TB"]
    rows = [_sized(rate, spent, size) for rate in RATES]
    return [
        f"From `make profile`, {found['date']}; {in_words(found['machine'])}; cores {BUSY:.0%} busy, {DAYS} days kept.",
        "",
        f"| {' | '.join(head)} |",
        "|" + " --- |" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _sized(rate: int, spent: Mapping[str, float], size: int) -> list[str]:
    cores = {name: rate * value / 1e6 / BUSY for name, value in spent.items()}
    workers = max(1, math.ceil(cores.get("stream", 0.0)))
    partitions = max(4, 1 << (workers * 2 - 1).bit_length())  # two a worker, so that a further one has something to do
    written = rate * size * TOPICS
    shown = [f"{rate:,}", *(f"{value:.1f}" for value in cores.values())]
    return [*shown, f"{workers}", f"{partitions}", f"{written / 1e6:.0f}", f"{written * 86_400 * DAYS / 1e12:.1f}"]


#: Block -> the file in `benchmarks/out` and what is made of it.
BLOCKS: Final[Mapping[str, tuple[str, Callable[[Found], Sequence[str]]]]] = {
    "full": ("full.json", results),
    "read": ("read.json", results),
    "large": ("large.json", results),
    "stages": ("profile.json", stages),
    "sizes": ("profile.json", sizes),
}


def filled(page: str, folder: Path) -> str:
    """The page with the blocks whose runs have been made. Raises ValueError for a block that nobody knows."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in BLOCKS:
            raise ValueError(f"there are no figures {name!r}")
        file, told = BLOCKS[name]
        found = json.loads((folder / file).read_text()) if (folder / file).exists() else None
        if found is None or (name == "sizes" and "ways" not in found):
            return match[0]
        return _BLOCK.format(name=name, text="\n".join(told(found)))

    pattern = _BLOCK.replace("{name}", r"(?P<name>\w+)").replace("{text}", r".*?")
    return re.sub(pattern, block, page, flags=re.DOTALL)


def _or_none(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _distance(one: Mapping[str, float | None]) -> str:
    ours, floor = one["ours"], one["floor"]
    return f"{ours / floor:.1f} ×" if ours and floor else ""


def main() -> None:
    """The command."""
    for page in PAGES:
        old = page.read_text()
        new = filled(old, OUT)
        page.write_text(new)
        print(f"{page.name}: {'unchanged' if new == old else 'filled'}")


if __name__ == "__main__":
    main()
