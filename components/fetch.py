"""fetch: a dataset at a revision."""

from components import component


@component
def fetch(name: str, out: str, repo: str, rev: str, clips: int, seed: str, expected_revision: str) -> str:
    """Fetch a dataset and return its revision.

    Args:
        name: the dataset, for example ``embedded``.
        out: directory to write.
        repo: data registry that has it; empty for the embedded dataset.
        rev: branch, tag or commit of the registry; empty: its default branch.
        clips: number of clips to generate, for the embedded dataset.
        seed: seed of the generator, for the embedded dataset. A string, because KFP rounds large integers.
        expected_revision: revision that the content must have; empty: any.
    """
    from pathlib import Path

    from xkd.data.fetch.fetch import fetch as run
    from xkd.data.fetch.fetch import read_seed
    from xkd.errors import UserError

    revision = run(name, Path(out), repo=repo, rev=rev, clips=clips, seed=read_seed(seed))
    if expected_revision not in ("", revision):
        raise UserError(f"expected_revision: {name} in {out} has {revision}, not {expected_revision}")
    return revision
