"""A dataset from a DVC data registry at a git revision: verified, and resumable.

DVC tracks a directory of files, best a few large ones. It hashes each of them, and the list of these
hashes gives the directory's own hash. So one hash identifies every byte, whatever revision it was found by.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from xkd.data.fetch.download import ListedFile, download, new_md5, root_cause
from xkd.data.sources.source import FETCHED
from xkd.errors import UserError, extra_required, nearest
from xkd.io import find_json, write_json
from xkd.output import UNFINISHED, OutputDir

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The source of a fetched dataset."""

    repo: str
    """The registry as given, without a password or token in its URL."""
    rev: str
    """The full commit of the requested revision: it stays valid when a branch moves."""
    hash: str
    """DVC's hash of the directory, which ends in ``.dir``: equal content, equal hash."""


def fetch_registered(name: str, repo: str, rev: str, out: Path) -> Origin:
    """Download what the registry tracks as `name` into `out`, or what is missing of it.

    Every file is verified by DVC's md5 before it gets its name; the next call resumes after the last byte
    received. ``fetched.json``, written last, has the name, the `Origin`, the number of files and their bytes.

    Args:
        name: path of a directory that DVC tracks in the registry.
        repo: path or URL of the registry, a git repository.
        rev: branch, tag or commit; empty: the default branch.
        out: directory to write; absent, empty, or written by an earlier call with the same content.

    Raises:
        UserError: DVC is not installed; there is no such registry, revision or directory, or no access; a
            file is missing or does not match its md5; the connection fails repeatedly; the disk is full; or
            `out` holds something else.
    """
    name, record = name.rstrip("/"), out / FETCHED
    with _open(repo, rev) as registry:
        revision, stores = _track(registry, name)
        origin = Origin(repo=_without_secrets(repo), rev=registry.get_rev(), hash=revision)
        output = OutputDir(out, {"name": name, "hash": revision}, lambda: find_json(record))
        # A complete directory that has changed since becomes unfinished, and its files are not trusted.
        changed = output.unfinished / FETCHED
        found = find_json(record) or {}
        if output.is_complete() and not _count(out).items() <= found.items():
            print(f"fetch: {out} has changed since it was fetched; checking every file", file=sys.stderr)
            output.unfinished.mkdir(exist_ok=True)
            record.replace(changed)
        with output.fill() as missing:
            if missing:
                files = _list_files(name, revision, stores)
                _check_names(files, out)
                download(name, files, out, output.unfinished / "parts", verify=changed.exists())
            values = {"name": name, **asdict(origin), **_count(out)}
            if missing or found != values:  # the same content may have another revision
                write_json(record, values)
    what = f"{name} at {origin.rev[:12]}: {values['files']} files, {values['bytes']:,} bytes"
    print(f"fetch: {out} {'holds' if missing else 'already holds'} {what}", file=sys.stderr)
    return origin


@contextmanager
def _open(repo: str, rev: str) -> Iterator[Repo]:
    """Open the registry at a revision; of a URL, DVC makes a clone that is removed at the end."""
    with extra_required("fetching from a registry", "workflow"):
        from dvc.api import DVCFileSystem
        from dvc.repo.open_repo import clean_repos
        from dvc.scm import RevError
    shown = _without_secrets(repo)
    # Without a revision DVC would open the working tree of a registry on this machine, committed or not.
    revision = rev or ("HEAD" if Path(repo).exists() else None)
    with TemporaryDirectory(prefix="xkd-fetch-") as scratch:
        system = DVCFileSystem(repo, rev=revision, config={"core": {"site_cache_dir": scratch}})
        try:
            try:
                registry = system.repo
                _ = registry.index.data  # reads every .dvc file and the configuration of the remote
            except RevError as error:
                raise UserError(f"rev: the data registry {shown} has no revision {rev or 'HEAD'}") from error
            except Exception as error:  # DVC, git and each kind of remote raise different errors
                why = root_cause(error).replace(repo, shown)
                raise UserError(f"repo: cannot open the data registry {shown}: {why}") from error
            yield registry
        finally:
            system.close()
            clean_repos()


