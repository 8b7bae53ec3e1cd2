"""A dataset from a DVC data registry at a git revision: verified, and gone on with where it broke off.

What is tracked is a directory of files, best a few large ones. DVC hashes each of them, and the list of these
hashes gives the directory's own hash. So one hash vouches for every byte, whatever revision it was found by.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from xkd.data.fetch.download import PARTIAL, ListedFile, find_missing, get_bytes, reason, transfer
from xkd.data.sources.source import FETCHED
from xkd.errors import UserError, nearest
from xkd.io import write_text

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB

_UNFINISHED = FETCHED + PARTIAL


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a fetched dataset came from."""

    repo: str
    """The registry as given, but for a password or token in its URL."""
    rev: str
    """The commit that the asked revision names, in full: it stays true when a branch moves."""
    hash: str
    """DVC's hash of the directory, which ends in ``.dir``: equal content, equal hash."""


@dataclass(frozen=True)
class _Tracked:
    """A directory as DVC tracks it."""

    name: str
    hash: str
    stores: tuple[HashFileDB, ...]
    """Where its files are kept by their hashes: the registry's own cache, then its remote."""

    def file(self, name: str, md5: str, kind: str = "") -> ListedFile:
        """One of its files, or the list of them, whose kind is ``.dir``."""
        places = tuple((store.fs, store.oid_to_path(md5 + kind)) for store in self.stores)
        return ListedFile(name, md5, places)


def fetch_registered(name: str, repo: str, rev: str, out: Path) -> Origin:
    """Get what the registry tracks as `name` into `out`, or what is missing of it there.

    Every file is checked against DVC's md5 before it gets its name. Until then it is ``NAME.partial``, and
    the next call goes on behind its last byte. ``fetched.json``, written last, has the name, the `Origin`,
    the number of files and their bytes.

    Args:
        name: path of a directory that DVC tracks in the registry.
        repo: the git repository that is the registry: a path or a URL.
        rev: branch, tag or commit; empty: the default branch.
        out: directory to write; absent, empty, or begun by an earlier call with the same content.

    Raises:
        UserError: DVC is not installed; there is no such registry, revision or directory, or no access; a
            file is missing or has other bytes than the registry says; the connection broke and stays broken;
            the disk is full; or `out` holds something else.
    """
    name = name.rstrip("/")
    with _opened(repo, rev) as registry:
        tracked = _track(registry, name)
        origin = Origin(repo=_without_secrets(repo), rev=registry.get_rev(), hash=tracked.hash)
        complete = _claim(name, origin, out)
        already = complete is not None and (complete["files"], complete["bytes"]) == _counts(out)
        if not already:
            _complete(tracked, origin, out, thorough=complete is not None)
    number, size = _counts(out)
    record = {"name": name, **asdict(origin), "files": number, "bytes": size}
    if not already or record != complete:
        write_text(out / FETCHED, _as_json(record))
    (out / _UNFINISHED).unlink(missing_ok=True)
    what = f"{name} at {origin.rev[:12]}: {number} files, {size:,} bytes"
    print(f"fetch: {out} {'already holds' if already else 'holds'} {what}", file=sys.stderr)
    return origin


def _complete(tracked: _Tracked, origin: Origin, out: Path, *, thorough: bool) -> None:
    """Get what a directory lacks, which says meanwhile that it is unfinished."""
    if thorough:
        print(f"fetch: {out} has changed since it was fetched; checking every file", file=sys.stderr)
    files = _list_files(tracked)
    _check_names(files, out)
    missing = find_missing(files, out, thorough=thorough)
    write_text(out / _UNFINISHED, _as_json({"name": tracked.name, **asdict(origin)}))
    (out / FETCHED).unlink(missing_ok=True)
    absent = {source.file.name for source in missing}
    there = sum((out / file.name).stat().st_size for file in files if file.name not in absent)
    transfer(tracked.name, missing, out, there)


@contextmanager
def _opened(repo: str, rev: str) -> Iterator[Repo]:
    """The registry as it is at a revision; of a URL, DVC makes a clone that lasts as long as this does."""
    try:
        from dvc.api import DVCFileSystem
        from dvc.repo.open_repo import clean_repos
        from dvc.scm import RevError
    except ImportError as error:
        raise UserError("fetching from a registry needs DVC: pip install 'xkd[workflow]'") from error
    shown = _without_secrets(repo)
    # Without a revision DVC would open the working tree of a registry on this machine, committed or not.
    asked = rev or ("HEAD" if Path(repo).exists() else None)
    with TemporaryDirectory(prefix="xkd-fetch-") as scratch:
        system = DVCFileSystem(repo, rev=asked, config={"core": {"site_cache_dir": scratch}})
        try:
            try:
                registry = system.repo
                _ = registry.index.data  # reads every .dvc file and the configuration of the remote
            except RevError as error:
                raise UserError(f"rev: the data registry {shown} has no revision {rev or 'HEAD'}") from error
            except Exception as error:  # DVC, git and each kind of remote have errors of their own
                why = reason(error).replace(repo, shown)
                raise UserError(f"repo: cannot open the data registry {shown}: {why}") from error
            yield registry
        finally:
            system.close()
            clean_repos()


