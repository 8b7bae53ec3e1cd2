"""fetch: a dataset at a named revision."""

from components import component


@component
def fetch(name: str, out: str, repo: str, rev: str, clips: int, seed: int, revision: str) -> str:
    """Get a dataset.

    Args:
        name: the dataset, for example ``embedded``.
        out: directory to write.
        repo: data registry that has it; empty for the embedded dataset.
        rev: branch, tag or commit of the registry; empty: its default branch.
        clips: clips to generate, for the embedded dataset.
        seed: seed of the generator, for the embedded dataset.
        revision: the revision it must have; empty takes what there is.

    Returns:
        The revision, which the later tasks' caching rests on: equal for equal content.
    """
    from pathlib import Path

    from xkd.data.fetch.fetch import fetch as run
    from xkd.errors import UserError

    found = run(name, Path(out), repo=repo, rev=rev, clips=clips, seed=seed)
    if revision not in ("", found):
        raise UserError(f"revision: {name} in {out} has revision {found}, not {revision}")
    return found
