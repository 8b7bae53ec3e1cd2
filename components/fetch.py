"""fetch: a dataset at a named revision."""

from components import component


@component
def fetch(name: str, out: str, clips: int, seed: int, revision: str) -> str:
    """Get a dataset.

    Args:
        name: the dataset, for example ``embedded``.
        out: directory to write.
        clips: clips to generate, for the embedded dataset.
        seed: seed of the generator, for the embedded dataset.
        revision: the revision it must have; empty takes what there is.

    Returns:
        The revision, which the later tasks' caching rests on.
    """
    import json
    from pathlib import Path

    from xkd.data.fetch import fetch as run
    from xkd.errors import UserError

    run(name, Path(out), clips=clips, seed=seed)
    found = str(json.loads((Path(out) / "dataset.json").read_text())["revision"])
    if revision not in ("", found):
        raise UserError(f"revision: {name} in {out} has revision {found}, not {revision}")
    return found
