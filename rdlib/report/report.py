"""What every table and figure notebook does: read run files, show, and write beside them if asked to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from rdlib.errors import InputError
from rdlib.paths import output_folder, resolve
from rdlib.report import figures, tables
from rdlib.run import record


class Report:
    """Runs of one results folder, and where tables and figures go.

    results_dir: folder that holds runs/
    out_dir: tables/ and figures/ are written here; "" writes nothing
    raises: InputError if there are no runs, or if runs of one data set or teacher were made from different files
    """

    def __init__(self, results_dir: str, out_dir: str = "") -> None:
        self.folder = resolve(results_dir)
        self.out = output_folder("out_dir", out_dir) if out_dir else None
        self.runs, self.failures = record.read_runs(self.folder), record.read_failures(self.folder)
        record.refuse_mixed(self.runs)
        self.all_runs = [*self.runs, *self.failures]  # what tables are made from: a failed run has its row
        self._tell_failures()
        if not self.runs:
            raise InputError(f"{results_dir}: no run files (runs/*/result.json); run `make reproduce` first or give another results_dir")

    def _tell_failures(self) -> None:
        """Show the runs that did not finish with their reasons, and keep that table beside the others."""
        if self.failures:
            told = tables.failures_table(self.failures)
            self.frame("failures", told, told.set_index("run"), f"{len(self.failures)} run(s) did not finish; tables say so")
        elif self.out:
            for old in (self.out / "tables").glob("failures.*"):  # of an earlier batch
                old.unlink(missing_ok=True)

    def table(self, name: str, cells: Sequence[tables.Cell], caption: str) -> None:
        """Show a comparison and write it as CSV, Markdown, LaTeX and HTML."""
        if not cells:
            display(Markdown(f"**{caption}**: not run"))
            return
        if self.out:
            tables.write_table(self.out / "tables", name, cells, caption)
        self._show(tables.display_table(cells), caption)

    def frame(self, name: str, numbers: pd.DataFrame, shown: pd.DataFrame, caption: str) -> None:
        """Show any other table and write it likewise."""
        if self.out:
            tables.write_frame(self.out / "tables", name, numbers, shown, caption)
        self._show(shown, caption)

    def figure(self, name: str, figure: Figure) -> None:
        """Show a figure and write it as PNG and PDF."""
        if self.out:
            figures.save_figure(figure, self.out / "figures" / name, ("png", "pdf"))
        display(figure)

    def maps(self, run: dict[str, Any]) -> dict[str, Any] | None:
        """Images, masks and maps that the run kept; None if it kept none."""
        return record.load_maps(self.folder / "runs" / run["run_id"])

    @staticmethod
    def _show(shown: pd.DataFrame, caption: str) -> None:
        note = tables.footnotes(shown)
        display(Markdown(f"**{tables.escape(caption)}**\n\n{tables.escaped(shown).to_markdown(disable_numparse=True)}\n\n{note}".strip()))
