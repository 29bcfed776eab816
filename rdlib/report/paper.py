"""The numbers that the paper and others have published, as tables: facts shipped with the package."""

from __future__ import annotations

import pandas as pd

from rdlib.paths import PACKAGE

# Names of the metrics in the paper's tables -> in our run files. The paper's PRO is the per-image one of its code.
METRICS = {"image_AUROC": "image_auroc", "pixel_AUROC": "pixel_auroc", "PRO": "au_pro_per_image"}
DATASETS = {"MVTec AD": "mvtec", "MNIST": "mnist", "F-MNIST": "fashion_mnist", "CIFAR-10": "cifar10"}
OURS = "Ours (RD4AD)"  # the paper's name of its method in Tables 1, 2 and 4


def load() -> pd.DataFrame:
    """Every number of the paper, a row each: table, dataset (our names), category, resolution, method, metric, paper, evidence, source.

    paper: the number, in per cent where the metric is one of METRICS
    evidence: "published", "unverified" (recalled, not seen in print) or "derived" from others
    """
    return pd.read_csv(PACKAGE / "paper" / "published.csv").rename(columns={"value": "paper"}).replace({"dataset": DATASETS})


def others() -> pd.DataFrame:
    """Other people's runs of the method, a row per number: dataset, category, resolution, method, metric, value (per cent), source."""
    return pd.read_csv(PACKAGE / "paper" / "other_reproductions.csv")


def text(value: float, evidence: str, digits: int = 1) -> str:
    """A published value as printed, with a dagger if it is unverified."""
    return "not published" if pd.isna(value) else f"{value:.{digits}f}" + "†" * (evidence == "unverified")
