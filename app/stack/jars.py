"""The Kafka jars: a pinned list, fetched once by Maven coordinates, checked by SHA-256, kept in the user's cache.

`python -m app.stack.jars` fetches them (part of `make setup`); `classpath()` fetches what is missing by itself.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import msgspec
import platformdirs

from schemas.errors import Misconfigured, Unavailable

PINNED = Path(__file__).with_name("kafka_jars.txt")
PARALLEL = 4  # enough to hide the round trips; more only annoys the repository
TRIES = 3

Say = Callable[[str], None]


class Jar(msgspec.Struct, frozen=True):
    """One line of the pinned list; `size` in bytes."""

    group: str
    artifact: str
    version: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Its name in every Maven repository and in ours."""
        return f"{self.artifact}-{self.version}.jar"


def parse(text: str) -> tuple[Jar, ...]:
    """The pinned list as values; lines beginning with # are passed over."""
    jars = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            coordinates, size, sha256 = line.split()
            group, artifact, version = coordinates.split(":")
            jars.append(Jar(group, artifact, version, int(size), sha256))
    return tuple(jars)


def pinned() -> tuple[Jar, ...]:
    """The jar set of this release."""
    return parse(PINNED.read_text())


def jars_dir() -> Path:
    """Where this exact set lives: another list is another directory, so two releases never mix."""
    digest = hashlib.sha256(PINNED.read_bytes()).hexdigest()[:12]
    return Path(platformdirs.user_cache_dir("chronicle")) / "kafka" / digest


def complete(directory: Path, jars: tuple[Jar, ...]) -> bool:
    """Whether the directory holds the whole set; sizes only, since every file was hashed on its way in."""
    try:
        return all((directory / jar.file_name).stat().st_size == jar.size for jar in jars)
    except FileNotFoundError:
        return False


def ensure_jars(say: Say = lambda _text: None) -> Path:
    """The directory with every pinned jar in it; fetches what is not there. Raises `Unavailable`.

    Each jar is hashed, then moved into place in one step: an interrupted run leaves whole files and is continued.
    """
    jars, target = pinned(), jars_dir()
    if complete(target, jars):
        return target
    target.mkdir(parents=True, exist_ok=True)
    missing = [jar for jar in jars if not (target / jar.file_name).exists() or not complete(target, (jar,))]
    total = sum(jar.size for jar in missing)
    say(f"Kafka: fetching {len(missing)} jars ({total / 1e6:.0f} MB)")
    done = 0
    with ThreadPoolExecutor(PARALLEL) as pool:
        fetches = {pool.submit(_fetch, jar, target): jar for jar in missing}
        for count, fetch in enumerate(as_completed(fetches), 1):
            try:
                fetch.result()
            except Exception:
                pool.shutdown(cancel_futures=True)
                raise
            done += fetches[fetch].size
            if count % 10 == 0 or count == len(missing):
                say(f"Kafka: {count} of {len(missing)} jars, {done / 1e6:.0f} of {total / 1e6:.0f} MB")
    return target


def _fetch(jar: Jar, target: Path) -> None:
    fault: Exception | None = None
    for _ in range(TRIES):
        try:
            source = _download(jar)
        except Exception as error:  # the client raises whatever its HTTP library does; all of it means "not fetched"
            fault = error
            continue
        if hashlib.sha256(source.read_bytes()).hexdigest() == jar.sha256:
            _place(source, target / jar.file_name)
            return
        source.unlink()  # half a file of an interrupted run, or not what was pinned
        fault = ValueError("its SHA-256 is not the pinned one")
    raise Unavailable("Maven repository", f"{jar.file_name} could not be fetched: {fault}")


def _download(jar: Jar) -> Path:
    """Into the user's own Maven repository cache (the usual one, so mirrors and earlier downloads count)."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    logging.getLogger("jgo").setLevel(logging.ERROR)
    context = MavenContext(repo_cache=GlobalSettings.load().repo_cache, timeout=60)
    path: Path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    return path


def _place(source: Path, target: Path) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    os.close(handle)
    try:
        shutil.copyfile(source, name)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


def classpath(kafka_home: Path | None = None, say: Say = lambda _text: None) -> str:
    """What `java -cp` needs: the pinned jars, or the libs/ of a Kafka distribution. Raises `Misconfigured`."""
    if kafka_home is None:
        return f"{ensure_jars(say)}/*"
    libs = kafka_home / "libs"
    if not any(libs.glob("kafka_*.jar")):
        raise Misconfigured(f"There is no Kafka in {libs}.", "Point KAFKA_HOME at an unpacked Kafka 4 distribution.")
    return f"{libs}/*"


def main() -> None:
    """Fetch the jars, saying so."""
    try:
        ensure_jars(lambda text: print(f"  {text}", flush=True))
    except Unavailable as error:
        sys.exit(f"{error}. Check the network, or set KAFKA_HOME to an unpacked Kafka 4 distribution.")


if __name__ == "__main__":
    main()
