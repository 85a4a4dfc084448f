"""Identify a checkpoint file without reading all of it. Knows no layout."""

import hashlib
from pathlib import Path

SAMPLE_BYTES = 256 * 1024


def fingerprint(file: Path) -> str:
    """Return a hexadecimal digest of a file's name, size, modification time and samples of its content.

    The digest does not depend on the folder that the file is in. The modification time counts in whole seconds, because
    container images do not store fractions. The samples are SAMPLE_BYTES each from the beginning, from the middle and
    from the end. Raises OSError.
    """
    stat = file.stat()
    digest = hashlib.sha256(f"{file.name} {stat.st_size} {int(stat.st_mtime)}".encode())
    with file.open("rb") as content:
        for offset in (0, stat.st_size // 2, max(0, stat.st_size - SAMPLE_BYTES)):
            content.seek(offset)
            digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()
