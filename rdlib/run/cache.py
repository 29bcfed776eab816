"""Arrays on disk that several runs share: decoded images and the frozen teacher's features, keyed by content.

An entry is a folder of .npy files, read memory-mapped, so that runs at once share one copy in memory, and their sha256. It is
written under another name and renamed when whole; a lock per key makes a second run wait for the first instead of computing the
same. An entry that is not what was written (a file lost, cut, changed) is made again. The least recently used entries go when
the store exceeds its limit; what else lies in the folder is not touched. Nothing in it is pickled; deleting it loses only time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

FORMAT = 2  # raise it when what is stored under a key changes its meaning
DIGESTS = "sha256.json"
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

    def arrays(self, what: str, key: str, nbytes: int, chunks: Callable[[], Iterable[Sequence[NDArray]]]) -> list[NDArray] | None:
        """The arrays of `key`: from disk, or computed, written and read back.

        what: name in the log
        nbytes: size of all of them, to see whether they fit
        chunks: yields parts of every array, in order along axis 0; called only if they are not on disk
        returns: memory-mapped arrays; None if they cannot be kept (no folder, over the limit, disk full or read-only)
        """
        key = key if isinstance(key, str) else key_of(*key)
        if self.folder is None:
            return None
        if nbytes > self.limit:
            self.log[what] = f"not kept: {nbytes / 1e9:.1f} GB, limit {self.limit / 1e9:.1f} GB"
            return None
        try:
            with self._locked(key):
                damaged = (self.folder / key).is_dir()
                found = self._read(key)
                self.log[what] = "read" if found is not None else "damaged, computed again" if damaged else "computed and kept"
                if found is None:
                    shutil.rmtree(self.folder / key, ignore_errors=True)
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
        """The arrays of a whole entry; None if there is none, or a file of it is lost, cut or changed."""
        entry = self.folder / key
        try:
            digests = json.loads((entry / DIGESTS).read_text(encoding="utf-8"))
            if digests != {file.name: _sha256(file) for file in _arrays_of(entry)}:
                return None
            # "c": writable in memory as torch wants it, never on disk
            found = [np.load(file, mmap_mode="c", allow_pickle=False) for file in _arrays_of(entry)]
        except (FileNotFoundError, ValueError):
            return None
        os.utime(entry)
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
            digests = {file.name: _sha256(file) for file in _arrays_of(unfinished)}
            (unfinished / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
            unfinished.rename(self.folder / key)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _make_room(self, nbytes: int, but: str) -> None:
        """Drop the least recently used entries that nobody is writing; readers keep what they have mapped."""
        entries = sorted((p for p in self.folder.iterdir() if p.is_dir() and ENTRY.fullmatch(p.name)), key=lambda p: p.stat().st_mtime)
        sizes = {p: sum(f.stat().st_size for f in _arrays_of(p)) for p in entries}
        for entry in entries:
            if sum(sizes.values()) + nbytes <= self.limit:
                return
            key = entry.name.removeprefix("unfinished-")
            if key != but:
                with contextlib.suppress(Timeout), self._locked(key, timeout=0):
                    shutil.rmtree(entry, ignore_errors=True)  # a kill meanwhile leaves what `_read` takes for damaged
                    sizes.pop(entry)


def _arrays_of(entry: Path) -> list[Path]:
    return sorted(entry.glob("*.npy"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
