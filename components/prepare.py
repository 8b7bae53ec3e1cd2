"""prepare: decode every clip once."""

from kfp.dsl import Dataset, Output

from components import component


@component
def prepare(
    source: str, name: str, revision: str, overrides: list[str], out: str, manifest: Output[Dataset]
) -> None:
    """Write shards and a manifest.

    Args:
        source: the fetched dataset.
        name: what it was fetched as; a layout's name, also of a miniature, is the layout that it is read in.
            By its files alone Kinetics-Sound is Kinetics400.
        revision: its revision; another one is other work, so this belongs to the caching key.
        overrides: settings of `xkd.data.shards.prepare.PrepareConfig`, each ``name=value``.
        out: directory to write.
        manifest: one row a clip.
    """
    import shutil
    from pathlib import Path

    from xkd.config.overrides import resolve
    from xkd.data.shards.prepare import PrepareConfig
    from xkd.data.shards.prepare import prepare as run
    from xkd.data.sources.layouts import LAYOUTS

    layout = name.removesuffix("-mini")
    named = [f"dataset={layout}"] if layout in LAYOUTS else []
    summary = run(Path(source), Path(out), resolve(PrepareConfig(), None, [*named, *overrides]))
    shutil.copy(Path(out) / "manifest.csv", manifest.path)
    manifest.metadata |= {"dataset": summary.name, "revision": revision, "clips": summary.clips}
