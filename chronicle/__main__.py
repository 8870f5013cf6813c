"""Finds the house and starts the command line: `chronicle` and `python -m chronicle`.

The code imports `schemas`, `app`, … by these names. In a checkout they lie beside this folder, in an installed wheel
inside it (`tables` and `agents` on top level would overwrite PyTables and the OpenAI Agents SDK). Their parent goes
first on the path, before anything is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path


def base() -> Path:
    """The directory that holds the folder `app`."""
    here = Path(__file__).resolve().parent
    return here if (here / "app").is_dir() else here.parent


def main() -> None:
    """The console script."""
    sys.path.insert(0, str(base()))
    if sys.argv[1:] == ["--version"]:  # asked by scripts and prompts: not worth loading a command line for
        from app.version import version

        sys.stdout.write(f"chronicle {version()}\n")
        return
    from app.cli.main import cli

    cli(prog_name="chronicle")


if __name__ == "__main__":
    main()
