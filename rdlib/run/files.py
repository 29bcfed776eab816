"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rdlib.errors import InputError

FORMAT = 1  # of a run file
# Raise it when the same configuration trains or scores to other bits.
# 2: memory layout, fused Adam (0.2.0); 3: taps and layout at 32 px (0.4.0);
# 4: at 32 px only full batches (0.5.0)
NUMERICS = 4


def write_atomically(path: Path, content: str | bytes, keep: Path | None = None) -> None:
    """Write to a temporary file beside `path`, flush it to disk, rename: a reader sees all of it or nothing.

    keep: where the file that was there before goes; None drops it
    raises: InputError if the disk is full or the folder is not writable; what was there stays
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _write_temporary(path, data)
        if keep is not None and path.is_file():
            path.replace(keep)
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); make room or allow writing there and start again: what was there before is kept"
        ) from error


def remove_half_written(folder: Path) -> None:
    """Remove what killed processes left of `write_atomically` in a folder that nobody else writes to now."""
    for left in folder.glob(f"{HALF_WRITTEN}*.tmp"):
        left.unlink(missing_ok=True)


HALF_WRITTEN = ".rdlib-half-written-"  # our own name, so that no file of the user's is meant


def _write_temporary(path: Path, data: bytes) -> Path:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=HALF_WRITTEN, suffix=".tmp", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:  # Ctrl-C too: no half-written file stays behind
            Path(file.name).unlink(missing_ok=True)
            raise
    Path(file.name).chmod(0o644)
    return Path(file.name)
