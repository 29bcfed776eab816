"""`make bench`: how fast is it, against what? Written to results/<profile>/bench.json and shown in 05_complexity.

Everything that is compared runs in turn in one process (A B C A B C ...), so that a noisy machine disturbs all alike; medians and
quartiles are kept. The "plain" side does what the official code does, written from its description (pitfalls 12-14): teacher in
the graph, NCHW float32, plain Adam, images decoded in every epoch; batch 1 when scoring, a Gaussian per image, pixels appended
to lists, PRO in a loop over 200 thresholds and all regions.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops
from sklearn.metrics import auc, roc_auc_score
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from rdlib import data, demo, evaluate, features, fit, inference, layouts, metrics, model, pictures, score, teachers
from rdlib.config import Config
from rdlib.distance import flat_loss
from rdlib.paths import project_root
from rdlib.run import files, provenance
from rdlib.run.cache import Store

Timed = dict[str, Callable[[], Any]]
PLAIN_LARGE, LARGE_PX = "plain, files of 900 px", 900  # MVTec AD's bottle is 900 x 900; its categories have 700 to 1024 px
DRIFT_STEPS = (1, 2, 5, 10, 20)
TRAINING = (("wide_resnet50_2", 256, 8), ("resnet18", 128, 16), ("efficientnet_lite0", 128, 16))


def interleaved(jobs: Timed, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each job, one after the other in every round; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    return {name: spread(values[1:]) for name, values in seconds.items()}


def spread(values: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(values, (25, 50, 75))
    return {"median_s": round(median, 5), "q1_s": round(low, 5), "q3_s": round(high, 5), "n": len(values)}


def config(teacher: str, size: int, root: Path, category: str, **more: Any) -> Config:
    dataset = "demo" if root == demo.demo_root() else "mvtec"
    return Config.create(dataset=dataset, category=category, teacher=teacher, image_size=size, seed=0, **more)


def teacher_of(name: str) -> teachers.Teacher:
    """Random weights where they would have to be downloaded: they cost the same time."""
    torch.manual_seed(0)
    return teachers.resnet_teacher(name) if name in teachers.RESNETS else teachers.load_teacher(name)[0]


# --- (a) Training -------------------------------------------------------------------------------------------------


def training(root: Path, large: Path, category: str, rounds: int) -> list[dict[str, Any]]:
    """large: the same photographs enlarged to the size that MVTec AD ships, for a plain loop that decodes those in every epoch"""
    rows = []
    for teacher, size, batch in TRAINING:
        cfg = config(teacher, size, root, category, batch_size=batch)
        steps, flops = {"plain": PlainTraining(cfg, root), PLAIN_LARGE: PlainTraining(cfg, large)}, {}
        for precision in ("fp32", "bf16"):
            cfg_p = config(teacher, size, root, category, batch_size=batch, precision=precision)
            steps[precision] = OurTraining(cfg_p, root)
            flops[precision] = steps[precision].flops_per_step()
        seconds = interleaved(steps, rounds)
        convolutions = {p: convolution_s(steps[p]) for p in ("fp32", "bf16")}
        rows.append(
            {
                "teacher": teacher,
                "image_size": size,
                "batch_size": batch,
                "step": seconds,
                "images_per_s": {name: round(batch / s["median_s"], 2) for name, s in seconds.items()},
                "times_plain": {p: round(seconds["plain"]["median_s"] / seconds[p]["median_s"], 2) for p in ("fp32", "bf16")},
                "times_plain_large": {p: round(seconds[PLAIN_LARGE]["median_s"] / seconds[p]["median_s"], 2) for p in ("fp32", "bf16")},
                "convolutions_s": {p: round(s, 4) for p, s in convolutions.items()},
                "times_plain_if_only_convolutions": {p: round(seconds["plain"]["median_s"] / s, 2) for p, s in convolutions.items()},
                "features_once_s": {p: round(steps[p].features_s, 2) for p in ("fp32", "bf16")},
                "share_of_peak": {p: round(flops[p] / seconds[p]["median_s"] / conv_peak(p), 3) for p in ("fp32", "bf16")},
                "drift": drift(cfg, root) if size <= 128 else None,  # WRN50-2 would take as long as all the rest
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


class PlainTraining:
    """One optimiser step of the official loop, decoding its batch."""

    def __init__(self, cfg: Config, root: Path) -> None:
        teacher = teacher_of(cfg.teacher)
        fit.seed_everything(cfg)
        self.net = model.build(cfg, teacher)
        self.net.teacher.requires_grad_(True)  # in eval mode, but not frozen
        self.net.train()
        self.tail = teacher.tail.eval()
        self.optimiser = torch.optim.Adam(
            [*self.net.ocbe.parameters(), *self.net.student.parameters()], lr=cfg.lr, betas=(cfg.beta1, cfg.beta2)
        )
        self.files = sorted((root / cfg.category / "train/good").iterdir())
        self.batches = endless(len(self.files), cfg)
        size = (cfg.image_size, cfg.image_size)
        self.transform = transforms.Compose([transforms.Resize(size), transforms.ToTensor(), transforms.CenterCrop(size)])
        self.losses: list[float] = []

    def __call__(self) -> None:
        chosen = [self.files[i] for i in next(self.batches)]
        images = torch.stack([self.transform(Image.open(f).convert("RGB")) for f in chosen])
        teacher_feats = self.net.teacher(images)
        self.tail(teacher_feats[-1])  # layer4, computed and thrown away
        student_feats = self.net.student_feats(teacher_feats)
        pairs = zip(teacher_feats, student_feats)
        loss = sum((1 - F.cosine_similarity(t.reshape(len(t), -1), s.reshape(len(s), -1))).mean() for t, s in pairs)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.losses.append(loss.item())


class OurTraining:
    """One step of `fit.fit`: the same calls on the same batches."""

    def __init__(self, cfg: Config, root: Path) -> None:
        teacher = teacher_of(cfg.teacher)
        fit.seed_everything(cfg)
        self.cfg, self.net = cfg, model.build(cfg, teacher).to(memory_format=torch.channels_last)
        self.train = data.load(cfg, root).train
        start = time.perf_counter()
        self.features = features.TeacherFeatures(self.net.teacher, self.train.images, cfg)
        self.features_s = time.perf_counter() - start
        self.optimiser = fit.optimiser_of(self.net, cfg)
        self.batches = endless(len(self.train), cfg)
        self.net.train()
        self.losses: list[float] = []

    def __call__(self) -> None:
        self.losses.append(fit.step(self.net, self.optimiser, self.features[next(self.batches)], None, self.cfg).item())

    def flops_per_step(self) -> int:
        """Of one forward and backward pass, by PyTorch's counter, on a copy."""
        net = copy.deepcopy(self.net)
        feats = [f.float() for f in self.features[torch.arange(self.cfg.batch_size)]]
        with FlopCounterMode(display=False) as counter:
            flat_loss(feats, net.student_feats(feats)).backward()
        return counter.get_total_flops()


