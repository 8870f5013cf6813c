"""`python -m chaos`: run a drill, list its faults, try the checker on planted bugs, soak, make tables of reports."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import rich_click as click
from rich.console import Console

from chaos import figures
from chaos import report as reports
from chaos.campaign import Terms
from chaos.drill import Plan, drill, full_plan, short_plan
from chaos.faults import catalogue, chosen
from chaos.seeded import BUGS
from chaos.soak import soak

OUT = Path(__file__).parent / "out"
console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@click.group()
def main() -> None:
    """Prove by faults that nothing acked is lost."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that is away is what a drill is about, no news


@main.command("list")
def list_faults() -> None:
    """The catalogue: name, rows, what is done; * is in the short set."""
    for name, kind in catalogue().items():
        click.echo(f"{'*' if kind.short else ' '} {name:<26} {' '.join(kind.rows):<9} {kind.what}")


@main.command("run")
@click.option("--full", is_flag=True, help="All faults, three times each, and all planted bugs: an hour or more.")
@click.option("--only", help="Only these faults, comma separated; no planted bugs.")
@click.option("--bugs", help="Only these planted bugs, comma separated, or `all`; no faults unless --only names some.")
@click.option("--seed", type=int, help="Repeat the run of this seed (default: another one each time).")
@click.option("--hits", type=click.IntRange(1, 100), help="How often each fault is done.")
@click.option("--rate", type=click.FloatRange(10, 5000), default=250.0, show_default=True, help="Events a second.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=OUT, help="Folder for everything.")
@click.option("--keep", is_flag=True, help="Keep the data of the run even when it is green.")
def run_drill(
    full: bool,
    only: str | None,
    bugs: str | None,
    seed: int | None,
    hits: int | None,
    rate: float,
    out: Path,
    keep: bool,
) -> None:
    """Start the whole stack, hurt it under load, and count."""
    seed = int(time.time()) if seed is None else seed
    plan = _plan(full, only, bugs, seed, out)
    terms = replace(plan.terms, rate=rate, hits=hits or plan.terms.hits)
    plan = replace(plan, terms=terms, keep=keep)
    _end(asyncio.run(drill(plan, _say)), out)


@main.command("soak")
@click.option("--minutes", type=click.IntRange(1, 1440), default=60, show_default=True, help="A fault begins in each.")
@click.option("--rate", type=click.FloatRange(10, 5000), default=2000.0, show_default=True, help="Events a second.")
@click.option("--seed", type=int, help="Repeat the run of this seed (default: another one each time).")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=OUT, help="Folder for everything.")
def run_soak(minutes: int, rate: float, seed: int | None, out: Path) -> None:
    """A steady load for a long time, a fault a minute; memory, files and threads must stay flat."""
    terms = Terms(int(time.time()) if seed is None else seed, rate=rate, soak=True, least_hits=1)
    _end(asyncio.run(soak(_command(), out, terms, minutes, _say)), out)


@main.command("figures")
@click.argument("paths", metavar="REPORT.json…", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def show_figures(paths: tuple[Path, ...]) -> None:
    """Print the tables of docs/reliability.md, of one report or of several together."""
    try:
        click.echo(figures.markdown([json.loads(path.read_bytes()) for path in paths]), nl=False)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise click.BadParameter(f"no report of a drill: {error!r}") from error


def _command() -> str:
    return " ".join(["python -m chaos", *sys.argv[1:]])


def _end(result: reports.Report, out: Path) -> NoReturn:
    path = reports.write(result, out)
    reports.show(result, console)
    console.print(f"the report: {path}")
    sys.exit(0 if result.ok else 1)


def _plan(full: bool, only: str | None, bugs: str | None, seed: int, out: Path) -> Plan:
    command = _command()
    if only or bugs:
        try:
            faults = chosen(only=tuple(only.split(","))) if only else []
        except KeyError as error:
            raise click.BadParameter(str(error.args[0]), param_hint="--only") from error
        names = list(BUGS) if bugs == "all" else bugs.split(",") if bugs else []
        if unknown := [name for name in names if name not in BUGS]:
            raise click.BadParameter(f"no such bug: {', '.join(unknown)}", param_hint="--bugs")
        return Plan(command, out, faults, Terms(seed, least_acked=100, least_hits=1), names)
    return full_plan(command, out, seed) if full else short_plan(command, out, seed)


def _say(text: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {text}")


if __name__ == "__main__":
    main()
