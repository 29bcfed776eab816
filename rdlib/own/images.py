"""Your own images (notebook 11): folders checked as a whole, good images split, detector trained, photographs scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest

from rdlib import fit, layouts, metrics, model, pictures
from rdlib.config import Config, refuse_unknown
from rdlib.data import ImageSet
from rdlib.errors import InputError
from rdlib.inference import choose_device
from rdlib.own import detector, photos
from rdlib.own.detector import Detector, Result
from rdlib.paths import output_folder, printable, resolve
from rdlib.report import figures, plots
from rdlib.run import files
from rdlib.run.parameters import notebook_parameters, typed
from rdlib.teachers import load_teacher

DEMO_CATEGORY = "brick"
LEAST_GOOD = 8
HEAT_MAP = "_map.png"


# --- Parameters ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The parameters of the notebook, where each has its comment. Folders are searched with their subfolders; "" means there is none."""

    good_dir: str = ""
    check_dir: str = ""
    bad_dir: str = ""
    masks_dir: str = ""
    new_dir: str = ""
    false_alarm_rate: float = 0.05
    held_out_share: float = 0.2
    teacher: str = "efficientnet_lite0"
    weights: str = ""
    image_size: int = 128
    epochs: int = 15
    batch_size: int = 16
    lr: float = 0.005
    sigma: float = 4.0
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    out_dir: str = "results/own"

    def __post_init__(self) -> None:
        for name in ("false_alarm_rate", "held_out_share"):
            if not 0 < getattr(self, name) <= 0.5:
                raise InputError(f"{name}={getattr(self, name)}: must lie above 0 and not above 0.5")
        for name, most in detector.LARGEST.items():  # what is trained can be loaded
            if getattr(self, name) > most:
                raise InputError(f"{name}={getattr(self, name)}: must not be greater than {most}")
        if self.threads < 0:
            raise InputError(f"threads={self.threads}: must be 0 or greater")
        for name, needed in {"check_dir": "good_dir", "bad_dir": "good_dir", "masks_dir": "bad_dir", "new_dir": "good_dir"}.items():
            if getattr(self, name) and not getattr(self, needed):
                raise InputError(f"{name} is given but {needed} is empty: give both, or leave {name} empty")
        out = output_folder("out_dir", self.out_dir)
        _ = self.config  # checks the rest
        if self.good_dir:
            refuse_overlaps({f"{name}_dir": folder for name, folder in self.folders.items()} | {"out_dir": out})

    @property
    def config(self) -> Config:
        return detector.config_of(**{name: getattr(self, name) for name in detector.KEPT})

    @property
    def folders(self) -> dict[str, Path]:
        """Those that are given of good, check, bad, masks, new; those of the demo photographs if none is."""
        if not self.good_dir:
            from rdlib.demo import demo_root

            places = {"good": "train/good", "check": "test/good", "bad": "test", "masks": "ground_truth"}
            return {name: demo_root() / DEMO_CATEGORY / place for name, place in places.items()}
        given = {name: getattr(self, f"{name}_dir") for name in ("good", "check", "bad", "masks", "new")}
        return {name: resolve(folder) for name, folder in given.items() if folder}


def refuse_overlaps(given: dict[str, Path]) -> None:
    """No folder may hold another one, after links: its images would be used twice, or the next run would read what this one wrote.

    Two may: bad_dir what lies in a subfolder "good", which it leaves out; out_dir photographs, beside what is written.
    given: parameter -> folder
    raises: InputError naming both parameters
    """
    bad = len(given["bad_dir"].resolve().parts) if "bad_dir" in given else 0
    left_out = {(name, "bad_dir") for name, folder in given.items() if "good" in folder.resolve().parts[bad:]}
    problems = layouts.overlapping(given, left_out | {(name, "out_dir") for name in given})
    if problems:
        raise InputError(printable(problems[0]))


def from_notebook(namespace: dict[str, Any]) -> Settings:
    """Settings from the parameters cells of a notebook, every name checked (papermill accepts any).

    namespace: the notebook's `globals()`
    raises: InputError naming an unknown parameter and the nearest known one, or an impossible value
    """
    given = notebook_parameters(namespace)
    refuse_unknown(given, Settings.__dataclass_fields__)
    return Settings(**typed(Settings, given))


# --- Photographs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photo:
    """group: train, threshold, check, bad or new; name: relative to its folder, printable; mask: file, of some bad ones"""

    group: str
    name: str
    path: Path
    mask: Path | None = None


