from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from xkd.config.overrides import load_yaml
from xkd.errors import UserError
from xkd.io import write_atomically, write_text


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
def test_what_may_go_well_the_next_time_is_no_mistake(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "state"
    write_text(path, "before")
    with pytest.raises(type(error)) as caught:
        write_atomically(path, raising(error))
    assert caught.value is error
    assert [(left.name, left.read_text()) for left in tmp_path.iterdir()] == [("state", "before")]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file of Linux that cannot be read")
def test_settings_that_a_device_does_not_give_are_no_mistake() -> None:
    with pytest.raises(OSError, match="Input/output error"):
        load_yaml("/proc/self/mem")


def test_a_place_that_is_no_folder_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*File exists"):
        write_text(tmp_path / "file" / "state", "")


def test_a_name_that_is_too_long_is_a_mistake(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), tmp_path / "missing" / ("x" * 300) / "state"):
        with pytest.raises(UserError, match=r"cannot write .*File name too long"):
            write_text(path, "")
