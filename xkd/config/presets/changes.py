"""Changes that several presets make."""

from __future__ import annotations

from dataclasses import replace

from xkd.config import PretrainConfig


def epochs(config: PretrainConfig, epochs: int) -> PretrainConfig:
    """Another length."""
    return replace(config, optim=replace(config.optim, epochs=epochs))


def temperatures(
    config: PretrainConfig, *, video: float | tuple[float, float], audio: float | tuple[float, float]
) -> PretrainConfig:
    """Teachers' temperatures, fixed or rising from the first to the second."""
    sections = {"video": (config.video, video), "audio": (config.audio, audio)}
    changed = {
        name: replace(
            section,
            teacher_temperature_start=given[0] if isinstance(given, tuple) else None,
            teacher_temperature=given[1] if isinstance(given, tuple) else given,
        )
        for name, (section, given) in sections.items()
    }
    return replace(config, video=changed["video"], audio=changed["audio"])


def local_views(config: PretrainConfig, *, video: int, audio: int) -> PretrainConfig:
    """Other numbers of local views."""
    return replace(
        config,
        video=replace(config.video, local_views=video),
        audio=replace(config.audio, local_views=audio),
    )
