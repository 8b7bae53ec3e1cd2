"""fetch: a dataset by its name, as files on disk in the official layouts."""

from __future__ import annotations

from pathlib import Path

from xkd.data.embedded import generate
from xkd.data.embedded_check import check as check_embedded
from xkd.errors import UserError, nearest

DATASETS = ("embedded",)


def fetch(name: str, out: Path, *, clips: int = 800, seed: int = 0, check: bool = False) -> None:
    """Put the dataset `name` under `out`.

    Args:
        name: only ``embedded``, the dataset this package generates itself.
        out: directory to write; see `xkd.data.embedded.generate`.
        clips: how many clips the embedded dataset has.
        seed: seed of the embedded dataset.
        check: also measure that its shortcuts fail and that it can be learned (minutes).

    Raises:
        UserError: `name` is not a dataset that can be fetched, `out` holds something else, or the
            check fails.
    """
    if name not in DATASETS:
        known = ", ".join(DATASETS)
        raise UserError(f"no dataset {name}{nearest(name, DATASETS)}; datasets that can be fetched: {known}")
    generate(out, clips=clips, seed=seed)
    if check:
        print(check_embedded(out))
