"""What is logged to MLflow, and that the real MLflow takes it (where it is installed)."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import pytest

import joulewise
from joulewise.core.energy import Block, Interval, Part
from joulewise.core.errors import MissingExtraError, UsageError
from joulewise.meter.command import CommandMeasurement
from joulewise.meter.window import Window
from joulewise.tracking import Loggable, metrics_of, tags_of
from tests.cli.program import joulewise as program
from tests.cli.program import only_line
from tests.report.bundles import make_bundle, make_measurement, make_sensor

installed = pytest.mark.skipif(
    find_spec("mlflow") is None, reason="needs MLflow: pip install 'joulewise[mlflow]'"
)


def part(reading_j: float = 10.0, idle_w: float | None = 1.0) -> Part:
    block = Block(items=1, seconds=4.0, reading_j=reading_j)
    return Part(
        sensor=make_sensor("D"), blocks=(block,), idle_w=idle_w, component="cpu", warnings=("w",)
    )


def test_window_has_its_name_in_front_and_leaves_out_what_is_unknown() -> None:
    net = Interval(low=5, central=10, high=20)
    window = Window(
        name="train: epoch 1!", seconds=4.0, parts=(part(),), net_j=net, gross_j=None, grade="D",
        calls=2,
    )  # fmt: skip
    assert metrics_of(window) == {
        "joulewise/train_ epoch 1_/net_low_j": 5,
        "joulewise/train_ epoch 1_/net_j": 10,
        "joulewise/train_ epoch 1_/net_high_j": 20,
        "joulewise/train_ epoch 1_/seconds": 4,
        "joulewise/train_ epoch 1_/calls": 2,
    }
    told = tags_of(window)
    assert told["joulewise/train_ epoch 1_/sensor"] == "cpu-time"
    assert told["joulewise/train_ epoch 1_/grade"] == "D"
    assert told["joulewise/train_ epoch 1_/warnings"] == "w"


def test_command_has_the_joules_of_each_component() -> None:
    card = replace(part(reading_j=100.0, idle_w=None), component="gpu")
    command = CommandMeasurement(argv=("a", "b c"), exit_code=3, measurement=part(), others=(card,))
    told = metrics_of(command)
    assert told["joulewise/net_j"] == 10
    assert told["joulewise/gross_j"] == 14
    assert told["joulewise/gpu/net_j"] == 100
    assert "joulewise/gpu/gross_j" not in told
    assert told["joulewise/exit_code"] == 3
    assert tags_of(command)["joulewise/command"] == "a 'b c'"


def test_model_is_told_per_item() -> None:
    told = metrics_of(make_measurement(0.002))
    assert told["joulewise/net_j_per_item"] == pytest.approx(0.002)
    assert told["joulewise/net_low_j_per_item"] == pytest.approx(0.001)
    assert "joulewise/latency_p50_s" not in told


def test_bundle_has_verdict_ratio_quality_and_footprints() -> None:
    bundle = make_bundle()
    search = joulewise.supply("DE", price=0.25, currency="EUR").footprint(3.6e6)
    told = metrics_of(replace(bundle, footprints={"search": search}))
    assert told["joulewise/energy_ratio"] == 0.402
    assert told["joulewise/energy_low_ratio"] < 0.402 < told["joulewise/energy_high_ratio"]
    assert told["joulewise/quality"] == 0.9375
    assert told["joulewise/search_j"] == 4120
    assert told["joulewise/search_g_co2e"] == pytest.approx(344, abs=0.5)
    assert told["joulewise/search_EUR"] == 0.25
    assert tags_of(bundle)["joulewise/verdict"] == "cheaper"


def test_bundle_that_keeps_the_original_has_no_ratio() -> None:
    told = metrics_of(make_bundle("keep"))
    assert not [name for name in told if "ratio" in name or "quality" in name]
    assert told["joulewise/search_j"] == 4120


def test_other_results_are_refused() -> None:
    with pytest.raises(UsageError, match="a str cannot be logged"):
        metrics_of(cast("Loggable", "joules"))


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="MLflow is installed")
def test_missing_mlflow_is_told_before_the_command() -> None:
    done = program("measure", "--mlflow", "--", "echo", "ran")
    assert "pip install 'joulewise[mlflow]'" in only_line(done)
    with pytest.raises(MissingExtraError):
        joulewise.log_to_mlflow(make_measurement(1.0))


@installed
def test_command_is_logged_to_a_new_run(tmp_path: Path) -> None:
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/runs.db"}
    done = program(
        "measure", "--meter", "cpu-time", "--json", "--mlflow", "--", "true",
        folder=tmp_path, environment=store,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    metrics, tags = logged(tmp_path / "runs.db")
    for bound, name in (("low", "net_low_j"), ("central", "net_j"), ("high", "net_high_j")):
        assert metrics[f"joulewise/{name}"] == found["net_j_per_item"][bound]
    assert tags["joulewise/sensor"] == "cpu-time"
    assert tags["joulewise/command"] == "true"


@installed
def test_window_joins_the_active_run(tmp_path: Path) -> None:
    code = """
import joulewise, mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5)
    with joulewise.measure("train") as train:
        sum(range(10**5))
    assert joulewise.log_to_mlflow(train.result) == run.info.run_id
    assert mlflow.active_run() is run
"""
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/runs.db"},
        cwd=tmp_path,
    )
    metrics, tags = logged(tmp_path / "runs.db")
    assert metrics["loss"] == 0.5
    assert metrics["joulewise/train/seconds"] > 0
    assert tags["joulewise/train/grade"] in "ABCD"


@installed
def test_store_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    store = {"MLFLOW_TRACKING_URI": "nonsense://nowhere"}
    done = program(
        "measure", "--meter", "cpu-time", "--mlflow", "--", "true",
        folder=tmp_path, environment=store,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "joulewise: MLflow cannot log to nonsense://nowhere" in done.stderr.splitlines()[-1]


def logged(store: Path) -> tuple[Mapping[str, float], Mapping[str, str]]:
    """Return metrics and tags of the only run, read from the store itself."""
    with closing(sqlite3.connect(store)) as database:
        assert database.execute("select count(*) from runs").fetchone() == (1,)
        metrics = dict(database.execute("select key, value from latest_metrics"))
        tags = dict(database.execute("select key, value from tags"))
    return metrics, tags
