"""A complete MVTec AD from an archive, a folder or an address of the user's: `python -m rdlib.batch.acquire SOURCE TARGET`.

Everything happens in a temporary folder beside the target, which is renamed when it is complete: what lies under the
target's name is whole. A `manifest.sha256` beside the categories (as `sha256sum -c` reads it) says of what it consists,
here and in every copy of it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import re
import shutil
import signal
import stat
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError

from filelock import FileLock, Timeout

from rdlib.datasets import MVTEC_COUNTS
from rdlib.errors import InputError
from rdlib.layouts import categories, files_below, find_items, is_litter, report

MANIFEST = "manifest.sha256"
LOCK = "lock"  # in the temporary folder
TIMEOUT = 60  # seconds without a byte from the server
BLOCK = 2**20


def acquire(source: str, target: str | Path, sha256: str = "", partial: bool = False) -> str:
    """Make `target` a complete copy of what `source` holds; a complete target is left as it is. A manifest in the source is obeyed.

    source: folder, archive (tar in any compression, zip) or http(s) address of an archive
    target: folder that will hold the categories
    sha256: of the archive; an address needs it, since nothing else says that the right bytes came
    partial: several, but not all of MVTec AD's categories are meant; without it that is taken for an archive that was cut short
    returns: a sentence on what is there now
    raises: InputError if anything is missing, changed, hostile or too much; nothing half-done is left behind
    """
    target, is_url = Path(target), bool(re.match(r"https?://", source))
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InputError(f"sha256={sha256!r}: must be 64 hexadecimal digits, as `sha256sum` prints them")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        return f"{target}: already complete, left as it is. {check_existing(target)}"
    if not source:
        raise InputError(
            f"no source for {target}: give a local archive or folder of MVTec AD, or an http(s) address (make data SOURCE=...)"
        )
    if is_url and not sha256:
        raise InputError(f"{source}: an address needs --sha256, else nothing says that the right data came")
    if not is_url and not Path(source).exists():
        raise InputError(f"{source}: no such file or folder; give a local copy of the archive, its folder or an http(s) address")
    if not is_url and target.resolve().is_relative_to(Path(source).resolve()):
        raise InputError(f"{target}: lies inside the source {source}; give a folder outside it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as tmp, FileLock(Path(tmp, LOCK)):
            root = _fetch_and_unpack(source, Path(tmp), sha256.lower())
            by_manifest = _checked(root, f"{source}: not complete; fetch it again")
            there, missing = official_in(root)
            if len(there) > 1 and missing and not by_manifest and not partial:
                raise InputError(
                    f"{source}: {len(there)} of {len(MVTEC_COUNTS)} categories; missing: {', '.join(missing)}; fetch it again, "
                    "or give --partial if no more are meant"
                )
            lines = [f"{digest}  {name}\n" for name, digest in sorted(manifest_of(root).items())]
            (root / MANIFEST).write_text("".join(lines), encoding="utf-8")
            root.chmod(0o755)
            root.rename(target)
    except OSError as error:  # disk full, no permission, or another process made the target meanwhile
        raise InputError(f"{target}: cannot be made ({error}); nothing was left behind") from None
    return f"{target}: {_what_is_there(target, by_manifest)}"


def remove_stale(target: Path) -> None:
    """Remove the temporary folders that killed processes left beside the target, gigabytes perhaps.

    A living process holds the lock in its own; the system lets go of it when the process dies, whatever killed it.
    """
    for lock in target.parent.glob(f".{target.name}-*/{LOCK}"):
        with contextlib.suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent)


def _fetch_and_unpack(source: str, tmp: Path, sha256: str) -> Path:
    """Copy, or download and unpack, into `tmp`. returns: the folder in it that holds the categories"""
    unpacked = tmp / "unpacked"
    if Path(source).is_dir():
        if sha256:
            raise InputError(f"{source}: is a folder; --sha256 is that of an archive, leave it out")
        _copy(Path(source), unpacked)
        return _root(unpacked, source)
    archive = Path(source)
    if not archive.is_file():
        archive = tmp / "archive"
        _download(source, archive)
    found = file_sha256(archive)  # every time: that it is there says nothing about its bytes
    if sha256 and found != sha256:
        raise InputError(f"{source}: sha256 is {found}, expected {sha256}; fetch the archive again")
    unpacked.mkdir()
    _unpack(archive, unpacked, source)
    return _root(unpacked, source)


def _download(url: str, file: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, file.open("wb") as out:
            shutil.copyfileobj(answer, out, BLOCK)
            announced = answer.headers.get("Content-Length")
    except (OSError, HTTPException, ValueError) as error:  # URLError and HTTPError are OSErrors
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        reason = error if isinstance(error, HTTPError) else getattr(error, "reason", error)
        raise InputError(f"{url}: cannot be downloaded ({reason}); fetch it by hand and give the file") from None
    if announced is not None and file.stat().st_size != int(announced):
        raise InputError(f"{url}: the download ended after {file.stat().st_size} of {announced} bytes; try again")


# --- Archives -----------------------------------------------------------------------------------------------------


def _unpack(archive: Path, folder: Path, source: str) -> None:
    """Write an archive's files, without what systems leave in it. Contents only: no owner, no permission, no link is taken over."""
    try:
        with contextlib.closing(_members(archive)) as members:
            for name, kind, opened in members:
                place = PurePosixPath(name.replace("\\", "/"))
                problem = f"is {kind}, only files and folders are unpacked" if kind else ""
                if place.is_absolute() or ".." in place.parts or re.match(r"[A-Za-z]:", name):
                    problem = "would be written outside the target"
                if problem:
                    raise InputError(f"{source}: member {name!r} {problem}; this is not the original archive")
                if any(map(is_litter, place.parts)):
                    continue
                path = folder / place
                (path.parent if opened else path).mkdir(parents=True, exist_ok=True)
                if opened:
                    with opened() as content, path.open("wb") as file:
                        shutil.copyfileobj(content, file, BLOCK)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{source}: not a complete tar or zip archive ({str(error).partition(':')[0]}); fetch it again") from None


