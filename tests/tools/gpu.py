"""`make gpu`: how fast is it on a GPU, against what? At most 6 minutes, no network; `--device cpu --quick` tries the program itself.

Needs torch (2.11 or later), torchvision, numpy, scipy, scikit-learn, pillow and this working tree, and pytest for the device tests at the
end. The teachers' weights are random, which cost the same time. Loops that are compared run in turn (A B C A B C ...). "Plain" does what
the official code does on a GPU, images already decoded: teacher in the graph, NCHW, PyTorch's defaults, a loss read in every step.
Written to results/reference/gpu/<device>.json; shown in 05_complexity; `--hours` renews the plan's hours in docs/full_run.md from it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO), str(REPO / "tests/tools")]
NEEDED = {name: name for name in ("torch", "torchvision", "numpy", "scipy")} | {"sklearn": "scikit-learn", "PIL": "pillow"}
if missing := [package for name, package in NEEDED.items() if importlib.util.find_spec(name) is None]:
    sys.exit(f"missing: {', '.join(missing)}; pip install them")

import numpy as np
import torch
import torch.nn.functional as F
from helpers import image_set
from scipy.ndimage import gaussian_filter
from torch.utils.flop_counter import FlopCounterMode

from rdlib import evaluate, features, fit, inference, model, score, teachers
from rdlib.config import Config
from rdlib.data import ImageSet
from rdlib.datasets import MVTEC_COUNTS
from rdlib.distance import flat_loss
from rdlib.run import plan
from rdlib.run.files import write_atomically

TRAINING = (("wide_resnet50_2", 256), ("resnet18", 256), ("resnet18", 32))
PRECISIONS = ("fp32", "tf32", "bf16")
OURS = tuple(f"{precision}, {how}" for precision in PRECISIONS for how in ("one by one", "CUDA graph"))
MINUTES, LIMIT_S = 6, 40
COMMITTED = REPO / "results/reference/gpu"


class Size:
    """How much is measured: all of it, or just enough to see that the program works, ResNet-18 at 32 px in place of everything."""

    def __init__(self, quick: bool) -> None:
        self.batch, self.steps, self.rounds, self.peak = (2, 1, 0, 128) if quick else (16, 10, 5, 8192)
        self.scored, self.train, self.test, self.epochs = (4, 4, 4, 1) if quick else (167, 209, 83, 200)
        self.px, self.quick = 32 if quick else 256, quick

    def teacher(self, name: str) -> str:
        return "resnet18" if self.quick else name


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(jobs: dict[str, Callable[[], Any]], rounds: int, steps: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each job (25, 50 and 75 % quantile over the rounds), `steps` calls at a time; the first round warms up
    and counts only where it is the only one. After LIMIT_S no round begins, but one that counts.

    A job that fails, for example since memory ran out, is left out and says why.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    begin = time.perf_counter()
    for number in range(rounds + 1):
        if number > 1 and time.perf_counter() - begin > LIMIT_S:
            break
        for name, job in jobs.items():
            if name not in seconds:
                continue
            try:
                wait(device)
                start = time.perf_counter()
                for _ in range(steps):
                    job()
                wait(device)
            except RuntimeError as error:
                print(f"{name}: {str(error).splitlines()[0]}", file=sys.stderr)
                del seconds[name]
                continue
            seconds[name].append((time.perf_counter() - start) / steps)
    return {name: np.percentile(values[1:] or values, (25, 50, 75)).tolist() for name, values in seconds.items()}


def config(teacher: str, px: int, batch: int, precision: str, **more: Any) -> Config:
    return Config.create(
        dataset="mvtec", category="noise", teacher=teacher, image_size=px, batch_size=batch, precision=precision, seed=0, **more
    )


def peaks(size: Size, device: torch.device) -> dict[str, float]:
    """FLOP/s of a large matrix product."""

    def product(precision: str) -> Callable[[], Any]:
        a = torch.rand(size.peak, size.peak, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)

        def run() -> None:
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            a @ a

        return run

    seconds = interleaved({p: product(p) for p in PRECISIONS}, size.rounds, size.steps, device)
    torch.backends.cuda.matmul.allow_tf32 = False
    return {precision: 2 * size.peak**3 / s[1] for precision, s in seconds.items()}


# --- Training -----------------------------------------------------------------------------------------------------


def build(cfg: Config, device: torch.device) -> model.ReverseDistillation:
    fit.seed_everything(cfg)
    return model.build(cfg, teachers.resnet_teacher(cfg.teacher)).to(device)


def plain_step(net: model.ReverseDistillation, images: np.ndarray, batch: int, device: torch.device) -> Callable[[], None]:
    net.train()
    net.teacher.requires_grad_(True)  # in eval mode, but not frozen
    optimiser = torch.optim.Adam([*net.ocbe.parameters(), *net.student.parameters()], lr=1e-6, betas=(0.5, 0.999))
    on_host = torch.from_numpy(images).float() / 255

    def run() -> None:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.allow_tf32 = True
        teacher_feats = net.teacher(on_host[torch.randperm(len(on_host))[:batch]].to(device))
        loss = flat_loss(teacher_feats, net.student_feats(teacher_feats))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()

    return run


def our_step(net: model.ReverseDistillation, train: ImageSet, cfg: Config, graph: bool, layout: torch.memory_format) -> Callable[[], None]:
    """One step of `fit.fit`; a graph that could not be captured counts as failed."""
    feats = features.TeacherFeatures(net.teacher, train.images, cfg)
    take = fit.Steps(net, fit.optimiser_of(net, cfg), cfg, graph)
    order = torch.Generator().manual_seed(0)

    def run() -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.allow_tf32 = cfg.precision == "tf32"
        chosen = feats[torch.randperm(len(train), generator=order)[: cfg.batch_size]]
        take([f.contiguous(memory_format=layout) for f in chosen], None)
        if graph and take.how.startswith("one by one:"):
            raise RuntimeError(take.how)

    return run


def training(teacher: str, px: int, size: Size, device: torch.device, peak: dict[str, float]) -> list[dict[str, Any]]:
    """A row per loop; without a number where it could not be measured."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    shown, px, stands = px, min(px, size.px), size.teacher(teacher)
    cfg, train = config(stands, px, size.batch, "fp32", lr=1e-6), image_set(4 * size.batch, px)
    net = build(cfg, device)
    jobs = {"plain": plain_step(build(cfg, device), train.images, size.batch, device)}
    with fit.seen_taps(net, train.images) as one_position:
        layout = fit.layout_of(one_position)
        net.to(memory_format=layout).train()
        feats = features.TeacherFeatures(net.teacher, train.images, cfg)[torch.arange(size.batch)]
        with FlopCounterMode(display=False) as counter:
            flat_loss(feats, net.student_feats(feats)).backward()
        for precision in PRECISIONS:
            for how in ("one by one", "CUDA graph"):
                cfg_p = config(stands, px, size.batch, precision, lr=1e-6)
                jobs[f"{precision}, {how}"] = our_step(net, train, cfg_p, how == "CUDA graph", layout)
        seconds = interleaved(jobs, size.rounds, size.steps, device)
    rows = []
    for name in jobs:
        low, middle, high = seconds.get(name, (math.nan,) * 3)
        rows.append(
            {
                "teacher": teacher,
                "image_size": shown,
                "batch_size": size.batch,
                "loop": name,
                "step_s": [low, middle, high],
                "steps_per_s": 1 / middle,
                "images_per_s": size.batch / middle,
                "times_plain": seconds.get("plain", (math.nan,) * 3)[1] / middle,
                "share_of_peak": counter.get_total_flops() / middle / peak[name[:4] if name != "plain" else "tf32"],
            }
        )
        print(f"{teacher} {px} px, {name}: {size.batch / middle:.1f} images/s", flush=True)
    return rows