@dataclass(frozen=True)
class Photos:
    """train: fitted into the square; scored: all others, in the order of their groups; sizes: (W, H) seen per group

    remarks: sentences on what reading passed over or decided
    """

    train: ImageSet
    scored: tuple[Photo, ...]
    sizes: dict[str, set[tuple[int, int]]]
    remarks: tuple[str, ...]

    def of(self, group: str) -> list[Photo]:
        return [photo for photo in self.scored if photo.group == group]


def collect(settings: Settings) -> Photos:
    """Find, decode and check every photograph before anything is trained, and split the good ones.

    raises: InputError with all problems in one report, each naming its files and the remedy
    """
    folders, problems = settings.folders, []
    said = {group: {} for group in folders}
    paths = {g: photos.find(folder, problems, "good" if g == "bad" else "", said[g]) for g, folder in folders.items() if g != "masks"}
    if folders["good"].is_dir() and len(paths["good"]) < LEAST_GOOD:
        problems.append(
            f"{folders['good']}: {len(paths['good'])} good images; at least {LEAST_GOOD} are needed, most to train, "
            "the rest to set and to check the threshold; add photographs"
        )
    empty = [group for group in paths if group != "good" and folders[group].is_dir() and not paths[group]]
    problems += [f"{folders[group]}: no images; add some, or leave {group}_dir empty" for group in empty]
    masks = _masks(folders, paths.get("bad", []), problems, said)
    squares, sizes = _decode(settings, paths, masks, problems, said)
    if problems:
        raise InputError(printable(layouts.report("photographs", problems)))
    good = paths["good"]
    train, threshold, check = split(len(good), settings)
    groups = {"threshold": [good[i] for i in threshold], "check": [good[i] for i in check] + paths.get("check", [])}
    groups |= {group: paths.get(group, []) for group in ("bad", "new")}
    names = {path: printable(path.relative_to(folders[g]).as_posix()) for g, found in paths.items() for path in found}
    scored = tuple(Photo(group, names[path], path, masks.get(path)) for group, found in groups.items() for path in found)
    trained_on = ImageSet(np.stack([squares[i] for i in train]), np.zeros(len(train), np.uint8), tuple(names[good[i]] for i in train))
    remarks = tuple(printable(f"{g}_dir: {sentence}") for g, folder in folders.items() for sentence in layouts.sentences(said[g], folder))
    return Photos(trained_on, scored, sizes, remarks)


def split(count: int, settings: Settings) -> tuple[list[int], list[int], list[int]]:
    """Numbers of the good images that train, set the threshold, and check it; a random split that depends on the seed only.

    Without check_dir the held-out images are halved: a threshold must not be judged by the images that set it.
    """
    order = np.random.default_rng(settings.seed).permutation(count)
    own_check = "check" not in settings.folders
    held_out = max(2 if own_check else 1, round(count * settings.held_out_share))
    for_threshold = held_out - held_out // 2 if own_check else held_out
    parts = order[held_out:], order[:for_threshold], order[for_threshold:held_out]
    return tuple(sorted(part.tolist()) for part in parts)


def _masks(folders: dict[str, Path], bad: list[Path], problems: list[str], said: dict[str, pictures.Said]) -> dict[Path, Path]:
    """Bad image -> its mask, paired by name; every image must have one and every mask an image."""
    if "masks" not in folders:
        return {}
    folder = folders["masks"]
    there = {path.relative_to(folder).with_suffix("").as_posix(): path for path in photos.find(folder, problems, said=said["masks"])}
    found = {}
    for path in bad:
        name = path.relative_to(folders["bad"]).with_suffix("").as_posix()
        mask = there.pop(f"{name}_mask", None) or there.pop(name, None)
        if mask is None:
            problems.append(f"{path}: no mask {folder / name}_mask.png; add it, or leave masks_dir empty")
        else:
            found[path] = mask
    problems += [f"{mask}: mask without an image in {folders['bad']}; move it away" for mask in there.values()]
    return found


