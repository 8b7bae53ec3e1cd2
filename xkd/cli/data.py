"""Commands that make prepared datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xkd.cli.options import Config, DatasetEntry, Out, Set
from xkd.errors import UserError


def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="Directory in the data registry; without --repo: embedded, or a miniature (ucf101-mini)."
        ),
    ],
    out: Out,
    repo: Annotated[
        str | None, typer.Option(help="Data registry: path or URL of a git repository with DVC.")
    ] = None,
    rev: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the registry; empty: its default.")
    ] = None,
    clips: Annotated[int | None, typer.Option(help="Number of clips of the embedded dataset.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the embedded dataset.")] = None,
    dataset_config: DatasetEntry = None,
    config: Config = None,
) -> None:
    """Fetch or generate a dataset in its official layout."""
    from xkd.config.overrides import resolve
    from xkd.data.fetch.fetch import DatasetConfig, FetchConfig
    from xkd.data.fetch.fetch import fetch as run

    entry = resolve(DatasetConfig(), dataset_config, repo=repo, rev=rev)
    settings = resolve(FetchConfig(), config, clips=clips, seed=seed)
    run(name, out, repo=entry.repo, rev=entry.rev, clips=settings.clips, seed=settings.seed)


def prepare(
    source: Annotated[
        Path,
        typer.Argument(help="Dataset in its official layout (from xkd fetch), your own folder or a list."),
    ],
    out: Annotated[Path | None, typer.Option(help="Output directory.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Layout of the source, if ambiguous: kinetics_sound for Kinetics400; of your own clips "
            "list, webdataset, classes or folder."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Prepare as this preset of pretraining implies (see xkd presets)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be prepared, and the time it takes.")
    ] = False,
    part: Annotated[
        str, typer.Option(metavar="K/N", help="Prepare one of N parts; other processes prepare the others.")
    ] = "",
    allow_missing: Annotated[
        bool | None, typer.Option("--allow-missing", help="Skip listed files that are missing.")
    ] = None,
    dataset_config: DatasetEntry = None,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Decode every clip once; write shards and a manifest."""
    from xkd.config.overrides import resolve
    from xkd.data.fetch.fetch import DatasetConfig
    from xkd.data.shards.dry_run import dry_run as estimate
    from xkd.data.shards.parts import Part
    from xkd.data.shards.preparation import resolve_prepare
    from xkd.data.shards.prepare import prepare as run
    from xkd.data.shards.prepare import prepare_part

    chosen = Part.parse(part) if part else None
    if dataset is None:
        dataset = resolve(DatasetConfig(), dataset_config).layout or None
    options = {"dataset": dataset, "allow_missing": allow_missing}
    settings = resolve_prepare(preset, config, set_ or (), **options)
    if dry_run:
        print(estimate(source, settings))
    elif out is None:
        raise UserError("prepare needs --out, or --dry-run")
    elif chosen:
        prepare_part(source, out, settings, chosen)
    else:
        run(source, out, settings)