def _track(registry: Repo, name: str) -> _Tracked:
    """What DVC knows of a directory.

    Raises:
        UserError: DVC tracks no directory of this name, or does not keep it by md5.
    """
    from dvc_data.index import ObjectStorage

    keys = {"/".join(key): key for key in registry.index.data_keys["repo"]}
    if name not in keys:
        raise UserError(f"name: {_why_untracked(registry, name, keys)}")
    index = registry.index.data["repo"]
    tracked, storage = index[keys[name]].hash_info, index.storage_map[keys[name]]
    if not tracked or tracked.name != "md5":
        raise UserError(f"name: the registry has no md5 of {name} as DVC 3 makes it; `dvc add {name}` does")
    if not tracked.isdir:
        raise UserError(f"name: {name} is a single file; what can be fetched is a directory that DVC tracks")
    places = [place for place in (storage.cache, storage.remote) if isinstance(place, ObjectStorage)]
    if registry.url and storage.remote not in places:
        shown = _without_secrets(registry.url)
        raise UserError(f"repo: {shown} names no default remote for {name}; see `dvc remote default`")
    return _Tracked(name, tracked.value, tuple(place.odb for place in places))


def _why_untracked(registry: Repo, name: str, tracked: Iterable[str]) -> str:
    if whole := next((other for other in tracked if name.startswith(f"{other}/")), None):
        return f"{name} is a part of {whole}, which is what DVC tracks and can be fetched"
    if name and registry.fs.exists(f"/{name}"):
        return f"{name} is in the registry's git, not tracked by DVC; `dvc add {name}` does that"
    known = ", ".join(sorted(tracked)) or "nothing"
    return f"no {name} in the data registry{nearest(name, tracked)}; DVC tracks there: {known}"


def _list_files(tracked: _Tracked) -> list[ListedFile]:
    """The directory's files as its ``.dir`` object lists them, whose own md5 is the directory's hash.

    Raises:
        UserError: the list is missing, damaged or cannot be read, or has a name that leads elsewhere.
    """
    from dvc_data.hashfile.tree import Tree

    kind = ".dir"
    listing = tracked.file(f"the list of {tracked.name}'s files", tracked.hash.removesuffix(kind), kind)
    files = []
    for key, (_, found) in Tree.from_list(json.loads(get_bytes(listing)), hash_name="md5").iteritems():
        name = "/".join(key)
        if any(part in ("", ".", "..") or "\0" in part for part in key):
            raise UserError(f"{listing.name} has {name!r}, which lies outside; {tracked.name} is not fetched")
        files.append(tracked.file(name, found.value))
    return files


def _claim(name: str, origin: Origin, out: Path) -> dict[str, Any] | None:
    """The record of a directory that was complete once; None: there is none yet, or only a part.

    Raises:
        UserError: the directory holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a directory")
    for leftover in out.glob(f".{FETCHED}.*"):  # of a process that was killed in `write_text`
        leftover.unlink()
    complete = _recorded(out / FETCHED)
    found = complete or _recorded(out / _UNFINISHED)
    if found is None:
        _refuse(sorted(_there(out)), out)
    elif (found["name"], found["hash"]) != (name, origin.hash):
        held = f"{'' if complete else 'a part of '}{found['name']} at {found['rev'][:12]} ({found['hash']})"
        asked = f"{name} at {origin.rev[:12]} ({origin.hash})"
        raise UserError(f"{out} holds {held}, not {asked}; give another directory, or delete this one")
    return complete


def _check_names(files: Iterable[ListedFile], out: Path) -> None:
    """Refuse names that would collide, and what lies in the directory without being listed."""
    names = {file.name for file in files}
    partial = {name + PARTIAL for name in names}
    if taken := names & (partial | {FETCHED, _UNFINISHED}):
        raise UserError(f"the registry has {min(taken)}, a name that fetch keeps for itself; rename it there")
    there = _there(out)
    links = {name for name, found in there.items() if stat.S_ISLNK(found.st_mode)}
    _refuse(sorted(links | (set(there) - names - partial)), out)


def _refuse(strange: Sequence[str], out: Path) -> None:
    if strange:
        some = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
        raise UserError(
            f"{out} holds what was not fetched into it ({some}); give another directory, or delete this one"
        )


def _there(out: Path) -> dict[str, os.stat_result]:
    """All files and links below the directory, by name, but for the records."""
    found = {}
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if name not in (FETCHED, _UNFINISHED) and (path.is_symlink() or not path.is_dir()):
            found[name] = path.lstat()
    return found


def _counts(out: Path) -> tuple[int, int]:
    """How many files there are, and their bytes."""
    sizes = [there.st_size for there in _there(out).values()]
    return len(sizes), sum(sizes)


def _recorded(path: Path) -> dict[str, Any] | None:
    """What a record says; None: there is none.

    Raises:
        UserError: it is damaged.
    """
    if not path.exists():
        return None
    keys = ("name", "repo", "rev", "hash", *(("files", "bytes") if path.name == FETCHED else ()))
    try:
        record = json.loads(path.read_text())
        return {key: record[key] for key in keys}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged; give another directory, or delete this one") from error


def _as_json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2) + "\n"


def _without_secrets(repo: str) -> str:
    """A URL without the password or token that it may have: it goes into records and tables."""
    parts = urlsplit(repo)
    if parts.scheme in ("http", "https") and "@" in parts.netloc:
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return repo
