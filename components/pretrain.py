"""pretrain: XKD on prepared clips, by torchrun through TorchX."""

from typing import NamedTuple

from kfp.dsl import Artifact, Output

from components import component


@component
def pretrain(
    preset: str,
    overrides: list[str],
    data: str,
    revision: str,
    out: str,
    processes: int,
    config: Output[Artifact],
    history: Output[Artifact],
) -> NamedTuple("Judged", [("verdict", str), ("reason", str)]):  # type: ignore[valid-type]
    """Pretrain, or go on where an earlier attempt stopped.

    Args:
        preset: named configuration.
        overrides: settings laid over it, each ``dotted.name=value``.
        data: the prepared dataset.
        revision: its revision; another one is other work, so this belongs to the caching key.
        out: the run directory.
        processes: training processes.
        config: the resolved configuration.
        history: the logged metrics, one JSON object a line.

    Returns:
        The verdict on the run, and its grounds.
    """
    import shutil
    from pathlib import Path

    from xkd.presets import get_preset
    from xkd.settings import resolve
    from xkd.train.launch import launch

    judged = launch(resolve(get_preset(preset), None, overrides), Path(data), Path(out), processes)
    shutil.copy(Path(out) / "config.yaml", config.path)
    shutil.copy(Path(out) / "metrics.jsonl", history.path)
    print(f"verdict: {judged.verdict}: {judged.reason}")
    return judged.verdict, judged.reason
