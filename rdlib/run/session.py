"""What surrounds one run of 02_run, so that the notebook shows the method and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from rdlib import fit, inference
from rdlib.config import Config
from rdlib.data import Data
from rdlib.errors import InputError, memory_in_words
from rdlib.evaluate import details
from rdlib.paths import resolve
from rdlib.run import record
from rdlib.run.cache import Store
from rdlib.run.checkpoint import PREVIOUS, Checkpoint
from rdlib.run.files import remove_half_written, write_atomically
from rdlib.run.parameters import Where
from rdlib.run.provenance import provenance
from rdlib.score import Scores

PARTS = {"load": "loading the data", "build": "building the model", "fit": "training", "score": "scoring", "metrics": "evaluating"}


class Run:
    """One run's device and threads, its lock, the store it shares with other runs, its checkpoint, stopwatch and result.

    A `with` cannot span cells, so the notebook makes one of these and uses its parts: `with run.part("load"): ...`, then
    `run.begin`, `with run.training(net): ...`, `run.write`. Made while another process has the same run, it waits for that one.

    done: the run's result: None until it is written, from `begin` on if it was there before
    history: what was seen of the test set while training; JSON-able, kept in the checkpoint
    model: with `train_on=all`, what the run file says of the model that several runs share, see `training`
    """

    def __init__(self, cfg: Config, where: Where) -> None:
        if where.threads:
            torch.set_num_threads(where.threads)
        self.cfg, self.where, self.device = cfg, where, inference.choose_device(where.device)
        self.out, self.data_root = resolve(where.out_dir), resolve(where.data_root) if where.data_root else ""
        self.folder = record.run_folder(self.out, cfg)
        self.store = Store(resolve(where.cache_dir) if where.cache_dir else None, where.cache_gb * 10**9)
        self.lock = claim(self.out, self.folder)  # held for as long as the process lives
        self.timing: dict[str, float] = {}
        self.done: dict[str, Any] | None = None
        self.model: dict[str, Any] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the run, of PARTS: its seconds go into the run file; memory that runs out in it is a sentence."""
        start = time.perf_counter()
        with memory_in_words(PARTS[name]):
            yield
        self.timing[f"{name}_s"] = self.timing.get(f"{name}_s", 0) + time.perf_counter() - start

    def begin(self, images: Data, net: nn.Module, teacher_sha256: str) -> None:
        """Look for a finished result of this very run, and if there is none for a checkpoint to go on from.

        raises: InputError if a result with the same id has another configuration, data, weights or format
        """
        self.images, self.trainable = images, sum(p.numel() for p in net.parameters() if p.requires_grad)
        self.same = {"teacher_sha256": teacher_sha256, "data_manifest": images.manifest}
        self.same |= {"train_manifests": images.train_manifests} if images.train_manifests else {}
        self.hardware = inference.describe_hardware(self.device)
        if remark := inference.missing_precision(self.cfg, self.device):
            self.store.log["precision"] = remark
            print(remark)
        bits = {"threads": self.hardware["threads"], "device": self.device.type, "evaluate_every": self.where.evaluate_every}
        trained, folder = record.identity(self.cfg.to_dict(), **self.same) | bits, self.folder
        if self.cfg.train_on == "all":  # the category plays no part in training
            trained = {k: v for k, v in trained.items() if k not in ("category", "data_manifest")}
            folder = self.out / "models" / self.cfg.model_id
        self.checkpoint = Checkpoint(folder, trained, self.where.checkpoint_s)
        self.history = self.checkpoint.notes
        if self.where.overwrite:
            self.checkpoint.remove()
            return
        self.done = record.finished(self.out, self.cfg, **self.same)
        if self.done and (remark := record.made_otherwise(self.done, self.hardware)):
            print(remark)

    @contextlib.contextmanager
    def training(self, net: nn.Module) -> Iterator[None]:
        """The part "fit". With `train_on=all` the runs of a model share its checkpoint: one trains, the others wait and find it whole.

        model: id, sha256 of the trained state, trained_by (run id), fit_s (seconds): beside the checkpoint and in each run file
        """
        if self.cfg.train_on == "category":
            with self.part("fit"):
                yield
            return
        lock = claim(self.out, self.checkpoint.folder)
        try:
            with self.part("fit"):
                yield
            self.model = {"id": self.cfg.model_id, "sha256": state_sha256(net)}
            file = self.checkpoint.folder / "model.json"
            told = json.loads(file.read_text()) if file.is_file() and self.checkpoint.resumed_from == self.cfg.epochs else {}
            if told.items() >= self.model.items():
                self.model = told
                print(f"trained by {told['trained_by']}")
            else:
                self.model |= {"trained_by": self.cfg.run_id, "fit_s": round(self.timing["fit_s"], 3)}
                write_atomically(file, json.dumps(self.model, indent=1) + "\n")
                (file.parent / PREVIOUS).unlink(missing_ok=True)
        finally:
            lock.release()

    def write(self, scores: Scores, losses: list[float], metrics: dict[str, float], complexity: dict[str, Any] | None = None) -> None:
        """Write the run's result, whole or not at all, and its maps if they are wanted; the checkpoint goes.

        metrics: name -> [0, 1]; complexity: of `complexity.measure`
        """
        with self.part("metrics"):
            beside = details(scores, self.cfg, metrics)
        test = self.images.test
        if self.where.save_maps:
            record.save_maps(self.folder, scores, test.images)
        counts = {"train_images": len(self.images.train), "test_images": len(test), "test_anomalous": int(test.labels.sum())}
        origin = {"shared": self.store.log, "resumed_from": self.checkpoint.resumed_from, "same_function": self.where.same_function}
        origin |= {"model": self.model} if self.model else {}
        self.done = record.write(
            self.folder,
            {
                "format": record.FORMAT,
                "run_id": self.cfg.run_id,
                "status": "finished",
                "config": self.cfg.to_dict(),
                "losses": losses,
                "metrics": metrics,
                **beside,
                "history": self.history,
                "data": counts | self.images.notes,
                "model": {"trainable_parameters": self.trainable},
                "timing": {name: round(seconds, 3) for name, seconds in self.timing.items()},
                **({"complexity": complexity} if complexity else {}),
                "peak_memory_mb": round(peak_memory_mb(), 1),
                "provenance": provenance(self.cfg, hardware=self.hardware, **self.same, **origin),
            },
        )
        if not self.model:  # others wait for that one
            self.checkpoint.remove()


def claim(out_dir: Path, folder: Path) -> FileLock:
    """The right to write a run's or a model's folder, for as long as the process lives: another process on the same one waits.

    Removes what a killed process left half-written.
    """
    lock = FileLock(out_dir / "locks" / folder.name, is_singleton=True)  # a notebook may be run again in its kernel
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        remove_half_written(folder)
    except OSError as error:
        raise InputError(f"{out_dir}: cannot be written ({error.strerror}); give another out_dir or allow writing there") from None
    return lock


def state_sha256(net: nn.Module) -> str:
    """Of all that training changes, by name."""
    total = hashlib.sha256()
    for name, tensor in fit.own_state(net).items():
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