# --- Scoring, a whole category -------------------------------------------------------------------------------------


def scoring(size: Size, device: torch.device) -> dict[str, list[float]]:
    """Seconds from images to maps, of WRN50-2: batch 1 and a Gaussian for each image, and `score.score`."""
    cfg = config(size.teacher("wide_resnet50_2"), size.px, size.batch, "tf32")
    test, net = image_set(size.scored, size.px, masks=True), build(cfg, device).eval()

    @torch.no_grad()
    def plain() -> None:
        for image in test.images:
            feats = net(torch.from_numpy(image)[None].to(device).float() / 255)
            maps = [1 - F.cosine_similarity(t, s)[None] for t, s in zip(*feats)]
            total = sum(F.interpolate(m, size=size.px, mode="bilinear", align_corners=True)[0, 0].cpu().numpy() for m in maps)
            gaussian_filter(total, sigma=4)

    return interleaved({"plain": plain, "ours": lambda: score.score(net, test, cfg)}, min(size.rounds, 2), 1, device)


def category(size: Size, device: torch.device, step_s: float, seconds_left: float) -> dict[str, Any]:
    """Seconds of a whole category; of fewer epochs where all would take too long, and then `whole_s` is extrapolated."""
    teacher = size.teacher("wide_resnet50_2")
    epochs = max(1, min(size.epochs, int(seconds_left / (step_s * math.ceil(size.train / size.batch)))))
    cfg = config(teacher, size.px, size.batch, "tf32", epochs=epochs)
    train, test = image_set(size.train, size.px), image_set(size.test, size.px, masks=True, seed=1)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    net = build(cfg, device)
    times = [time.perf_counter()]
    losses = fit.fit(net, train, cfg, lambda *_: times.append(time.perf_counter()))
    fitted = time.perf_counter()
    found = evaluate.evaluate(score.score(net, test, cfg), cfg)
    end = time.perf_counter()
    epoch = (times[-1] - times[1]) / (epochs - 1) if epochs > 1 else fitted - times[0]
    return {
        "teacher": teacher,
        "images": len(train),
        "epochs": epochs,
        "fit_s": fitted - times[0],
        "score_and_metrics_s": end - fitted,
        "whole_s": end - start + (size.epochs - epochs) * epoch,
        "images_per_s": len(train) / epoch,
        "peak_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else math.nan,
        "loss": [losses[0], losses[-1]],
        "image_auroc": found["image_auroc"],
    }


