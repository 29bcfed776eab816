"""`make own DATA=folder`: notebook 11 on MVTec AD's bottle as plain folders of photographs, as they are and cut; renews the README's table.

Cut: every other photograph to a landscape, the others to a portrait, around the middle. A defect that is cut away entirely takes its
photograph with it: in `bad_dir` it would be a good one. What each column was measured with lies beside it (results/reference/own).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

from rdlib.batch import reference
from rdlib.paths import project_root
from rdlib.run import files
from rdlib.run.provenance import cpu_name, revision

CATEGORY = "bottle"
PLACES = {"good_dir": "train/good", "check_dir": "test/good", "bad_dir": "test", "masks_dir": "ground_truth"}
PARAMETERS = {"image_size": 256, "epochs": 10, "threads": 1, "device": "cpu"}
SHAPES = ((1.0, 0.7), (0.625, 1.0))  # what is kept of width and height
COLUMNS = {"whole": "as they are", "cut": "cut to 10:7 and 5:8"}
CAPTION = "MVTec AD's bottle as plain folders of photographs: 256 px, 10 epochs, 5 % false alarms asked for (95 % interval)"


def cut(source: Path, target: Path) -> None:
    """A category with its photographs and masks cut to `SHAPES` in turn, written to `target`."""
    photographs = sorted([*(source / "train").rglob("*.png"), *(source / "test").rglob("*.png")])
    for number, path in enumerate(photographs):
        shape, name = SHAPES[number % len(SHAPES)], path.relative_to(source)
        mask = source / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        parts = {target / name: middle(path, shape)}
        if mask.is_file():
            parts[target / mask.relative_to(source)] = middle(mask, shape)
        if all(part.getextrema() != (0, 0) for part in parts.values()):
            for place, part in parts.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                part.save(place)


def middle(path: Path, shape: tuple[float, float]) -> Image.Image:
    with Image.open(path) as image:
        width, height = (round(side * share) for side, share in zip(image.size, shape))
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))


def measure(folder: Path, out: Path) -> None:
    """Run notebook 11 on one category's folders; it writes `out`/measures.csv."""
    values = {name: folder / place for name, place in PLACES.items()} | PARAMETERS | {"out_dir": out}
    flags = [word for name, value in values.items() for word in ("-p", name, str(value))]
    words = [sys.executable, "-m", "papermill", "--no-progress-bar", "notebooks/11_your_images.ipynb", str(out / "executed.ipynb"), *flags]
    out.mkdir(parents=True)
    subprocess.run(words, cwd=project_root(), check=True)


def shown(row: pd.Series) -> str:
    """A value as a person reads it: per cent with one digit and its interval, what is small as a power of ten."""
    if row["unit"] == "%":
        return f"{row['value']:.1f} %" + (f" ({row['interval']} %)" if row["interval"] else "")
    return f"{row['value']:.4f}" if row["value"] > 1e-3 else f"{row['value']:.1e}"


def table(folder: Path) -> str:
    """Markdown of the measures that lie in `folder`, a column for each of COLUMNS."""
    measured = {c: pd.read_csv(folder / name / "measures.csv", keep_default_na=False, index_col="quantity") for name, c in COLUMNS.items()}
    counted = [m["counted on"].str.replace(r"^\d+ of ", "", regex=True) for m in measured.values()]
    if not all(counted[0].equals(other) for other in counted):
        raise ValueError("the columns are about different numbers of photographs; give each its own table")
    columns = {title: m.apply(shown, axis=1) for title, m in measured.items()} | {"counted on": counted[0]}
    return f"{CAPTION}\n\n{pd.DataFrame(columns).rename_axis(None).to_markdown(disable_numparse=True)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help=f"folder that holds {CATEGORY}")
    source, root = parser.parse_args().data.resolve() / CATEGORY, project_root()
    if not source.is_dir():
        parser.error(f"{source}: no such folder; give the one that holds {CATEGORY} (make own DATA=FOLDER)")
    kept = root / "results/reference/own"
    made_with = revision(root)  # before the measuring: the project may change meanwhile
    made_with |= {"machine": {"cpu": cpu_name(), "torch": torch.__version__}, "parameters": PARAMETERS}
    with tempfile.TemporaryDirectory() as place:
        cut(source, Path(place, "photographs"))
        for name, folder in (("whole", source), ("cut", Path(place, "photographs"))):
            measure(folder, Path(place, name))
            for file in ("measures.csv", "scores.csv"):
                files.write_atomically(kept / name / file, Path(place, name, file).read_bytes())
    files.write_atomically(kept / "provenance.json", json.dumps(made_with, indent=1) + "\n")
    files.write_atomically(kept / "tables" / f"{CATEGORY}.md", table(kept))
    reference.renew_pages(root)


if __name__ == "__main__":
    main()
