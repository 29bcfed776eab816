"""`make mutants`: break the library on purpose, one fault at a time; the suite must notice each.

Every fault is made in a copy of `rdlib`; the tests named with it are run against the copy and have to fail. The same tests have to pass
on a copy without a fault, or their failures would show nothing. A fault whose text is no longer in the file, or whose tests are not
there, is an error, so this list keeps up with the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fault:
    """name; file of rdlib; text to replace; what it becomes; tests that must fail"""

    name: str
    file: str
    old: str
    new: str
    tests: str


FAULTS = [
    Fault("teacher follows train()", "teachers.py", "return super().train(False)", "return super().train(mode)", "test_model test_fit"),
    Fault("teacher not frozen", "teachers.py", "self.requires_grad_(False)\n", "self.requires_grad_(True)\n", "test_model"),
    Fault("swapped teacher scales", "teachers.py", "            feats.append(x)\n        return feats", "            feats.append(x)\n        return feats[::-1]", "test_teachers"),
    Fault("swapped student scales", "model.py", "return feats[::-1]", "return feats", "test_model"),
    Fault("MFF in another order", "model.py", "for path, f in zip(self.paths, teacher_feats)]", "for path, f in zip(self.paths, teacher_feats)][::-1]", "test_model"),
    Fault("cosine over the wrong axis", "distance.py", "1 - F.cosine_similarity(t, s, dim=1) for", "1 - F.cosine_similarity(t, s, dim=-1).mean(1, keepdim=True).expand_as(t[:, 0]) for", "test_distance"),
    Fault("flattened in two memory orders", "distance.py", "(f.permute(0, 2, 3, 1) if last else f)", "(f.permute(0, 2, 3, 1) if f.is_contiguous(memory_format=torch.channels_last) else f)", "test_distance test_fit"),
    Fault("losses exchanged", "distance.py", '"flat": flat_loss, "pixel": pixel_loss', '"flat": pixel_loss, "pixel": flat_loss', "test_fit"),
    Fault("wrong interpolation", "score.py", "align_corners=True", "align_corners=False", "test_score"),
    Fault("sigma halved", "score.py", "gaussian_filter1d(lines, sigma", "gaussian_filter1d(lines, sigma / 2", "test_score"),
    Fault("one scale lost", "score.py", "self.scale_maps[k - 1] for k in scales]", "self.scale_maps[k - 1] for k in scales[:2]]", "test_score"),
    Fault("wrong BatchNorm mode while training", "fit.py", "    model.train()\n    for epoch", "    model.eval()\n    for epoch", "test_fit"),
    Fault("folding forgets transposed convolutions", "inference.py", "transpose=isinstance(conv, nn.ConvTranspose2d)", "transpose=False", "test_inference test_score"),
    Fault("features of other images", "features.py", "row.index_select(0, there)", "row.index_select(0, there.flip(0))", "test_features test_fit"),
    Fault("key without the teacher", "features.py", "self.images, *state,", "self.images,", "test_features"),
    Fault("store reads what is half-written", "run/cache.py", 'unfinished = self.folder / f"unfinished-{name}"', "unfinished = self.folder / name", "run/test_cache"),
    Fault("a seed for each category of one model", "config.py", '"" if self.train_on == "all" else self.category', "self.category", "test_config"),
    Fault("one model trained on its own category", "data.py", "for name, one in found.items() for path", "for name, one in [(cfg.category, found[cfg.category])] for path", "run/test_shared"),
    Fault("a model of other training categories taken", "run/record.py", '({"train_manifests": train_manifests} if train_manifests else {})', "{}", "run/test_shared"),
    Fault("categories train one model beside each other", "run/session.py", "lock = claim(self.out, self.checkpoint.folder)", "lock = claim(self.out, self.folder)", "run/test_shared"),
    Fault("order of batches not restored", "fit.py", 'order.set_state(state["order"])', "pass", "run/test_crash"),
    Fault("store reads what lost a file", "run/cache.py", 'if not files or len(files) != int(files[0].stem.split("of")[1]):', "if not files:", "run/test_cache"),
    Fault("random layer4 beside weights through layer3", "teachers.py", "net.layer4, tail = nn.Identity(), None", "net.layer4 = nn.Identity()", "test_teachers"),
    Fault("optimiser not restored", "fit.py", 'optimiser.load_state_dict(state["optimiser"])', "pass", "run/test_crash"),
    Fault("damaged checkpoint used", "run/checkpoint.py", "                path.unlink()  # damaged\n            return None\n", "                pass\n", "run/test_crash"),
    Fault("masks paired by position", "layouts.py", "by_stem.get(stem)", "next(iter(masks), None)", "test_data"),
    Fault("mask rule > 0 by default", "pictures.py", '127 if rule == "over_half" else 0', "0", "test_data"),
    Fault("label from the mask", "data.py", 'np.array([item.defect != "good" for item in items], dtype=np.uint8)', "masks.any(axis=(1, 2)).astype(np.uint8)", "test_data"),
    Fault("4-connected regions", "metrics.py", "EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)", "EIGHT_NEIGHBOURS = None", "test_metrics"),
    Fault("PRO off by one threshold", "metrics.py", "pro = overlap[1:-1] / overlap[0]", "pro = overlap[:-2] / overlap[0]", "test_metrics"),
    Fault("ties counted as found", "metrics.py", 'for side in ("right", "left"))', 'for side in ("left", "left"))', "test_metrics"),
    Fault("area to the limit not divided by it", "metrics.py", "overlap) / limit / overlap[-1]", "overlap) / overlap[-1]", "test_metrics"),
    Fault("AU-PRO to 0.05 to another limit", "metrics.py", "STRICT_FPR = 0.05", "STRICT_FPR = 0.06", "test_metrics"),
    Fault("F1 as the mean of precision and recall", "metrics.py", "f1, kept = 2 * true / (true + false + anomalous),", "f1, kept = (true / (true + false) + true / anomalous) / 2,", "test_metrics"),
    Fault("threshold of the greatest F1 one too strict", "metrics.py", "float(thresholds[best])", "float(thresholds[max(best - 1, 0)])", "test_metrics"),
    Fault("true positive rate only below 1 %", "metrics.py", "<= LOW_FPR", "< LOW_FPR", "test_metrics"),
    Fault("AUPIMO's false positives of all images", "metrics.py", "maps[clean])", "maps[~masks])", "test_metrics"),
    Fault("AUPIMO linear in the false positive rate", "metrics.py", "np.log(upper / np.maximum(false, lower)) / np.log(upper / lower)", "(upper - false) / (upper - lower)", "test_metrics"),
    Fault("AUPIMO pools pixels of all images", "metrics.py", "np.mean(np.add.reduceat(found, np.cumsum(sizes) - sizes) / sizes)", "np.mean(found)", "test_metrics"),
    Fault("vanished defect is a normal image", "evaluate.py", "**pixels, labels=scores.labels)", "**pixels)", "test_evaluate"),
    Fault("image score by the mean", "metrics.py", '"max": np.max', '"max": np.mean', "test_metrics test_score"),
    Fault("seed the same for all categories", "config.py", "{self.seed}:{self.dataset}:{category}", "{self.seed}", "test_config"),
    Fault("non-finite loss trains on", "fit.py", "optimiser.found_inf.copy_(", "(lambda *_: None)(", "test_gpu_paths"),
    Fault("non-finite loss goes on", "fit.py", "if not math.isfinite(loss):", "if False:", "test_fit"),
]  # fmt: skip


NOTHING = Fault("no fault", "model.py", "", "", " ".join(sorted({name for fault in FAULTS for name in fault.tests.split()})))


def survives(fault: Fault) -> bool:
    """Whether its tests pass although the fault is there."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(REPO / "rdlib", Path(folder) / "rdlib")
        path = Path(folder) / "rdlib" / fault.file
        text = path.read_text(encoding="utf-8")
        if fault.old not in text:
            raise SystemExit(f"{fault.name}: {fault.file} no longer holds {fault.old!r}; renew the list")
        path.write_text(text.replace(fault.old, fault.new) if fault.old else text, encoding="utf-8")
        tests = [f"tests/{name}.py" for name in fault.tests.split()]
        words = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        run = subprocess.run(words, cwd=REPO, env=os.environ | {"PYTHONPATH": folder}, capture_output=True, text=True)
        if run.returncode not in (0, 1):  # 1: tests ran and failed; all else is no answer
            raise SystemExit(f"{fault.name}: pytest ended with {run.returncode}\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
        return run.returncode == 0


def main() -> None:
    if not survives(NOTHING):
        raise SystemExit("the tests fail on a copy without a fault; correct that first")
    survivors = []
    for fault in FAULTS:
        survivors += [fault.name] if survives(fault) else []
        print(f"{'SURVIVED' if fault.name in survivors else 'noticed '}  {fault.name}", flush=True)
    print(f"{len(FAULTS) - len(survivors)} of {len(FAULTS)} faults noticed; without a fault the same tests pass")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