def device_tests() -> str:
    if importlib.util.find_spec("pytest") is None:
        return "not run: pytest is missing"
    words = ["-m", "pytest", "-q", "-m", "cuda", "--noconftest", "-W", "default", "-o", "addopts=", "tests/test_gpu_paths.py"]
    done = subprocess.run([sys.executable, *words], cwd=REPO, capture_output=True, text=True)
    print(done.stdout[-4000:], done.stderr[-1000:], flush=True)
    return (done.stdout.strip().splitlines() or ["no output"])[-1].strip("= ")


# --- The plan's hours ---------------------------------------------------------------------------------------------

PARTS = {
    "mvtec": "Tables 1, 2, 6: WRN50-2, 256 px and 128 px, 3 seeds",
    "bottleneck": "Table 5: two smaller bottlenecks, 3 seeds",
    "backbones": "Table 7: ResNet-50, ResNet-18, 3 seeds",
    "baselines": "same teacher: conventional distillation, PaDiM, SPADE",
    "deviations": "deviations: eight factors, one seed",
    "novelty": "Table 4: 30 classes, 3 seeds, 50 epochs",
    "novelty_sweep": "Table 4, sensitivity: five factors, one seed",
    "complexity": "cost of inference (Table 3)",
    "unified": "one model for all categories, 3 seeds",  # as many images in all as one each
}
GMACS = {"wide_resnet50_2": 53, "resnet50": 28, "resnet18": 7}  # multiply-adds of one training image of 256 px, 10^9
START_S, LOOK_S = 10, 2.5  # of a run beside its steps, of a look at the test set: about what the H100's run files have
NOVELTY_IMAGES = {"mnist": 6000, "fashion_mnist": 6000, "cifar10": 5000}


