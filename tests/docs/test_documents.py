"""What README and docs show is what happens: code runs, figures come from records."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from joulewise.compression import Compressed
from joulewise.core.claim import Claim
from joulewise.core.records import Bundle, load
from joulewise.core.statistics import quotient
from joulewise.report.verdict import ledger_line, verdict_lines

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

SET_UP = re.compile(r"^(make |git clone|cd |pip install)")
SLOW = re.compile(r"joulewise (demo|optimize)|joulewise\.optimize|compress_model\(")


def blocks(*languages: str) -> list[object]:
    """Return the code blocks of all pages; those that search for minutes are marked slow."""
    return [
        pytest.param(
            match[2],
            id=f"{page.stem}-{number}",
            marks=[pytest.mark.slow] if SLOW.search(match[2]) else [],
        )
        for page in PAGES
        for number, match in enumerate(BLOCK.finditer(page.read_text()))
        if match[1] in languages
    ]


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all blocks: later ones use what earlier ones made, as a reader would."""
    return tmp_path_factory.mktemp("reader")


def run(argv: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        argv, cwd=folder, env={**os.environ, "PATH": path}, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", blocks("sh"))
def test_shell_blocks_run(code: str, playground: Path) -> None:
    lines = [line for line in code.splitlines() if not SET_UP.match(line)]
    run(["bash", "-euo", "pipefail", "-c", "\n".join(lines)], playground)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str, playground: Path) -> None:
    run([sys.executable, "-c", code], playground)


def test_make_has_the_two_commands() -> None:
    for target in ("demo", "test"):
        run(["make", "--dry-run", target], ROOT)
        assert f"make {target}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("demo-batch-1", "README.md"),
        ("demo-batch-32", "README.md"),
        ("smaller-batch-1", "docs/compression.md"),
        ("smaller-batch-32", "docs/compression.md"),
        ("appliances", "docs/compression.md"),
        ("engines", "docs/compression.md"),
    ],
)
def test_verdicts_shown_are_those_of_the_records(name: str, page: str) -> None:
    bundle = load(Bundle, ROOT / "records" / f"{name}.json")
    told = "\n".join([*verdict_lines(bundle), ledger_line(bundle)])
    assert told in (ROOT / page).read_text()


@pytest.mark.parametrize("name", ["smaller-batch-1", "smaller-batch-32", "appliances", "engines"])
def test_ratio_to_int8_without_training_is_that_of_the_record(name: str) -> None:
    bundle = load(Bundle, ROOT / "records" / f"{name}.json")
    claim = bundle.claim
    assert claim is not None
    ratios = {
        str(trial.recipe): trial.ratio
        for trial in bundle.trials
        if trial.ratio and trial.state == "measured"
    }
    best = min(
        (ratio for name, ratio in ratios.items() if "int8" in name and "prune" not in name),
        key=lambda ratio: ratio.value,
    )
    found = quotient(ratios[str(bundle.recipe)], best)
    page = (ROOT / "docs" / "compression.md").read_text().replace("\n", " ")
    assert (
        f"{found.value:.2f} ({found.sampling_low:.2f} to {found.sampling_high:.2f} by sampling "
        f"alone; {found.low:.2f} to {found.high:.2f} with the band"
    ) in page
    qualities = [claim.quality_baseline.value, claim.quality_candidate.value]
    before, after = (f"{100 * value:.2f} %" for value in qualities)
    row = (
        f"({name_of(name)}) | {found.value:.2f} ({found.low:.2f} to {found.high:.2f}) | "
        f"{before} -> {after} |"
    )
    assert row in (ROOT / "README.md").read_text()


def name_of(record: str) -> str:
    return f"[record](records/{record}.json)"


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("pictures-static", "static_int8"),
        ("pictures-nncf", "nncf_int8"),
        ("r8-static", "static_int8"),
        ("r8-qat", "qat(epochs=1)"),
    ],
)
def test_what_int8_does_is_that_of_the_records(name: str, step: str) -> None:
    claim = load(Compressed, ROOT / "records" / f"{name}.json").claim
    assert row_of(f"`{step}`", claim) in (ROOT / "docs" / "compression.md").read_text()


def test_folding_saves_nothing_where_the_runtime_folds() -> None:
    claim = load(Compressed, ROOT / "records" / "batch-norm.json").claim
    ratio, page = claim.ratio, (ROOT / "docs" / "compression.md").read_text().replace("\n", " ")
    assert f"needs {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}, grade D) times" in page
    assert not claim.holds


def test_low_rank_saves_what_the_record_says() -> None:
    claim = load(Compressed, ROOT / "records" / "r8-low-rank.json").claim
    ratio, page = claim.ratio, (ROOT / "docs" / "compression.md").read_text().replace("\n", " ")
    assert f"needs {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}, grade D) times" in page
    assert (
        f"{-100 * claim.difference.lower:.2f} points lost at most ([record](../records/r8-l" in page
    )
    assert claim.holds


def test_training_keeps_what_rounding_alone_loses() -> None:
    rounded, trained = (
        load(Compressed, ROOT / "records" / f"r8-{name}.json").claim for name in ("static", "qat")
    )
    assert (rounded.holds, trained.holds) == (False, True)
    assert trained.ratio.value < 1.1 * rounded.ratio.value


def test_nothing_is_certain_of_pictures() -> None:
    bundle, page = load(Bundle, ROOT / "records" / "pictures.json"), ROOT / "docs/compression.md"
    (claim,) = bundle.claims
    assert bundle.verdict == "keep"
    assert row_of("OpenVINO in bfloat16", claim) in page.read_text()
    assert f"certify a loss of {100 * bundle.smallest_margin:.2f} points" in page.read_text()


def test_what_was_not_certain_of_engines() -> None:
    bundle = load(Bundle, ROOT / "records" / "engines-kept.json")
    page = (ROOT / "docs" / "compression.md").read_text().replace("\n", " ")
    (claim,) = bundle.claims
    assert bundle.verdict == "keep"
    assert f"it needed {claim.ratio.value:.4f} times the joules of the strongest" in page
    assert f"and {-100 * claim.difference.value:.2f} points less of accuracy were" in page
    assert f"the bound is {100 * claim.difference.lower:.2f})" in page


def row_of(name: str, claim: Claim) -> str:
    ratio, lower = claim.ratio, claim.difference.lower
    return (
        f"| {name} | {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) | "
        f"{100 * claim.quality_candidate.value:.2f} % | {-100 * lower:.2f} |"
    )


def test_an_early_exit_saves_what_the_record_says() -> None:
    claim = load(Compressed, ROOT / "records" / "early-exit.json").claim
    ratio = claim.ratio
    page = (ROOT / "docs" / "compression.md").read_text().replace("\n  ", " ")
    assert f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}, grade D) times" in page
    assert f"at {-100 * claim.difference.value:.2f} points less of accuracy" in page
    assert claim.holds


def test_decisions_are_short() -> None:
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        assert len(page.read_text().splitlines()) <= 40, page.name
