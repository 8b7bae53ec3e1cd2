"""YAML is read as DVC reads it, or refused."""

from __future__ import annotations

import datetime
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import parse_yaml as dvc_parse_yaml

from xkd.config.overrides import load_file, load_yaml
from xkd.config.yaml_core import dump_yaml, parse_yaml
from xkd.errors import UserError

PIECES = [
    *"0123456789",
    *"+-._:~=eExXoObB,",
    "null",
    "true",
    "No",
    "on",
    "y",
    ".inf",
    ".nan",
    "00",
    "1_0",
    "e-4",
]

REFUSED = object()


def scalars(count: int) -> list[str]:
    """Draw short scalars that look like numbers, and like what YAML 1.1 takes for other types."""
    draw = random.Random(0)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 5))) for _ in range(count)]


def read(parse: Any, text: str) -> Any:
    """Return what a reader makes of a scalar; a date as text, `REFUSED` for an error."""
    try:
        value = parse(f"a: {text}")["a"]
    except Exception:  # each reader raises its own
        return REFUSED
    return text if isinstance(value, datetime.date) else value


def test_a_scalar_is_what_dvc_reads_or_is_refused() -> None:
    refused = 0
    for text in scalars(3000):
        ours, theirs = read(parse_yaml, text), read(lambda t: dvc_parse_yaml(t, "params.yaml"), text)
        refused += REFUSED in (ours, theirs)
        assert REFUSED in (ours, theirs) or repr(ours) == repr(theirs), text
    assert refused < 1000


def test_a_dump_is_read_back_by_both_generations_of_yaml() -> None:
    texts = [*scalars(1000), "1e-3", "no", "0o17", "08", "2026-11-27", "a: b", "", " x", "é", "#"]
    values: dict[str, Any] = dict(zip(map(str, range(len(texts))), texts, strict=True))
    values |= {"number": 1e-7, "huge": 1e300, "integer": 9007199254740993, "no": [True, None, float("inf")]}
    dumped = dump_yaml(values)
    assert parse_yaml(dumped) == yaml.safe_load(dumped) == dvc_parse_yaml(dumped, "params.yaml") == values


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a: 1\nb: 2\na: 3\n", "the key a is there twice in .*, line 3"),
        (b"a: {1.10: x}\n", r"the key 1\.1 is not a string; quote it in .*, line 1"),
        (b"a: {null: x}\n", "the key None is not a string; quote it"),
        (b"a: 0x_\n", "0x_ is no number"),
        (b"a: 1\n---\nb: 2\n", "expected a single document"),
        (b"a: caf\xe9\n", "unacceptable character"),
    ],
)
def test_what_would_be_dropped_or_changed_is_one_line(tmp_path: Path, text: bytes, problem: str) -> None:
    (tmp_path / "params.yaml").write_bytes(text)
    with pytest.raises(UserError, match=rf"params\.yaml is not valid YAML: .*{problem}") as caught:
        load_yaml(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)


def test_a_merged_mapping_may_be_overridden() -> None:
    assert parse_yaml("base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}")["mine"] == {"a": 1, "b": 3}


@pytest.mark.parametrize("name", ["mine.yaml", "a:b.yaml", "lr=1:e-4/x.yaml", "with space.yaml"])
def test_the_path_of_a_settings_file_may_contain_colons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("train: {epochs: 1, 'v1.0': {'a:b': {lr: 2}}}\n")
    monkeypatch.chdir(tmp_path)
    for prefix in ("", f"{tmp_path}/"):
        assert load_file(f"{prefix}{name}:train")["epochs"] == 1
        assert load_file(f"{prefix}{name}:train.v1.0.a:b") == {"lr": 2}
        assert list(load_file(f"{prefix}{name}")) == ["train"]
        with pytest.raises(UserError, match=r"has no section 'train\.v1' \(did you mean train\.v1\.0"):
            load_file(f"{prefix}{name}:train.v1")


@pytest.mark.parametrize(
    ("file", "missing"), [("no.yaml", "no.yaml"), ("no.yaml:a", "no.yaml"), ("a:b/no.yaml:c", "a:b/no.yaml")]
)
def test_a_missing_file_is_named_without_the_section(file: str, missing: str) -> None:
    with pytest.raises(UserError, match=f"^cannot read configuration {missing}: No such file or directory$"):
        load_file(file)
