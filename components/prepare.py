"""prepare: decode every clip once."""

from kfp.dsl import Dataset, Output

from components import component


@component
def prepare(
    source: str, name: str, revision: str, preset: str, settings: list[str], manifest: Output[Dataset]
) -> str:
    """Write shards and a manifest to the folder of these settings; return its path.

    Args:
        source: the fetched dataset.
        name: its name for `fetch`. A layout's name, also of a miniature, selects the layout to read: by its
            files alone Kinetics-Sound is Kinetics400.
        revision: its revision, for the record.
        preset: preset of pretraining, whose preparation it is.
        settings: `xkd.data.shards.prepare.PrepareConfig` overrides, each ``name=value``.
        manifest: a table with one row per clip.
    """
    import shutil
    from pathlib import Path

    from xkd.data.shards.preparation import prepared_folder, resolve_prepare
    from xkd.data.shards.prepare import prepare as run
    from xkd.data.sources.source import LAYOUTS

    layout = name.removesuffix("-mini")
    config = resolve_prepare(preset, None, settings, dataset=layout if layout in LAYOUTS else None)
    prepared = run(Path(source), prepared_folder(Path(source), config), config).dataset
    shutil.copy(prepared.root / "manifest.csv", manifest.path)
    manifest.metadata |= {"dataset": prepared.name, "revision": revision, "clips": len(prepared.clips)}
    return str(prepared.root)
