"""The ten actions of the embedded dataset, as motion.

An action is a periodic pose: the object's position, rotation, size and stretch at a point of its cycle,
and the points at which it touches something. The frames (`xkd.data.synthetic.video`) and the sound
(`xkd.data.synthetic.audio`) are both computed from the same pose, so that they are synchronous.
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
    """An object at T times. Offsets are in units of the action's amplitude, y points down."""

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
    """One class: its pose over a cycle, and its sounds."""

    pose: Callable[[Floats], Pose]
    """Maps cycles (T,), any real numbers, to a pose."""
    period: float
    """Seconds per cycle at tempo 1."""
    contacts: tuple[tuple[float, float], ...]
    """(point of the cycle, strength) of every impact."""
    friction: float
    """Loudness of the sound that follows the speed, relative to the impacts."""
    gravity: bool = True
    """Whether the motion has a direction; otherwise it is rotated by a random angle."""


def pose_at(cycles: Floats, **fields: Floats) -> Pose:
    """Return a pose at rest except for the given fields, each (T,) like `cycles`."""
    zero, one = np.zeros_like(cycles), np.ones_like(cycles)
    return Pose(**{"x": zero, "y": zero, "angle": zero, "size": one, "stretch": one, **fields})


def _ramp(point: Floats, start: float, end: float) -> Floats:
    """Return 0 before `start`, 1 after `end`, and linear values between."""
    return np.asarray(np.clip((point - start) / (end - start), 0.0, 1.0))


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


ACTIONS: dict[str, Action] = {
    "bounce": Action(_bounce, 2.0, ((0.0, 0.4), (0.5, 1.0), (0.82, 0.65)), 0.4),
    # The distance to the partner: contact at 0, farthest at 0.5 (see `render`).
    "collide": Action(
        lambda at: pose_at(at, x=np.abs(2 * ((at + 0.5) % 1) - 1)), 1.4, ((0.0, 1.0), (0.5, 0.4)), 0.4, False
    ),
    "hammer": Action(_hammer, 1.1, ((0.85, 1.0),), 0.4),
    "inflate": Action(_inflate, 1.8, (), 1.0),
    "jump": Action(_jump, 1.3, ((0.4, 0.35), (0.82, 1.0)), 0.5),
    "orbit": Action(lambda at: pose_at(at, x=np.cos(2 * np.pi * at), y=np.sin(2 * np.pi * at)), 1.6, (), 1.0),
    "shake": Action(_shake, 2.0, tuple((k * 0.1 + 0.05, 0.7) for k in range(6)), 0.4, gravity=False),
    "slide": Action(_slide, 2.2, ((0.35, 0.3), (0.85, 0.3)), 1.0, gravity=False),
    "spin": Action(
        lambda at: pose_at(at, angle=2 * np.pi * at), 1.6, tuple((k / 4, 0.6) for k in range(4)), 0.6
    ),
    "swing": Action(_swing, 1.6, (), 1.0),
}


@dataclass(frozen=True)
class Scene:
    """One clip before rendering: an action with a tempo, phase and direction."""

    action: Action
    material: str
    period: float
    phase: float
    turn: float
    """Angle of the motion, radians."""
    mirror: float
    """1 or -1: the motion's direction along x."""

    @classmethod
    def draw(cls, rng: np.random.Generator, action: str, material: str) -> Scene:
        """Draw a tempo within an octave, a phase and a direction."""
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
        """Return the rotated and mirrored pose at times (T,)."""
        pose = self.action.pose(self.phase + seconds / self.period)
        x, y, cos, sin = pose.x * self.mirror, pose.y, np.cos(self.turn), np.sin(self.turn)
        return Pose(cos * x - sin * y, sin * x + cos * y, pose.angle * self.mirror, pose.size, pose.stretch)

    def contacts(self) -> tuple[Floats, Floats]:
        """Return times (N,), seconds from -1 on, and strengths (N,) of the impacts."""
        first, last = np.floor(self.phase - 1 / self.period), np.ceil(self.phase + SECONDS / self.period)
        pairs = [
            ((cycle + point - self.phase) * self.period, strength)
            for cycle in np.arange(first, last + 1)
            for point, strength in self.action.contacts
        ]
        times, strengths = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        kept = (times > -1.0) & (times < SECONDS)
        return times[kept], strengths[kept]
