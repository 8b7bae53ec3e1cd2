"""Seconds of `xkd prepare --dry-run` and of listing for `xkd embed`, on many small files.

    python benchmarks/dry_run.py --files FOLDER [--count 10000]

The media files of the folder are copied in turn into nested folders until there are so many; each copy ends
in a few bytes that players skip, so that no two files are equal.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.common import parser
from xkd.data.shards.dry_run import dry_run
from xkd.data.shards.prepare import PrepareConfig
from xkd.data.sources.files import MediaFiles


def copy_varied(source: Path, target: Path, count: int) -> None:
    """Write `count` copies of the media below `source`, ten a folder, of different content."""
    files = MediaFiles(source)
    media = [(Path(place).suffix, files.media[place].read()) for place in files.visible_media]
    for number in range(count):
        suffix, data = media[number % len(media)]
        path = target / f"{number // 1000:02d}" / f"{number // 10 % 100:02d}" / f"clip{number:05d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        # A box of mp4 that players skip; of wav what follows its last chunk.
        path.write_bytes(data + b"\0\0\0\x10free" + number.to_bytes(8, "big"))


def main() -> None:
    """Measure both."""
    options = parser(__doc__)
    options.add_argument("--files", type=Path, required=True)
    options.add_argument("--count", type=int, default=10_000)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy_varied(given.files, Path(folder), given.count)
        begin = time.perf_counter()
        found = MediaFiles(Path(folder)).visible_media
        listed = time.perf_counter()
        print(dry_run(Path(folder), PrepareConfig()))
        ended = time.perf_counter()
        print(f"{len(found)} files: listed in {listed - begin:.1f} s, dry run in {ended - listed:.1f} s")


if __name__ == "__main__":
    main()
