"""Fetching from real DVC registries: one with a folder as its remote, one with an S3 bucket."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest
from dvc.repo import Repo

from components.fetch import fetch as component
from tests.data.registries import BUCKET, Link, Registry, forbid, isolated_settings, put, s3_server
from tests.ports import refusing_port
from tests.waiting import until
from xkd.data.fetch import download as download_module
from xkd.data.fetch.download import CHUNK
from xkd.data.fetch.fetch import fetch
from xkd.data.fetch.registry import Origin, fetch_registered
from xkd.data.sources.source import FETCHED
from xkd.data.synthetic.files import VERSION
from xkd.errors import UserError

# DVC uses an older way of the tries that it adds files to.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")

MIB = 2**20
OVERHEAD = 100_000
"""Bytes of a fetch besides the files: HTTP headers, lists, the request for the bucket's region."""


def noise(seed: int, count: int) -> bytes:
    return random.Random(seed).randbytes(count)


FIRST = {
    "audio/0.tar": noise(0, 70_000),
    "audio/1.tar": noise(1, 5_000),
    "meta/Größe.csv": b"a,b\n",
    "empty": b"",
}
SECOND = {**FIRST, "audio/1.tar": noise(2, 6_000), "audio/2.tar": noise(3, 10)}
BIG = {"0.tar": noise(4, 12 * MIB), "1.tar": noise(5, 1000), "list.csv": b"1\n"}
BYTES = sum(map(len, BIG.values()))


@pytest.fixture(scope="module", autouse=True)
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with isolated_settings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    # fsspec runs its event loop in threads that live as long as the process, tqdm its monitor.
    lasting = ("fsspecIO", "asyncio_", "tqdm_monitor")

    def left() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t not in before and not t.name.startswith(lasting)]

    until(lambda: not left())  # the S3 server ends its threads after the client's


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a registry and of its remote."""
    folder = tmp_path_factory.mktemp("local")
    registry = Registry.create(folder / "registry", {"url": "../../store"})
    (registry.root / "single.txt").write_text("one file")
    with Repo(str(registry.root)) as repo:
        repo.add(str(registry.root / "single.txt"))
    (registry.root / "notes").mkdir()
    (registry.root / "notes" / "a.md").write_text("git's")
    registry.track({"esc50": FIRST, "fsd50k": {"x": b"x"}}, "v1")
    registry.track({"esc50": SECOND}, "v2")
    registry.git("checkout", "--quiet", "-b", "again", "v1")
    (registry.root / "README.md").write_text("about")
    registry.commit("v1-again")
    registry.git("checkout", "--quiet", "main")
    registry.forget()
    return folder


@pytest.fixture
def registry(original: Path, tmp_path: Path) -> Registry:
    """Return a copy that a test may damage."""
    shutil.copytree(original, tmp_path / "copy")
    return Registry(tmp_path / "copy" / "registry")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def get(registry: Registry, out: Path, rev: str = "v1", name: str = "esc50") -> Origin:
    return fetch_registered(name, str(registry.root), rev, out)


def stored(registry: Registry, data: bytes) -> Path:
    """Return the remote's path of a content."""
    md5 = hashlib.md5(data).hexdigest()
    return registry.root.parent / "store" / "files" / "md5" / md5[:2] / md5[2:]


def content(out: Path) -> dict[str, bytes]:
    paths = {path.relative_to(out): path for path in out.rglob("*") if path.is_file()}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in paths.items()
        if name.parts[0] not in (FETCHED, ".unfinished")
    }


