"""Arrays on disk that several runs share: decoded images and the frozen teacher's features, keyed by content.

An entry is a folder of .npy files, read memory-mapped, so that runs at once share one copy in memory. It is written under
another name and renamed when whole; a lock per key makes a second run wait for the first instead of computing the same.
The least recently used entries go when the store exceeds its limit. Nothing in it is pickled; deleting it loses only time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

FORMAT = 2  # raise it when what is stored under a key changes its meaning


@dataclass
class Store:
    """Where shared arrays lie.

    folder: made when first written to; None keeps nothing on disk
    limit: bytes of all entries together
    log: what was asked for -> where it came from ("read", "computed and kept", or why it was not kept)
    """

    folder: Path | None = None
    limit: int = 20 * 10**9
    log: dict[str, str] = field(default_factory=dict)

    def arrays(self, what: str, key: str, nbytes: int, chunks: Callable[[], Iterable[Sequence[NDArray]]]) -> list[NDArray] | None:
        """The arrays of `key`: from disk, or computed, written and read back.

        what: name in the log
        nbytes: size of all of them, to see whether they fit
        chunks: yields parts of every array, in order along axis 0; called only if they are not on disk
        returns: memory-mapped arrays; None if they cannot be kept (no folder, over the limit, disk full or read-only)
        """
        if self.folder is None:
            return None
        if nbytes > self.limit:
            self.log[what] = f"not kept: {nbytes / 1e9:.1f} GB, limit {self.limit / 1e9:.1f} GB"
            return None
        try:
            with self._locked(key):
                found = self._read(key)
                self.log[what] = "read" if found is not None else "computed and kept"
                if found is None:
                    self._make_room(nbytes, but=key)
                    self._write(key, chunks())
                    found = self._read(key)
                return found
        except OSError as error:
            self.log[what] = f"not kept: {error.strerror or error}"
            return None

    def _locked(self, key: str, timeout: float = -1) -> FileLock:
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "locks" / key, timeout=timeout)

    def _read(self, key: str) -> list[NDArray] | None:
        files = sorted((self.folder / key).glob("*.npy"))
        if not files:
            return None
        try:
            # "c": writable in memory as torch wants it, never on disk
            found = [np.load(file, mmap_mode="c", allow_pickle=False) for file in files]
        except (ValueError, EOFError):  # cut short by a crash of the machine: made again
            shutil.rmtree(self.folder / key, ignore_errors=True)
            return None
        os.utime(self.folder / key)
        return found

    def _write(self, key: str, chunks: Iterable[Sequence[NDArray]]) -> None:
        unfinished = self.folder / f"unfinished-{key}"
        shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run: the lock is ours
        unfinished.mkdir(parents=True)
        try:
            with contextlib.ExitStack() as stack:
                files: list[BinaryIO] = []
                for parts in chunks:
                    if not files:
                        files = [stack.enter_context((unfinished / f"{i}.npy").open("wb")) for i in range(len(parts))]
                        lengths = [0] * len(parts)
                        for file, part in zip(files, parts):
                            _write_header(file, part, 0)
                    for i, (file, part) in enumerate(zip(files, parts, strict=True)):
                        file.write(np.ascontiguousarray(part).data)
                        lengths[i] += len(part)
                for file, part, length in zip(files, parts, lengths):
                    file.seek(0)
                    _write_header(file, part, length)
                    file.flush()
                    os.fsync(file.fileno())
            unfinished.rename(self.folder / key)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _make_room(self, nbytes: int, but: str) -> None:
        """Drop the least recently used entries that nobody is writing; readers keep what they have mapped."""
        entries = sorted((p for p in self.folder.iterdir() if p.is_dir() and p.name != "locks"), key=lambda p: p.stat().st_mtime)
        sizes = {p: sum(f.stat().st_size for f in p.glob("*.npy")) for p in entries}
        for entry in entries:
            if sum(sizes.values()) + nbytes <= self.limit:
                return
            key = entry.name.removeprefix("unfinished-")
            if key != but:
                with contextlib.suppress(Timeout), self._locked(key, timeout=0):
                    shutil.rmtree(entry, ignore_errors=True)
                    sizes.pop(entry)


def _write_header(file: BinaryIO, part: NDArray, length: int) -> None:
    """NumPy leaves room in the header for the first axis to grow, so it can be written again at the end."""
    layout = {"descr": np.lib.format.dtype_to_descr(part.dtype), "fortran_order": False, "shape": (length, *part.shape[1:])}
    np.lib.format.write_array_header_1_0(file, layout)


def key_of(*parts: Any) -> str:
    """A file name from everything that a content depends on: arrays and bytes by content, all else by its text."""
    total = hashlib.sha256(str(FORMAT).encode())
    for part in parts:
        raw = np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part if isinstance(part, bytes) else str(part).encode()
        total.update(hashlib.sha256(raw).digest())
    return total.hexdigest()[:40]