def _members(archive: Path) -> Iterator[tuple[str, str, Callable[[], IO[bytes]] | None]]:
    """Name, what it is ("" for a file or a folder) and, of a file, what opens it, for each member of a tar or zip."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                kind = "a link" if stat.S_ISLNK(member.external_attr >> 16) else ""
                yield member.filename, kind, None if member.is_dir() else functools.partial(packed.open, member)
    else:
        with tarfile.open(archive) as packed:
            for member in packed:
                kind = "a link" if member.issym() or member.islnk() else "" if member.isreg() or member.isdir() else "a device"
                yield member.name, kind, None if member.isdir() else functools.partial(packed.extractfile, member)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder's files and folders, without what systems leave there; shutil.copytree would go on after the first error."""
    target.mkdir()
    for path in sorted(p for p in source.rglob("*") if not any(map(is_litter, p.relative_to(source).parts))):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: is a link or a device, only files and folders are copied; put the file itself there")
        copy = target / path.relative_to(source)
        copy.mkdir() if path.is_dir() else shutil.copyfile(path, copy)


def _root(unpacked: Path, source: str) -> Path:
    """The folder of the categories: at the top, or in the one folder that is there."""
    top = categories(unpacked)
    roots = [unpacked] * bool(top) + sorted(p for p in unpacked.iterdir() if p.name not in top and categories(p))
    if not roots:
        raise InputError(f"{source}: no MVTec layout in it; expected CATEGORY/train/good, CATEGORY/test and CATEGORY/ground_truth")
    if len(roots) > 1:
        names = " and in ".join("." if p == unpacked else p.name for p in roots)
        raise InputError(f"{source}: holds categories in {names}; give one of them, or put all categories into one folder")
    return roots[0]


# --- Complete? ----------------------------------------------------------------------------------------------------