def refusal(registry: Registry | str, out: Path, rev: str = "v1", name: str = "esc50") -> str:
    """Return the error of a fetch that fails."""
    root = registry if isinstance(registry, str) else str(registry.root)
    with pytest.raises(UserError) as caught:
        fetch_registered(name, root, rev, out)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_revision_is_a_tag_a_branch_a_commit_or_the_default_branch(
    registry: Registry, tmp_path: Path
) -> None:
    first, second = (registry.git("rev-parse", f"{tag}^{{commit}}") for tag in ("v1", "v2"))
    fetched = {}
    for number, rev in enumerate(("v1", first, first[:10], "v2", "main", "")):
        fetched[rev] = get(registry, tmp_path / str(number), rev)
        assert content(tmp_path / str(number)) == (FIRST if fetched[rev].rev == first else SECOND)
    assert [origin.rev for origin in fetched.values()] == [first] * 3 + [second] * 3
    assert fetched["v1"].hash.endswith(".dir")
    assert fetched["v1"].hash != fetched["v2"].hash
    assert f"md5: {fetched['v2'].hash}\n" in (registry.root / "esc50.dvc").read_text()


def test_uncommitted_changes_of_a_registry_are_ignored(registry: Registry, out: Path) -> None:
    (registry.root / "esc50.dvc").unlink()
    get(registry, out, "")
    assert content(out) == SECOND


def test_the_record_describes_the_content(registry: Registry, out: Path) -> None:
    origin = get(registry, out)
    assert json.loads((out / FETCHED).read_text()) == {
        "name": "esc50",
        "repo": str(registry.root),
        "rev": origin.rev,
        "hash": origin.hash,
        "files": len(FIRST),
        "bytes": sum(map(len, FIRST.values())),
    }
    assert {path.name for path in out.iterdir()} == {"audio", "meta", "empty", FETCHED}


