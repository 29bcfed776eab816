"""Acquisition from folders, archives and a server: whole or not at all, checked, and nothing hostile unpacked."""

import http.server
import io
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial

import pytest
from helpers import PATIENCE, mask, mvtec_folder, picture, save

from rdlib.batch import acquire
from rdlib.errors import InputError

COUNTS = {"bottle": [4, 4], "cable": [2, 3]}


@pytest.fixture
def official(monkeypatch):
    """Two tiny categories are the whole data set."""
    monkeypatch.setattr(acquire, "MVTEC_COUNTS", COUNTS)


@pytest.fixture
def folder(tmp_path, official):
    """A complete data set of 18 files in both categories."""
    root = tmp_path / "there"
    mvtec_folder(root / "bottle")
    mvtec_folder(root / "cable", train=2, good=1, bad=2, defect="cut")
    (root / "license.txt").write_text("CC BY-NC-SA 4.0")
    return root


def tar(folder, target, mode="w:gz", inside=""):
    with tarfile.open(target, mode) as packed:
        for path in sorted(folder.iterdir()):
            packed.add(path, f"{inside}{path.name}")
    return target


def zipped(folder, target):
    with zipfile.ZipFile(target, "w") as packed:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            packed.write(path, path.relative_to(folder))
    return target


def refused(*words):
    with pytest.raises(InputError) as caught:
        acquire.acquire(*words)
    return str(caught.value)


