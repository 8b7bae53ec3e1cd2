from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from xkd.config.overrides import load_yaml
from xkd.errors import UserError
from xkd.io import (
    code_hash,
    find_json,
    write_atomically,
    write_json,
    write_text,
)
from xkd.output import OutputDir, require_finished


def raising(error: Exception) -> Callable[[BinaryIO], object]:
    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    return write


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
        OSError(errno.EIO, os.strerror(errno.EIO)),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    ],
    ids=["file server", "device", "GPU"],
)
def test_a_transient_failure_is_not_a_user_error_and_keeps_the_previous_content(
    tmp_path: Path, error: Exception
) -> None:
    path = tmp_path / "state"
    write_text(path, "before")
    with pytest.raises(type(error)) as caught:
        write_atomically(path, raising(error))
    assert caught.value is error
    assert [(left.name, left.read_text()) for left in tmp_path.iterdir()] == [("state", "before")]


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="needs a file that Linux does not let us read"
)
def test_a_settings_file_that_cannot_be_read_for_now_is_not_a_user_error() -> None:
    with pytest.raises(OSError, match="Input/output error"):
        load_yaml("/proc/self/mem")


def test_writing_below_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*File exists"):
        write_text(tmp_path / "file" / "state", "")


def test_a_file_name_that_is_too_long_is_a_user_error(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), tmp_path / "missing" / ("x" * 300) / "state"):
        with pytest.raises(UserError, match=r"cannot write .*File name too long"):
            write_text(path, "")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a file system that takes no directories")
def test_a_place_without_directories_is_a_user_error() -> None:
    """Where mkdir says that something does not exist, as if another process had removed it meanwhile."""
    with pytest.raises(UserError, match=r"cannot write /proc/out/state: .*Operation not permitted"):
        write_text(Path("/proc/out/state"), "")
    with pytest.raises(UserError, match=r"cannot write /proc/out: .*Operation not permitted"):
        fill(make(Path("/proc/out"), seed=3))


def make(path: Path, **identity: object) -> OutputDir:
    return OutputDir(path, identity, lambda: find_json(path / "about.json"))


def fill(output: OutputDir) -> None:
    with output.fill() as missing:
        if missing:
            (output.path / "content").touch()
            write_json(output.path / "about.json", output.identity)


def interrupt(output: OutputDir, write: Callable[[], None]) -> None:
    """Fill a directory in part."""

    def interrupted() -> None:
        with output.fill():
            write()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted()
    assert caught.value.__notes__ == [f"{output.path} is unfinished: rerun the command to resume"]


def test_a_filled_directory_is_complete_and_is_not_filled_again(tmp_path: Path) -> None:
    output = make(tmp_path / "out", seed=3)
    assert not output.is_complete()
    fill(output)
    assert output.is_complete()
    assert sorted(path.name for path in output.path.iterdir()) == ["about.json", "content"]
    with output.fill() as missing:
        assert not missing


def test_a_directory_of_another_identity_is_refused_in_one_line(tmp_path: Path) -> None:
    fill(make(tmp_path / "out", name="a", seed=3, rate=0.5))
    with pytest.raises(UserError) as caught:
        fill(make(tmp_path / "out", name="a", seed=4, rate=1.5))
    assert str(caught.value) == (
        f"{tmp_path}/out has another seed 3 (not 4), rate 0.5 (not 1.5); use another directory or delete it"
    )
    with pytest.raises(UserError) as caught:
        fill(make(tmp_path / "out", name="a", clips=4))
    assert str(caught.value) == (
        f"{tmp_path}/out holds the output of another command, or of another version of xkd; use another "
        "directory or delete it"
    )


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"is not empty, it has mine\.txt; use a new or empty directory"):
        fill(make(tmp_path, seed=3))
    with pytest.raises(UserError, match=r"mine\.txt is not a directory"):
        fill(make(tmp_path / "mine.txt", seed=3))
    with pytest.raises(UserError, match=r"cannot write .*Not a directory"):
        fill(make(tmp_path / "mine.txt" / "out", seed=3))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_directory_is_unfinished_and_resumed_by_the_same_identity_only(tmp_path: Path) -> None:
    output = make(tmp_path / "out", seed=3)
    interrupt(output, lambda: write_text(output.unfinished / "part", "half"))
    with pytest.raises(UserError, match="out is unfinished: rerun the command that writes it"):
        require_finished(output.path)
    with pytest.raises(UserError, match=r"is unfinished, and has another seed 3 \(not 4\)"):
        fill(make(output.path, seed=4))
    with output.fill() as missing:
        assert missing
        assert (output.unfinished / "part").read_text() == "half"
    require_finished(output.path)


def test_an_error_before_anything_is_written_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing"), make(tmp_path / "out", seed=3).fill():
        raise UserError("nothing")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt) as caught, make(tmp_path / "out", seed=3).fill():
        raise KeyboardInterrupt
    assert not hasattr(caught.value, "__notes__")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    output = make(tmp_path / "out", seed=3)
    with pytest.raises(UserError, match="No space left on device; rerun to resume"), output.fill():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="Input/output error"), output.fill():
        raise OSError(errno.EIO, os.strerror(errno.EIO))


FILLS = """
import sys, time
from pathlib import Path
from tests.test_io import make, write_json
output = make(Path(sys.argv[1]), seed=3)
with output.fill():
    print("locked", flush=True)
    sys.stdin.readline()
    write_json(output.path / "about.json", output.identity)
"""


def test_a_second_process_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = make(tmp_path / "out", seed=3)
    command = [sys.executable, "-c", FILLS, str(output.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        threading.Timer(0.5, print, [""], {"file": process.stdin, "flush": True}).start()
        with output.fill() as missing:
            assert not missing
    assert f"waiting for another process to write {output.path}" in capsys.readouterr().err
    assert [path.name for path in output.path.iterdir()] == ["about.json"]


def test_a_process_killed_after_the_record_leaves_a_directory_that_the_next_one_completes(
    tmp_path: Path,
) -> None:
    output = make(tmp_path / "out", seed=3)
    interrupt(output, lambda: write_json(output.path / "about.json", output.identity))
    with output.fill() as missing:
        assert not missing
    require_finished(output.path)


def test_several_processes_that_fill_together_agree(tmp_path: Path) -> None:
    """The process that does not decide neither locks nor removes anything."""
    output = make(tmp_path / "out", seed=3)
    with output.fill(decide=lambda _: True) as missing:
        assert missing
    assert list(tmp_path.iterdir()) == []


def test_a_hash_of_code_depends_on_the_modules_alone() -> None:
    patterns = ("data/**/*.py", "model/**/*.py", "evaluation/features.py")
    hashes = [code_hash(pattern) for pattern in patterns]
    assert len({*hashes, code_hash("nothing"), code_hash(*patterns)}) == 5


def test_a_directory_that_another_process_completes_meanwhile_is_complete(tmp_path: Path) -> None:
    (tmp_path / "shard").touch()
    found = iter([None, {"seed": 1}, {"seed": 1}])
    assert OutputDir(tmp_path, {"seed": 1}, lambda: next(found)).is_complete()