def test_a_complete_directory_needs_no_remote(
    registry: Registry, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = get(registry, out)
    shutil.rmtree(registry.root.parent / "store")
    capsys.readouterr()
    assert get(registry, out) == first
    assert "already holds esc50" in capsys.readouterr().err


def test_equal_content_has_the_same_hash_at_every_revision(
    registry: Registry, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = get(registry, out), get(registry, out, "again")
    assert (again.rev, again.hash) == (registry.git("rev-parse", "again"), first.hash)
    assert again.rev != first.rev
    assert "already holds esc50" in capsys.readouterr().err
    assert json.loads((out / FETCHED).read_text())["rev"] == again.rev


def test_files_lost_or_damaged_later_are_fetched_again(registry: Registry, out: Path) -> None:
    get(registry, out)
    kept = (out / "audio" / "1.tar").stat().st_ino
    (out / "audio" / "0.tar").write_bytes(b"damaged")
    (out / "empty").unlink()
    get(registry, out)
    assert content(out) == FIRST
    assert (out / "audio" / "1.tar").stat().st_ino == kept


def test_a_url_is_cloned_and_the_clone_is_removed(
    registry: Registry, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    registry.configure({"url": str(registry.root.parent / "store")})
    registry.commit("absolute")
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", registry.root, bare], check=True)
    for number, (repo, rev) in enumerate(
        ((bare.as_uri(), ""), (bare.as_uri(), "main"), (str(bare), "absolute"), (str(bare), ""))
    ):
        fetched = fetch_registered("esc50", repo, rev, tmp_path / str(number))
        assert fetched.rev == registry.git("rev-parse", "main")
        assert content(tmp_path / str(number)) == SECOND
    assert list(scratch.iterdir()) == []


def test_another_revision_or_dataset_is_refused(registry: Registry, out: Path) -> None:
    get(registry, out)
    assert "has another hash" in refusal(registry, out, "v2")
    assert "has another name esc50 (not fsd50k), hash" in refusal(registry, out, "v1", "fsd50k")
    assert content(out) == FIRST


def test_another_revision_is_refused_by_an_unfinished_directory(registry: Registry, out: Path) -> None:
    lost = stored(registry, FIRST["audio/0.tar"])
    lost.write_bytes(b"other bytes")
    refusal(registry, out)
    assert "has another hash" in refusal(registry, out, "v2")
    lost.write_bytes(FIRST["audio/0.tar"])
    get(registry, out)
    assert content(out) == FIRST


def test_a_directory_with_other_files_is_refused(registry: Registry, out: Path) -> None:
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "mine.txt" in refusal(registry, out)
    assert "is not a directory" in refusal(registry, out / "mine.txt")
    assert content(out) == {"mine.txt": b"mine"}


def test_files_and_links_added_later_are_refused(registry: Registry, out: Path) -> None:
    get(registry, out)
    (out / "audio" / "3.tar").write_text("mine")
    assert "audio/3.tar" in refusal(registry, out)
    (out / "audio" / "3.tar").unlink()
    (out / "audio" / "1.tar").unlink()
    (out / "audio" / "1.tar").symlink_to(registry.root / "single.txt")
    assert "audio/1.tar" in refusal(registry, out)


def test_a_damaged_record_is_an_error(registry: Registry, out: Path) -> None:
    get(registry, out)
    (out / FETCHED).write_text("{")
    assert f"{FETCHED} is not valid JSON" in refusal(registry, out)


def test_temporary_files_of_a_killed_process_are_removed(registry: Registry, out: Path) -> None:
    get(registry, out)
    (out / FETCHED).rename(out / f".{FETCHED}.123")
    (out / ".unfinished").mkdir()
    get(registry, out)
    assert {path.name for path in out.iterdir()} == {"audio", "meta", "empty", FETCHED}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("esc5", "did you mean esc50?"),
        ("../esc50", "tracked by DVC: esc50, fsd50k, single.txt"),
        ("", "tracked by DVC"),
        ("single.txt", "is a single file"),
        ("esc50/audio", "is a part of esc50"),
        ("notes", "is tracked by the registry's git, not by DVC"),
    ],
)
def test_only_a_directory_that_dvc_tracks_is_fetched(
    registry: Registry, out: Path, name: str, said: str
) -> None:
    message = refusal(registry, out, name=name)
    assert message.startswith("name: ")
    assert said in message
    assert not out.exists()


def test_a_missing_registry_or_revision_is_an_error(registry: Registry, out: Path, tmp_path: Path) -> None:
    assert "rev: the data registry" in refusal(registry, out, "v3")
    assert "cannot open" in refusal(str(tmp_path / "nowhere"), out)
    (tmp_path / "plain").mkdir()
    assert "cannot open" in refusal(str(tmp_path / "plain"), out)
    assert "cannot open" in refusal((tmp_path / "plain").as_uri(), out)
    assert not out.exists()


def test_errors_do_not_contain_the_token_of_a_url(out: Path) -> None:
    with refusing_port() as port:
        said = refusal(f"http://me:topsecret@127.0.0.1:{port}/data.git", out)
    assert "topsecret" not in said
    assert "cannot open the data registry http://127.0.0.1:" in said


def test_a_registry_without_a_default_remote_is_an_error(registry: Registry, out: Path) -> None:
    registry.configure({})
    registry.commit("none")
    assert "has no default remote" in refusal(registry.root.as_uri(), out, "none")


def test_files_missing_from_the_remote_are_reported_before_any_download(
    registry: Registry, out: Path
) -> None:
    stored(registry, FIRST["audio/1.tar"]).unlink()
    message = refusal(registry, out)
    assert message.startswith("audio/1.tar is not at ")
    assert "dvc push" in message
    assert not out.exists()
    for listing in (registry.root.parent / "store").rglob("*.dir"):
        listing.unlink()
    assert refusal(registry, out).startswith("the list of esc50's files is not at ")


def test_a_file_that_does_not_match_its_md5_is_not_kept(registry: Registry, out: Path) -> None:
    stored(registry, FIRST["audio/1.tar"]).write_bytes(noise(9, 5_000))
    message = refusal(registry, out)
    assert message.startswith("audio/1.tar: ")
    assert "does not match the registry's md5" in message
    assert "audio/1.tar" not in content(out)
    assert not (out / ".unfinished/parts/audio/1.tar").exists()
    assert not (out / FETCHED).exists()


def test_a_list_of_files_that_does_not_match_its_md5_is_an_error(registry: Registry, out: Path) -> None:
    for listing in (registry.root.parent / "store").rglob("*.dir"):
        listing.write_text("[]")
    assert "the list of esc50's files: " in refusal(registry, out)


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a//b", "a/./b"])
def test_a_listed_name_outside_the_directory_is_refused(registry: Registry, out: Path, name: str) -> None:
    relist(registry, [{"md5": hashlib.md5(FIRST["empty"]).hexdigest(), "relpath": name}])
    assert "is outside the dataset" in refusal(registry, out, "listed")
    assert not out.exists()


@pytest.mark.parametrize("name", [FETCHED, ".unfinished/a"])
def test_reserved_names_are_refused(registry: Registry, out: Path, name: str) -> None:
    md5 = hashlib.md5(FIRST["empty"]).hexdigest()
    relist(registry, [{"md5": md5, "relpath": "a"}, {"md5": md5, "relpath": name}])
    assert f"the registry has {name}" in refusal(registry, out, "listed")


def relist(registry: Registry, files: list[dict[str, str]]) -> None:
    """Make the registry track another list of files as esc50."""
    text = json.dumps(files)
    path = stored(registry, text.encode())
    path.parent.mkdir(exist_ok=True)
    path.with_name(f"{path.name}.dir").write_text(text)
    described = f"outs:\n- md5: {hashlib.md5(text.encode()).hexdigest()}.dir\n  hash: md5\n  path: esc50\n"
    (registry.root / "esc50.dvc").write_text(described)
    registry.commit("listed")


def test_a_damaged_part_is_downloaded_again(registry: Registry, out: Path) -> None:
    lost = stored(registry, FIRST["audio/1.tar"])
    lost.write_bytes(b"other bytes")
    refusal(registry, out)
    lost.write_bytes(FIRST["audio/1.tar"])
    (out / ".unfinished/parts/audio/1.tar").write_bytes(b"not the beginning")
    get(registry, out)
    assert content(out) == FIRST


def test_a_directory_is_written_by_one_fetch_at_a_time(
    registry: Registry, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / ".unfinished").mkdir(parents=True)
    with (out / ".unfinished/lock").open("w") as other:
        flock(other, LOCK_EX)
        threading.Timer(0.5, other.close).start()
        get(registry, out)
    assert f"waiting for another process to write {out}" in capsys.readouterr().err
    assert content(out) == FIRST


def test_a_disk_that_is_too_small_is_reported_before_any_download(registry: Registry, out: Path) -> None:
    huge = stored(registry, FIRST["audio/0.tar"])
    os.truncate(huge, shutil.disk_usage(out.parent).free + 2**30)  # takes no space itself
    message = refusal(registry, out)
    assert "more bytes, and the disk has" in message
    assert not out.exists()


def test_a_file_that_cannot_be_written_is_one_line(registry: Registry, out: Path) -> None:
    (out / ".unfinished/parts/audio/0.tar").mkdir(parents=True)
    message = refusal(registry, out)
    assert message.startswith(f"cannot complete {out}: [Errno 21] Is a directory: ")


def test_without_dvc_the_error_names_the_package_to_install(out: Path, tmp_path: Path) -> None:
    (tmp_path / "dvc.py").write_text("raise ModuleNotFoundError(name='dvc')")
    code = f"from xkd.data.fetch.registry import *; fetch_registered('a', '.', '', Path({str(out)!r}))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "needs dvc: pip install 'xkd[workflow]'" in done.stderr.splitlines()[-1]


def test_the_component_returns_the_revision(registry: Registry, out: Path) -> None:
    given = {
        "name": "esc50",
        "out": str(out),
        "repo": str(registry.root),
        "rev": "v1",
        "clips": 800,
        "seed": "0",
    }
    revision = component.python_func(**given, expected_revision="")
    assert revision == get(registry, out).hash
    assert component.python_func(**given, expected_revision=revision) == revision
    with pytest.raises(UserError, match="expected_revision: esc50 in "):
        component.python_func(**given, expected_revision="other")


def test_without_a_registry_only_generated_datasets_are_available(out: Path) -> None:
    with pytest.raises(UserError, match=r"without a data registry \(--repo\) there are only embedded, "):
        fetch("esc50", out)
    with pytest.raises(UserError, match="give one with --repo"):
        fetch("embedded", out, rev="v1")
    out.mkdir()
    described = {"name": "embedded", "version": VERSION, "clips": 40, "seed": 0, "revision": "abc"}
    (out / "dataset.json").write_text(json.dumps(described))
    assert fetch("embedded", out, clips=40) == "abc"


@pytest.fixture(scope="module")
def link(settings: None) -> Iterator[Link]:
    """Return a link to a server with the S3 protocol."""
    with s3_server() as port, Link(port) as link:
        yield link


@pytest.fixture(scope="module")
def remote(link: Link, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Return a registry whose remote is in S3."""
    root = tmp_path_factory.mktemp("s3") / "registry"
    registry = Registry.create(
        root, {"url": f"s3://{BUCKET}/registry", "endpointurl": f"http://127.0.0.1:{link.port}"}
    )
    registry.track({"big": BIG, "small": {"a": b"the first bytes", "b": b"b"}}, "v1")
    registry.track({"big": {"0.tar": b"0"}}, "v2")
    registry.forget()
    return registry


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "PAUSES", (0.1,) * len(download_module.PAUSES))


@pytest.fixture
def healed(link: Link) -> Iterator[Link]:
    link.heal()
    yield link
    link.heal()


def test_a_dataset_is_downloaded_once_from_s3(remote: Registry, healed: Link, out: Path) -> None:
    get(remote, out, name="big")
    assert content(out) == BIG
    assert BYTES < healed.passed < BYTES + OVERHEAD
    passed = healed.passed
    get(remote, out, name="big")
    assert healed.passed == passed


def test_a_broken_connection_is_retried_from_the_last_chunk(
    remote: Registry, healed: Link, out: Path
) -> None:
    breaks = [MIB, 5 * MIB, 6 * MIB, 13 * MIB]
    healed.cut_after(*breaks)
    get(remote, out, name="big")
    assert content(out) == BIG
    assert BYTES < healed.passed < BYTES + len(breaks) * CHUNK + OVERHEAD


def test_a_fetch_with_a_dead_connection_is_resumed(remote: Registry, healed: Link, out: Path) -> None:
    healed.dead_after(9 * MIB)
    message = refusal(remote, out, name="big")
    assert "cannot read s3://data/registry/files/md5/" in message
    there = sum(map(len, content(out).values())) + 8 * MIB
    assert f"{there:,} of {BYTES:,} bytes of big are in {out}; rerun to resume" in message
    assert (out / ".unfinished/parts/0.tar").read_bytes() == BIG["0.tar"][: 8 * MIB]
    healed.heal()
    get(remote, out, name="big")
    assert content(out) == BIG
    assert healed.passed < BYTES - there + OVERHEAD


def test_a_killed_fetch_is_resumed_within_a_file(remote: Registry, healed: Link, out: Path) -> None:
    healed.hold_after(9 * MIB)
    xkd = str(Path(sys.executable).parent / "xkd")
    command = [xkd, "fetch", "big", "--repo", str(remote.root), "--rev", "v1", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert healed.held.wait(60)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert (out / ".unfinished/parts/0.tar").stat().st_size == 8 * MIB
    healed.heal()
    assert "has another hash" in refusal(remote, out, "v2", "big")
    get(remote, out, name="big")
    assert content(out) == BIG
    assert healed.passed < 4 * MIB + OVERHEAD


def test_an_object_in_s3_that_does_not_match_its_md5_is_an_error(
    remote: Registry, healed: Link, out: Path
) -> None:
    md5 = hashlib.md5(b"the first bytes").hexdigest()
    key = f"registry/files/md5/{md5[:2]}/{md5[2:]}"
    put(healed.target, key, b"the other bytes")
    assert refusal(remote, out, name="small").startswith(
        f"a: s3://{BUCKET}/{key} does not match the registry's md5"
    )
    put(healed.target, key, b"the first bytes")
    get(remote, out, name="small")


def test_missing_access_to_s3_is_an_error(
    remote: Registry, healed: Link, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(healed.target, True)
    try:
        assert "no access to s3://data/registry/files/md5/" in refusal(remote, out, name="small")
    finally:
        forbid(healed.target, False)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "Unable to locate credentials" in refusal(remote, out, name="small")
    assert not out.exists()