def check_existing(target: Path) -> str:
    """Whether an existing folder is complete: by its manifest, or by all official counts.

    returns: what is there
    raises: InputError if it is not complete, so that a half-extracted folder is never taken for the data set
    """
    if not target.is_dir():
        raise InputError(f"{target}: is a file, not a folder; give another target")
    by_manifest = _checked(target, f"{target}: there already, but not complete (move it away and acquire it again)")
    _, missing = official_in(target)
    if missing and not by_manifest:
        raise InputError(
            f"{target}: there already, without {MANIFEST} and without {', '.join(missing)}, so it may be half-extracted; "
            "move it away and acquire it again"
        )
    return _what_is_there(target, by_manifest)


def _checked(root: Path, refusal: str) -> bool:
    """Whether the folder has a manifest, with which it then agrees. raises: InputError of `refusal` and every problem"""
    by_manifest, problems = (root / MANIFEST).is_file(), problems_of(root)
    if by_manifest:
        problems += differences(manifest_of(root), read_manifest(root / MANIFEST, refusal))
    if problems:
        raise InputError(report(refusal, problems))
    return by_manifest


def problems_of(root: Path) -> list[str]:
    """What is wrong with the layout: unpaired or unexpected files, counts that are not the official ones; no decoding.

    returns: one line per problem, its paths relative to `root`
    """
    problems = [] if categories(root) else ["no folder CATEGORY/train or CATEGORY/test"]
    for name, folder in categories(root).items():
        train, test, found = find_items(folder)
        problems += found
        official = MVTEC_COUNTS.get(name)
        if official and [len(train), len(test)] != official:
            problems.append(f"{name}: {len(train)} of {official[0]} training and {len(test)} of {official[1]} test images; half-extracted?")
    return [p.replace(f"{root}/", "") for p in problems]


def official_in(root: Path) -> tuple[list[str], list[str]]:
    """MVTec AD's categories that are there, and that are missing, in the order of the paper's tables."""
    found = categories(root)
    return [c for c in MVTEC_COUNTS if c in found], [c for c in MVTEC_COUNTS if c not in found]


def _what_is_there(root: Path, by_manifest: bool) -> str:
    there, missing = official_in(root)
    what = f"{len(categories(root))} categories, {len(there)} of MVTec AD's {len(MVTEC_COUNTS)}"
    without = f"; missing: {', '.join(missing)}" if there and missing else ""
    how = "every file agrees with the manifest" if by_manifest else "checked by layout and official counts, without a manifest"
    return f"{what}{without}; {how}"


# --- Manifest -----------------------------------------------------------------------------------------------------


def manifest_of(root: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file below `root` but the manifest itself and what systems leave there, sorted."""
    return {p.relative_to(root).as_posix(): file_sha256(p) for p in files_below(root) if p != root / MANIFEST}


def read_manifest(file: Path, refusal: str) -> dict[str, str]:
    """Relative path -> sha256. raises: InputError of `refusal` and the line that is not `sha256  relative/path`"""
    found: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(\S.*)", line)
        if not match:
            raise InputError(f"{refusal}: {file.name}, line {number}: {line[:80]!r} is not `sha256  relative/path`")
        found[match[2]] = match[1].lower()
    return found


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Every file that is missing, changed or too much, one line each."""
    problems = [f"{p}: missing" for p in sorted(expected.keys() - found.keys())]
    problems += [f"{p}: not in the manifest" for p in sorted(found.keys() - expected.keys())]
    return problems + [f"{p}: sha256 is not the manifest's" for p in sorted(expected.keys() & found.keys()) if expected[p] != found[p]]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(words: list[str] | None = None) -> int:
    """The command. returns: exit code"""
    parser = argparse.ArgumentParser(prog="python -m rdlib.batch.acquire", description="A complete MVTec AD folder from a copy of yours.")
    parser.add_argument("source", help="folder, tar or zip archive, or http(s) address of one")
    parser.add_argument("target", help="folder that will hold the categories, for example data/mvtec")
    parser.add_argument("--sha256", default="", help="of the archive")
    parser.add_argument("--partial", action="store_true", help="several, but not all of MVTec AD's categories are meant")
    given = parser.parse_args(words)
    try:
        print(acquire(given.source, given.target, given.sha256, given.partial))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{given.target}: stopped; nothing was left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the temporary folder is removed
    sys.exit(main())
