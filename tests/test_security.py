"""What is hostile stays text or is refused: code in parameters, names in pages and figures, pickles in files, an open JupyterLab."""

import ast
import re
import socket
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from helpers import PATIENCE, REPO, Evil
from lab import jupyterlab
from papermill.exceptions import PapermillExecutionError
from papermill.execute import execute_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

from rdlib.config import Config
from rdlib.errors import InputError
from rdlib.report import figures, plots
from rdlib.run import record
from rdlib.run.parameters import Where, from_notebook

RUN = REPO / "notebooks" / "02_run.ipynb"
FIELDS = Config.__dataclass_fields__ | Where.__dataclass_fields__
NAMES = [n for n, field in FIELDS.items() if field.type == "str" and n != "weights_id"]  # that one follows from `weights`


def codes(mark):
    """Ways to smuggle a call that makes the folder `mark` into a parameter."""
    call = f"__import__('os').mkdir({str(mark)!r})"
    return [call, f"'; {call}; '", f'"; {call}; "', f'"""\n{call}\n"""', f"\\'; {call} #", f"x\n{call}", f"{{{call}}}", f"$({call})"]


# --- Code in parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", range(8))
def test_code_in_a_parameter_is_written_as_a_literal(tmp_path, name, number):
    """Whatever the value is, papermill's cell assigns exactly this text, and running the cell calls nothing."""
    value = codes(tmp_path / "mark")[number]
    made = parameterize_notebook(load_notebook_node(str(RUN)), {name: value})
    (cell,) = [c for c in made.cells if "injected-parameters" in c.metadata.get("tags", [])]
    (statement,) = ast.parse(cell.source).body
    assert ast.literal_eval(statement.value) == value
    namespace = {}
    exec(cell.source, namespace)
    assert namespace[name] == value and not (tmp_path / "mark").exists()


IN_A_CONFIG = [n for n in NAMES if n in Config.__dataclass_fields__]


@pytest.mark.parametrize("name", IN_A_CONFIG)
@pytest.mark.parametrize("number", range(8))
def test_code_in_a_parameter_is_refused_by_name(tmp_path, name, number):
    value = codes(tmp_path / "mark")[number]
    with pytest.raises(InputError, match=f"^{name}="):
        from_notebook({"dataset": "mvtec", "category": "bottle"} | {name: value})
    assert not (tmp_path / "mark").exists()


def test_a_notebook_stops_at_code_in_a_parameter(tmp_path):
    """The whole way: papermill, a kernel, the refusal, nothing run and nothing written."""
    parameters = {"label": codes(tmp_path / "mark")[2], "out_dir": str(tmp_path / "out")}
    with pytest.raises(PapermillExecutionError, match="InputError: label=.*only letters, digits"):
        execute_notebook(str(RUN), str(tmp_path / "executed.ipynb"), parameters, progress_bar=False, cwd=str(REPO))
    assert not (tmp_path / "mark").exists() and not (tmp_path / "out").exists()


# --- Names in figures and run files -------------------------------------------------------------------------------

ODD_NAMES = ["<script>alert(1)</script>.png", r"$\frac{1}{$.png", "a_$b^$c.png", "%s {0} \\n.png"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_names_are_drawn_as_they_are(tmp_path, name):
    """Between two $ matplotlib would read mathematics, and stop at what is none."""
    image, mask = np.zeros((3, 8, 8), np.uint8), np.eye(8, dtype=bool)
    grid = plots.map_grid(images=[image], masks=[mask], maps={"map": np.ones((1, 8, 8))}, titles=[name])
    for figure in (grid, plots.gallery({name: [(name, image, mask)]})):
        figures.save_figure(figure, tmp_path / "figure")
        assert any(text.get_text() == name for ax in figure.axes for text in (ax.title, ax.yaxis.label))
    heat_map = plots.heat_map(Image.new("RGB", (8, 8)), np.ones((8, 8), np.float32), 0.5, name)
    figures.save_figure(heat_map, tmp_path / "heat_map")
    assert heat_map.get_suptitle() == name


# --- Kept maps ----------------------------------------------------------------------------------------------------


def test_pickled_objects_in_maps_are_not_built(tmp_path):
    path = tmp_path / "maps.npz"
    np.savez(path, scale_maps=np.array([Evil(tmp_path / "mark")], dtype=object))
    with pytest.raises(InputError, match="maps.npz: damaged, or holds something else than arrays"):
        record.load_maps(tmp_path)
    assert not (tmp_path / "mark").exists()
    with np.load(path, allow_pickle=True) as file:
        assert file["scale_maps"] is not None
    assert (tmp_path / "mark").exists()  # it would have


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x93NUMPY\x01\x00"])
def test_damaged_maps_are_named(tmp_path, content):
    (tmp_path / "maps.npz").write_bytes(content)
    with pytest.raises(InputError, match="maps.npz: damaged"):
        record.load_maps(tmp_path)


# --- JupyterLab ---------------------------------------------------------------------------------------------------

WATCH = """import os, socket
def told(host, *rest, _known=socket.getaddrinfo, **more):
    with open(os.environ["ASKED"], "a") as file:
        print(host.decode() if isinstance(host, bytes) else host, file=file)
    return _known(host, *rest, **more)
socket.getaddrinfo = told
"""
NEWS = ("news", "update", "extensions?refresh=1")  # all that its page can ask for


def status(address, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@contextmanager
def watched_lab(folder, *options):
    """A JupyterLab on a free port, and the hosts that it looks up when it is asked for news."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WATCH)
    environment, hosts = {"PYTHONPATH": str(folder), "ASKED": str(folder / "asked")}, set()
    with jupyterlab(*options, root=folder, own=folder, environment=environment) as server:
        for name in NEWS:
            status(f"http://127.0.0.1:{server['port']}/lab/api/{name}", Authorization=f"token {server['token']}")
        hosts |= set((folder / "asked").read_text().splitlines()) - {"127.0.0.1", "localhost", "", "None"}
        yield server, hosts


def test_make_lab_answers_only_with_the_token_and_only_here_and_asks_nobody(tmp_path):
    """`make lab` itself, without a browser."""
    (command,) = re.findall(r"^\t(jupyter lab .*)$", (REPO / "Makefile").read_text(), re.M)
    words = command.split()
    assert [w for w in words if "ip" in w] == ["--ip=127.0.0.1"]
    assert not [w for w in words if re.search(r"token|password|disable_check_xsrf|allow_origin|allow_remote", w)]
    with watched_lab(tmp_path / "ours", *words[2:-1]) as (server, hosts):
        contents = f"http://127.0.0.1:{server['port']}/api/contents"
        assert len(server["token"]) >= 32 and server["hostname"] == "127.0.0.1" and hosts == set()
        assert (status(contents), status(f"{contents}?token={server['token']}")) == (403, 200)
        with socket.socket() as other:  # taken if the server listened on all addresses
            other.bind(("127.0.0.2", server["port"]))
    with watched_lab(tmp_path / "plain", "--ip=127.0.0.1") as (_, hosts):
        assert hosts, "by itself it does, so the test would see it"
