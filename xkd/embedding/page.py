"""The nearest clips as a table in a terminal, and as one page with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.table import Table

from xkd.data.media.damage import MediaError
from xkd.data.media.sampled import read_sampled
from xkd.data.media.thumbnail import to_thumbnail
from xkd.data.shards.manifest import DATASET, PreparedDataset
from xkd.data.shards.reader import read_picture
from xkd.embedding.search import Hit
from xkd.io import write_text

_STILL = 0.5
"""Seconds of a file that are read for a picture."""


def show(found: Mapping[str, Sequence[Hit]]) -> None:
    """Print the nearest clips of each kind."""
    console = Console(soft_wrap=True)
    for title, hits in found.items():
        table = Table(title=title, title_justify="left", box=None)
        for name in ("cosine", "seconds"):
            table.add_column(name, justify="right")
        table.add_column("clip", overflow="fold")
        for hit in hits:
            table.add_row(f"{hit.cosine:.3f}", f"{hit.start:g} to {hit.end:g}", hit.path)
        console.print(table)


def write_page(query: Path, found: Mapping[str, Sequence[Hit]], out: Path) -> None:
    """Write one self-contained page with a picture of each clip that has one."""
    environment = Environment(
        loader=PackageLoader("xkd.embedding"), autoescape=True, undefined=StrictUndefined
    )
    pictures = {
        hit: find_picture(hit.path, (hit.start + hit.end) / 2) for hits in found.values() for hit in hits
    }
    page = environment.get_template("search.html.j2").render(
        query=query, picture=find_picture(str(query), 0.0), found=found, pictures=pictures
    )
    write_text(out, page)


def find_picture(path: str, seconds: float) -> str:
    """Return a picture of a clip at a time as `to_thumbnail`; empty if it has none, or is no longer there."""
    try:
        if Path(path).is_file():
            segment = (max(0.0, seconds - _STILL / 2), seconds + _STILL / 2)
            found = read_sampled(
                Path(path),
                fps=4,
                short_side=128,
                sample_rate=16000,
                change=lambda picture: picture,
                segment=segment,
            )
            return to_thumbnail(found.pictures[-1]) if found.pictures else ""
        for root in Path(path).parents:
            if (root / DATASET).is_file():
                clip = PreparedDataset.open(root).clips.find(str(Path(path).relative_to(root)))
                return to_thumbnail(read_picture(root, clip)) if clip and clip.has("video") else ""
    except MediaError:
        pass
    return ""
