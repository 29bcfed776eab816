"""Unfinished training on disk: enough to go on after a kill at any moment and end with the same bits.

Two files per run, the newest and the one before. Each is a sha256 followed by torch's format, written under another name,
flushed and renamed: a file that is there is whole, and one that was damaged later is noticed and the previous one used.
Nothing in them is pickled code; they are read with `weights_only`. Python's, NumPy's and torch's global random states are not
in them: training draws from its own generator of batches only, which the state holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rdlib.errors import InputError
from rdlib.run.files import FORMAT, NUMERICS, write_atomically

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint-previous.pt"
DIGEST = hashlib.sha256().digest_size
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError)


@dataclass
class Checkpoint:
    """The checkpoints of one run.

    folder: the run's
    identity: what must not change between the parts of one run: configuration, data manifest, sha256 of the weights, and what
        else the bits or the notes depend on (threads, device, how often the test set is looked at)
    every_s: least seconds between two; 0 writes at every epoch
    notes: JSON-able remarks of the caller, saved and restored with the rest
    resumed_from: epochs that were done when training went on from here; 0 = from the start
    """

    folder: Path
    identity: dict[str, Any]
    every_s: float = 120
    notes: list[Any] = field(default_factory=list)
    resumed_from: int = 0

    def __post_init__(self) -> None:
        self.identity = json.loads(json.dumps(self.identity | {"format": FORMAT, "numerics": NUMERICS}))
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= self.every_s

    def save(self, state: dict[str, Any]) -> None:
        """Write the newest checkpoint; the one that was newest becomes the previous.

        state: tensors, numbers, text, lists and dictionaries
        raises: InputError if the disk is full or not writable; what was there stays
        """
        buffer = io.BytesIO()
        torch.save({"identity": json.dumps(self.identity), "notes": json.dumps(self.notes), "state": state}, buffer)
        content = buffer.getvalue()
        write_atomically(self.folder / NEWEST, hashlib.sha256(content).digest() + content, keep=self.folder / PREVIOUS)
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, after restoring `notes`; None if there is none.

        A newest one that is damaged is removed, so that the next `save` does not put it in the place of the good one before.

        raises: InputError if it belongs to another configuration, data, weights or format, or is no checkpoint
        """
        raw = next((raw for raw in map(self._whole, (NEWEST, PREVIOUS)) if raw is not None), None)
        if raw is None:
            return None
        try:
            found = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
            there, notes, epochs = dict(json.loads(found["identity"])), json.loads(found["notes"]), len(found["state"]["losses"])
        except UNREADABLE as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{self.folder}: its checkpoint is not rdlib's ({why}); remove {NEWEST} and {PREVIOUS} there") from None
        different = sorted(k for k in there.keys() | self.identity.keys() if there.get(k) != self.identity.get(k))
        if different:
            raise InputError(
                f"{self.folder}: its checkpoint was made with another {', '.join(different)}; remove the folder to start again, "
                "or give the run another label"
            )
        self.resumed_from, self.notes[:] = epochs, notes
        return found["state"]

    def _whole(self, name: str) -> bytes | None:
        """The content of a checkpoint file, if it is what was written."""
        path = self.folder / name
        if not path.is_file():
            return None
        raw = path.read_bytes()
        if hashlib.sha256(raw[DIGEST:]).digest() != raw[:DIGEST]:
            with contextlib.suppress(OSError):  # a read-only folder: nothing will be saved there either
                path.unlink()  # damaged
            return None
        return raw[DIGEST:]

    def remove(self) -> None:
        """The run is finished: its result is what counts."""
        for name in (NEWEST, PREVIOUS):
            (self.folder / name).unlink(missing_ok=True)