def _decode(
    settings: Settings, paths: dict[str, list[Path]], masks: dict[Path, Path], problems: list[str], said: dict[str, pictures.Said]
) -> tuple[list[NDArray], dict[str, set[tuple[int, int]]]]:
    """Decode every file once: squares of the good images, the sizes seen; equal pictures in good, check and bad are a problem."""
    squares, sizes, seen = [], {}, {}
    for group, path in ((group, path) for group, members in paths.items() for path in members):
        try:
            image = photos.read(path, said[group])
            photos.check_shape(path, image.size, settings.image_size)
            if path in masks:
                _check_mask(masks[path], image.size, said["masks"])
        except InputError as error:
            problems.append(str(error))
            continue
        sizes.setdefault(group, set()).add(image.size)
        if group == "good":
            squares.append(photos.to_square(image, settings.image_size))
        if group != "new":
            first = seen.setdefault(pictures.pixel_hash(image), path)
            if first != path:
                problems.append(f"{path}: the same picture as {first}; remove one of them")
    return squares, sizes


def _check_mask(path: Path, size: tuple[int, int], said: pictures.Said) -> None:
    mask = pictures.read_mask(path, said)
    if mask.size != size:
        raise InputError(f"{path}: mask is {mask.width}x{mask.height}, its image is {size[0]}x{size[1]}; make them equal")
    if not pictures.region_of(mask).any():
        raise InputError(f"{path}: mask is empty, but its image is in bad_dir; mark what is bad, or move the image")


# --- Training and scoring -----------------------------------------------------------------------------------------


def train(found: Photos, settings: Settings, on_epoch: Callable[[int, float], None] | None = None) -> tuple[Detector, list[float]]:
    """Train on the good images and set the threshold from the held-out ones.

    returns: detector, mean loss of each epoch
    """
    cfg = settings.config
    fit.seed_everything(cfg)
    teacher, _ = load_teacher(cfg.teacher, cfg.normalise, settings.weights)
    net = model.build(cfg, teacher).to(choose_device(settings.device))
    losses = fit.fit(net, found.train, cfg, on_epoch)
    net, sha256 = detector.assemble(cfg, detector.trained_tensors(net), settings.device, settings.weights)
    scores = np.array([detector.photo_map(net, cfg, photos.read(p.path)).max() for p in found.of("threshold")], np.float64)
    return Detector(net, cfg, sha256, detector.threshold_of(scores, settings.false_alarm_rate)), losses


def claim(out: Path) -> FileLock:
    """Make the folder of results and lock it until the process ends or releases it.

    raises: InputError if another run holds it, or it cannot be made
    """
    lock = FileLock(out / ".lock", timeout=0, is_singleton=True)  # a notebook may be run again in its kernel
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(f"{out}: another run of this notebook writes there; wait until it is done, or give another out_dir") from None
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another out_dir or allow writing there") from None
    return lock


@dataclass(frozen=True)
class Scored:
    """table: one row per image; remarks: a sentence for each heat map that could not be drawn

    maps, masks: (N, S, S) of the check and bad images if there are masks, each stretched to the square of S = image_size px, so that
        every photograph weighs the same in pixel metrics
    """

    table: pd.DataFrame
    maps: NDArray | None = None
    masks: NDArray | None = None
    remarks: tuple[str, ...] = ()


def score_photos(judge: Detector, found: Photos, out: Path, on_photo: Callable[[], Any] = lambda: None) -> Scored:
    """Score all photographs that were not trained on; write `out/scores.csv` and a heat map of each below `out/heatmaps`.

    Heat maps that only an earlier scores.csv names are deleted. One that cannot be drawn costs a remark and an empty cell.
    raises: InputError if a photograph cannot be read any more, or scores.csv cannot be written
    """
    rows, pixels, remarks, with_masks = [], [], [], any(photo.mask for photo in found.scored)
    for photo in found.scored:
        image = photos.read(photo.path)
        result = judge.score(image)
        rows.append(_row(photo, image, result))
        try:
            draw(photo, image, result, out / rows[-1]["heat_map"])
        except Exception as error:  # fonts, LaTeX, long names, a full disk: the scores go on
            remarks.append(f"{photo.group}: {photo.name}: no heat map ({printable(error).splitlines()[0][:200]})")
            rows[-1]["heat_map"] = ""
        if with_masks and photo.group in ("check", "bad"):
            pixels.append(_stretched(photo, image.size, result, judge.cfg))
        on_photo()
    table = pd.DataFrame(rows)
    for stale in _listed(out) - set(table["heat_map"]):
        (out / stale).unlink(missing_ok=True)
    files.write_atomically(out / "scores.csv", table.to_csv(index=False))
    maps, masks = map(np.stack, zip(*pixels)) if pixels else (None, None)
    return Scored(table, maps, masks, tuple(remarks))


