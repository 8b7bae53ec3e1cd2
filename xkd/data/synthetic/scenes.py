"""The ten actions of the embedded dataset, as motion.

An action is a periodic pose: where the object is, how it is turned, how large and how squashed it
is at a point of its cycle, and at which points it touches something. The pictures
(`xkd.data.synthetic.video`) and the sound (`xkd.data.synthetic.audio`) are both computed from the
same pose, so that what is heard is what is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

SECONDS = 6.0
MATERIALS = ("glass", "metal", "rubber", "stone", "wood")


@dataclass(frozen=True)
class Pose:
    """An object at many moments (T,). Offsets are in units of the action's amplitude, y points down."""

    x: Floats
    y: Floats
    angle: Floats
    """Radians."""
    size: Floats
    """Relative radius."""
    stretch: Floats
    """Width over height, at equal area."""


@dataclass(frozen=True)
class Action:
    """One class: its pose over a cycle and what of it is heard."""

    pose: Callable[[Floats], Pose]
    """Cycles (T,), any real numbers -> pose."""
    period: float
    """Seconds of a cycle at tempo 1."""
    contacts: tuple[tuple[float, float], ...]
    """(point of the cycle, strength) of every impact."""
    friction: float
    """Loudness of the sound that follows the speed, relative to the impacts."""
    gravity: bool = True
    """Whether down is down; otherwise the whole motion is turned by a random angle."""


def pose_at(cycles: Floats, **fields: Floats) -> Pose:
    """A pose at rest but for the given fields, each (T,) as `cycles`."""
    zero, one = np.zeros_like(cycles), np.ones_like(cycles)
    return Pose(**{"x": zero, "y": zero, "angle": zero, "size": one, "stretch": one, **fields})


def _ramp(point: Floats, start: float, end: float) -> Floats:
    """0 before `start`, 1 after `end`, straight between."""
    ramp: Floats = np.clip((point - start) / (end - start), 0.0, 1.0)
    return ramp


def _smooth(ramp: Floats) -> Floats:
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * ramp))


def _bounce(cycles: Floats) -> Pose:
    point = cycles % 1
    height = np.zeros_like(point)
    for start, end in ((0.0, 0.5), (0.5, 0.82), (0.82, 1.0)):
        along = (point - start) / (end - start)
        arc = 4 * along * (1 - along) * ((end - start) / 0.5) ** 2
        height = np.where((point >= start) & (point < end), arc, height)
    return pose_at(cycles, y=1 - 2 * height, stretch=1 + 0.25 * np.exp(-height / 0.08))


def _hammer(cycles: Floats) -> Pose:
    point = cycles % 1
    lift = _smooth(_ramp(point, 0.05, 0.6)) - _ramp(point, 0.72, 0.85) ** 2
    angle = -1.4 * lift
    return pose_at(cycles, x=2 * np.cos(angle) - 1.4, y=1.0 + 2 * np.sin(angle), angle=angle)


def _swing(cycles: Floats) -> Pose:
    angle = 1.0 * np.sin(2 * np.pi * cycles)
    return pose_at(cycles, x=1.2 * np.sin(angle), y=1.2 * (np.cos(angle) - 0.77), angle=-angle)


def _spin(cycles: Floats) -> Pose:
    return pose_at(cycles, angle=2 * np.pi * cycles)


def _slide(cycles: Floats) -> Pose:
    point = cycles % 1
    return pose_at(cycles, x=2 * (_ramp(point, 0.0, 0.35) - _ramp(point, 0.5, 0.85)) - 1)


def _collide(cycles: Floats) -> Pose:
    """The distance to the partner; contact at 0, the far turn at 0.5 (see `render`)."""
    return pose_at(cycles, x=np.abs(2 * ((cycles + 0.5) % 1) - 1))


def _inflate(cycles: Floats) -> Pose:
    point = cycles % 1
    return pose_at(cycles, size=0.65 + 0.8 * (_smooth(_ramp(point, 0.0, 0.65)) - _ramp(point, 0.7, 0.82)))