def _track(registry: Repo, name: str) -> tuple[str, Sequence[HashFileDB]]:
    """Return a directory's hash in DVC's index, and the stores of its files: own cache, then remote.

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
        raise UserError(f"name: the registry has no DVC 3 md5 of {name}; run `dvc add {name}` there")
    if not tracked.isdir:
        raise UserError(f"name: {name} is a single file; only directories tracked by DVC can be fetched")
    places = [place for place in (storage.cache, storage.remote) if isinstance(place, ObjectStorage)]
    if registry.url and storage.remote not in places:
        shown = _without_secrets(registry.url)
        raise UserError(f"repo: {shown} has no default remote for {name}; set one with `dvc remote default`")
    return tracked.value, [place.odb for place in places]


def _why_untracked(registry: Repo, name: str, tracked: Iterable[str]) -> str:
    """Return why a name is not a directory that DVC tracks."""
    if whole := next((other for other in tracked if name.startswith(f"{other}/")), None):
        return f"{name} is a part of {whole}, which DVC tracks as a whole; fetch that"
    if name and registry.fs.exists(f"/{name}"):
        return f"{name} is tracked by the registry's git, not by DVC; run `dvc add {name}` there"
    known = ", ".join(sorted(tracked)) or "nothing"
    return f"no {name} in the data registry{nearest(name, tracked)}; tracked by DVC: {known}"


def _list_files(dataset: str, revision: str, stores: Iterable[HashFileDB]) -> list[ListedFile]:
    """List a directory's files from its ``.dir`` object, whose md5 is the directory's hash.

    Raises:
        UserError: the list is missing, damaged or cannot be read, or has a name outside the directory.
    """
    from dvc_data.hashfile.tree import Tree

    def place(name: str, md5: str, suffix: str = "") -> ListedFile:
        return ListedFile(name, md5, tuple((s.fs, s.oid_to_path(md5 + suffix)) for s in stores))

    listing = place(f"the list of {dataset}'s files", revision.removesuffix(".dir"), ".dir")
    remote = listing.locate(Event())
    data = remote.read(0, remote.size, Event())
    if new_md5(data).hexdigest() != listing.md5:
        raise remote.corrupt()
    files = []
    for key, (_, hashed) in Tree.from_list(json.loads(data), hash_name="md5").iteritems():
        name = "/".join(key)
        if any(part in ("", ".", "..") or "\0" in part for part in key):
            raise UserError(
                f"{listing.name} names {name!r}, which is outside the dataset; {dataset} is not fetched"
            )
        files.append(place(name, hashed.value))
    return files


def _check_names(files: Iterable[ListedFile], out: Path) -> None:
    """Refuse reserved names in the registry, and files in the directory that the registry does not list."""
    names = {file.name for file in files}
    if taken := [name for name in names if name.split("/")[0] in (FETCHED, UNFINISHED)]:
        raise UserError(f"the registry has {min(taken)}, a name reserved by fetch; rename it there")
    for leftover in out.glob(f".{FETCHED}.*"):  # of a process that was killed in `write_json`
        leftover.unlink()
    found = _find_files(out).items()
    if strange := sorted(name for name, path in found if name not in names or path.is_symlink()):
        some = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
        raise UserError(
            f"{out} has files that were not fetched into it ({some}); use another directory or delete it"
        )


def _find_files(out: Path) -> dict[str, Path]:
    """Return all files and links below the directory by name, without the record and unfinished files."""
    paths = {path.relative_to(out): path for path in out.rglob("*") if path.is_symlink() or not path.is_dir()}
    return {
        name.as_posix(): path for name, path in paths.items() if name.parts[0] not in (FETCHED, UNFINISHED)
    }


def _count(out: Path) -> dict[str, int]:
    """Return the number of files and their bytes, as the record has them."""
    sizes = [path.lstat().st_size for path in _find_files(out).values()]
    return {"files": len(sizes), "bytes": sum(sizes)}


def _without_secrets(repo: str) -> str:
    """Remove a password or token from a URL, which goes into records and tables."""
    parts = urlsplit(repo)
    if parts.scheme in ("http", "https") and "@" in parts.netloc:
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return repo