def one_position(rounds: int) -> dict[str, Any]:
    """A step at Table 4's 32 px, where few taps of a 3x3 kernel see more than the border: with all, and as `fit.fit` does."""
    cfg = Config.create(dataset="mnist", normal_class=0, seed=0)
    teacher = teacher_of("resnet18")
    feats = teacher(torch.rand(cfg.batch_size, 3, cfg.image_size, cfg.image_size))
    with contextlib.ExitStack() as while_measured:

        def loop(layout: torch.memory_format, whole: bool) -> Callable[[], Any]:
            fit.seed_everything(cfg)
            net = model.build(cfg, teacher).to(memory_format=layout).train()
            if whole:
                for conv in net.modules():
                    conv.__class__ = nn.Conv2d if isinstance(conv, inference.OnePosition) else conv.__class__
            while_measured.enter_context(inference.cut_to_seen_taps(net))
            return partial(fit.step, net, fit.optimiser_of(net, cfg), [f.contiguous(memory_format=layout) for f in feats], None, cfg)

        jobs = {
            "all taps, channels-last": loop(torch.channels_last, True),
            "all taps, NCHW": loop(torch.contiguous_format, True),
            "ours": loop(torch.contiguous_format, False),
        }
        about = {"teacher": cfg.teacher, "image_size": cfg.image_size, "batch_size": cfg.batch_size}
        found = about | {"step": interleaved(jobs, 5 * rounds)}
    print(json.dumps(found), flush=True)
    return found


