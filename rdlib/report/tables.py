"""Tables as files and on screen: CSV (numbers and run ids), Markdown, LaTeX and HTML (as read; HTML links the run files).

What a notebook puts beside the paper is a frame of cells, a row each:
    row, column: where it stands; ours, std, n: mean and spread over seeds (per cent) and how many; half_width: `stats.half_width`
    runs, failed, missing: `runs.traced`; paper, evidence, same: the paper's value and whether its setting is the same
    difference: ours - paper; verdict: `stats.verdict`
"""

from __future__ import annotations

import html
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown

from rdlib.report import paper
from rdlib.run.files import write_atomically

COLUMNS = ["row", "column", "paper", "evidence", "ours", "std", "n", "half_width", "difference", "verdict", "runs"]
FOOTNOTES = {
    "†": "† recalled, not seen in print (evidence `unverified` in rdlib/paper/published.csv)",
    "‡": "‡ over fewer seeds than planned: a run of this value failed (table `failures` says why)",
}
WITHOUT_VALUE = ("not run", "failed", "diverged", "undefined")
FORMATS = ("csv", "md", "tex", "html")


def p_value(p: float) -> str:
    """A p value as tables show it; NaN, of a test that was not made, is empty."""
    return "" if math.isnan(p) else "<0.001" if p < 0.0005 else f"{p:.3f}"


def comparison(cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells beside the paper, as numbers for the CSV and as text to read.

    One column of values: paper | ours | difference | verdict. Several: paper, ours and verdict of each. Rows without a run are in the
    numbers and not in the text; where none of the others has a published value, the text is ours alone
    """
    marked = bool(cells["failed"].ne("").any())  # a column of its own, only where there is something to tell
    numbers = cells[COLUMNS + ["failed"] * marked].reset_index(drop=True).astype({"n": int})
    run = numbers["verdict"].ne("not run").groupby(numbers["row"]).transform("any").to_numpy()
    published, several = numbers["paper"][run].notna().any(), numbers["column"].nunique() > 1
    rows: dict[str, dict[str, str]] = {}
    for c in numbers.assign(failed=cells["failed"].to_numpy())[run].itertuples():
        without = pd.isna(c.ours)
        entries = {
            "paper": paper.text(c.paper, c.evidence) if published else None,
            "ours": c.verdict if without else mean(c.ours, c.std, c.n) + "‡" * bool(c.failed),
            "difference": None if several or not published else "" if without or pd.isna(c.paper) else f"{c.difference:+.1f}",
            "verdict": c.verdict if published else None,
        }
        rows.setdefault(c.row, {}).update({f"{c.column} {k}" if several else k: v for k, v in entries.items() if v is not None})
    return numbers, pd.DataFrame.from_dict(rows, orient="index")


def mean(mean: float, std: float, n: int) -> str:
    """Mean ± std over n seeds, as text."""
    return f"{mean:.1f} ({n})" if pd.isna(std) else f"{mean:.1f} ± {std:.1f} ({n})"


def write(folder: Path | None, name: str, numbers: pd.DataFrame, shown: pd.DataFrame, caption: str) -> Markdown:
    """Write `folder/tables/<name>` in four formats; folder None writes nothing.

    numbers: for the CSV; shown: text, its index names the rows. Where `numbers` has `runs` (ids), HTML links them; where it has rows
        that are not shown, a line says which
    returns: the table as a notebook displays it
    """
    notes = [*[text for mark, text in FOOTNOTES.items() if mark in "".join(map(str, shown.to_numpy().flat))], *_folded(numbers, shown)]
    safe = shown.map(escape).rename(index=escape, columns=escape)
    lines = [escape(caption), *([safe.to_markdown(disable_numparse=True)] if len(shown) else []), *map(escape, notes)]
    if folder is not None:
        texts = {
            "csv": numbers.to_csv(index=False, float_format="%.4f"),
            "md": "\n\n".join(lines) + "\n",
            "tex": shown.to_latex(caption=_latex(caption), escape=True) + "".join(f"\n{_latex(note)}\n" for note in notes),
            "html": _html(safe, numbers, caption, notes),
        }
        for suffix in FORMATS:
            write_atomically(folder / "tables" / f"{name}.{suffix}", texts[suffix])
    return Markdown("\n\n".join([f"**{lines[0]}**", *lines[1:]]))


def failures(folder: Path | None, runs: pd.DataFrame) -> Markdown | None:
    """Write the table of runs that did not finish and return it for display; without any, that of an earlier batch is removed."""
    told = runs.loc[runs["status"] != "finished", ["run_id", "status", "attempts", "reason"]].rename(columns={"run_id": "run"})
    if len(told):
        return write(folder, "failures", told, told.set_index("run"), f"{len(told)} run(s) did not finish; tables say so")
    for suffix in FORMATS if folder else ():
        (folder / "tables" / f"failures.{suffix}").unlink(missing_ok=True)
    return None


def _folded(numbers: pd.DataFrame, shown: pd.DataFrame) -> list[str]:
    """One line for the rows without a run."""
    left = [r for r in dict.fromkeys(numbers["row"]) if r not in shown.index] if "verdict" in numbers else []
    if left and not len(shown):
        return [f"Not run here: none of its {len(left)} rows."]
    return [f"Not run here, {len(left)} of {len(left) + len(shown)} rows: {', '.join(left)}."] if left else []


def escape(text: Any) -> Any:
    """Text that may come from file names and run files, so that no markup in it acts, in HTML or in Markdown; other values as they are."""
    return re.sub(r"\s+", " ", html.escape(text, quote=False)).replace("|", "&#124;") if isinstance(text, str) else text


def _html(safe: pd.DataFrame, numbers: pd.DataFrame, caption: str, notes: list[str]) -> str:
    """safe: the shown table, escaped"""
    kinds = {*WITHOUT_VALUE, *numbers.get("verdict", [])}
    page = safe.map(lambda text: f'<span class="verdict-{text.replace(" ", "-")}">{text}</span>' if text in kinds else text)
    if "runs" in numbers and len(page):
        ids = numbers.groupby("row", sort=False)["runs"].agg(lambda runs: list(dict.fromkeys(" ".join(runs).split())))
        page = page.assign(runs=ids.rename(escape).loc[page.index].map(_links))
    table = page.to_html(escape=False, border=0, classes="comparison" if "verdict" in numbers else "plain")
    table = table.replace("<thead>", f"<caption>{escape(caption)}</caption>\n  <thead>", 1)
    return "\n".join([table, *(f"<p>{escape(note)}</p>" for note in notes)]) + "\n"


def _links(ids: list[str]) -> str:
    """Links named by seed, and by category where there are several. Run ids hold only letters, digits, '_', '.' and '-' (schema)."""
    parts = [i.split("-") for i in ids]  # experiment, data set, category, variant, seed
    several = len({p[2] for p in parts}) > 1
    return " ".join(f'<a href="../runs/{i}/result.json">{f"{p[2]} " * several}{p[-1]}</a>' for i, p in zip(ids, parts))


def _latex(text: str) -> str:
    return re.sub(r"([%_&#$])", r"\\\1", text)
