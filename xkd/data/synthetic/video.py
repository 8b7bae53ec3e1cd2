"""The frames of the embedded dataset.

A single frame does not reveal the action: shapes, textures, colors, sizes and positions have the same
distributions for all ten, and every clip has a second large object. The object that acts and sounds is lit
and the others are dark, so that a small transformer finds it: with objects of any brightness on backgrounds
of any color, even one trained on the labels stayed at chance for hundreds of steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xkd.data.synthetic.scenes import ACTIONS, MATERIALS, SECONDS, Floats, Pose, Scene, pose_at

FPS = 16
SIDE = 128
_BACKDROP = SIDE + 96  # margin to pan and to shake


def render(rng: np.random.Generator, scene: Scene) -> NDArray[np.uint8]:
    """Render a clip: frames (T, SIDE, SIDE, 3).

    Nuisances: color, shape, size, position, panning background, shaking camera, noise, silent objects.
    """
    times = np.arange(round(SECONDS * FPS)) / FPS
    pose = scene.pose(times)
    shake = np.cumsum(rng.normal(0, 0.35, (len(times), 2)), axis=0)
    shake -= np.linspace(0, 1, len(times))[:, None] * shake[-1]
    frames = _background(rng, times, shake)
    amplitude = rng.uniform(0.16, 0.22) * SIDE
    radius, partner_radius = rng.uniform(0.11, 0.16, 2) * SIDE
    reach = amplitude + radius
    place = rng.uniform(reach, SIDE - reach, 2)
    offset = np.stack((pose.x, pose.y), axis=1) * amplitude
    if scene.action is ACTIONS["collide"]:
        # Both move along the line between them and just touch at contact.
        direction = np.array((np.cos(scene.turn), np.sin(scene.turn))) * scene.mirror
        touch = (radius + partner_radius) * 0.45 * direction
        partner_path = place - offset - touch
        path = place + offset + touch
    else:
        path = place + offset + _drift(rng, times, 3.0)
        partner_path = rng.uniform(0.15, 0.85, 2) * SIDE + _drift(rng, times, 9.0)
    small_path = rng.uniform(0.1, 0.9, 2) * SIDE + _drift(rng, times, 12.0)
    if rng.uniform() < 0.5:
        small = _still(rng, times)
        _draw(frames, rng, small, small_path + shake, rng.uniform(0.05, 0.08) * SIDE, rng.choice(MATERIALS))
    partner = _still(rng, times)
    _draw(frames, rng, partner, partner_path + shake, partner_radius, rng.choice(MATERIALS))
    _draw(frames, rng, pose, path + shake, radius, scene.material, lit=True)
    # Flicker, and grain: one field shifted from frame to frame.
    grain = rng.normal(0, rng.uniform(0.5, 2.0), (2 * SIDE, 2 * SIDE, 1)).astype(np.float32)
    flicker = rng.normal(0, 0.7, len(frames)).astype(np.float32)
    for frame, shift, (x, y) in zip(frames, flicker, rng.integers(0, SIDE, (len(frames), 2)), strict=True):
        frame += grain[y : y + SIDE, x : x + SIDE] + shift
    return np.asarray(np.clip(frames, 0, 255).astype(np.uint8))


def _still(rng: np.random.Generator, times: Floats) -> Pose:
    """Return the pose of an object that only rotates slowly."""
    return pose_at(times, angle=rng.uniform(-0.3, 0.3) * times)


def _drift(rng: np.random.Generator, times: Floats, pixels: float) -> Floats:
    """Return a slow smooth path (T, 2) around the origin."""
    rates, phases = rng.uniform(0.08, 0.3, 2), rng.uniform(0, 2 * np.pi, 2)
    return np.asarray(pixels * np.sin(2 * np.pi * rates * times[:, None] + phases))


def _background(rng: np.random.Generator, times: Floats, shake: Floats) -> NDArray[np.float32]:
    """Return panning frames (T, SIDE, SIDE, 3) of smooth colored clouds, 0..255."""
    cells = int(rng.integers(5, 14))
    tone = 60 + rng.normal(0, 2, 3)
    corners = rng.uniform(-1, 1, (cells, cells, 3)) * rng.uniform(4, 12) + tone
    at = np.linspace(0, cells - 1, _BACKDROP)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells)))
    picture = np.einsum("yi,xj,ijc->yxc", weights, weights, corners, optimize=True).astype(np.float32)
    margin = _BACKDROP - SIDE
    pan = rng.uniform(-0.3, 0.3, 2) * margin / SECONDS
    corner = np.clip(margin / 2 + pan * (times[:, None] - SECONDS / 2) - shake, 0, margin).round().astype(int)
    return np.stack([picture[y : y + SIDE, x : x + SIDE] for x, y in corner])


def _draw(
    frames: NDArray[np.float32],
    rng: np.random.Generator,
    pose: Pose,
    path: Floats,
    radius: float,
    material: str,
    *,
    lit: bool = False,
) -> None:
    """Draw a textured shape over the frames (T, SIDE, SIDE, 3), in place.

    The path (T, 2) has the centers, in pixels; the radius, in pixels, is at relative size 1. A lit shape is
    brighter than any background, the others are darker.
    """
    wheel = 0.5 + 0.5 * np.cos(2 * np.pi * (rng.uniform() + np.array((0, 1 / 3, 2 / 3))))
    color = (230 * (0.7 + 0.3 * wheel)).astype(np.float32) * (1.0 if lit else 0.18)
    sides = int(rng.choice((3, 4, 5, 6, 40)))
    tilt = rng.uniform(0, 2 * np.pi)
    half = int(np.ceil(radius * pose.size.max() * np.sqrt(pose.stretch.max()) * 1.56)) + 1
    corner = np.floor(path).astype(int) - half
    grid = np.arange(2 * half + 1)
    size, stretch = (
        values.astype(np.float32)[:, None, None] for values in (pose.size, np.sqrt(pose.stretch))
    )
    fraction = (corner - path).astype(np.float32)
    across = (grid[None, None, :] + fraction[:, 0, None, None]) / (radius * size * stretch)
    down = (grid[None, :, None] + fraction[:, 1, None, None]) * stretch / (radius * size)
    angle = (pose.angle + tilt).astype(np.float32)[:, None, None]
    u = (across * np.cos(angle) + down * np.sin(angle)).astype(np.float32)
    v = (down * np.cos(angle) - across * np.sin(angle)).astype(np.float32)
    wedge = 2 * np.pi / sides
    # The regular polygon has the area of the unit disk.
    corner_at = np.sqrt(2 * np.pi / (sides * np.sin(wedge)))
    edge = corner_at * np.cos(wedge / 2) / np.cos(np.arctan2(v, u) % wedge - wedge / 2)
    distance = np.hypot(u, v)
    opacity = np.clip((edge - distance) * radius * size + 0.5, 0, 1)[..., None]
    rim = np.clip((edge - distance) * radius * size / 2 - 0.5, 0, 1)
    shade = (0.35 + 0.65 * rim * (1 + 0.45 * _texture(material, u, v)))[..., None]
    paint = shade * color
    for frame, patch, cover, (x, y) in zip(frames, paint, opacity, corner, strict=True):
        top, left = max(y, 0), max(x, 0)
        target = frame[top : max(y + len(grid), 0), left : max(x + len(grid), 0)]
        rows, columns = slice(top - y, top - y + target.shape[0]), slice(left - x, left - x + target.shape[1])
        target += cover[rows, columns] * (patch[rows, columns] - target)


def _texture(material: str, u: Floats, v: Floats) -> Floats:
    """Return a material's pattern, -1..1, in the object's coordinates; none is symmetric under rotation."""
    if material == "glass":
        pattern = np.where(np.hypot(u - 0.3, v + 0.3) < 0.4, 1.0, -0.2)
    elif material == "metal":
        pattern = np.clip(1.4 * u, -1, 1)
    elif material == "rubber":
        pattern = np.where(np.sin(6 * u) * np.sin(6 * v) > 0.25, 1.0, -0.4)
    elif material == "stone":
        pattern = np.sin(9 * u + 4 * np.sin(5 * v)) * np.cos(7 * v - 3 * u)
    else:
        pattern = np.sin(9 * v + 1.5 * np.sin(2 * u))
    return pattern.astype(np.float32) + np.float32(0.3) * np.sign(u)
