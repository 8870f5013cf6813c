"""What people and programs read of a run: a table, `benchmarks/out/latest.json`, `benchmarks/results.md`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import peers
from benchmarks.cases import OURS, Row
from benchmarks.result import OUT, in_words, told
from benchmarks.settings import COMMON, SIDES

RESULTS = Path(__file__).resolve().parent / "results.md"
VERSIONED = ("faust-streaming", "aiokafka", "asyncpg", "confluent-kafka", "rocksdict", "fastavro", "aiohttp", "uvloop")


def result(rows: Sequence[Row], command: str, seconds: float) -> dict[str, Any]:
    """Everything that was measured, with where, when, on what, and how every side was set."""
    sides = sorted({side for row in rows for side in (*row.spreads, *row.failed)})
    figures = {
        "commit": commit_of(RESULTS.parent, RESULTS.name),
        "command": command,
        "minutes": round(seconds / 60, 1),
        "settings": {"all": COMMON} | {side: SIDES[side] for side in sides if side in SIDES},
        "peers": {name: peers.versions(name) for name in peers.names() if _is_of(name, sides)},
        "cases": [row.as_json() for row in rows],
    }
    return told("latest", figures, packages=VERSIONED)


def keep(found: dict[str, Any], kind: str) -> Path:
    """As JSON: `latest.json`, and under its kind (full, quick, read, large, part), which others do not replace."""
    OUT.mkdir(exist_ok=True)
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    for name in ("latest", kind):
        (OUT / f"{name}.json").write_text(text)
    return OUT / "latest.json"


def told_of(found: Mapping[str, Any]) -> str:
    """When and where, in one line."""
    return f"{found['date']}; {in_words(found['machine'])}; commit {found['commit']}"


def table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    shown = Table("figure", "Chronicle", "range", "peers", "target", "", title="Medians")
    for row in rows:
        shown.add_row(*told_row(row.as_json()), style=None if row.met else "yellow")
    return shown


def markdown(folder: Path = OUT) -> str:
    """The page `benchmarks/results.md`: the last full run, the last over many events; without them the latest."""
    kept = [folder / f"{kind}.json" for kind in ("full", "read", "large")]
    files = [file for file in kept if file.exists()] or [folder / "latest.json"]
    lines = ["# Results of the benchmark", "", "Made by `make bench`; do not edit.", ""]
    for file in files:
        lines += _section(json.loads(file.read_text()))
    return "\n".join(lines).rstrip() + "\n"


def cases_table(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """The Markdown table of rows as the JSON has them."""
    head = ["| figure | Chronicle | range | peers | target | met |", "| --- | --- | --- | --- | --- | --- |"]
    return [*head, *(f"| {' | '.join(told_row(one))} |" for one in cases)]


def told_row(case: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one row of the JSON."""
    ours, unit = case["chronicle"], case["unit"]
    ratios = case["ratios"]
    beside = [f"{name} {one['median']:,.4g} ({ratios[name]:.2f} ×)" for name, one in case["peers"].items()]
    beside += [f"{name} FAILED: {_short(why)}" for name, why in case["failed"].items() if name != OURS]
    if ours is None:
        return (
            case["name"],
            f"FAILED: {_short(case['failed'].get(OURS, ''))}",
            "",
            "; ".join(beside),
            case["target"],
            "no",
        )
    span = f"{ours['min']:,.4g} – {ours['max']:,.4g} ({len(ours['runs'])})"
    no = f"no: {case['short']}" if case["short"] else "no"
    met = ("yes" if case["met"] else no) if case["target"] else ""
    return case["name"], f"{ours['median']:,.4g} {unit}", span, "; ".join(beside), case["target"], met


def _section(found: Mapping[str, Any]) -> list[str]:
    versions = {f"{peer}: {name}": at for peer, all_ in found["peers"].items() for name, at in all_.items()}
    told_ = ", ".join(f"{name} {version}" for name, version in {**found["versions"], **versions}.items())
    return [
        f"## `{found['command']}`",
        "",
        f"{told_of(found)}; {found['minutes']} minutes. Medians of rounds in which the sides take turns, their number",
        "in brackets. A ratio says how many times better Chronicle is. Absolute figures differ on other machines.",
        "",
        *cases_table(found["cases"]),
        "",
        "### Settings",
        "",
        *(f"- **{side}**: {text}" for side, text in found["settings"].items()),
        "",
        f"Versions: {told_}.",
        "",
    ]


def _short(why: str) -> str:
    """A reason that fits into a cell."""
    return " ".join(why.replace("|", "/").split())[-160:]


def _is_of(name: str, sides: Sequence[str]) -> bool:
    return any(side.partition(",")[0].lower() == name for side in sides)


def commit_of(root: Path, but: str) -> str:
    """The commit of a work tree, `-dirty` when a file differs from it; `but` one, which the run before wrote."""
    named = _git(root, "describe", "--always")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ":/", f":(exclude){but}")
    return f"{named or 'unknown'}{'-dirty' if changed else ''}"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(("git", *words), capture_output=True, text=True, check=False, cwd=root)
    return done.stdout.strip()