def draw(photo: Photo, image: Image.Image, result: Result, path: Path) -> None:
    word = "ALARM" if result.is_anomalous else "no alarm"
    name = photo.name if len(photo.name) <= 50 else "..." + photo.name[-47:]
    caption = f"{photo.group}: {name}\n{word}: score {result.score:.3f}, threshold {result.threshold:.3f}"
    figures.save_figure(plots.heat_map(image, result.map, result.threshold, caption), path)


def _listed(out: Path) -> set[str]:
    """The heat maps that the scores.csv of an earlier run names."""
    try:
        names = pd.read_csv(out / "scores.csv", dtype=str, keep_default_na=False)["heat_map"]
    except (OSError, ValueError, KeyError):  # there is none, or it is none of this notebook
        return set()
    ours = (out / "heatmaps").resolve()
    return {n for n in names if n.endswith(HEAT_MAP) and (out / n).resolve().is_relative_to(ours)}


def _row(photo: Photo, image: Image.Image, result: Result) -> dict[str, Any]:
    """One line of scores.csv. peak_x, peak_y: the most anomalous pixel, from the top left corner"""
    judged = {"score": result.score, "threshold": result.threshold, "is_anomalous": result.is_anomalous}
    places = {"peak_x": result.peak[0], "peak_y": result.peak[1], "width": image.width, "height": image.height}
    heat_map = f"heatmaps/{photo.group}/{Path(photo.name).with_suffix('')}{HEAT_MAP}"
    return {"group": photo.group, "file": photo.name} | judged | places | {"heat_map": heat_map}


def _stretched(photo: Photo, size: tuple[int, int], result: Result, cfg: Config) -> tuple[NDArray, NDArray]:
    """Map and mask of one photograph, stretched to the square."""
    side = (cfg.image_size, cfg.image_size)
    stretched = np.asarray(Image.fromarray(result.map).resize(side, Image.Resampling.BILINEAR))
    mask = pictures.read_mask(photo.mask) if photo.mask else Image.new("L", size)
    return stretched, pictures.resize_mask(mask, cfg.image_size, cfg.mask_rule)


def telling(table: pd.DataFrame) -> list[str]:
    """Heat maps worth a look: the bad images with the lowest and the highest score, the good and the new one with the highest.

    table: of `score_photos`
    """
    drawn = table[table["heat_map"] != ""].assign(label=table["group"] == "bad")
    parts = [drawn[drawn["group"].isin(groups)].to_dict("records") for groups in (("check", "bad"), ("new",))]
    return [part[i]["heat_map"] for part in parts for i in dict.fromkeys(figures.telling_images({"images": part}, each=1))]


def measure(judge: Detector, scored: Scored) -> pd.DataFrame:
    """The threshold, and what can be measured with the images there are.

    returns: rows quantity; columns value, unit, interval (Wilson, 95 %) where it is a share, counted on
    """
    check, bad = (scored.table[scored.table["group"] == group] for group in ("check", "bad"))
    rows = {"threshold": (judge.threshold.value, "", "", f"{judge.threshold.count} held-out good images")}
    for name, part, what in (("false-alarm rate", check, "check images"), ("bad images found", bad, "bad images")):
        if len(part):
            hits = int(part["is_anomalous"].sum())
            interval = binomtest(hits, len(part)).proportion_ci(0.95, method="wilson")
            shown = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
            rows[name] = (100 * hits / len(part), "%", shown, f"{hits} of {len(part)} {what}")
    if len(check) and len(bad):
        labels = np.repeat([0, 1], [len(check), len(bad)])
        values = {"image AUROC": metrics.image_auroc(labels=labels, scores=np.concatenate([check["score"], bad["score"]]))}
        if scored.masks is not None:
            pixels = {"masks": scored.masks, "maps": scored.maps}
            found = metrics.pixel_metrics(**pixels)
            values |= {"pixel AUROC": found["pixel_auroc"], "AU-PRO": found["au_pro"]}
            values["AU-PRO per image"] = metrics.au_pro_per_image(**pixels)
        rows |= {name: (100 * value, "%", "", f"{len(check)} check and {len(bad)} bad images") for name, value in values.items()}
    columns = ["value", "unit", "interval", "counted on"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("quantity")
