"""The sounds of the embedded dataset: modal synthesis driven by the pose that is also rendered.

Every sound is a bank of decaying sine modes, a material's timbre. Contacts excite it by impacts, motion by
friction whose loudness follows the speed; the pitch rises with the object's height and falls with its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xkd.data.synthetic.scenes import MATERIALS, SECONDS, Floats, Scene

RATE = 32000
_CONTROL = 200  # poses per second

# Lowest mode (Hz, a range), ratios to it, seconds to -60 dB (a range), level ratio per mode
_MODES: dict[str, tuple[tuple[float, float], tuple[float, ...], tuple[float, float], float]] = {
    "glass": ((700, 1400), (1, 2.32, 4.25, 6.63), (0.4, 0.8), 0.75),
    "metal": ((350, 700), (1, 1.58, 2.24, 2.92, 3.46, 4.1, 5.2), (0.8, 1.4), 0.85),
    "rubber": ((110, 220), (1, 1.59, 2.14, 2.3, 2.65, 3.6), (0.15, 0.3), 0.6),
    "stone": ((450, 900), (1, 1.31, 1.72, 2.17, 2.9, 3.3, 4.4), (0.08, 0.16), 0.9),
    "wood": ((220, 440), (1, 2.76, 5.4, 8.93), (0.2, 0.4), 0.65),
}


@dataclass(frozen=True)
class Timbre:
    """The modes of one sounding object, each (M,)."""

    frequency: Floats
    """Hz."""
    level: Floats
    decay: Floats
    """1 / seconds."""

    @classmethod
    def draw(cls, rng: np.random.Generator, material: str) -> Timbre:
        """Draw a specimen of a material."""
        lowest, ratios, ring, loss = _MODES[material]
        count = len(ratios)
        return cls(
            frequency=rng.uniform(*lowest) * np.array(ratios) * 2 ** rng.normal(0, 0.04, count),
            level=loss ** np.arange(count) * rng.uniform(0.5, 1.0, count),
            decay=6.9 / (rng.uniform(*ring) * np.array(ratios) ** -0.3 * rng.uniform(0.8, 1.2, count)),
        )

    def impact(self, pitch: float) -> Floats:
        """Return the sound (S,) of an impact, `pitch` octaves up."""
        seconds = np.arange(round(RATE * min(1.0, 6.9 / self.decay.min()))) / RATE
        waves = np.sin(2 * np.pi * (self.frequency * 2**pitch)[:, None] * seconds)
        return np.asarray(np.einsum("m,ms,ms->s", self.level, np.exp(-self.decay[:, None] * seconds), waves))

    def friction(self, rng: np.random.Generator, loudness: Floats, pitch: Floats) -> Floats:
        """Return the sound (S,) of friction with a loudness and a pitch (octaves) per sample."""
        turns = np.cumsum(2.0**pitch) / RATE
        rough_at = np.linspace(0, SECONDS, round(SECONDS * 60))
        sound = np.zeros(len(pitch))
        samples = np.arange(len(pitch)) / RATE
        for frequency, level in zip(self.frequency, self.level, strict=True):
            rough = np.interp(samples, rough_at, rng.normal(0.6, 0.5, len(rough_at)))
            sound += level * rough * np.sin(2 * np.pi * frequency * turns)
        return sound * loudness


def synthesize(rng: np.random.Generator, scene: Scene, timbre: Timbre) -> NDArray[np.float32]:
    """Synthesize the sound of a scene: mono waveform (SECONDS * RATE,) within ±1.

    Nuisances: pitch ± half an octave, reverberation, noise, level; unrelated sounds in 30 %.
    """
    samples = np.arange(round(SECONDS * RATE)) / RATE
    shift, wander, rate, phase = rng.uniform((-0.5, 0, 0.05, 0), (0.5, 0.1, 0.3, 1))

    def pitch(seconds: Floats) -> Floats:
        """Return octaves that rise with the height and fall with the size."""
        pose, drift = scene.pose(seconds), wander * np.sin(2 * np.pi * (rate * seconds + phase))
        return np.asarray(shift + drift + (-0.8 * pose.y - 1.2 * np.log2(pose.size)))

    times, strengths = scene.contacts()
    sound = _impacts(timbre, times, strengths * rng.uniform(0.85, 1.15, len(times)), pitch(times))
    control = np.arange(-1, SECONDS * _CONTROL + 1) / _CONTROL
    loudness = np.interp(samples, control, _loudness(scene, control))
    friction = timbre.friction(rng, loudness, np.interp(samples, control, pitch(control)))
    sound += scene.action.friction * 0.5 * friction
    sound /= _level(sound)
    if rng.uniform() < 0.3:
        sound += _unrelated(rng)
    if rng.uniform() < 0.5:
        sound = _reverberate(rng, sound)
    sound = _colored(sound, rng.uniform(-0.15, 0.15))
    hiss = _colored(rng.normal(0, 1, len(sound)), -rng.uniform(0.4, 0.6))
    sound += hiss * 10 ** (rng.uniform(-30, -20) / 20)
    # Equal loudness rather than equal peaks: the level must not distinguish impacts from friction.
    sound *= 10 ** (rng.uniform(-25, -23) / 20) / np.sqrt(np.mean(sound**2))
    return np.asarray((sound / max(1.0, np.abs(sound).max())).astype(np.float32))


def _loudness(scene: Scene, seconds: Floats) -> Floats:
    """Return the speed of motion, rotation and growth, relative to the highest in this clip."""
    pose = scene.pose(seconds)
    speeds = [np.gradient(values) for values in (pose.x, pose.y, pose.size, 0.4 * pose.angle)]
    speed = np.sqrt(np.sum(np.square(speeds), axis=0))
    return np.asarray(np.clip(speed / (np.quantile(speed, 0.95) + 1e-9), 0, 1.5))


def _impacts(timbre: Timbre, times: Floats, strengths: Floats, pitches: Floats) -> Floats:
    """Return the sum (S,) of impacts at times (N,)."""
    lead = RATE  # contacts up to a second before the clip are still audible in it
    sound = np.zeros(lead + round(SECONDS * RATE) + 2 * RATE)
    for time, strength, pitch in zip(times, strengths, pitches, strict=True):
        impact = timbre.impact(pitch)
        start = lead + round(time * RATE)
        sound[start : start + len(impact)] += strength * impact
    return sound[lead : lead + round(SECONDS * RATE)]


def _unrelated(rng: np.random.Generator) -> Floats:
    """Return a few impacts of another object at random times, at about half the level."""
    timbre = Timbre.draw(rng, rng.choice(MATERIALS))
    count = int(rng.integers(2, 6))
    drawn = (rng.uniform(low, high, count) for low, high in ((0, SECONDS), (0.3, 1), (-1, 1)))
    sound = _impacts(timbre, *drawn)
    return np.asarray(sound * rng.uniform(0.4, 0.9) / _level(sound))


def _reverberate(rng: np.random.Generator, sound: Floats) -> Floats:
    """Convolve the sound with exponentially decaying noise."""
    seconds = np.arange(RATE // 2) / RATE
    response = rng.normal(0, 1, len(seconds)) * np.exp(-6.9 * seconds / rng.uniform(0.15, 0.4))
    length = len(sound) + len(response)
    wet = np.fft.irfft(np.fft.rfft(sound, length) * np.fft.rfft(response, length), length)[: len(sound)]
    return np.asarray(sound + rng.uniform(0.1, 0.4) * wet / _level(wet))


def _colored(sound: Floats, slope: float) -> Floats:
    """Scale the amplitudes by the frequency to the power of `slope`, and normalize the level."""
    spectrum = np.fft.rfft(sound)
    tilted = np.asarray(np.fft.irfft(spectrum * (1.0 + np.arange(len(spectrum))) ** slope, len(sound)))
    return np.asarray(tilted / _level(tilted))


def _level(sound: Floats) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(sound**2)) + 1e-9)
