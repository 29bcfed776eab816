"""What a GPU changes of a training, tried on the CPU with a pretended memory and a pretended graph; marked `cuda`, on a GPU itself.

`make gpu` runs the marked ones without tests/conftest.py, where little more than torch is installed: so does this file import.
"""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import gpu
import numpy as np
import pytest
import torch
from helpers import REPO, TinyTeacher, config, image_set
from torch.utils._python_dispatch import TorchDispatchMode

from rdlib import baselines, features, fit, inference, model, teachers
from rdlib.errors import InputError, memory_in_words
from rdlib.run.checkpoint import Checkpoint
from rdlib.score import score

TRAIN, TEST = image_set(10), image_set(5, seed=3)  # in batches of 4: an odd one of 2 at the end
CPU, HOME = torch.device("cpu"), inference.choose_device("auto")


class Log:
    """A store that keeps nothing but what is told to it."""

    def __init__(self):
        self.log = {}

    def arrays(self, *_):
        return None


def teacher_of(cfg):
    """A small ResNet where the student copies the teacher; it is random, and always the same."""
    if cfg.method != "conventional":
        return TinyTeacher()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return teachers.resnet_teacher("resnet18")


def train(cfg, device=CPU, **more):
    """losses, trained state, log"""
    fit.seed_everything(cfg)
    net, store = baselines.build(cfg, teacher_of(cfg)).to(device), Log()
    losses = fit.fit(net, TRAIN, cfg, store=store, **more)
    return losses, {k: v.cpu() for k, v in fit.own_state(net).items()}, store.log


def same(one, other):
    return one[0] == other[0] and all(torch.equal(v, other[1][k]) for k, v in one[1].items())


# --- Where features and images lie --------------------------------------------------------------------------------


@pytest.fixture
def room(monkeypatch):
    """room(bytes) pretends that so many are free on the device."""
    return lambda free: monkeypatch.setattr(features, "free_memory", lambda device: free)


METHODS = [{"method": "reverse"}, {"method": "conventional"}, {"precision": "bf16"}]


@pytest.mark.parametrize("made", METHODS, ids=str)
def test_where_they_lie_changes_no_bit(room, made):
    cfg = config(epochs=2, **made)
    plain = train(cfg)
    assert plain[2] == {"train features": "memory"}
    for free, how in ((10**9, "on the device"), (1000, "copied ahead")):
        room(free)
        found = train(cfg)
        assert same(found, plain) and found[2]["train features"] == f"memory; {how}"


def test_a_stated_share_of_the_free_memory_is_the_limit(room):
    arrays = [TRAIN.images, TRAIN.images[:, :1].copy()]
    assert features.free_memory(CPU) is None and features.Rows(arrays, CPU).how == ""
    needed = sum(a.nbytes for a in arrays) / features.SHARE
    for free, how in ((needed, "on the device"), (needed - 1, "copied ahead")):
        room(free)
        assert features.Rows(arrays, CPU).how == how


@pytest.mark.parametrize("indices", [slice(2, 4), torch.tensor([3, 1])], ids=["slice", "indices"])
def test_rows_come_to_a_device_of_another_kind(indices):
    """Such as Apple's; here one that has shapes only."""
    (found,) = features.Rows([TRAIN.images], torch.device("meta"))[indices]
    assert found.device.type == "meta" and found.shape == (2, 3, 32, 32)


def test_batches_that_were_copied_ahead_stay_what_they_are(room):
    """Two buffers in turn, larger batches after smaller ones, slices and indices."""
    room(0)
    rows = features.Rows([TRAIN.images], CPU)
    wanted = [torch.tensor([3, 1]), slice(2, 9), torch.tensor([0]), slice(8, 20), torch.tensor([9, 9, 4])]
    found = [rows[i][0] for i in wanted]
    assert all(np.array_equal(f, TRAIN.images[i if isinstance(i, slice) else i.numpy()]) for f, i in zip(found, wanted))


def test_looking_twice_at_the_test_set_is_told_once():
    cfg, store = config(), Log()
    net = model.build(cfg, TinyTeacher())
    for _ in range(2):
        score(net, TEST, cfg, store)
    assert store.log == {"test features": "recomputed"}


# --- A step -------------------------------------------------------------------------------------------------------


