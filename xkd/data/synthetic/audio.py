"""The sounds of the embedded dataset: modal synthesis driven by the pose that is also drawn.

Every sound is a bank of decaying sine modes, a material's timbre. Contacts strike it; while the
object moves it is rubbed, as loud as the motion is fast; the pitch rises with the object's height
and falls with its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xkd.data.synthetic.scenes import MATERIALS, SECONDS, Floats, Scene

RATE = 32000
_CONTROL = 200  # poses a second

# Lowest mode (Hz, a range), its ratios, seconds to -60 dB (a range), loss of level per mode
_MODES: dict[str, tuple[tuple[float, float], tuple[float, ...], tuple[float, float], float]] = {
    "glass": ((700, 1400), (1, 2.32, 4.25, 6.63), (0.4, 0.8), 0.75),
    "metal": ((350, 700), (1, 1.58, 2.24, 2.92, 3.46, 4.1, 5.2), (0.8, 1.4), 0.85),
    "rubber": ((110, 220), (1, 1.59, 2.14, 2.3, 2.65, 3.6), (0.15, 0.3), 0.6),
    "stone": ((450, 900), (1, 1.31, 1.72, 2.17, 2.9, 3.3, 4.4), (0.08, 0.16), 0.9),
    "wood": ((220, 440), (1, 2.76, 5.4, 8.93), (0.2, 0.4), 0.65),
}


@dataclass(frozen=True)
class Timbre:
    """The modes of one thing that can be struck or rubbed, each (M,)."""

    frequency: Floats
    """Hz."""
    level: Floats
    decay: Floats
    """1 / seconds."""

    @classmethod
    def draw(cls, rng: np.random.Generator, material: str) -> Timbre:
        """One specimen of a material."""
        lowest, ratios, ring, loss = _MODES[material]
        count = len(ratios)
        return cls(
            frequency=rng.uniform(*lowest) * np.array(ratios) * 2 ** rng.normal(0, 0.04, count),
            level=loss ** np.arange(count) * rng.uniform(0.5, 1.0, count),
            decay=6.9 / (rng.uniform(*ring) * np.array(ratios) ** -0.3 * rng.uniform(0.8, 1.2, count)),
        )

    def struck(self, pitch: float) -> Floats:
        """One blow, `pitch` octaves up: (S,)."""
        seconds = np.arange(round(RATE * min(1.0, 6.9 / self.decay.min()))) / RATE
        waves = np.sin(2 * np.pi * (self.frequency * 2**pitch)[:, None] * seconds)
        blow: Floats = np.einsum("m,ms,ms->s", self.level, np.exp(-self.decay[:, None] * seconds), waves)
        return blow

    def rubbed(self, rng: np.random.Generator, loudness: Floats, pitch: Floats) -> Floats:
        """Friction with a loudness and a pitch (octaves) at every sample: (S,) -> (S,)."""
        turns = np.cumsum(2.0**pitch) / RATE
        rough_at = np.linspace(0, SECONDS, round(SECONDS * 60))
        sound = np.zeros(len(pitch))
        samples = np.arange(len(pitch)) / RATE
        for frequency, level in zip(self.frequency, self.level, strict=True):
            rough = np.interp(samples, rough_at, rng.normal(0.6, 0.5, len(rough_at)))
            sound += level * rough * np.sin(2 * np.pi * frequency * turns)
        return sound * loudness


def synthesize(rng: np.random.Generator, scene: Scene, timbre: Timbre) -> NDArray[np.float32]:
    """The sound of a scene: mono waveform (SECONDS * RATE,) within ±1.

    Nuisances: pitch ± half an octave, reverberation, noise, level; unrelated sounds in 30 %.
    """
    samples = np.arange(round(SECONDS * RATE)) / RATE
    shift, wander, rate, phase = rng.uniform((-0.5, 0, 0.05, 0), (0.5, 0.1, 0.3, 1))

    def pitch(seconds: Floats) -> Floats:
        return np.asarray(
            shift + wander * np.sin(2 * np.pi * (rate * seconds + phase)) + _pitch(scene, seconds)
        )

    times, strengths = scene.contacts()
    sound = _impacts(timbre, times, strengths * rng.uniform(0.85, 1.15, len(times)), pitch(times))
    control = np.arange(-1, SECONDS * _CONTROL + 1) / _CONTROL
    rubbing = timbre.rubbed(
        rng,
        np.interp(samples, control, _loudness(scene, control)),
        np.interp(samples, control, pitch(control)),
    )
    sound += scene.action.friction * 0.5 * rubbing
    sound /= np.sqrt(np.mean(sound**2)) + 1e-9
    if rng.uniform() < 0.3:
        sound += _unrelated(rng)
    if rng.uniform() < 0.5:
        sound = _reverberate(rng, sound)
    sound = _colored(sound, rng.uniform(-0.15, 0.15))
    hiss = _colored(rng.normal(0, 1, len(sound)), -rng.uniform(0.4, 0.6))
    sound += hiss * 10 ** (rng.uniform(-30, -20) / 20)
    # equally loud, not equally peaked: the level must not tell blows from rubbing
    sound *= 10 ** (rng.uniform(-25, -23) / 20) / np.sqrt(np.mean(sound**2))
    return np.asarray((sound / max(1.0, np.abs(sound).max())).astype(np.float32))


def _pitch(scene: Scene, seconds: Floats) -> Floats:
    """Octaves: up with the height, down with the size."""
    pose = scene.pose(seconds)
    return -0.8 * pose.y - 1.2 * np.log2(pose.size)


def _loudness(scene: Scene, seconds: Floats) -> Floats:
    """How fast the object moves, turns and grows, relative to the fastest of this clip."""
    pose = scene.pose(seconds)
    speeds = [np.gradient(values) for values in (pose.x, pose.y, pose.size, 0.4 * pose.angle)]
    speed = np.sqrt(np.sum(np.square(speeds), axis=0))
    loudness: Floats = np.clip(speed / (np.quantile(speed, 0.95) + 1e-9), 0, 1.5)
    return loudness


def _impacts(timbre: Timbre, times: Floats, strengths: Floats, pitches: Floats) -> Floats:
    """Blows at these times (N,), added up: (S,)."""
    lead = RATE  # contacts up to a second before the clip still ring in it
    sound = np.zeros(lead + round(SECONDS * RATE) + 2 * RATE)
    for time, strength, pitch in zip(times, strengths, pitches, strict=True):
        blow = timbre.struck(pitch)
        start = lead + round(time * RATE)
        sound[start : start + len(blow)] += strength * blow
    return sound[lead : lead + round(SECONDS * RATE)]


def _unrelated(rng: np.random.Generator) -> Floats:
    """A few blows of something else at random times, at about half the level."""
    timbre = Timbre.draw(rng, rng.choice(MATERIALS))
    count = int(rng.integers(2, 6))
    blows = _impacts(
        timbre, rng.uniform(0, SECONDS, count), rng.uniform(0.3, 1, count), rng.uniform(-1, 1, count)
    )
    return np.asarray(blows * rng.uniform(0.4, 0.9) / (np.sqrt(np.mean(blows**2)) + 1e-9))


def _reverberate(rng: np.random.Generator, sound: Floats) -> Floats:
    """Exponentially decaying noise as the room's response."""
    seconds = np.arange(RATE // 2) / RATE
    room = rng.normal(0, 1, len(seconds)) * np.exp(-6.9 * seconds / rng.uniform(0.15, 0.4))
    length = len(sound) + len(room)
    wet = np.fft.irfft(np.fft.rfft(sound, length) * np.fft.rfft(room, length), length)[: len(sound)]
    reverberated: Floats = sound + rng.uniform(0.1, 0.4) * wet / (np.sqrt(np.mean(wet**2)) + 1e-9)
    return reverberated


def _colored(sound: Floats, slope: float) -> Floats:
    """The sound at unit level with its amplitudes tilted by the frequency to the power of `slope`."""
    spectrum = np.fft.rfft(sound)
    tilted: Floats = np.fft.irfft(spectrum * (1.0 + np.arange(len(spectrum))) ** slope, len(sound))
    return np.asarray(tilted / (np.sqrt(np.mean(tilted**2)) + 1e-9))
