"""The tasks that get a pipeline's datasets."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.fetch import fetch
from components.prepare import prepare
from pipelines import configure_task

PREPARE_PARALLELISM = 2
"""Datasets that are fetched and prepared at a time."""


def get_dataset(
    name: str,
    expected_revision: str,
    *,
    data: str,
    origin: Mapping[str, Any],
    preset: str,
    settings: list[str],
    image: str,
    fetch_size: tuple[str, str],
    prepare_size: tuple[str, str],
) -> tuple[dsl.PipelineTask, dsl.PipelineTask]:
    """Add the tasks that fetch and prepare a dataset, and return them.

    Args:
        data: directory of the datasets.
        origin: further arguments of `fetch`.
        preset, settings: of `prepare`.
        fetch_size, prepare_size: CPU and memory of each.
    """
    source = f"{data}/{name}"
    fetched = fetch(name=name, out=source, expected_revision=expected_revision, **origin)
    prepared = prepare(source=source, name=name, revision=fetched.output, preset=preset, settings=settings)
    return configure_task(fetched, image, *fetch_size), configure_task(prepared, image, *prepare_size)