def step_seconds(teacher: str, px: int, precision: str, found: dict[str, Any]) -> float:
    """Of one optimiser step of 16 images: measured, or by multiply-adds from the nearest that is."""
    steps = {(r["teacher"], r["image_size"]): r["step_s"][1] for r in found["training"] if r["loop"] == f"{precision}, CUDA graph"}
    near = teacher if (teacher, 256) in steps else "wide_resnet50_2"
    scaled = steps[near, 256] * GMACS[teacher] / GMACS[near] * (px / 256) ** 2
    return steps.get((teacher, px), max(scaled, steps["resnet18", 32]))


def run_seconds(parameters: dict[str, Any], found: dict[str, Any]) -> float:
    name = parameters["dataset"]
    images = MVTEC_COUNTS[parameters["category"]][0] if name == "mvtec" else NOVELTY_IMAGES[name]
    steps, every = parameters["epochs"] * math.ceil(images / 16), parameters.get("evaluate_every", 0)
    looks = parameters["epochs"] // every if every else 0
    step_s = step_seconds(parameters["teacher"], parameters["image_size"], parameters["precision"], found)
    return START_S + LOOK_S * looks + steps * step_s


def plan_hours(found: dict[str, Any]) -> str:
    """The plan of profile paper as a Markdown table; a run that several tables need counts in the first."""
    rows, seen, total = [], set(), 0.0
    for table, name in PARTS.items():
        runs = {plan.identity(p): p for p in plan.tables("paper")[table]}
        new = {i: p for i, p in runs.items() if i not in seen}
        hours = sum(run_seconds(p, found) for p in new.values()) / 3600
        seen, total = seen | set(new), total + hours
        rows.append(f"| {name} | {len(new)} | {hours:.1f} |")
    head = f"| part | runs | GPU hours (from steps measured on {found['device']}) |"
    return "\n".join([head, "|---|---|---|", *rows, f"| **all** | **{len(seen)}** | **{total:.0f}** |"])


def with_hours(text: str) -> str:
    """The page with its block of hours as it should be by the first committed measurement."""
    table = plan_hours(json.loads(min(COMMITTED.glob("*.json")).read_text()))
    return re.sub(r"(<!-- hours -->\n).*?(\n<!-- /hours -->)", lambda m: m[1] + table + m[2], text, flags=re.S)


# --- All of it ----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a test of the program, no measurement")
    parser.add_argument("--out", help="JSON to write")
    parser.add_argument("--hours", action="store_true", help="only renew the hours in docs/full_run.md")
    args = parser.parse_args()
    page = REPO / "docs/full_run.md"
    if args.hours:
        return write_atomically(page, with_hours(page.read_text()))
    start, size, device = time.perf_counter(), Size(args.quick), inference.choose_device(args.device)
    hardware = inference.describe_hardware(device)
    name = hardware["gpu"] or str(device)
    peak = peaks(size, device)
    rows = [row for teacher, px in TRAINING for row in training(teacher, px, size, device, peak)]
    scored = scoring(size, device)
    (step_s,) = [r["step_s"][1] for r in rows if (r["teacher"], r["image_size"], r["loop"]) == (*TRAINING[0], "tf32, one by one")]
    left = 60 * (MINUTES - 1.5) - (time.perf_counter() - start)
    found = {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "threads": hardware["threads"],
        "quick": args.quick,
        "peak_flops": peak,
        "training": rows,
        "scoring_s": scored,
        "category": category(size, device, step_s if math.isfinite(step_s) else 1.0, left),
        "device_tests": device_tests(),
    }
    found["minutes"] = round((time.perf_counter() - start) / 60, 2)
    folder = REPO / "results/gpu" if args.quick else COMMITTED
    path = Path(args.out) if args.out else folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(tidy(found), indent=1, allow_nan=False) + "\n")
    print(f"{path}: {found['minutes']} minutes; device tests: {found['device_tests']}")


def tidy(value: Any) -> Any:
    """Four digits, and null for what could not be measured."""
    if isinstance(value, dict):
        return {k: tidy(v) for k, v in value.items()}
    if isinstance(value, list):
        return [tidy(v) for v in value]
    return (float(f"{value:.4g}") if math.isfinite(value) else None) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