def drift(cfg: Config, root: Path) -> dict[str, list[float]]:
    """How far float32 losses are from the plain loop's, as a share of them, after some steps on the same batches.

    Ours computes the same in another memory layout, so it rounds differently. Beside it the plain loop itself, with every weight
    changed by about 1e-7 of it, the size of one rounding: what training makes of a difference that small.
    """
    plain, ours, nudged = PlainTraining(cfg, root), OurTraining(cfg, root), PlainTraining(cfg, root)
    with torch.no_grad():
        for weights in nudged.net.trainable():
            weights.mul_(1 + 1e-7 * torch.randn_like(weights))
    for _ in range(max(DRIFT_STEPS)):
        for loop in (plain, ours, nudged):
            loop()
    found = {"ours": ours.losses, "plain, weights changed by 1e-7": nudged.losses}
    apart = {name: [abs(losses[s - 1] / plain.losses[s - 1] - 1) for s in DRIFT_STEPS] for name, losses in found.items()}
    return {"steps": list(DRIFT_STEPS), **apart}


def convolution_s(job: Callable[[], Any], steps: int = 3) -> float:
    """Seconds of one step inside the convolutions, forward and backward: what no loop around the same kernels can save."""
    job()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            job()
    kernels = ("aten::convolution_backward", "aten::mkldnn_convolution", "aten::_convolution", "aten::slow_conv_transpose2d")
    return sum(event.self_cpu_time_total for event in profiler.key_averages() if event.key in kernels) / 1e6 / steps


def enlarged(root: Path, category: str, folder: Path) -> Path:
    """The training photographs of a category as PNG files of 900 px in `folder`."""
    target = folder / category / "train/good"
    target.mkdir(parents=True)
    for file in sorted((root / category / "train/good").iterdir()):
        Image.open(file).convert("RGB").resize((LARGE_PX, LARGE_PX), Image.Resampling.BICUBIC).save(target / file.name)
    return folder


def endless(images: int, cfg: Config):
    order = torch.Generator().manual_seed(cfg.torch_seed)
    for _ in count():
        yield from (b for b in fit.batches(images, cfg.batch_size, order) if len(b) == cfg.batch_size)


PEAKS: dict[str, float] = {}


def conv_peak(precision: str) -> float:
    """FLOP/s of the machine on a large 3x3 convolution, forward, channels last: the best of several shapes."""
    if precision not in PEAKS:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        best = 0.0
        for channels, side in ((128, 64), (256, 32), (512, 16)):
            conv = torch.nn.Conv2d(channels, channels, 3, padding=1).to(dtype=dtype, memory_format=torch.channels_last)
            x = torch.rand(16, channels, side, side).to(dtype=dtype, memory_format=torch.channels_last)
            with torch.no_grad():
                seconds = interleaved({"conv": lambda conv=conv, x=x: conv(x)}, 7)["conv"]["median_s"]
            best = max(best, 2 * 16 * channels**2 * 9 * side**2 / seconds)
        PEAKS[precision] = best
    return PEAKS[precision]


# --- (b) Scoring --------------------------------------------------------------------------------------------------


