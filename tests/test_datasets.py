"""Every data set's layout: recognised, split and counted on a small folder of exactly that structure; the page that lists them."""

import re

import numpy as np
import pandas as pd
import pytest
from dataset_folders import MAKERS, made
from helpers import REPO, config, picture, save
from PIL import Image

from rdlib import data, demo, layouts, pictures
from rdlib.datasets import DATASETS, FURTHER_DATASETS, IMAGE_FOLDER_DATASETS, MVTEC_COUNTS, NOVELTY_DATASETS, rows
from rdlib.errors import DataError
from rdlib.run import plan
from rdlib.run.cache import Store


@pytest.fixture(params=MAKERS)
def dataset(request):
    return request.param


def load(dataset, root, category, store=None):
    return data.load(config(dataset=dataset, category=category), root, store)


def problems(dataset, root, category):
    with pytest.raises(DataError) as caught:
        load(dataset, root, category)
    return str(caught.value)


# --- What is read -------------------------------------------------------------------------------------------------


def test_a_folder_of_each_layout_is_split_labelled_and_paired(tmp_path, dataset):
    category, (train, test, masks) = made(dataset, tmp_path)
    found = load(dataset, tmp_path, category)
    assert list(found.train.paths) == train and list(found.test.paths) == test
    assert len(train) == 5 * (dataset == "kolektorsdd") or len(train) == 4
    assert found.train.images.shape[1:] == (3, 32, 32) and not found.train.labels.any()
    assert found.test.labels.sum() == len(masks) and np.array_equal(found.test.masks.any((1, 2)), found.test.labels == 1)
    expected = np.zeros((32, 32), bool)
    expected[4:16, 3:16] = True  # columns 4 to 20 of 40, at 32 px
    assert (found.test.masks[found.test.labels == 1] == expected).all()


def test_each_image_is_at_its_name(tmp_path, dataset):
    category, _ = made(dataset, tmp_path)
    folder = layouts.category_folder(tmp_path, dataset, category)
    found = load(dataset, tmp_path, category)
    for split in (found.train, found.test):
        for path, image in zip(split.paths, split.images):
            with Image.open(folder / path) as original:
                assert np.array_equal(image, pictures.resize(original.convert("RGB"), 32, "antialias")), path


