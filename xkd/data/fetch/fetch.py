"""fetch: a dataset by its name, as files on disk in the official layouts."""

from __future__ import annotations

import json
from pathlib import Path

from xkd.data.fetch.registry import fetch_registered
from xkd.data.synthetic.check import check as check_embedded
from xkd.data.synthetic.dataset import generate
from xkd.data.synthetic.miniatures import REPLICAS, generate_replica
from xkd.errors import UserError, nearest

GENERATED = ("embedded", *REPLICAS)
"""What needs no registry."""


def fetch(
    name: str,
    out: Path,
    *,
    repo: str = "",
    rev: str = "",
    clips: int = 800,
    seed: int = 0,
    check: bool = False,
) -> str:
    """Put the dataset `name` under `out`.

    Args:
        name: what a data registry tracks under this path; without a registry one of `GENERATED`.
        out: directory to write; see `fetch_registered`, `generate` and `generate_replica`.
        repo: the data registry, a git repository with DVC: a path or a URL.
        rev: its branch, tag or commit; empty: the default branch.
        clips: how many clips the embedded dataset has.
        seed: seed of the embedded dataset.
        check: also measure that the embedded dataset's shortcuts fail and that it can be learned (minutes).

    Returns:
        The revision, equal for equal content: DVC's hash, the embedded dataset's own, or a replica's.

    Raises:
        UserError: `name` is not a dataset that can be fetched, `out` holds something else, or the
            check fails.
    """
    if check and (repo or name != "embedded"):
        raise UserError("check: only the embedded dataset has one; leave --check out")
    if repo:
        return fetch_registered(name, repo, rev, out).hash
    if rev:
        raise UserError(f"rev: {rev} is a revision of a data registry; say which with --repo")
    if name not in GENERATED:
        raise UserError(
            f"no dataset {name}{nearest(name, GENERATED)}; without a data registry (--repo) there are only "
            f"{', '.join(GENERATED)}"
        )
    if name != "embedded":
        return generate_replica(name, out)
    generate(out, clips=clips, seed=seed)
    if check:
        print(check_embedded(out))
    return str(json.loads((out / "dataset.json").read_text())["revision"])
