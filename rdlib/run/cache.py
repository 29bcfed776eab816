"""Arrays on disk that several runs share: decoded images and the frozen teacher's features, keyed by content.

An entry is a folder of .npy files, read memory-mapped, so that runs at once share one copy in memory. It is written under another
name, flushed and renamed when whole; a lock per key makes a second run wait for the first instead of computing the same. An entry
that lost a file or the end of one is made again. The least recently used entries go when the store exceeds its limit; what else lies
in the folder is not touched. Nothing in it is pickled; deleting it loses only time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

FORMAT = 3  # raise it when what is stored under a key changes its meaning
ENTRY = re.compile(r"(unfinished-)?[0-9a-f]{40}")  # the name of an entry, see `key_of`, or of one being written


@dataclass
class Store:
    """Where shared arrays lie.

    folder: made when first written to; None keeps nothing on disk
    limit: bytes of all entries together
    log: what was asked for -> where it came from ("read", "computed and kept", "damaged, computed again", or why it was not kept)
    """

    folder: Path | None = None
    limit: int = 20 * 10**9
    log: dict[str, str] = field(default_factory=dict)

    def arrays(self, what: str, key: Sequence[Any], nbytes: int, make: Callable[[], Iterator[list[NDArray]]]) -> list[NDArray] | None:
        """The arrays of `key`: from disk, or computed, written and read back.

        what: name in the log
        key: everything that the content depends on, see `key_of`
        nbytes: size of all of them, to see whether they fit
        make: yields parts of every array, in order along axis 0; called only if they are not on disk
        returns: memory-mapped arrays; None if they cannot be kept (no folder, over the limit, disk full or read-only)
        """
        key = key if isinstance(key, str) else key_of(*key)
        if self.folder is None:
            return None
        if nbytes > self.limit:
            self.log[what] = f"not kept: {nbytes / 1e9:.1f} GB, limit {self.limit / 1e9:.1f} GB"
            return None
        name = key_of(key)
        try:
            with self._locked(name):
                damaged = (self.folder / name).is_dir()
                found = self._read(name)
                self.log[what] = "read" if found is not None else "damaged, computed again" if damaged else "computed and kept"
                if found is None:
                    shutil.rmtree(self.folder / name, ignore_errors=True)
                    self._make_room(nbytes, but=name)
                    self._write(name, make())
                    found = self._read(name)
                return found
        except OSError as error:
            self.log[what] = f"not kept: {error.strerror or error}"
            return None

    def _locked(self, name: str, timeout: float = -1) -> FileLock:
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "locks" / name, timeout=timeout)

    def _read(self, name: str) -> list[NDArray] | None:
        """The arrays of a whole entry; None if there is none, or a file of it is lost or cut."""
        files = sorted((self.folder / name).glob("*.npy"))
        try:
            if not files or len(files) != int(files[0].stem.split("of")[1]):
                return None
            # "c": writable in memory as torch wants it, never on disk
            found = [np.lib.format.open_memmap(file, mode="c") for file in files]
        except (ValueError, IndexError):
            return None
        os.utime(self.folder / name)
        return found

    def _write(self, name: str, chunks: Iterator[list[NDArray]]) -> None:
        unfinished = self.folder / f"unfinished-{name}"
        shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run: the lock is ours
        unfinished.mkdir(parents=True)
        try:
            with contextlib.ExitStack() as stack:
                files: list[BinaryIO] = []
                for parts in chunks:
                    if not files:
                        paths = [unfinished / f"{i:02d}of{len(parts):02d}.npy" for i in range(len(parts))]
                        files, lengths = [stack.enter_context(path.open("wb")) for path in paths], [0] * len(parts)
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
            unfinished.rename(self.folder / name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _make_room(self, nbytes: int, but: str) -> None:
        """Drop the least recently used entries that nobody is writing; readers keep what they have mapped."""
        entries = sorted((p for p in self.folder.iterdir() if ENTRY.fullmatch(p.name)), key=lambda p: p.stat().st_mtime)
        sizes = {p: sum(f.stat().st_size for f in p.glob("*.npy")) for p in entries}
        for entry in entries:
            if sum(sizes.values()) + nbytes <= self.limit:
                return
            name = entry.name.removeprefix("unfinished-")
            if name != but:
                with contextlib.suppress(Timeout), self._locked(name, timeout=0):
                    shutil.rmtree(entry, ignore_errors=True)  # a kill meanwhile leaves what `_read` takes for damaged
                    sizes.pop(entry)


def _write_header(file: BinaryIO, part: NDArray, length: int) -> None:
    """NumPy leaves room in the header for the first axis to grow, so it can be written again at the end."""
    layout = {"descr": np.lib.format.dtype_to_descr(part.dtype), "fortran_order": False, "shape": (length, *part.shape[1:])}
    np.lib.format.write_array_header_1_0(file, layout)


def key_of(parts: Sequence[Any]) -> str:
    """The name of an entry, from everything that its content depends on: arrays by type, shape and content, bytes, else as text."""
    total = hashlib.sha256(str(FORMAT).encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype.str}{part.shape}".encode())
        raw = np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part if isinstance(part, bytes) else str(part).encode()
        total.update(hashlib.sha256(raw).digest())
    return total.hexdigest()[:40]
