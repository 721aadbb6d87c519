from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.core.claim import Check, Claim, Difference, Ledger, Quality, Ratio, Trial
from joulewise.core.energy import Block, Interval, Measurement, Sensor
from joulewise.core.errors import InputError, JoulewiseError
from joulewise.core.host import Host
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.core.records import (
    SCHEMA,
    Artifact,
    Bundle,
    SplitRecord,
    WorkloadRecord,
    describe_artifact,
    digest_file,
    dump,
    load,
    to_json,
    write_atomic,
)

TEXT = st.text(max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 2**53)
INTERVAL = st.builds(Interval, low=NUMBER, central=NUMBER, high=NUMBER)
STEP = st.builds(
    Step,
    name=TEXT,
    parameters=st.dictionaries(TEXT, TEXT | COUNT | NUMBER | st.booleans(), max_size=2),
)
RECIPE = st.builds(
    Recipe,
    steps=st.lists(STEP, max_size=2).map(tuple),
    run=st.builds(
        RunSettings,
        runtime=TEXT,
        threads=st.none() | COUNT,
        spinning=st.none() | st.booleans(),
        graph=st.none() | TEXT,
        precision=st.none() | TEXT,
    ),
)
GRADE = st.sampled_from("ABCDE")
RATIO = st.builds(
    Ratio,
    value=NUMBER,
    low=NUMBER,
    high=NUMBER,
    sampling_low=NUMBER,
    sampling_high=NUMBER,
    confidence=NUMBER,
    pairs=COUNT,
    grade=GRADE,
    objective=TEXT,
)
QUALITY = st.builds(Quality, metric=TEXT, value=NUMBER, items=COUNT, split_digest=TEXT)
DIFFERENCE = st.builds(
    Difference,
    value=NUMBER,
    lower=NUMBER,
    upper=NUMBER,
    confidence=NUMBER,
    items=COUNT,
    gained=COUNT,
    lost=COUNT,
    changed=COUNT,
    worst_slice=st.none() | TEXT,
    worst_slice_value=st.none() | NUMBER,
)
SENSOR = st.builds(
    Sensor,
    name=TEXT,
    grade=GRADE,
    boundary=TEXT,
    rails=st.lists(TEXT, max_size=2).map(tuple),
    includes_idle=st.booleans(),
    resolution_j=st.none() | NUMBER,
    update_period_s=st.none() | NUMBER,
    low_ratio=NUMBER,
    high_ratio=NUMBER,
    pair_ratio=NUMBER,
    source=TEXT,
)
BLOCK = st.builds(Block, items=COUNT, seconds=NUMBER, reading_j=NUMBER, cpu_s=st.none() | NUMBER)
MEASUREMENT = st.builds(
    Measurement,
    sensor=SENSOR,
    blocks=st.lists(BLOCK, max_size=2).map(tuple),
    idle_w=st.none() | NUMBER,
    latency_p50_s=st.none() | NUMBER,
    latency_p95_s=st.none() | NUMBER,
    warnings=st.lists(TEXT, max_size=1).map(tuple),
)
TRIAL = st.builds(
    Trial,
    recipe=RECIPE,
    state=TEXT,
    reason=st.none() | TEXT,
    ratio=st.none() | RATIO,
    quality=st.none() | QUALITY,
    difference=st.none() | DIFFERENCE,
    measurement=st.none() | MEASUREMENT,
    size_bytes=st.none() | COUNT,
    cost_j=st.none() | INTERVAL,
    seconds=st.none() | NUMBER,
)
CLAIM = st.builds(
    Claim,
    candidate=RECIPE,
    baseline=RECIPE,
    ratio=RATIO,
    ratio_as_found=RATIO,
    quality_baseline=QUALITY,
    quality_candidate=QUALITY,
    difference=DIFFERENCE,
    margin=NUMBER,
    checks=st.lists(st.builds(Check, name=TEXT, holds=st.booleans(), detail=TEXT), max_size=2).map(
        tuple
    ),
)
LEDGER = st.builds(
    Ledger,
    stages_j=st.dictionaries(TEXT, INTERVAL, max_size=2),
    seconds=st.dictionaries(TEXT, NUMBER, max_size=2),
    grade=GRADE,
    break_even_items=st.none() | INTERVAL,
)

