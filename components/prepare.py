"""prepare: decode every clip once."""

from kfp.dsl import Dataset, Output

from components import component


@component
def prepare(
    source: str, name: str, revision: str, settings: list[str], out: str, manifest: Output[Dataset]
) -> None:
    """Write shards and a manifest.

    Args:
        source: the fetched dataset.
        name: its name for `fetch`. A layout's name, also of a miniature, selects the layout to read: by its
            files alone Kinetics-Sound is Kinetics400.
        revision: its revision, for the record.
        settings: `xkd.data.shards.prepare.PrepareConfig` overrides, each ``name=value``.
        out: directory to write.
        manifest: a table with one row per clip.
    """
    import shutil
    from pathlib import Path

    from xkd.config.overrides import resolve
    from xkd.data.shards.prepare import PrepareConfig
    from xkd.data.shards.prepare import prepare as run
    from xkd.data.sources.source import LAYOUTS

    layout = name.removesuffix("-mini")
    config = resolve(PrepareConfig(), None, settings, dataset=layout if layout in LAYOUTS else None)
    prepared = run(Path(source), Path(out), config).dataset
    shutil.copy(Path(out) / "manifest.csv", manifest.path)
    manifest.metadata |= {"dataset": prepared.name, "revision": revision, "clips": len(prepared.clips)}