class HostReads(TorchDispatchMode):
    """Counts what makes the host wait for the device: reading a tensor's value."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def a_step(batch=4, **params):
    """A function that takes a step on some images, and the model and optimiser that it is taken with."""
    cfg = config(**params)
    fit.seed_everything(cfg)
    net = model.build(cfg, TinyTeacher()).train()
    optimiser = fit.optimiser_of(net, cfg)

    def take(spoil=1.0, first=0):
        with torch.no_grad():
            feats = net.teacher(inference.to_batch(TRAIN.images[first : first + batch], CPU))
        return fit.step(net, optimiser, [f * spoil for f in feats], None, cfg)

    return take, net, optimiser


def test_nothing_in_a_step_waits_for_the_device():
    take, *_ = a_step()
    take()
    with HostReads() as reads:
        loss = take()
    assert reads.count == 0
    with reads:
        loss.item()
    assert reads.count == 1, "or this test sees nothing"


def test_a_loss_that_is_not_finite_freezes_the_parameters_from_its_own_step_on():
    take, net, optimiser = a_step()
    take()
    parameters = [p.clone() for p in net.trainable()]
    steps = [state["step"].item() for state in optimiser.state.values()]
    assert not torch.isfinite(take(spoil=math.inf)) and torch.isfinite(take(first=4))
    assert all(torch.equal(p, before) for p, before in zip(net.trainable(), parameters))
    assert [state["step"].item() for state in optimiser.state.values()] == steps == [1.0] * len(steps)


# --- One launch ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pretended(monkeypatch):
    """A graph that is no graph: the step on fixed tensors, run anew at each launch. Returns the list of launches."""
    launches, plain = [], fit.Steps.__init__

    def init(self, *arguments):
        plain(self, *arguments)
        self.graphed = arguments[3]

    def captured(run):
        result = torch.zeros(())

        def replay():
            launches.append(1)
            return result.copy_(run())

        return replay

    monkeypatch.setattr(fit.Steps, "__init__", init)
    monkeypatch.setattr(fit, "aside", lambda run: run())
    monkeypatch.setattr(fit, "captured", captured)
    return launches


@pytest.mark.parametrize("made", METHODS, ids=str)
def test_steps_on_fixed_tensors_are_the_steps(pretended, made):
    cfg = config(epochs=4, **made)
    plain = train(cfg, cuda_graph=False)
    assert not pretended and "training step" not in plain[2]
    found = train(cfg)
    assert len(pretended) == 4 * 2 - fit.WARM_UP and found[2]["training step"] == "CUDA graph"
    assert same(found, plain)


def test_a_graph_that_cannot_be_captured_is_a_note(pretended, monkeypatch):
    def captured(run):
        raise RuntimeError("CUDA error: operation not permitted\nmore")

    monkeypatch.setattr(fit, "captured", captured)
    cfg = config(epochs=4)
    found = train(cfg)
    assert found[2]["training step"] == "one by one: CUDA error: operation not permitted"
    assert same(found, train(cfg, cuda_graph=False))


# --- TF32 ---------------------------------------------------------------------------------------------------------


def test_tf32_is_convolutions_only_and_part_of_the_identity():
    for precision in ("tf32", "fp32", "bf16"):
        fit.seed_everything(config(precision=precision))
        assert torch.backends.cudnn.allow_tf32 == (precision == "tf32") and not torch.backends.cuda.matmul.allow_tf32
    assert ".precision_tf32-" in config(precision="tf32").run_id and "precision" not in config().run_id


def test_without_tf32_it_is_float32_and_said(monkeypatch):
    assert same(train(config(precision="tf32")), train(config()))
    said = "float32 in place of tf32, which this device does not have"
    assert inference.missing_precision(config(precision="tf32"), CPU) == said and not inference.missing_precision(config(), CPU)
    for capability, expected in (((7, 5), said), ((8, 0), "")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert inference.missing_precision(config(precision="tf32"), torch.device("cuda")) == expected


# --- The program --------------------------------------------------------------------------------------------------

HIDE = """from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *rest: None if name.split(".")[0] in {hidden!r} else find(name, *rest))
"""
ABSENT = "snakemake papermill efficientnet_lite_pytorch filelock fastjsonschema safetensors pandas seaborn matplotlib skimage psutil tqdm"
ABSENT += " IPython ipywidgets jinja2 tabulate nbformat hypothesis playwright"


def program(folder, *words, hidden=ABSENT):
    (folder / "sitecustomize.py").write_text(HIDE.format(hidden=set(hidden.split())))
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, REPO / "tests/tools/gpu.py", *words], env=environment, capture_output=True, text=True)


def test_make_gpu_measures_everything_without_what_a_borrowed_machine_lacks(tmp_path):
    done = program(tmp_path, "--device", "cpu", "--quick", "--out", str(tmp_path / "cpu.json"), hidden=f"{ABSENT} pytest")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "cpu.json").read_text())
    loops = [(r["teacher"], r["image_size"], r["loop"]) for r in found["training"]]
    assert loops == [(*what, loop) for what in gpu.TRAINING for loop in ("plain", *gpu.OURS)]
    assert all(r["images_per_s"] > 0 and r["times_plain"] > 0 and r["share_of_peak"] > 0 for r in found["training"])
    assert set(found["peak_flops"]) == set(gpu.PRECISIONS) and set(found["scoring_s"]) == {"plain", "ours"}
    assert found["category"]["whole_s"] > 0 and found["quick"] and found["device_tests"] == "not run: pytest is missing"


def test_make_gpu_says_what_is_missing(tmp_path):
    done = program(tmp_path, hidden="sklearn")
    assert (done.returncode, done.stderr) == (1, "missing: scikit-learn; pip install them\n")


def test_the_plans_hours_are_those_of_the_measurement():
    page = (REPO / "docs/full_run.md").read_text()
    assert gpu.with_hours(page) == page and gpu.with_hours(page.replace("**723**", "**1**")) == page
    steps = {("wide_resnet50_2", 256): 0.01, ("resnet18", 256): 0.003, ("resnet18", 32): 0.0005}
    times = {"tf32": 1, "fp32": 5, "bf16": 1}
    measured = [
        {"teacher": t, "image_size": px, "loop": f"{precision}, CUDA graph", "step_s": [s * times[precision]] * 3}
        for (t, px), s in steps.items()
        for precision in times
    ]
    found = {"device": "GPU X", "training": measured}
    assert gpu.step_seconds("wide_resnet50_2", 128, "tf32", found) == pytest.approx(0.01 / 4)
    assert gpu.step_seconds("resnet50", 256, "tf32", found) == pytest.approx(0.01 * 28 / 53)
    assert gpu.step_seconds("resnet18", 64, "tf32", found) == 0.0005, "no step is shorter than the smallest that was measured"
    bottle = {"dataset": "mvtec", "category": "bottle", "teacher": "wide_resnet50_2", "image_size": 256, "epochs": 200, "precision": "tf32"}
    assert gpu.run_seconds(bottle, found) == pytest.approx(gpu.START_S + 200 * 14 * 0.01)
    assert gpu.run_seconds(bottle | {"evaluate_every": 10}, found) == pytest.approx(gpu.START_S + 20 * gpu.LOOK_S + 200 * 14 * 0.01)
    assert gpu.step_seconds("wide_resnet50_2", 256, "fp32", found) == 0.05
    assert "from steps measured on GPU X" in gpu.plan_hours(found)


# --- On a GPU -----------------------------------------------------------------------------------------------------


def cuda(test):
    return pytest.mark.cuda(pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")(test))


@cuda
@pytest.mark.parametrize("made", METHODS[:2], ids=str)
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_losses_on_cuda_are_the_cpus(cuda_graph, made):
    cfg = config(epochs=3, lr=1e-4, **made)
    found, expected = train(cfg, HOME, cuda_graph=cuda_graph), train(cfg)
    assert found[2]["training step"] == ("CUDA graph" if cuda_graph else "one by one")
    assert found[0] == pytest.approx(expected[0], rel=1e-3)


@cuda
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_two_runs_on_cuda_are_the_same_to_the_bit_wherever_features_lie(room, precision):
    cfg = config(epochs=3, precision=precision)
    first = train(cfg, HOME)
    assert first[2]["train features"] == "memory; on the device" and same(train(cfg, HOME), first)
    room(0)
    again = train(cfg, HOME)
    assert again[2]["train features"] == "memory; copied ahead" and same(again, first)


@cuda
def test_maps_on_cuda_are_the_cpus():
    cfg = config()
    fit.seed_everything(cfg)
    net = model.build(cfg, TinyTeacher())
    expected = score(net, TEST, cfg).scale_maps
    np.testing.assert_allclose(score(net.to(HOME), TEST, cfg).scale_maps, expected, atol=1e-4)


@cuda
def test_a_loss_on_cuda_that_is_not_finite_names_the_files():
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) in epoch \d+; try a smaller lr. Batch: \d+.png"):
        train(config(lr=1e38, epochs=20), HOME)


def train_until_killed(folder, epochs):
    """Train with a checkpoint after every epoch; the process is killed after so many."""
    kill = lambda epoch, _: os.kill(os.getpid(), signal.SIGKILL) if epoch == epochs + 1 else None  # noqa: E731
    fit.seed_everything(config(epochs=6))
    net = model.build(config(epochs=6), TinyTeacher()).to(HOME)
    losses = fit.fit(net, TRAIN, config(epochs=6), kill, checkpoint=Checkpoint(Path(folder), {}, every_s=0))
    return losses, {k: v.cpu() for k, v in fit.own_state(net).items()}


@cuda
def test_after_a_kill_training_goes_on_to_the_same_losses(tmp_path):
    """Of a process of its own. Which steps are launched as a graph differs, so the last bits may."""
    words = [sys.executable, "-c", f"import test_gpu_paths as t; t.train_until_killed({str(tmp_path)!r}, 3)"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(REPO / place) for place in ("", "tests", "tests/tools"))}
    assert subprocess.run(words, env=environment).returncode == -signal.SIGKILL
    checkpoint = Checkpoint(tmp_path, {}, every_s=0)
    assert len(checkpoint.load()["losses"]) == 3
    losses, _ = train_until_killed(tmp_path, 99)
    assert checkpoint.resumed_from == 3 and losses == pytest.approx(train_until_killed(tmp_path / "whole", 99)[0], rel=1e-3)


@cuda
def test_memory_of_cuda_that_runs_out_is_a_sentence():
    with pytest.raises(InputError, match="^out of memory while training; take a smaller batch_size"), memory_in_words("training"):
        torch.empty(10**15, device=HOME)
