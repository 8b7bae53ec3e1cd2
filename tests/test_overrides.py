"""Merging, validating and reading settings: precedence, one-line errors, YAML numbers."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from xkd.config.overrides import (
    STRICT,
    build,
    describe_difference,
    difference,
    load_file,
    load_yaml,
    overlay,
    parse_override,
    resolve,
    to_dict,
    to_yaml,
)
from xkd.errors import UserError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Inner:
    lr: float = Field(default=0.1, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Outer:
    name: str = "base"
    epochs: int = 4
    limit: float | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    optim: Inner = Inner()


def write(folder: Path, text: str) -> str:
    path = folder / "settings.yaml"
    path.write_text(text)
    return str(path)


def test_later_layers_win_base_file_options_overrides(tmp_path: Path) -> None:
    file = write(tmp_path, "name: file\nepochs: 5\nlimit: 1\noptim: {lr: 0.2}\n")
    assert resolve(Outer(), file).name == "file"
    assert resolve(Outer(), file, name="option").name == "option"
    resolved = resolve(Outer(), file, ["name=override", "optim.betas=[0.5, 0.6]"], name="option", epochs=6)
    assert resolved == Outer(name="override", epochs=6, limit=1.0, optim=Inner(lr=0.2, betas=(0.5, 0.6)))


def test_an_option_of_none_is_not_given_and_an_empty_one_is(tmp_path: Path) -> None:
    file = write(tmp_path, "name: file\n")
    assert resolve(Outer(), file, name=None).name == "file"
    assert resolve(Outer(), file, name="").name == ""


def test_options_keep_values_that_yaml_would_read_otherwise() -> None:
    for text in ("no", "1e-3", "a: b", "null", "{", "2026-11-27"):
        assert resolve(Outer(), None, (), name=text).name == text


def test_values_that_depend_on_each_other_may_come_from_different_layers(tmp_path: Path) -> None:
    from xkd.config import PretrainConfig

    file = write(tmp_path, "clip: {seconds: 2}\n")
    changes = ["video.global_view=[16, 112, 112]", "audio.global_view=[80, 224]"]
    assert resolve(PretrainConfig(), file, changes).clip.seconds == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("2E5", 2e5),
        ("-1.5e+2", -150.0),
        (".5e+1", 5.0),
        (".5e1", ".5e1"),  # a string for DVC too
        ("no", "no"),
        ("1:30", "1:30"),
        ("0012345", 12345),
        ("2026-11-27", "2026-11-27"),
        ("1_000e-3", 1.0),
        ("3", 3),
        ("0x10", 16),
        ("e5", "e5"),
        ("1e", "1e"),
        ("[1, 2]", [1, 2]),
        ("true", True),
        ("null", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ("a=b", "a=b"),
    ],
)
def test_override_values_are_yaml_with_exponents(text: str, value: object) -> None:
    parsed = parse_override(f"a.b={text}")["a"]["b"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_section_of_a_file_can_be_selected(tmp_path: Path) -> None:
    file = write(tmp_path, "train: {epochs: 7}\nname: top\n")
    assert load_file(f"{file}:train") == {"epochs": 7}
    assert resolve(Outer(), f"{file}:train").epochs == 7
    with pytest.raises(UserError, match=r"settings\.yaml has no section 'trian' \(did you mean train\?\)$"):
        resolve(Outer(), f"{file}:trian")
    with pytest.raises(UserError, match=r"settings\.yaml must contain a mapping of settings$"):
        resolve(Outer(), f"{file}:name")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", r"settings\.yaml: unknown setting epoch \(did you mean epochs\?\)"),
        ("optim: {beta: 3}", r"settings\.yaml: unknown setting optim\.beta \(did you mean optim\.betas\?\)"),
        ("optim: 3", r"settings\.yaml: optim is a section; set one of lr, betas"),
        ("1: 2", r"settings\.yaml is not valid YAML: the key 1 is not a string; quote it in .*, line 1"),
        (
            "epochs: 1\nepochs: 2",
            r"the key epochs is there twice in \".*settings\.yaml\", line 2",
        ),
        ("optim: {lr: 1, lr: 2}", r"is not valid YAML: the key lr is there twice"),
        ("epochs: many", r"configuration: epochs: must be an integer, got 'many'"),
        ("optim: {lr: 0}", r"configuration: optim\.lr: must be greater than 0, got 0"),
        ("optim: {betas: [1]}", r"configuration: optim\.betas.*: .*"),
        ("- a", r"settings\.yaml must contain a mapping of settings"),
        ("", r"settings\.yaml must contain a mapping of settings"),
        ("a: [", r"settings\.yaml is not valid YAML: .*"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_the_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(Outer(), write(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", r"^epochs: write a setting as name=value, for example optim\.lr=1e-4$"),
        ("epoch=3", r"^epoch=3: unknown setting epoch \(did you mean epochs\?\)$"),
        ("optim.x.y=3", r"^optim\.x\.y=3: unknown setting optim\.x$"),
        ("optim=3", r"^optim=3: optim is a section; set one of lr, betas$"),
        ("name=[", r"^name=\[: the value is not valid YAML: "),
        ("epochs=1.5", r"^configuration: epochs: .*got 1\.5$"),
        ("labels=3", r"^configuration: labels: must be an object, got 3$"),
    ],
)
def test_a_mistake_in_an_override_is_one_line_with_the_field(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(Outer(), None, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.yaml", "folder"])
def test_an_unreadable_file_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rf"^cannot read configuration .*{name}: \w+"):
        load_yaml(tmp_path / name)


def test_free_form_mappings_are_joined_key_by_key() -> None:
    base = Outer(labels={"a": 1, "nested": {"x": 1, "y": 2}})
    resolved = resolve(base, None, ["labels.b=2", "labels.nested.x=3"])
    assert resolved.labels == {"a": 1, "b": 2, "nested": {"x": 3, "y": 2}}
    assert base.labels == {"a": 1, "nested": {"x": 1, "y": 2}}


def test_overlay_names_its_source() -> None:
    assert overlay(Outer(), {"optim": {"lr": 1}}, "here") == Outer(optim=Inner(lr=1.0))
    for values, message in (
        ({"epoch": 1}, "here: unknown setting epoch"),
        ({"epochs": "x"}, "here: epochs: "),
        ({"optim": {"lr": -1}}, r"here: optim\.lr: must be greater than 0, got -1"),
    ):
        with pytest.raises(UserError, match=rf"^{message}"):
            overlay(Outer(), values, "here")


def test_build_names_an_unknown_field_with_its_neighbor() -> None:
    with pytest.raises(UserError, match=r"^task: unknown setting epoch \(did you mean epochs\?\)$"):
        build(Outer, {"epoch": 3}, "task")


def test_yaml_gives_the_same_settings_back(tmp_path: Path) -> None:
    settings = Outer(name="no", limit=1e-7, labels={"a": [1, None]}, optim=Inner(lr=1e-3))
    file = write(tmp_path, to_yaml(settings))
    assert build(Outer, load_yaml(file), "file") == settings == resolve(Outer(), file)
    assert list(to_dict(settings)) == ["name", "epochs", "limit", "labels", "optim"]


def test_difference_lists_dotted_names() -> None:
    other = Outer(epochs=5, labels={"a": 1}, optim=Inner(lr=0.2))
    assert difference(Outer(), other) == ["epochs", "labels.a", "optim.lr"]
    assert difference(other, other) == []
    assert describe_difference(Outer(), other)["optim.lr"] == "optim.lr 0.1 (not 0.2)"