def _jump(cycles: Floats) -> Pose:
    point = cycles % 1
    crouch = np.sin(np.pi * _ramp(point, 0.05, 0.4)) + 0.7 * np.sin(np.pi * _ramp(point, 0.82, 1.0))
    along = _ramp(point, 0.4, 0.82)
    flight = 4 * along * (1 - along)
    return pose_at(cycles, y=1 - 2 * flight + 0.2 * crouch, stretch=(1 + 0.6 * crouch) / (1 + 0.25 * flight))


def _shake(cycles: Floats) -> Pose:
    burst = _ramp(cycles % 1, 0.0, 0.6)
    return pose_at(cycles, x=0.7 * np.sin(6 * np.pi * burst), angle=0.35 * np.sin(6 * np.pi * burst))


def _orbit(cycles: Floats) -> Pose:
    return pose_at(cycles, x=np.cos(2 * np.pi * cycles), y=np.sin(2 * np.pi * cycles))


ACTIONS: dict[str, Action] = {
    "bounce": Action(_bounce, 2.0, ((0.0, 0.4), (0.5, 1.0), (0.82, 0.65)), 0.4),
    "collide": Action(_collide, 1.4, ((0.0, 1.0), (0.5, 0.4)), 0.4, gravity=False),
    "hammer": Action(_hammer, 1.1, ((0.85, 1.0),), 0.4),
    "inflate": Action(_inflate, 1.8, (), 1.0),
    "jump": Action(_jump, 1.3, ((0.4, 0.35), (0.82, 1.0)), 0.5),
    "orbit": Action(_orbit, 1.6, (), 1.0),
    "shake": Action(_shake, 2.0, tuple((k * 0.1 + 0.05, 0.7) for k in range(6)), 0.4, gravity=False),
    "slide": Action(_slide, 2.2, ((0.35, 0.3), (0.85, 0.3)), 1.0, gravity=False),
    "spin": Action(_spin, 1.6, ((0.0, 0.6), (0.25, 0.6), (0.5, 0.6), (0.75, 0.6)), 0.6),
    "swing": Action(_swing, 1.6, (), 1.0),
}


@dataclass(frozen=True)
class Scene:
    """One clip before it is seen or heard: an action at its tempo, phase and direction."""

    action: Action
    material: str
    period: float
    phase: float
    turn: float
    """Angle of the motion, radians."""
    mirror: float
    """1 or -1: the motion's sense along x."""

    @classmethod
    def draw(cls, rng: np.random.Generator, action: str, material: str) -> Scene:
        """Tempo over an octave, any start phase, either sense."""
        kind = ACTIONS[action]
        return cls(
            action=kind,
            material=material,
            period=kind.period * 2 ** rng.uniform(-0.5, 0.5),
            phase=rng.uniform(),
            turn=rng.uniform(-0.25, 0.25) if kind.gravity else rng.uniform(-np.pi, np.pi),
            mirror=rng.choice((-1.0, 1.0)),
        )

    def pose(self, seconds: Floats) -> Pose:
        """The pose at these times, turned and mirrored (T,)."""
        still = self.action.pose(self.phase + seconds / self.period)
        x, y = still.x * self.mirror, still.y
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return Pose(
            cos * x - sin * y, sin * x + cos * y, still.angle * self.mirror, still.size, still.stretch
        )

    def contacts(self) -> tuple[Floats, Floats]:
        """Times (N,) in seconds, from a second before the clip on, and strengths (N,) of the impacts."""
        cycles = np.arange(
            np.floor(self.phase - 1 / self.period), np.ceil(self.phase + SECONDS / self.period) + 1
        )
        pairs = [
            ((cycle + point - self.phase) * self.period, strength)
            for cycle in cycles
            for point, strength in self.action.contacts
        ]
        times, strengths = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        kept = (times > -1.0) & (times < SECONDS)
        return times[kept], strengths[kept]