def files(root):
    """Relative path -> content, without the manifest."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != acquire.MANIFEST}


def left(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir())


# --- From a folder, archives, a server ----------------------------------------------------------------------------


def test_from_a_folder(folder, tmp_path):
    said = acquire.acquire(str(folder), tmp_path / "data/mvtec")
    assert files(tmp_path / "data/mvtec") == files(folder)
    assert "2 categories, 2 of MVTec AD's 2" in said and "without a manifest" in said
    assert left(tmp_path / "data") == ["mvtec"]


ARCHIVES = [("w", "a.tar"), ("w:gz", "a.tar.gz"), ("w:xz", "a.tar.xz"), ("w:bz2", "a.tar.bz2"), ("w:xz", "misnamed.zip"), ("zip", "a.zip")]


@pytest.mark.parametrize("mode, name", ARCHIVES)
def test_from_an_archive(folder, tmp_path, mode, name):
    archive = zipped(folder, tmp_path / name) if mode == "zip" else tar(folder, tmp_path / name, mode)
    acquire.acquire(str(archive), tmp_path / "mvtec", acquire.file_sha256(archive))
    assert files(tmp_path / "mvtec") == files(folder)
    assert left(tmp_path) == sorted([name, "mvtec", "there"])


def test_from_an_archive_with_one_folder_around_all(folder, tmp_path):
    acquire.acquire(str(tar(folder, tmp_path / "a.tgz", inside="mvtec_anomaly_detection/")), tmp_path / "mvtec")
    assert files(tmp_path / "mvtec") == files(folder)


@pytest.fixture
def three(folder, monkeypatch):
    """The same folder, of a data set of three categories."""
    monkeypatch.setattr(acquire, "MVTEC_COUNTS", COUNTS | {"zipper": (1, 1)})
    return folder


def test_several_but_not_all_categories_must_be_meant(three, tmp_path):
    assert f"{three}: 2 of 3 categories; missing: zipper; fetch it again, or give --partial" in refused(str(three), tmp_path / "mvtec")
    assert left(tmp_path) == ["there"]
    said = acquire.acquire(str(three), tmp_path / "mvtec", partial=True)
    assert "2 categories, 2 of MVTec AD's 3; missing: zipper; checked by layout" in said
    assert "missing: zipper; every file agrees" in acquire.acquire("nowhere", tmp_path / "mvtec")
    assert "missing: zipper" in acquire.acquire(str(tmp_path / "mvtec"), tmp_path / "again"), "its manifest says what is meant"


def test_one_category_is_meant(three, tmp_path):
    shutil.rmtree(three / "cable")
    assert "1 categories, 1 of MVTec AD's 3; missing: cable, zipper" in acquire.acquire(str(three), tmp_path / "mvtec")


def test_a_data_set_inside_another_is_named(tmp_path, official):
    mvtec_folder(tmp_path / "both/a/bottle")
    mvtec_folder(tmp_path / "both/cable", train=2, good=1, bad=2)
    assert "both: holds categories in . and in a; give one of them" in refused(str(tmp_path / "both"), tmp_path / "mvtec")
    assert left(tmp_path) == ["both"]


def test_a_folder_of_the_users_own_has_no_official_counts(tmp_path, official):
    mvtec_folder(tmp_path / "mine/nut", train=7)
    assert "1 categories, 0 of" in acquire.acquire(str(tmp_path / "mine"), tmp_path / "data")


def test_the_target_can_be_read_by_others_and_may_be_an_empty_folder(folder, tmp_path):
    (tmp_path / "mvtec").mkdir(mode=0o700)
    acquire.acquire(str(tar(folder, tmp_path / "a.tar", "w")), tmp_path / "mvtec")
    assert stat.S_IMODE((tmp_path / "mvtec").stat().st_mode) == 0o755


def littered(folder):
    """What macOS, Windows and a NAS leave in folders, one of it a second data set."""
    for name in ("__MACOSX/bottle/train/good/._000.png", "bottle/test/.DS_Store", "bottle/train/good/Thumbs.db", "cable/@eaDir/x.png"):
        save(picture(), folder / "x.png").rename((folder / name).parent.mkdir(parents=True, exist_ok=True) or folder / name)


@pytest.mark.parametrize("source", ["folder", "a.tar", "a.zip"])
def test_what_systems_leave_in_folders_is_passed_over(folder, tmp_path, source):
    wanted = files(folder)
    littered(folder)
    made = {
        "folder": lambda: folder,
        "a.tar": lambda: tar(folder, tmp_path / source, "w"),
        "a.zip": lambda: zipped(folder, tmp_path / source),
    }
    acquire.acquire(str(made[source]()), tmp_path / "mvtec")
    assert files(tmp_path / "mvtec") == wanted
    littered(tmp_path / "mvtec")  # a look at it on another system leaves it complete
    assert "every file agrees" in acquire.acquire("nowhere", tmp_path / "mvtec")


def test_nothing_but_the_contents_is_taken_from_an_archive(folder, tmp_path):
    def claim(member):
        member.mode, member.uid = 0o6777, 12345
        return member

    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for name in ("bottle", "cable"):
            packed.add(folder / name, name, filter=claim)
    acquire.acquire(str(tmp_path / "a.tar"), tmp_path / "mvtec")
    found = [p.stat() for p in (tmp_path / "mvtec").rglob("*")]
    assert not any(s.st_mode & 0o6002 for s in found) and 12345 not in {s.st_uid for s in found}


def test_a_category_that_is_a_link_counts_as_one_that_is_there(folder, tmp_path):
    (folder / "cable").rename(tmp_path / "elsewhere")
    (folder / "cable").symlink_to(tmp_path / "elsewhere")
    assert "2 categories, 2 of MVTec AD's 2" in acquire.acquire("nowhere", folder)
    assert "cable/train/good/000.png" in acquire.manifest_of(folder)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):  # noqa: N802
        if self.path.endswith("cut.tar"):  # announces more than it sends
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
        else:
            super().do_GET()


@pytest.fixture
def address(tmp_path):
    """http://localhost:PORT of a server that serves tmp_path/served."""
    (tmp_path / "served").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "served"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_from_an_address_by_hash(folder, tmp_path, address):
    archive = tar(folder, tmp_path / "served/mvtec.tar.xz", "w:xz")
    acquire.acquire(f"{address}/mvtec.tar.xz", tmp_path / "mvtec", acquire.file_sha256(archive).upper())
    assert files(tmp_path / "mvtec") == files(folder)
    assert left(tmp_path) == ["mvtec", "served", "there"]


