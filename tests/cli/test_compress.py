"""``joulewise compress`` as its users run it: steps by hand, tested against the original."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joulewise.compression import Compressed
from joulewise.core.records import digest_file, load
from tests.cli.program import Done, fast, only_line
from tests.models import Job, make_job


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"), items=600)


def compress(job: Job, recipe: str, output: Path, *more: object) -> Done:
    return fast(
        "compress", job.model, "--recipe", recipe, "--data", job.data, "--margin", 5,
        "--meter", "cpu-time", "-o", output, *more,
    )  # fmt: skip


def test_a_recipe_gives_a_model_and_what_it_cost(job: Job, tmp_path: Path) -> None:
    done = compress(job, "quantize(static, operators=compute)", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    words = [line.split()[0] for line in done.stdout.splitlines()]
    assert words == ["step", "energy", "quality", "cost", "model"]
    assert "applying static_int8(operators=compute)" in done.stderr
    found = load(Compressed, tmp_path / "out" / "joulewise-compressed.json")
    assert found.claim.candidate == found.recipe
    assert found.claim.ratio.grade == "D"
    assert found.steps[0].cost_j.central > 0
    assert found.steps[0].size_bytes == found.artifact.size_bytes
    for name, digest in found.artifact.files.items():
        assert digest_file(tmp_path / "out" / name) == digest
    assert not (tmp_path / "out.work").exists()


def test_json_is_the_record(job: Job, tmp_path: Path) -> None:
    done = compress(job, "quantize(static)", tmp_path / "out", "--json", "--quiet")
    assert done.stderr == ""
    record = tmp_path / "out" / "joulewise-compressed.json"
    assert json.loads(done.stdout) == json.loads(record.read_text())


@pytest.mark.parametrize(
    ("recipe", "says", "code"),
    [
        ("prune(", "cannot read the recipe", 2),
        ("quantise()", "unknown pass 'quantise'", 2),
        ("quantize(static, operator=all)", "static_int8 has no parameter 'operator'", 2),
    ],
)
def test_a_wrong_recipe_is_one_line(
    job: Job, tmp_path: Path, recipe: str, says: str, code: int
) -> None:
    done = compress(job, recipe, tmp_path / "out")
    assert says in only_line(done)
    assert done.returncode == code
    assert not any(tmp_path.iterdir())


def test_every_pass_is_listed() -> None:
    done = fast("passes")
    assert done.returncode == 0
    assert "static_int8(operators='all', " in done.stdout
    names = [row["name"] for row in json.loads(fast("passes", "--json").stdout)]
    assert "nncf_int8" in names