def scoring(root: Path, category: str, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for teacher, size, _ in TRAINING:
        cfg = config(teacher, size, root, category)
        fit.seed_everything(cfg)
        net = model.build(cfg, teacher_of(teacher))
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder))
            found: dict[str, dict[str, float]] = {}

            def ours(where: Store | None, name: str, cfg=cfg, net=net, found=found) -> None:
                found[name] = evaluate.evaluate(score.score(net, data.load(cfg, root, where).test, cfg, where), cfg)

            def plain(cfg=cfg, net=net, found=found) -> None:
                found["plain"] = plain_scoring(net, cfg, root)

            jobs = {"plain": plain, "ours": partial(ours, None, "ours"), "ours, features shared": partial(ours, store, "shared")}
            seconds = interleaved(jobs, rounds)
        rows.append(
            {
                "teacher": teacher,
                "image_size": size,
                "images": len(data.load(cfg, root).test),
                "seconds": seconds,
                "times_plain": {n: round(seconds["plain"]["median_s"] / s["median_s"], 2) for n, s in seconds.items() if n != "plain"},
                "largest_metric_difference": max(abs(found["plain"][m] - found["ours"][m]) for m in found["plain"]),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


@torch.no_grad()
def plain_scoring(net: model.ReverseDistillation, cfg: Config, root: Path) -> dict[str, float]:
    net = net.eval()
    train, test, _ = layouts.find_items(root / cfg.category)
    size = (cfg.image_size, cfg.image_size)
    to_tensor = transforms.Compose([transforms.Resize(size), transforms.ToTensor()])
    pixels, truth, image_scores, labels, pros = [], [], [], [], []
    for item in test:
        image = to_tensor(pictures.read_image(item.image))[None]
        teacher_feats = net.teacher(image)
        net.teacher.tail(teacher_feats[-1])
        total = np.zeros(size)
        for t, s in zip(teacher_feats, net.student_feats(teacher_feats)):
            distance = 1 - F.cosine_similarity(t, s)
            total += F.interpolate(distance[:, None], size=size[0], mode="bilinear", align_corners=True)[0, 0].numpy()
        total = gaussian_filter(total, sigma=cfg.sigma)
        mask = np.zeros(size, int)
        if item.mask:
            mask = pictures.resize_mask(pictures.read_mask(item.mask), size[0], "over_half").astype(int)
            if mask.any():
                pros.append(plain_pro(mask[None], total[None]))
        truth.extend(mask.ravel())
        pixels.extend(total.ravel())
        labels.append(int(item.defect != "good"))
        image_scores.append(total.max())
    return {
        "pixel_auroc": roc_auc_score(truth, pixels),
        "image_auroc": roc_auc_score(labels, image_scores),
        "au_pro_per_image": float(np.mean(pros)),
    }


def plain_pro(masks: np.ndarray, maps: np.ndarray, thresholds: int = 200) -> float:
    """Per-region overlap over `thresholds` linear thresholds, one after the other, region by region."""
    step = (maps.max() - maps.min()) / thresholds
    overlaps, fprs = [], []
    inverse = 1 - masks
    for threshold in np.arange(maps.min(), maps.max(), step):
        above = maps > threshold
        regions = []
        for binary, mask in zip(above, masks):
            for region in regionprops(label(mask)):
                regions.append(binary[region.coords[:, 0], region.coords[:, 1]].sum() / region.area)
        overlaps.append(np.mean(regions))
        fprs.append(np.logical_and(inverse, above).sum() / inverse.sum())
    fpr, pro = np.array(fprs), np.array(overlaps)
    kept = fpr < 0.3
    return auc(fpr[kept] / fpr[kept].max(), pro[kept])


# --- (c) Metrics, (d) memory --------------------------------------------------------------------------------------


def made_up_maps(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random maps 256 x 256, float32; five sixths with one to three rectangular defects that score higher."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, 256, 256), bool)
    for i in range(images * 5 // 6):
        for top, left in rng.integers(0, 200, (1 + i % 3, 2)):
            masks[i, top : top + rng.integers(8, 56), left : left + rng.integers(8, 56)] = True
    noise = torch.from_numpy(rng.random((1, images, 64, 64), dtype=np.float32))
    maps = score.enlarge([noise[0]], (256, 256), 2.0)[0].numpy() + 0.1 * masks
    return masks, maps.astype(np.float32)


def all_metrics(masks: np.ndarray, maps: np.ndarray) -> dict[str, float]:
    """Those of `evaluate.METRICS`; the score of an image is given, as in a run."""
    images = evaluate.image_metrics(masks.any(axis=(1, 2)), maps.max(axis=(1, 2)))
    pixels = {"masks": masks, "maps": maps}
    return images | metrics.pixel_metrics(**pixels) | {"au_pro_per_image": metrics.au_pro_per_image(**pixels)}


def metrics_cost(rounds: int) -> dict[str, Any]:
    masks, maps = made_up_maps(167)
    anomalous = masks.any(axis=(1, 2))

    def official() -> None:
        for mask, m in zip(masks[anomalous], maps[anomalous]):
            plain_pro(mask[None].astype(int), m[None])

    jobs = {
        "ours: all metrics": lambda: all_metrics(masks, maps),
        "ours: their thresholds, once a run": lambda: metrics.operating_points(labels=masks.ravel(), scores=maps.ravel()),
        "scikit-learn: pixel AUROC alone": lambda: roc_auc_score(masks.ravel(), maps.ravel()),
        "200 thresholds: PRO per image alone": official,
    }
    seconds = interleaved(jobs, rounds)
    large_masks, large = made_up_maps(1000)
    seconds |= interleaved({"ours: all metrics, 1,000 maps": lambda: all_metrics(large_masks, large)}, rounds)
    ratio = seconds["ours: all metrics, 1,000 maps"]["median_s"] / seconds["ours: all metrics"]["median_s"]
    found = {"maps": 167, "seconds": seconds, "times_for_1000_maps": round(ratio, 2), "peak_mb": {n: peak_mb(n) for n in (167, 1000)}}
    print(json.dumps(found), flush=True)
    return found


def peak_mb(images: int) -> float:
    """Resident memory that the metrics of `images` maps add to a fresh process, at its highest, in 10^6 bytes."""
    found = subprocess.run([sys.executable, __file__, "--memory", str(images)], capture_output=True, text=True, check=True)
    return float(found.stdout)


def print_memory(images: int) -> None:
    masks, maps = made_up_maps(images)
    all_metrics(masks[:4], maps[:4])  # what importing and calling needs anyway
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far, which making the maps has set
    before = psutil.Process().memory_info().rss
    all_metrics(masks, maps)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(round((int(status["VmHWM"].split()[0]) * 1024 - before) / 1e6, 1))


# --- (f) Growth ---------------------------------------------------------------------------------------------------


def growth(root: Path, category: str, rounds: int) -> dict[str, Any]:
    """Seconds against the size of the problem: images, resolution, pixels; one factor at a time."""
    cfg = config("efficientnet_lite0", 128, root, category)
    fit.seed_everything(cfg)
    net = model.build(cfg, teacher_of(cfg.teacher))
    test = data.load(cfg, root).test
    many = {
        n: data.ImageSet(np.resize(test.images, (n, *test.images.shape[1:])), np.zeros(n, np.uint8), ("",) * n) for n in (16, 32, 64, 128)
    }
    found = {"images scored": interleaved({str(n): lambda n=n: score.score(net, many[n], cfg) for n in many}, rounds)}
    steps = {str(s): OurTraining(config("efficientnet_lite0", s, root, category, batch_size=8), root) for s in (64, 128, 192, 256)}
    found["resolution, one training step"] = interleaved(steps, rounds)
    sets = {n: made_up_maps(n) for n in (42, 84, 167, 334)}
    found["maps of 65,536 pixels, metrics"] = interleaved({str(n): lambda n=n: all_metrics(*sets[n]) for n in sets}, rounds)
    print(json.dumps(found), flush=True)
    return found


def whole_runs() -> dict[str, float]:
    """Wall seconds of complete papermill runs of the demo, each set with an empty store: seeds and runs at once."""
    return {
        "one seed": wall(seeds=1, at_once=1),
        "three seeds, one after the other": wall(seeds=3, at_once=1),
        "three seeds, two at once": wall(seeds=3, at_once=2),
        "three seeds, two at once, no store": wall(seeds=3, at_once=2, cache=False),
    }


def wall(seeds: int, at_once: int, cache: bool = True) -> float:
    root = project_root()
    with tempfile.TemporaryDirectory() as folder:

        def run(seed: int) -> None:
            flags = {"seed": seed, "threads": 1, "out_dir": folder, "cache_dir": f"{folder}/cache" if cache else ""}
            words = [w for name, value in flags.items() for w in ("-p", name, str(value))]
            notebook = ["papermill", "--no-progress-bar", "notebooks/02_run.ipynb", f"{folder}/{seed}.ipynb"]
            subprocess.run([*notebook, *words], cwd=root, check=True, capture_output=True)

        start = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(run, range(seeds)))
        return round(time.perf_counter() - start, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", nargs="?", default="demo")
    parser.add_argument("--data", default="", help="folder of MVTec categories; the demo set if empty")
    parser.add_argument("--category", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=0, help="print the peak memory of the metrics of so many maps and stop")
    args = parser.parse_args()
    if args.memory:
        return print_memory(args.memory)
    root = Path(args.data) if args.data else demo.demo_root()
    if not root.is_dir():
        parser.error(f"{root}: no such folder; give one that holds MVTec's categories")
    category = args.category or ("brick" if not args.data else next(p.name for p in sorted(root.iterdir()) if p.is_dir()))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trained = training(root, enlarged(root, category, Path(folder)), category, args.rounds)
    found = {
        "data": f"{'demo' if not args.data else 'mvtec'}/{category}",
        "machine": {"cpu": provenance.cpu_name(), **inference.describe_hardware(torch.device("cpu")), "torch": torch.__version__},
        "git_revision": provenance.revision(project_root())["git_revision"],
        "metrics": metrics_cost(args.rounds),
        "growth": growth(root, category, args.rounds),
        "training": trained,
        "one_position": one_position(args.rounds),
        "scoring": scoring(root, category, min(args.rounds, 3)),
        "conv_peak_gflops": {p: round(conv_peak(p) / 1e9, 1) for p in ("fp32", "bf16")},
        "whole_runs_s": whole_runs(),
    }
    found["minutes"] = round((time.perf_counter() - start) / 60, 1)
    path = project_root() / "results" / args.profile / "bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