@pytest.mark.parametrize("name, words", [("absent.tar", "HTTP Error 404"), ("cut.tar", "ended after 1000 of 100000 bytes")])
def test_a_download_that_fails_leaves_nothing(folder, tmp_path, address, name, words):
    text = refused(f"{address}/{name}", tmp_path / "mvtec", "0" * 64)
    assert f"{address}/{name}: " in text and words in text
    assert left(tmp_path) == ["served", "there"]


def test_what_an_address_sends_is_checked(folder, tmp_path, address):
    tar(folder, tmp_path / "served/mvtec.tar")
    assert f"expected {'0' * 64}; fetch the archive again" in refused(f"{address}/mvtec.tar", tmp_path / "mvtec", "0" * 64)
    assert left(tmp_path) == ["served", "there"]


# --- What is already there ----------------------------------------------------------------------------------------


def test_a_complete_target_is_left_alone(folder, tmp_path):
    acquire.acquire(str(folder), tmp_path / "mvtec")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "mvtec").rglob("*")}
    assert "already complete, left as it is" in acquire.acquire("nowhere", tmp_path / "mvtec")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "mvtec").rglob("*")} == before


def test_a_complete_folder_of_the_users_own_making_is_left_alone(folder):
    """All official categories with their official counts, no manifest."""
    assert "already complete" in acquire.acquire("nowhere", folder)
    assert not (folder / acquire.MANIFEST).exists()


@pytest.mark.parametrize("gone", ["bottle/test/hole/001.png", "cable/train/good/001.png", "cable/test/good/000.png"])
def test_a_half_extracted_folder_is_refused(folder, gone):
    """Without the last files of a category, as a killed `tar` leaves it."""
    (folder / gone).unlink()
    text = refused("nowhere", folder)
    assert text.startswith(f"{folder}: there already, but not complete (move it away and acquire it again)")
    assert f"{gone.split('/')[0]}: " in text and "half-extracted?" in text


@pytest.mark.parametrize(
    "name, how", [("license.txt", "missing"), ("bottle/train/good/002.png", "added"), ("cable/ground_truth/cut/000_mask.png", "changed")]
)
def test_an_acquired_folder_that_was_altered_is_refused(folder, tmp_path, name, how):
    acquire.acquire(str(folder), tmp_path / "mvtec")
    path = tmp_path / "mvtec" / name
    if how == "changed":
        path.write_bytes(path.read_bytes() + b"\0")
    elif how == "missing":
        path.unlink()
    else:
        path.with_name("added" + path.suffix).write_bytes(path.read_bytes())
    assert f"{name if how != 'added' else 'added' + path.suffix}" in refused("nowhere", tmp_path / "mvtec")


def test_an_archive_that_is_there_is_hashed_every_time(folder, tmp_path):
    archive = tar(folder, tmp_path / "a.tar", "w")
    digest = acquire.file_sha256(archive)
    acquire.acquire(str(archive), tmp_path / "one", digest)
    with archive.open("r+b") as file:
        file.seek(600)
        file.write(b"!")
    assert f"{archive}: sha256 is {acquire.file_sha256(archive)}, expected {digest}" in refused(str(archive), tmp_path / "two", digest)
    assert left(tmp_path) == ["a.tar", "one", "there"]


# --- What is refused ----------------------------------------------------------------------------------------------


