"""Write app/stack/kafka_jars.txt: the jar set of one Kafka version, each file with its size and SHA-256.

Run by `make lock`. The list is what set-up downloads and checks, so resolving happens here and nowhere else.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import jgo

KAFKA = "org.apache.kafka:kafka_2.13:4.1.1"
# Kafka logs through SLF4J 1.7 and names no back end; its own distribution adds this one. It is resolved by itself:
# asked for together, log4j's bill of materials would pull kafka-clients down to 3.8.
LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3"
TARGET = Path(__file__).resolve().parent.parent / "app" / "stack" / "kafka_jars.txt"


def main() -> None:
    """Resolve, hash, write."""
    artifacts = {str(a.component): a for a in [*jgo.resolve(KAFKA), jgo.resolve(LOGGING)[0]]}
    lines = [f"# {KAFKA} and what it needs at run time. Made by scripts/pin_jars.py.", "# coordinates size sha256"]
    for artifact in sorted(artifacts.values(), key=str):
        data = artifact.resolve().read_bytes()
        coordinates = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
        lines.append(f"{coordinates} {len(data)} {hashlib.sha256(data).hexdigest()}")
    TARGET.write_text("\n".join(lines) + "\n")
    print(f"{TARGET.name}: {len(artifacts)} jars")


if __name__ == "__main__":
    main()
