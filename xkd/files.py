"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from xkd.errors import UserError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a temporary file, then give it its name: readers see all of it or the one before.

    Raises:
        UserError: the disk is full or the folder not writable; whatever `path` held before is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        # torch.save covers a full disk's error with one of its own about positions.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UserError(
            f"cannot write {path}: {' '.join(str(reason).split())}; what was saved before is intact"
        ) from error


def write_text(path: Path, text: str) -> None:
    """`write_atomically` of a text."""
    write_atomically(path, lambda file: file.write(text.encode()))
