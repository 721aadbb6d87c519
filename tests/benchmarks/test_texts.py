"""The benchmark of texts: what it applies exists."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tokenizers")

from benchmarks.texts import COMPRESSED, FLOAT, JOBS, PEER, Record
from joulewise.compress.passes import check_step
from joulewise.core.claim import Ratio
from joulewise.core.recipe import parse_steps
from joulewise.core.records import load


@pytest.mark.parametrize("corpus", sorted(JOBS))
def test_recipes_exist_and_end_in_int8_without_padding(corpus: str) -> None:
    steps = parse_steps(JOBS[corpus].recipe)
    for step in steps:
        check_step(step)
    names = [step.name for step in steps]
    assert names[:-1] == ["drop_blocks", "trim_padding", "distill"]
    assert "int8" in names[-1]


ROOT = Path(__file__).parents[2]
RECORDS = [load(Record, path) for path in sorted((ROOT / "records").glob("texts-*.json"))]


@pytest.mark.parametrize("record", RECORDS, ids=[record.corpus for record in RECORDS])
def test_the_table_holds_the_figures_of_the_record(record: Record) -> None:
    page = (ROOT / "docs" / "compression.md").read_text()
    assert f"{record.held_out:,} held-out texts" in page.replace("\n", " ")
    for each in record.variants:
        lost = "" if each.loss_at_most is None else f" {100 * each.loss_at_most:.2f}"
        row = (
            f"| {each.name} | {100 * each.accuracy:.2f} % |{lost} | {each.size_bytes / 1e6:.0f} MB "
            f"| {words(each.ratio)} | {words(each.ratio_to_trimmed)} |"
        )
        assert row in page, row


SHORT = {"reuters-r8": "r8", "20newsgroups": "20ng"}


@pytest.mark.parametrize("record", RECORDS, ids=[record.corpus for record in RECORDS])
def test_the_readme_has_the_figures(record: Record) -> None:
    found = {each.name: each for each in record.variants}
    made, original = found[COMPRESSED], found[FLOAT]
    assert made.ratio_to_trimmed is not None
    row = (
        f"MiniLM; {made.ratio_to_trimmed.value:.2f} where the peer cuts off padding too "
        f"([record](records/texts-{SHORT[record.corpus]}.json)) | {words(made.ratio)} | "
        f"{100 * original.accuracy:.2f} % -> {100 * made.accuracy:.2f} % |"
    )
    assert row in (ROOT / "README.md").read_text()


def words(ratio: Ratio | None) -> str:
    return "1" if ratio is None else f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


@pytest.mark.parametrize("record", RECORDS, ids=[record.corpus for record in RECORDS])
def test_half_the_joules_of_the_peer_within_the_margin(record: Record) -> None:
    made = {each.name: each for each in record.variants}[COMPRESSED]
    assert record.compressed.claim.holds
    assert record.compressed.claim.margin == JOBS[record.corpus].margin
    assert made.ratio is not None
    assert made.ratio.high < 0.5
    assert made.loss_at_most is not None
    assert made.loss_at_most < JOBS[record.corpus].margin
    assert PEER in {each.name for each in record.variants}
