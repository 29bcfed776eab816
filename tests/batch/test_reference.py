"""`make reference`: a finished batch becomes the committed reference. The batch is the committed one, so nothing may change."""

import shutil

import numpy as np
import pytest
from helpers import REPO
from made_up_runs import failed, put, put_with_maps, run

from rdlib.batch import reference
from rdlib.errors import InputError
from rdlib.report import runs
from rdlib.run import record

DEMO = REPO / "results" / "reference" / "demo"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the finished demo batch, another reference and a README with empty tables."""
    shutil.copytree(DEMO, tmp_path / "results/demo", ignore=shutil.ignore_patterns("bench.json"))
    (tmp_path / "results/demo/figures/extra.pdf").touch()
    old = tmp_path / "results/reference/demo"
    for name in ("runs/gone/result.json", "tables/gone.md", "bench.json"):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_text("{}")
    shutil.copytree(DEMO.parent / "cpu/tables", tmp_path / "results/reference/cpu/tables")
    (tmp_path / "README.md").write_text("# Title\n\n<!-- table demo/demo_image_auroc -->\nold\n<!-- end -->\nkept\n")
    monkeypatch.setattr(reference, "project_root", lambda: tmp_path)
    return tmp_path


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_the_batch_becomes_the_reference_file_by_file(project):
    reference.renew("demo")
    new = project / "results/reference/demo"
    assert files(new) == files(DEMO)
    for name in files(DEMO) - {"bench.json"}:
        if not name.endswith(".npz"):  # an archive that holds the time
            assert (new / name).read_bytes() == (DEMO / name).read_bytes(), name
    assert (new / "bench.json").read_text() == "{}"  # this batch has none, the earlier one stays


def test_kept_maps_are_those_that_figures_show(project):
    reference.renew("demo")
    for path in sorted((project / "results/reference/demo").rglob("maps.npz")):
        found, there = (record.load_maps(folder) for folder in (path.parent, DEMO / "runs" / path.parent.name))
        assert found["paths"].tolist() == there["paths"].tolist() and (found["scale_maps"] == there["scale_maps"]).all()


def test_of_normal_images_the_two_nearest_to_an_alarm_keep_their_maps(tmp_path):
    """Seven of each kind, of which figures show anomalous ones only."""
    images = [(f"test/{'hole' if label else 'good'}/{i}.png", label, label + i / 10, 9 * label) for label in (0, 1) for i in range(7)]
    result = run(dataset="demo", category="brick", teacher="efficientnet_lite0", epochs=15, images=images)
    masks = np.repeat([np.zeros((8, 8), bool), np.eye(8, dtype=bool)], 7, axis=0)
    put_with_maps(tmp_path, result, np.zeros((3, 14, 8, 8)), masks)
    reference._copy_shown_maps(runs.load(tmp_path), tmp_path / "runs", tmp_path / "target")
    kept = record.load_maps(tmp_path / "target" / result["run_id"])["paths"]
    assert [p for p in kept if "good" in p] == ["test/good/5.png", "test/good/6.png"] and any("hole" in p for p in kept)


def test_the_readmes_tables_and_the_benchmark_are_renewed_and_the_rest_is_not(project):
    (project / "results/demo/bench.json").write_text("new")
    reference.renew("demo")
    assert (project / "results/reference/demo/bench.json").read_text() == "new"
    table = (DEMO / "tables/demo_image_auroc.md").read_text().strip()
    assert (project / "README.md").read_text() == f"# Title\n\n<!-- table demo/demo_image_auroc -->\n{table}\n<!-- end -->\nkept\n"


@pytest.mark.parametrize("lacks", ["runs", "tables", "figures", "a run that failed"])
def test_an_unfinished_batch_is_refused_and_the_reference_is_as_it_was(project, lacks):
    batch, kept = project / "results/demo", files(project / "results/reference/demo")
    if lacks in reference.PARTS:
        shutil.rmtree(batch / lacks)
    else:
        put(batch, failed(dataset="demo", category="brick", seed=9))
    words = f"no {lacks}" if lacks in reference.PARTS else r"1 run\(s\) failed"
    with pytest.raises(InputError, match=rf"not a finished batch \({words}\); run `make reproduce PROFILE=demo` to its end"):
        reference.renew("demo")
    assert files(project / "results/reference/demo") == kept


def test_a_copy_that_fails_leaves_the_reference_as_it_was(project, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    kept = files(project / "results/reference/demo")
    monkeypatch.setattr(reference, "_copy_shown_maps", full)
    with pytest.raises(OSError, match="No space left"):
        reference.renew("demo")
    assert files(project / "results/reference/demo") == kept


def test_of_mvtec_no_photograph_is_kept(project):
    """Maps are kept with the photographs, which may not be redistributed as data."""
    batch = project / "results/cpu"
    result = put_with_maps(batch, run(), np.zeros((3, 1, 8, 8)), np.zeros((1, 8, 8), bool))
    for part in ("tables", "figures"):
        (batch / part).mkdir()
        (batch / part / "one.png").touch()
    reference.renew("cpu")
    kept = {f"runs/{result['run_id']}/{name}" for name in ("result.json", "images.csv.gz")}
    assert files(project / "results/reference/cpu") == {*kept, "tables/one.png", "figures/one.png"}