def test_a_folder_of_each_layout_is_planned_by_profile_cpu(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(plan, "DEBIAN", str(tmp_path / "debian"))
    names = [".", *DATASETS[dataset].places[1:]]
    for i, name in enumerate(names):
        category, _ = made(dataset, tmp_path / f"{i}" / name)
        root = str(tmp_path / f"{i}" / name)
        key = category if dataset == "mvtec" else f"{dataset}/{category}"
        assert plan.find_data(str(tmp_path / f"{i}")) == {key: root}
        assert plan.find_data(root) == {key: root}, "a folder may be the set itself"
        if layouts.LAYOUTS[DATASETS[dataset].layout][1]:
            assert plan.find_data(f"{root}/{category}") == {key: root}, "or a category of it"
    planned = plan.runs("cpu", root)
    main = [p for p in planned.values() if p["dataset"] == dataset and p.get("method", "reverse") == "reverse"]
    assert {p["data_root"] for p in main} == {root} and {p["seed"] for p in main} >= {0, 1}
    assert plan.missing("cpu", root) == []
    if dataset in FURTHER_DATASETS:
        assert len(planned) == 2 and {p["category"] for p in planned.values()} == {category}
        assert list(planned) == [plan.identity(p) for p in plan.tables("cpu", root)["further"]]


def test_one_folder_may_hold_them_all(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "DEBIAN", str(tmp_path / "debian"))
    keys = set()
    for name in MAKERS:
        place = DATASETS[name].places[min(1, len(DATASETS[name].places) - 1)]
        category, _ = made(name, tmp_path / place)
        keys.add(category if name == "mvtec" else f"{name}/{category}")
    assert set(plan.find_data(str(tmp_path))) == keys
    settings = {tuple(p[k] for k in ("teacher", "image_size", "epochs")) for p in plan.tables("cpu", str(tmp_path))["further"]}
    assert settings == {tuple(plan.cpu({"bottle": ""})["mvtec"][0][k] for k in ("teacher", "image_size", "epochs"))}


# --- The splits ---------------------------------------------------------------------------------------------------


def test_another_split_of_the_same_files_is_other_data(tmp_path):
    """The store keeps decoded images by the manifest, so that it must tell the splits apart."""
    category, (train, test, _) = made("visa", tmp_path)
    before = load("visa", tmp_path, category, Store(tmp_path / "store"))
    table = tmp_path / "split_csv/1cls.csv"
    swapped = {f"train,normal,{category}/{train[0]}": f"test,normal,{category}/{train[0]}"}
    swapped |= {f"test,normal,{category}/{test[-1]}": f"train,normal,{category}/{test[-1]}"}
    text = table.read_text()
    for old, new in swapped.items():
        assert old in text
        text = text.replace(old, new)
    table.write_text(text)
    after = load("visa", tmp_path, category, Store(tmp_path / "store"))
    assert after.manifest != before.manifest and sorted(after.train.paths) == sorted([*train[1:], test[-1]])
    assert np.array_equal(after.train.images[:3], before.train.images[1:])


def test_every_commutator_and_nearly_every_tile_is_on_one_side(tmp_path):
    for dataset, number in (("kolektorsdd", lambda name: name[3:5]), ("magnetic_tile", lambda name: int(name.split("_")[-1][:-4]) // 1000)):
        category, (train, test, masks) = made(dataset, tmp_path / dataset)
        anomalous = {name.replace("_label.bmp", ".jpg").replace(".png", ".jpg") for name in masks}
        assert not {number(name) for name in train} & {number(name) for name in test if name not in anomalous}


# --- What is refused beside the rows of test_bad_inputs -----------------------------------------------------------


def test_an_image_without_its_mask_and_a_mask_without_its_image_are_named(tmp_path, dataset):
    category, (_, test, masks) = made(dataset, tmp_path)
    folder = layouts.category_folder(tmp_path, dataset, category)
    (folder / masks[0]).unlink()
    assert (masks[0] if dataset != "kolektorsdd" else masks[0].replace("_label.bmp", ".jpg: no mask")) in problems(
        dataset, tmp_path, category
    )
    save(Image.new("L", (40, 32), 255), folder / masks[0])
    extra = folder / re.sub(r"\d(?=\D*$)", "8", masks[0])
    save(Image.new("L", (40, 32), 255), extra)
    text = problems(dataset, tmp_path, category)
    assert "1 problem(s)" in text and f"{extra}: " in text


def test_a_broken_image_and_a_broken_mask_are_named(tmp_path, dataset):
    category, (train, _, masks) = made(dataset, tmp_path)
    folder = layouts.category_folder(tmp_path, dataset, category)
    for name in (train[0], masks[-1]):
        (folder / name).write_bytes(b"")
    text = problems(dataset, tmp_path, category)
    assert "2 problem(s)" in text and all(f"{folder / name}: cannot be decoded" in text for name in (train[0], masks[-1]))


def test_categories_that_are_there_are_told(tmp_path, dataset):
    category, _ = made(dataset, tmp_path)
    assert f"no category nothing of {dataset}; there are: {category}" in problems(dataset, tmp_path, "nothing")


def test_an_empty_folder_is_refused(tmp_path, dataset):
    category, _ = made(dataset, tmp_path / "there")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: no " in problems(dataset, tmp_path / "empty", category)


@pytest.mark.parametrize("dataset", sorted(set(MAKERS) - {"folder"}))
def test_other_counts_than_the_published_ones_are_a_remark(tmp_path, dataset):
    category, (train, test, _) = made(dataset, tmp_path)
    found, official = load(dataset, tmp_path, category), DATASETS[dataset].counts[category]
    there = [len(train), len(test)]
    differs = abs(sum(there) - official) if isinstance(official, int) else sum(abs(a - b) for a, b in zip(there, official))
    assert found.notes["differs_from_official"] == differs
    (said,) = [line for line in data.remarks(found, config(dataset=dataset, category=category)) if DATASETS[dataset].title in line]
    assert said.startswith(f"{category}: {there[0]} training and {there[1]} test images, {DATASETS[dataset].title} has ")


@pytest.mark.parametrize("split, label", [("train", "anomaly"), ("validation", "normal"), ("test", "good"), ("", "")])
def test_a_row_of_visas_table_that_makes_no_sense_is_named(tmp_path, split, label):
    category, (train, *_) = made("visa", tmp_path)
    table = tmp_path / "split_csv/1cls.csv"
    table.write_text(table.read_text().replace(f"train,normal,{category}/{train[0]},", f"{split},{label},{category}/{train[0]},"))
    assert f"{table}: {category}/{train[0]} is {label!r} in {split!r}" in problems("visa", tmp_path, category)


@pytest.mark.parametrize("content", ["", "object,split\n", "<html>", "object,split,label,image,mask\ncandle,train\n"])
def test_a_table_that_is_not_visas_is_refused(tmp_path, content):
    category, _ = made("visa", tmp_path)
    (tmp_path / "split_csv/1cls.csv").write_text(content)
    assert "1cls.csv" in problems("visa", tmp_path, category)


def test_a_table_cannot_name_a_file_elsewhere(tmp_path):
    category, (train, *_) = made("visa", tmp_path / "visa")
    save(picture(), tmp_path / "secret.png")
    table = tmp_path / "visa/split_csv/1cls.csv"
    table.write_text(table.read_text() + f"{category},train,normal,../secret.png,\n{category},train,normal,{tmp_path}/secret.png,\n")
    assert problems("visa", tmp_path / "visa", category).count("secret.png: not there") == 2


# --- The table ----------------------------------------------------------------------------------------------------


def test_published_sums():
    """MVTec AD: 5,354 images; VisA: 10,821, of which 1,200 anomalous; MPDD: 888 and 458; Table 1 or the abstract of each paper."""
    sums = {name: [sum(n) for n in zip(*DATASETS[name].counts.values())] for name in ("mvtec", "visa", "mpdd")}
    assert sums == {"mvtec": [3629, 1725], "visa": [8659, 2162], "mpdd": [888, 458]} and len(MVTEC_COUNTS) == 15


def test_the_demo_is_as_its_recipe_says():
    assert sorted(DATASETS["demo"].counts) == sorted(demo.CATEGORIES)
    assert DATASETS["demo"].images == f"{demo.TRAIN} train, {demo.test_count()} test each"


def test_every_data_set_has_a_maker_or_is_tested_elsewhere():
    assert set(IMAGE_FOLDER_DATASETS) == {*MAKERS, "demo"} and set(DATASETS) == {*IMAGE_FOLDER_DATASETS, *NOVELTY_DATASETS}
    assert {DATASETS[name].layout for name in IMAGE_FOLDER_DATASETS} == set(layouts.LAYOUTS)


def test_the_page_is_the_table():
    table = pd.DataFrame(rows()).to_markdown(index=False)
    assert table in (REPO / "docs/datasets.md").read_text(encoding="utf-8")
