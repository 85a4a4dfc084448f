"""Add the hashes of wheels to a lock: `python -m scripts.lib.add_hash LOCK WHEEL …`. See scripts/lock."""

import hashlib
import re
import sys
from pathlib import Path


def add_hash(lock: str, name: str, digest: str) -> str:
    """Return the text of a lock in which a package has one more hash. Raises ValueError if it is not locked."""
    added, count = re.subn(rf"^({name}==\S+.*?\\\n)", rf"\1    --hash=sha256:{digest} \\\n", lock, flags=re.MULTILINE)
    if not count:
        raise ValueError(f"{name} is not in the lock")
    return added if digest not in lock else lock


def main(lock: Path, *wheels: Path) -> None:
    """Add the hash of each wheel to the lock, unless it is there."""
    for wheel in wheels:
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = wheel.name.partition("-")[0].lower().replace("_", "-")
        lock.write_text(add_hash(lock.read_text(), name, digest))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
