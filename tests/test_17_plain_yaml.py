"""YAML of cards, configurations and options: plain values, bounded, and what is refused is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from eo_ssl.errors import UserError
from eo_ssl.option_ranges import check_ranges
from eo_ssl.plain_yaml import MAX_DEPTH, describe_problem, load_yaml, read_yaml


def bomb(levels: int) -> str:
    """10^levels values in a page."""
    rows = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x, x]", *rows])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2023-06-01", "2023-06-01"),  # as anybody types a date; the option or the card says what it is
        ("2024-13-45", "2024-13-45"),
        ("2024-01-02T10:00:00Z", "2024-01-02T10:00:00Z"),
        ("12:30", "12:30"),  # not 750, as YAML 1.1 has it
        ("010", "010"),  # not 8
        ("[1e-3, 1.5e-3, -2., .5, 5, -7, 0x10, 1_000]", [0.001, 0.0015, -2.0, 0.5, 5, -7, 16, 1000]),
        ("[.inf, -.inf]", [float("inf"), -float("inf")]),
        ("[true, null, '5', 1e, e5, abc]", [True, None, "5", "1e", "e5", "abc"]),
        ("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a", {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}),
        ("'" + "9" * 5000 + "'", "9" * 5000),
    ],
)
def test_values_are_what_one_reads(text: str, value: object) -> None:
    assert load_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(9), "more than 400,000 values"),
        ("[" * 100_000, f"values nested more than {MAX_DEPTH} deep"),
        ("\n".join(" " * n + "a:" for n in range(100)), f"values nested more than {MAX_DEPTH} deep"),
        ("a: &a [*a]", "an alias of 'a', which is not complete"),
        ("a: " + "9" * 5000, "a number of 5,000 digits, more than 64"),
        ("a: 0x" + "f" * 5000, "a number of 5,002 digits, more than 64"),
        ("a: !!float " + "9" * 5000, "a number of 5,000 digits, more than 64"),
        ("a: !!timestamp 2024-13-45", "month must be in 1..12"),
        ("a: !!int x", "invalid literal for int"),
        ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor for the tag"),
        ("a: 1\na: 2", "the key 'a' twice"),
        ("a: [", "did not find expected node content in line"),
        ("? [a]\n: 1", "found unhashable key in line 1"),
        ("a: \0", "unacceptable character"),
        ("'" + "x" * 8_000_001 + "'", "8,000,003 characters, more than 8,000,000"),
    ],
)
def test_what_is_beyond_the_bounds_is_refused_in_a_line(text: str, words: str) -> None:
    with pytest.raises(yaml.YAMLError) as refused:
        load_yaml(text)
    described = describe_problem(refused.value)
    assert words in described and "\n" not in described and len(described) <= 320


def test_a_bomb_below_the_bound_is_read() -> None:
    assert len(load_yaml(bomb(5))["a4"]) == 10


def test_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(UserError, match=r"expected YAML in .*c\.yaml, got 'utf-8' codec can't decode"):
        read_yaml(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("a: 1\nb: [")
    with pytest.raises(UserError, match=r"got did not find expected node content in line \d; correct the file"):
        read_yaml(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": float("nan")}, "a finite number for --lr, got nan"),
        ({"optimizer": {"betas": [0.9, float("inf")]}}, r"a finite number for --optimizer.betas\[1\], got inf"),
        ({"method": {"class_path": "x", "init_args": {"eta": float("nan")}}}, "a finite number for --method.eta"),
        ({"seed": -1}, "a number from 0 to 9,223,372,036,854,775,806 for --seed, got -1"),
        ({"sample_seed": 2**63}, "for --sample_seed, got 9223372036854775808"),
        ({"model": {"class_path": "x", "init_args": {"depth": 10**9}}}, "a number from 1 to 1,000 for --model.depth"),
        ({"steps": 0}, "for --steps, got 0"),
        ({"row": 10**30}, "for --row, got 1000000000000000000000000000000"),
        ({"prune": {"method": {"levels": (2**64,)}}}, r"for --prune.method.levels\[0\]"),
        ({"stages": [{"ingest": {None: 1}}]}, r"expected texts as keys of --stages\[0\].ingest, got None; put quotes"),
        ({"views": {7: {"gain": 0.1}}}, "expected texts as keys of --views, got 7"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused_by_the_name_of_the_option(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_ranges(options)


def test_numbers_that_can_be_meant_are_not() -> None:
    check_ranges({"seed": 0, "eta": float("-inf"), "steps": None, "switch": True, "note": "-1", "lr": 1e-30, "row": -1})
    check_ranges({"model": {"init_args": {"depth": 1000}}, "sizes": [1, 2], "batch_size": 1})
