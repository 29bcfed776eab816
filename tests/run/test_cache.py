"""The store of shared arrays: whole or not at all, bounded, safe for several processes, no pickles."""

import errno
import multiprocessing
import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdlib.run import cache
from rdlib.run.cache import Store

A, B = np.arange(24, dtype=np.float32).reshape(6, 4), np.arange(3)
NBYTES = A.nbytes + B.nbytes
PARTS = [[name] for name in "kabcd"]
KEY, *KEYS = map(cache.key_of, PARTS)


def entries(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != "locks")


def never():
    raise AssertionError("computed although it was there")


def test_computed_once_then_read(tmp_path):
    store = Store(tmp_path)
    (tmp_path / f"unfinished-{KEY}").mkdir()  # of a killed writer
    (tmp_path / f"unfinished-{KEY}" / "0.npy").write_bytes(b"half")
    for chunks, how in ((lambda: [[A[:4], B], [A[4:], B[:0]]], "computed and kept"), (never, "read")):
        first, second = store.arrays("x", PARTS[0], NBYTES, chunks)
        assert np.array_equal(first, A) and np.array_equal(second, B) and first.dtype == A.dtype and store.log == {"x": how}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_chunks_of_any_length_come_back_joined(tmp_path_factory, lengths):
    whole = np.random.default_rng(0).integers(0, 9, (sum(lengths), 2, 3))
    parts = np.split(whole, np.cumsum(lengths)[:-1])
    (found,) = Store(tmp_path_factory.mktemp("store")).arrays("x", PARTS[0], 0, lambda: [[p] for p in parts])
    assert np.array_equal(found, whole)


def test_writing_into_what_is_read_changes_no_file(tmp_path):
    store = Store(tmp_path)
    store.arrays("x", PARTS[0], NBYTES, lambda: [[A]])[0][:] = -1
    assert np.array_equal(store.arrays("x", PARTS[0], NBYTES, never)[0], A)


def test_without_a_folder_or_over_the_limit_nothing_is_computed_here(tmp_path):
    assert Store().arrays("x", PARTS[0], 1, never) is None
    store = Store(tmp_path, limit=NBYTES - 1)
    assert store.arrays("x", PARTS[0], NBYTES, never) is None and store.log["x"].startswith("not kept")


def test_an_error_while_computing_leaves_nothing(tmp_path):
    def fails():
        yield [A]
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Store(tmp_path).arrays("x", PARTS[0], NBYTES, fails)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "header cut", "empty", "pickle", "file lost", "file added"])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    store = Store(tmp_path)
    store.arrays("x", PARTS[0], NBYTES, lambda: [[A, B]])
    file = tmp_path / KEY / "00of02.npy"
    content = file.read_bytes()
    {
        "cut": lambda: file.write_bytes(content[:-8]),
        "header cut": lambda: file.write_bytes(content[:20]),
        "empty": lambda: file.write_bytes(b""),
        "pickle": lambda: np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True),
        "file lost": lambda: (tmp_path / KEY / "01of02.npy").unlink(),
        "file added": lambda: np.save(tmp_path / KEY / "2.npy", B),
    }[damage]()
    first, second = store.arrays("x", PARTS[0], NBYTES, lambda: [[A, B]])
    assert np.array_equal(first, A) and np.array_equal(second, B) and store.log["x"] == "damaged, computed again"
    assert store.arrays("x", PARTS[0], NBYTES, never) and entries(tmp_path) == [KEY]


def test_what_else_lies_in_the_folder_is_not_touched(tmp_path):
    (tmp_path / "mvtec/bottle").mkdir(parents=True)
    (tmp_path / "mvtec/bottle/000.npy").write_bytes(bytes(1000))
    os.utime(tmp_path / "mvtec", (0, 0))  # used least recently
    store = Store(tmp_path, limit=A.nbytes + 200)
    for key in PARTS:
        store.arrays("x", key, A.nbytes, lambda: [[A]])
    assert entries(tmp_path) == sorted([KEYS[-1], "mvtec"]) and (tmp_path / "mvtec/bottle/000.npy").stat().st_size == 1000


def test_the_least_recently_used_go_first_and_readers_keep_theirs(tmp_path):
    store = Store(tmp_path, limit=3 * A.nbytes + 3 * 128)
    held = {key: store.arrays("x", parts, A.nbytes, lambda: [[A]])[0] for key, parts in zip(KEYS[:3], PARTS[1:])}
    for age, key in enumerate((KEYS[2], KEYS[0], KEYS[1])):  # the second was used last
        os.utime(tmp_path / key, (time.time() + age, time.time() + age))
    store.arrays("x", PARTS[4], A.nbytes, lambda: [[A]])
    assert entries(tmp_path) == sorted([KEYS[0], KEYS[1], KEYS[3]]) and np.array_equal(held[KEYS[2]], A)


def test_what_another_process_is_writing_is_not_dropped(tmp_path):
    store = Store(tmp_path, limit=A.nbytes + 200)
    store.arrays("x", PARTS[1], A.nbytes, lambda: [[A]])
    with store._locked(KEYS[0]):
        store.arrays("x", PARTS[2], A.nbytes, lambda: [[A]])
    assert entries(tmp_path) == sorted(KEYS[:2])


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # where a full disk shows: the arrays are half-written by then
    store = Store(tmp_path)
    assert store.arrays("x", PARTS[0], NBYTES, lambda: [[A]]) is None and "No space left" in store.log["x"] and entries(tmp_path) == []


def slow_writer(folder, out):
    def chunks():
        with out.open("a") as file:
            file.write("computed\n")
        for part in np.split(A, 6):
            time.sleep(0.02)
            yield [part]

    found = Store(folder).arrays("x", PARTS[0], NBYTES, chunks)
    assert np.array_equal(found[0], A)


def test_several_writers_at_once_compute_it_once(tmp_path):
    spawn = multiprocessing.get_context("fork")
    jobs = [spawn.Process(target=slow_writer, args=(tmp_path / "store", tmp_path / "log")) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0] * 4
    assert (tmp_path / "log").read_text() == "computed\n"


def test_a_key_depends_on_content_and_on_where_a_part_ends():
    same = cache.key_of([A, "x", 3]), cache.key_of([A.copy(), "x", 3])
    changed = [(A, "x3"), (A, "", "x3"), (A, "x", 4), *((a, "x", 3) for a in (A + 1, A[:5], A.T.reshape(4, 6), A.view(np.int32)))]
    assert same[0] == same[1] and len({same[0], *map(cache.key_of, changed)}) == 8