def tar_member(name, kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


# Further kinds are rows of test_bad_inputs.
HOSTILE_IN_TAR = [
    tar_member("bottle/../../evil"),
    tar_member("C:\\evil"),
    tar_member("bottle/evil", tarfile.SYMTYPE, "../../.."),
    tar_member("bottle/evil", tarfile.SYMTYPE, "train/good/000.png"),
    tar_member("bottle/evil", tarfile.FIFOTYPE),
]


def hostile_tar(folder, target, member):
    with tarfile.open(tar(folder, target, "w"), "a") as packed:
        packed.addfile(member, io.BytesIO())
    return member.name


def hostile_zip(folder, target, name):
    with zipfile.ZipFile(zipped(folder, target), "a") as packed:
        packed.writestr(name, "x")
    return name


@pytest.mark.parametrize(
    ("add", "member"),
    [*((hostile_tar, member) for member in HOSTILE_IN_TAR), *((hostile_zip, name) for name in ("/evil", "bottle\\..\\..\\evil"))],
)
def test_a_hostile_member_is_named_and_nothing_is_kept(folder, tmp_path, add, member):
    name = add(folder, tmp_path / "a", member)
    assert refused(str(tmp_path / "a"), tmp_path / "data/mvtec").startswith(f"{tmp_path / 'a'}: member {name!r} ")
    assert left(tmp_path) == ["a", "data", "there"] and left(tmp_path / "data") == []


@pytest.mark.parametrize("mode, name", ARCHIVES)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_archive_is_refused(folder, tmp_path, mode, name, share):
    archive = zipped(folder, tmp_path / name) if mode == "zip" else tar(folder, tmp_path / name, mode)
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    assert str(archive) in refused(str(archive), tmp_path / "mvtec")
    assert left(tmp_path) == sorted([name, "there"])


@pytest.mark.parametrize("content", [b"", bytes(5000)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.tar.xz").write_bytes(content)
    assert str(tmp_path / "a.tar.xz") in refused(str(tmp_path / "a.tar.xz"), tmp_path / "mvtec")


def test_all_that_is_wrong_is_named_at_once(folder, tmp_path):
    (folder / "bottle/ground_truth/hole/000_mask.png").unlink()
    save(mask(), folder / "cable/ground_truth/cut/009_mask.png")
    text = refused(str(folder), tmp_path / "mvtec")
    assert "2 problem(s)" in text and "bottle/test/hole/000.png: no mask" in text and "cut/009_mask.png: mask without an image" in text


def test_a_target_that_is_a_file_and_a_hash_of_a_folder(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    assert f"{tmp_path / 'file'}: is a file, not a folder" in refused(str(folder), tmp_path / "file")
    assert f"{folder}: is a folder; --sha256 is that of an archive" in refused(str(folder), tmp_path / "mvtec", "0" * 64)


# --- Manifests ----------------------------------------------------------------------------------------------------


def test_the_manifest_is_what_sha256sum_checks(folder, tmp_path):
    acquire.acquire(str(folder), tmp_path / "mvtec")
    done = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", acquire.MANIFEST], cwd=tmp_path / "mvtec")
    assert done.returncode == 0 and len((tmp_path / "mvtec" / acquire.MANIFEST).read_text().splitlines()) == len(files(folder)) == 18


def test_a_manifest_names_everything_that_differs(folder, tmp_path):
    acquire.acquire(str(folder), tmp_path / "one")
    assert "every file agrees" in acquire.acquire(str(tmp_path / "one"), tmp_path / "two")
    (tmp_path / "one/license.txt").unlink()
    (tmp_path / "one/readme.txt").touch()
    (tmp_path / "one/bottle/train/good/000.png").write_bytes(b"!")  # not decoded here: the loader does that
    text = refused(str(tmp_path / "one"), tmp_path / "three")
    assert "not complete" in text and "3 problem(s)" in text
    for line in ("license.txt: missing", "readme.txt: not in the manifest", "bottle/train/good/000.png: sha256 is not the manifest's"):
        assert line in text
    assert left(tmp_path) == ["one", "there", "two"]


@pytest.mark.parametrize("line", [b"abc  bottle/x.png", f"{'0' * 64} bottle/x.png".encode(), b"", b"x", b"\xff\xfe\0"])
def test_a_line_that_is_none_of_a_manifest(folder, tmp_path, line):
    (folder / acquire.MANIFEST).write_bytes(f"{'0' * 64}  bottle/y.png\n".encode() + line + b"\n")
    assert f"{acquire.MANIFEST}, line 2: " in refused("nowhere", folder)


# --- Errors and Ctrl-C in the middle ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("source", ["folder", "archive"])
def test_nothing_half_done_stays_behind(folder, tmp_path, monkeypatch, error, source):
    """The third file cannot be written."""
    archive = tar(folder, tmp_path / "a.tar")
    name = "copyfile" if source == "folder" else "copyfileobj"
    original, written = getattr(shutil, name), []

    def fail(*args, **kwargs):
        written.append(args)
        if len(written) == 3:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(shutil, name, fail)
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        acquire.acquire(str(folder if source == "folder" else archive), tmp_path / "data/mvtec")
    assert left(tmp_path / "data") == [] and len(written) == 3
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value) and "nothing was left behind" in str(caught.value)


class SlowServer:
    """Sends a header and then nothing."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.connections = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        connection, _ = self.socket.accept()
        self.connections.append(connection)
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)

    def close(self):
        for item in (*self.connections, self.socket):
            item.close()


@pytest.fixture
def downloading(tmp_path):
    """Starts the command on an archive that never ends. returns: process, name of the temporary folder it works in"""
    (tmp_path / "data").mkdir()
    servers, processes, made = [], [], set()

    def start():
        servers.append(SlowServer())
        words = [sys.executable, "-m", "rdlib.batch.acquire", f"http://127.0.0.1:{servers[-1].port}/a.tar", str(tmp_path / "data/mvtec")]
        usual = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  a suite in the background has it ignored
        processes.append(subprocess.Popen([*words, "--sha256", "0" * 64], stderr=subprocess.PIPE, text=True, preexec_fn=usual))
        deadline = time.monotonic() + PATIENCE
        while not (new := {p.parent.name for p in (tmp_path / "data").glob(".mvtec-*/archive")} - made) and time.monotonic() < deadline:
            time.sleep(0.05)
        made.update(new)
        (name,) = new
        return processes[-1], name

    yield start
    for process, server in zip(processes, servers):
        process.kill()
        process.communicate(timeout=PATIENCE)
        server.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(downloading, tmp_path, number):
    process, _ = downloading()
    process.send_signal(number)
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130 and "stopped; nothing was left behind" in said
    assert left(tmp_path / "data") == []


def test_what_a_killed_process_left_is_removed_but_not_what_a_living_one_makes(folder, downloading, tmp_path):
    """One process is killed without a chance to clean up, another is at work on the same target meanwhile."""
    (killed, first), (_, second) = downloading(), downloading()
    assert left(tmp_path / "data") == sorted([first, second])  # the second left the living first alone
    killed.kill()
    killed.wait(timeout=PATIENCE)
    acquire.acquire(str(folder), tmp_path / "data/mvtec")
    assert left(tmp_path / "data") == sorted([second, "mvtec"])


# --- The command --------------------------------------------------------------------------------------------------


def test_the_command(folder, tmp_path, capsys, monkeypatch):
    assert acquire.main([str(folder), str(tmp_path / "mvtec")]) == 0
    assert acquire.main([str(tmp_path / "mvtec"), str(tmp_path / "again")]) == 0
    monkeypatch.setattr(acquire, "MVTEC_COUNTS", COUNTS | {"zipper": (1, 1)})
    assert [acquire.main([str(folder), str(tmp_path / "part"), *flag]) for flag in ([], ["--partial"])] == [1, 0]
    assert acquire.main([str(tmp_path / "nowhere"), str(tmp_path / "x")]) == 1
    out, err = capsys.readouterr()
    assert out.count("2 categories") == 3 and f"{folder}: 2 of 3 categories" in err and f"{tmp_path / 'nowhere'}: no such file" in err
