"""fetch: write a dataset, given by its name, in its official layout."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from pydantic import Field, NonNegativeInt
from pydantic.dataclasses import dataclass

from xkd.config.overrides import STRICT
from xkd.config.types import Text
from xkd.data.fetch.registry import fetch_registered
from xkd.data.sources.files import MediaFiles, printable, raise_unreadable
from xkd.data.sources.own import fingerprint
from xkd.data.synthetic.dataset import MIN_CLIPS, generate
from xkd.data.synthetic.miniatures import MINIATURES, generate_miniature
from xkd.errors import UserError, nearest
from xkd.io import is_empty
from xkd.output import require_finished

GENERATED = ("embedded", *MINIATURES)
"""Datasets that need no registry."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DatasetConfig:
    """Where a dataset comes from and how its files are laid out: an entry of ``datasets`` in params.yaml."""

    repo: Text = ""
    """Data registry; empty: generate the dataset."""
    rev: Text = ""
    """Branch, tag or commit of the registry; empty: its default branch."""
    layout: Text = ""
    """Layout that `xkd prepare` reads (`xkd.data.sources.source.LAYOUTS`); empty: recognized by its files."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FetchConfig:
    """How the embedded dataset is generated."""

    clips: int = Field(default=800, ge=MIN_CLIPS)
    """Number of clips."""
    seed: NonNegativeInt = 0
    """Seed of everything that is drawn."""


def fetch(
    name: str,
    out: Path,
    *,
    repo: str = "",
    rev: str = "",
    clips: int = 800,
    seed: int = 0,
) -> str:
    """Write the dataset `name` to `out`; return its revision, equal for equal content.

    Args:
        name: path that a data registry tracks; without a registry one of `GENERATED`, or a name of one's own
            whose files are in `out` already.
        out: directory to write; see `fetch_registered`, `generate` and `generate_miniature`.
        repo: the data registry, a git repository with DVC: a path or a URL.
        rev: its branch, tag or commit; empty: the default branch.
        clips: number of clips of the embedded dataset.
        seed: seed of the embedded dataset.

    Raises:
        UserError: `name` is not a dataset that can be fetched, or `out` holds something else.
    """
    if repo:
        return fetch_registered(name, repo, rev, out).hash
    check_unregistered(name, out, rev)
    if name not in GENERATED:
        return _identify(out)
    if name != "embedded":
        return generate_miniature(name, out)
    return generate(out, clips=clips, seed=seed)


def check_unregistered(name: str, out: Path, rev: str = "") -> None:
    """Check that `fetch` has a dataset without a data registry; arguments as of `fetch`.

    Raises:
        UserError: it has not, or there is a revision.
    """
    if rev:
        raise UserError(f"rev: {rev} needs a data registry; give one with --repo")
    if name not in GENERATED and is_empty(out):
        raise UserError(
            f"no dataset {name}{nearest(name, GENERATED)}; without a data registry (--repo) there are only "
            f"{', '.join(GENERATED)}, and files of your own in {out}"
        )


def read_seed(text: str) -> int:
    """Return the seed of the embedded dataset, which is text in pipelines.

    Raises:
        UserError: it is no integer, or negative.
    """
    if not text.isdecimal():
        raise UserError(f"embedded_seed: expected an integer that is not negative, got {text!r}")
    return int(text)


def _identify(root: Path) -> str:
    """Return a hash of the files that are in a directory already: a dataset of one's own.

    Raises:
        UserError: it is unfinished or cannot be read.
    """
    require_finished(root)
    files = MediaFiles(root).media
    try:
        rows = [f"{printable(place)}\0{fingerprint(file)}\n" for place, file in sorted(files.items())]
    except OSError as error:
        raise_unreadable(error)
    print(f"{root}: uses the {len(rows)} files that are there", file=sys.stderr)
    return hashlib.sha256("".join(rows).encode()).hexdigest()
