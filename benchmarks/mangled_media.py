"""Prepare mangled media files, and count what becomes of them.

    python benchmarks/mangled_media.py --count 5000

The files are valid ones of fourteen forms, mangled in ten ways (`benchmarks/mangling.py`). `prepare` must
keep each or skip it with one line, and leave no process and no open file. The exit status is 1 if it does
not, or if a decoder hung. No input is kept.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import io
import multiprocessing
import os
import random
import re
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import parser
from benchmarks.mangling import SECONDS, Sample, mangle, samples
from benchmarks.media_dataset import lay_out
from xkd.data.media.prepared import read_video
from xkd.data.shards.manifest import PreparedDataset
from xkd.data.shards.prepare import PrepareConfig, prepare

_BATCH = 500
"""Files on disk at a time."""
_TOO_LONG = 60.0
"""Seconds beyond which the duration of a clip of two seconds is a mistake, too."""


def main() -> int:
    """Prepare all files; return the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("--count", type=int, default=5000)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    forms, begin = samples(), time.monotonic()
    outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
    ways: collections.Counter[tuple[str, str]] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    problems: list[str] = []
    opened = _resources()
    for first in range(0, options.count, _BATCH):
        numbers = range(first, min(first + _BATCH, options.count))
        for has_video in (True, False):
            batch = [number for number in numbers if forms[number % len(forms)].has_video == has_video]
            for number, way, outcome in _prepare(forms, batch, options.seed, has_video):
                name = forms[number % len(forms)].name
                kind = outcome.partition(":")[0]
                outcomes[name, kind] += 1
                ways[way, kind] += 1
                if kind == "skipped":
                    reasons[re.sub(r"'[^']*'|[\d.]+", "…", outcome)] += 1
                if kind in ("hung", "wrong"):
                    problems.append(f"{number} ({name}, {way}): {outcome}")
            if _resources() != opened:
                problems.append(f"open files and processes after {first}: {_resources()}, before: {opened}")
    print(f"{options.count} files in {time.monotonic() - begin:.0f} s; by form and by way:")
    for table in (outcomes, ways):
        kinds = sorted({kind for _, kind in table})
        print(f"{'':16}" + "".join(f"{kind:>16}" for kind in kinds))
        for row in dict.fromkeys(row for row, _ in table):
            print(f"{row:16}" + "".join(f"{table[row, kind]:16}" for kind in kinds))
    for reason, count in reasons.most_common():
        print(f"{count:6}  {reason}")
    print(*problems, sep="\n")
    return 1 if problems else 0


def _prepare(
    forms: list[Sample], numbers: list[int], seed: int, has_video: bool
) -> list[tuple[int, str, str]]:
    """Prepare mangled files; return the number, the way and the outcome of each."""
    ways: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch, f"{number:06d}") for number in numbers]
        for number, path in zip(numbers, paths, strict=True):
            # A string seeds the same numbers in every process.
            ways[number], data = mangle(forms[number % len(forms)], random.Random(f"{seed}/{number}"))
            path.write_bytes(data)
        root, out = Path(scratch, "dataset"), Path(scratch, "prepared")
        ids = lay_out(root, paths, with_video=has_video)
        with contextlib.redirect_stderr(io.StringIO()):
            prepare(root, out, PrepareConfig(short_side=32, max_skipped=1, workers=os.cpu_count() or 1))
        found = _outcomes(out)
        return [
            (number, ways[number], found.get(key, "wrong: neither kept nor skipped"))
            for number, key in zip(numbers, ids, strict=True)
        ]


def _outcomes(out: Path) -> dict[str, str]:
    """Return what became of each clip."""
    found: dict[str, str] = {}
    with (out / "skipped.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            reason = row["reason"]
            kind = "crashed" if "crashed" in reason else "hung" if "longer than" in reason else "skipped"
            found[row["clip"]] = (
                f"{kind}: {reason}" if reason and "\n" not in reason else f"wrong: {reason!r}"
            )
    with (out / "damaged.csv").open(newline="", encoding="utf-8") as file:
        damaged = {row["clip"]: row["damage"] for row in csv.DictReader(file)}
    dataset = PreparedDataset.open(out)
    for clip in dataset.clips:
        found[clip.id] = f"damaged: {damaged[clip.id]}" if clip.id in damaged else "whole"
        if not 0 < clip.duration < _TOO_LONG * SECONDS:
            found[clip.id] = f"wrong: {clip.duration} s long"
        if clip.video_offset is not None and clip.video_size is not None:
            with (out / clip.shard).open("rb") as shard:
                shard.seek(clip.video_offset)
                content = shard.read(clip.video_size)
            try:
                read_video(content, np.linspace(0, clip.duration, 5))
            except Exception as error:
                found[clip.id] = f"wrong: the prepared clip cannot be read: {error}"
    return found


def _resources() -> tuple[int, int]:
    """Return the number of this process's open files and of its children."""
    return len(list(Path("/proc/self/fd").iterdir())), len(multiprocessing.active_children())


if __name__ == "__main__":
    raise SystemExit(main())
