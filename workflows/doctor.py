"""``eo-ssl doctor``: what this machine lacks, or what is wrong with the numbers of a data set."""

from __future__ import annotations

import json as plain_json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.table import Table
from rich.text import Text

from eo_ssl import diagnosis
from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus
from eo_ssl.errors import expect
from eo_ssl.fingerprints import dump_canonical_json
from eo_ssl.printable import make_console

_COLOURS = {"wrong": "red", "suspect": "yellow", "cannot tell": "cyan", "fine": "green"}
_NAMED = 6  # products of one finding that are named


def main(
    path: str = "",
    card: str = "",
    benchmark: str = "",
    variant: str | None = None,
    data: str = "",
    allow_outside: bool = False,
    format: Literal["table", "json"] = "table",
    json: bool = False,
) -> int:
    """Say what this machine has or, given data, what is wrong with their numbers.

    Args:
        path: data to examine: a corpus, a folder or file of the set that `card` describes, or the name of a card;
            nothing: the machine.
        card: what the files in `path` are: the name of a shipped card or a card file.
        benchmark: published benchmark whose own copy in `path` is compared with its card (or `card`): bands, unit,
            statistics.
        variant: bands, sensor or split of the benchmark.
        data: root of the data when `path` is the name of a card; EO_SSL_DATA when not given.
        allow_outside: let a STAC catalogue in files name files outside the data folder.
        format: a table for people or JSON for machines.
        json: the same as `--format json`.

    Returns:
        0, or 1 when something the pipeline needs is missing or something in the data is wrong.
    """
    root, as_json = diagnosis.find_data(data), json or format == "json"
    if not path and not card and not benchmark:
        return _machine(root, as_json)
    examinations = (
        _compared(benchmark, variant, card, diagnosis.require_data(path or root))
        if benchmark
        else _examined(path, card, root, allow_outside)
    )
    offsets = diagnosis.collect_offsets(examinations)
    remedied = any(
        found.kind == "offset" and found.outcome in ("wrong", "suspect")
        for item in examinations
        for found in item.findings
    )
    counts: Counter[str] = Counter(item.outcome for item in examinations)
    if as_json:
        products = [item.to_json() for item in examinations]
        value = {"products": products, "counts": dict(counts), "offset_by_file": offsets}
        print(plain_json.dumps(value, indent=1))
    else:
        _show(examinations, counts, offsets if remedied else {})
    return int(counts["wrong"] > 0)


def _examined(path: str, card: str, root: Path | None, allow_outside: bool) -> list[diagnosis.Examination]:
    if card:
        found = diagnosis.find_products(
            load_card(card), diagnosis.require_data(path or root), allow_outside=allow_outside
        )
        return diagnosis.examine_products(found)
    if Path(path).is_dir() and (Path(path) / "snapshots").is_dir():
        return diagnosis.examine_corpus(Corpus.open(path))
    expect(
        not Path(path).exists() or path.endswith((".yaml", ".yml")),
        expected="a corpus or, with --card, the files of a set",
        got=f"{path} without a card",
        remedy="name one with --card",
    )
    return diagnosis.examine_products(
        diagnosis.list_products(load_card(path), diagnosis.require_data(root), allow_outside=allow_outside)
    )


def _compared(benchmark: str, variant: str | None, card: str, root: Path) -> list[diagnosis.Examination]:
    """Compare the cards of a benchmark with training images of its files."""
    from eo_ssl.evaluation import load_benchmark  # torch and TorchGeo take seconds to import

    task = load_benchmark(benchmark, root, variant=variant, card=load_card(card) if card else None)
    sources: tuple[Any, ...] = (*task.sources, *task.partners)  # each with its card, which is not of the protocol
    checked: dict[str, Any] = {"positions": task.folds[0].train, "generated": diagnosis.is_generated(root)}
    return [
        diagnosis.Examination(f"{task.name}/{item.card.name}", diagnosis.check_card(item.card, item, **checked))
        for item in sources
    ]


def _machine(root: Path | None, as_json: bool) -> int:
    facts, missing = diagnosis.describe_machine(root)
    if as_json:
        print(dump_canonical_json({**facts, "missing": missing}))
        return int(bool(missing))
    table = Table(title="eo-ssl doctor", show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    make_console().print(table)
    lacks = [Text.assemble(("missing", "red"), f": {sentence}") for sentence in missing]
    make_console().print(Text("\n").join(lacks) if lacks else "nothing is missing")
    return int(bool(missing))


def _show(examinations: list[diagnosis.Examination], counts: Counter[str], offsets: dict[str, float]) -> None:
    """Print what is not fine, products with the same finding together, then counts and the offsets for the card."""
    alike: dict[tuple[str, str, str], list[tuple[str, diagnosis.Finding]]] = {}
    for item in examinations:
        for found in item.findings:
            if found.outcome != "fine":
                key = (found.kind, found.outcome, found.sentence)
                alike.setdefault(key, []).append((item.product_id.partition("/")[2] or item.product_id, found))
    console = make_console()
    table = Table("what", "verdict", "finding", "products", show_lines=True)
    for (kind, outcome, sentence), cases in sorted(alike.items(), key=lambda case: list(_COLOURS).index(case[0][1])):
        name, first = cases[0]
        sure = min(found.confidence for _, found in cases)
        says = outcome if outcome == "cannot tell" else f"{outcome} ({'> 99.9 %' if sure > 0.999 else f'{sure:.1%}'})"
        about = f"in {name}: " if len(cases) > 1 else ""
        named = ", ".join(name for name, _ in cases[:_NAMED]) + (" ..." if len(cases) > _NAMED else "")
        table.add_row(
            kind,
            Text(says, _COLOURS[outcome]),
            Text.assemble(sentence, _card_keys(first.remedy), "\n", (about + _plain(first.evidence), "dim")),
            named if len(cases) == 1 else f"{len(cases)}: {named}",
        )
    if table.row_count:
        console.print(table)
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in _COLOURS if counts[outcome])
    console.print(f"{len(examinations)} examined, each counted by its gravest finding: {told}")
    if offsets and len(set(offsets.values())) > 1:
        console.print(Text.assemble(("the set mixes offsets", "red"), ": one `offset` in the card cannot be right"))
    if offsets:
        console.print("what the pixels say of the offsets, for the card:")
        print(yaml.safe_dump({"offset_by_file": offsets}, sort_keys=True), end="")


def _plain(value: Any) -> str:
    """Spell nested evidence on one line without brackets and quotes."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_plain(item)}" for name, item in value.items() if item not in (None, [], {}))
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _card_keys(remedy: Mapping[str, Any]) -> str:
    keys = {name: value for name, value in remedy.items() if name != "offset_by_file"}
    text = yaml.safe_dump(keys, default_flow_style=True, width=1000).strip().strip("{}")
    return f"\nin the card: {text}" if keys else ""