RUN = Recipe(run=RunSettings(runtime="onnxruntime", threads=1))
ARTIFACT = Artifact(
    files={"model/m.onnx": "0" * 64, "model/m.bin": "1" * 64}, format="onnx", size_bytes=5
)
BUNDLE = Bundle(
    created="2026-01-01T00:00:00+00:00",
    verdict="keep",
    summary="nothing beat it",
    workload=WorkloadRecord(
        model="m.onnx",
        data="d.npz",
        model_artifact=ARTIFACT,
        metric="top1",
        splits={"hold-out": SplitRecord(items=10, digest="2" * 64)},
        batch_items=1,
    ),
    host=Host(
        cpu="invented",
        vendor=None,
        family=None,
        model=None,
        logical_cpus=2,
        instruction_sets=("avx2",),
        memory_bytes=None,
        hypervisor=True,
        system="Linux 6",
        architecture="x86_64",
    ),
    packages={"joulewise": "0.1.0"},
    seed=0,
    margin=0.005,
    confidence=0.95,
    smallest_margin=0.003,
    recipe=RUN,
    artifact=ARTIFACT,
    as_found=RUN,
    baseline=RUN,
    anchor=RUN,
    claims=(),
    trials=(),
    ledger=Ledger(stages_j={}, seconds={}, grade="D"),
)


@contextmanager
def full_disk() -> Iterator[None]:
    """Files of this process cannot grow beyond 10 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@settings(max_examples=50, deadline=None)
@given(recipe=RECIPE, claim=CLAIM, trial=TRIAL, ledger=LEDGER)
def test_a_bundle_survives_json(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: Recipe,
    claim: Claim,
    trial: Trial,
    ledger: Ledger,
) -> None:
    path = tmp_path_factory.getbasetemp() / "bundle.json"
    bundle = replace(BUNDLE, recipe=recipe, claims=(claim,), trials=(trial,), ledger=ledger)
    path.write_bytes(to_json(bundle))
    assert load(Bundle, path) == bundle


@given(RECIPE)
def test_a_recipe_keeps_its_key_through_json(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe
) -> None:
    path = tmp_path_factory.getbasetemp() / "recipe.json"
    path.write_bytes(to_json(recipe))
    assert load(Recipe, path).key == recipe.key


def test_a_bundle_names_its_schema() -> None:
    assert f'"schema": "{SCHEMA}"'.encode() in to_json(BUNDLE)


def test_a_dumped_bundle_loads_again(tmp_path: Path) -> None:
    dump(BUNDLE, tmp_path / "b.json")
    assert load(Bundle, tmp_path / "b.json") == BUNDLE


def test_a_dumped_file_ends_with_a_newline(tmp_path: Path) -> None:
    dump(BUNDLE, tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes().endswith(b"}\n")


def test_a_missing_record_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read .*b\.json: No such file or directory$"):
        load(Bundle, tmp_path / "b.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", to_json(BUNDLE)[:-20], b"\x00\x01", b'{"created": "\xff\xfe"}', b"[]", b"{}"],
    ids=["empty", "open", "cut", "binary", "no utf-8", "list", "no fields"],
)
def test_a_corrupt_record_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.json").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.json is not a record of this version of joulewise"):
        load(Bundle, tmp_path / "b.json")


def test_a_field_of_a_wrong_type_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(to_json(BUNDLE).replace(b'"seed": 0', b'"seed": "zero"'))
    with pytest.raises(InputError, match=r"Expected `int`, got `str` - at `\$\.seed`"):
        load(Bundle, tmp_path / "b.json")


def test_writing_replaces_the_old_content(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_atomic(tmp_path / "f", content)
    assert (tmp_path / "f").read_bytes() == b"new"


def test_writing_leaves_nothing_else_behind(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_what_is_written_may_be_read_by_all(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", b"new")
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(JoulewiseError, match=r"^cannot write .*/f: File too large"):
        write_atomic(tmp_path / "f", b"x" * 100)


def test_a_full_disk_leaves_the_old_file_whole_and_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", b"old")
    with full_disk(), pytest.raises(JoulewiseError):
        write_atomic(tmp_path / "f", b"x" * 100)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"f": b"old"}


def test_a_folder_in_the_way_is_an_error_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(JoulewiseError, match="Is a directory"):
        write_atomic(tmp_path / "f", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JoulewiseError, match="No such file or directory"):
        write_atomic(tmp_path / "none" / "f", b"new")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_digest_is_the_sha256_of_the_content(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (tmp_path / "f").write_bytes(content)
    assert digest_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_the_digest_of_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read .*: No such file or directory$"):
        digest_file(tmp_path / "f")


def test_an_artifact_is_described_by_digests_and_size(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"abc")
    (tmp_path / "m.bin").write_bytes(b"de")
    assert describe_artifact(tmp_path, ["m.onnx", "m.bin"], "onnx") == Artifact(
        files={n: hashlib.sha256(c).hexdigest() for n, c in (("m.onnx", b"abc"), ("m.bin", b"de"))},
        format="onnx",
        size_bytes=5,
    )


def test_the_first_file_of_an_artifact_is_the_one_to_open() -> None:
    assert ARTIFACT.main == "model/m.onnx"
