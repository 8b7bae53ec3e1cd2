"""The metrics of a run as TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xkd.io import write_text
from xkd.monitor.follower import End
from xkd.monitor.metrics import series
from xkd.rundir import Row


class TensorBoardLog:
    """Event files in a folder, which show what metrics.jsonl has.

    A file `newest_step` says how far they go. Whatever they have of later steps, as after a crash, a new file
    begins by taking it back, as TensorBoard's files can.

    Args:
        resume_step: step at which this part of the run begins.
    """

    title = "TensorBoard"

    def __init__(self, folder: Path, resume_step: int) -> None:
        self._folder, self._marker = folder, folder / "newest_step"
        self._highest = resume_step
        self._newest = 0
        self._writer: Any = None

    def open(self) -> int:
        """Return the newest step whose values stay."""
        self._close()
        written = int(self._marker.read_text()) if self._marker.exists() else 0
        self._newest = min(written, self._highest)
        return self._newest

    def send(self, rows: Sequence[Row]) -> None:
        """Write rows, as float32: TensorBoard's scalars have no other precision."""
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(self._folder, purge_step=self._newest + 1)
        for row in rows:
            for name, value in series(row):
                self._writer.add_scalar(name, value, row["step"], row["time"])
        self._writer.flush()
        self._newest = self._highest = rows[-1]["step"]
        write_text(self._marker, str(self._newest))

    def end(self, end: End) -> None:  # noqa: ARG002 -- its files have no place for it
        """Close the file."""
        self._close()

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
