from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from joulewise.core.host import read_host
from joulewise.meter.calibration_store import keep
from tests.cli.bundles import make_cheaper_bundle
from tests.cli.program import fast, joulewise, only_line
from tests.meter.calibrations import fitted, staircase


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proved")
    assert make_cheaper_bundle(folder).verdict == "cheaper"
    return folder / "out"


@pytest.fixture
def bundle(proved: Path, tmp_path: Path) -> Path:
    """Return a copy of the bundle that may be altered."""
    return shutil.copytree(proved, tmp_path / "bundle")


def test_good_bundle_is_proved_again(proved: Path) -> None:
    done = fast("verify", proved, "--quiet")
    assert (done.returncode, done.stderr) == (0, ""), done
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == [
        "ok    model files",
        "ok    original model",
        "ok    hold-out data",
        "ok    energy",
        "ok    quality",
        "ok    slices",
    ]
    assert "holds on this machine" in lines[-1]


def test_claim_of_grade_d_is_proved_again_where_the_machine_is_calibrated(
    proved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a new proof with today's meter on both sides; no joule of the old one is used."""
    claimed = json.loads((proved / "joulewise.json").read_text())["claims"][0]["ratio"]
    assert claimed["grade"] == "D"
    monkeypatch.setenv("JOULEWISE_HOME", str(tmp_path))
    keep(fitted(staircase(), host=read_host()))
    done = fast("verify", proved, "--quiet", "--json", "--meter", "cpu-time")
    assert done.returncode == 0, done
    claim = json.loads(done.stdout)["claim"]
    assert claim["ratio"]["grade"] == "C"
    grades = {each["sensor"]["grade"] for each in claim["measurements"].values()}
    assert grades == {"C"}


def test_altered_model_byte_is_found(bundle: Path) -> None:
    model = bundle / "model" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(bytes(content))
    done = joulewise("verify", bundle, "--quiet")
    assert (done.returncode, done.stderr) == (3, "")
    assert "FAIL  model files: model/model.onnx was altered after the proof" in done.stdout
    assert done.stdout.splitlines()[-1] == f"the claim of {bundle} does not hold"


def test_shuffled_labels_are_found(bundle: Path) -> None:
    labels = bundle / "evidence" / "hold_out" / "labels.npy"
    np.save(labels, np.random.default_rng(0).permutation(np.load(labels)))
    done = joulewise("verify", bundle, "--quiet")
    assert (done.returncode, done.stderr) == (3, "")
    assert "FAIL  hold-out data: items or labels were altered after the proof" in done.stdout


def test_failed_check_in_json(bundle: Path) -> None:
    (bundle / "model" / "model.onnx").unlink()
    done = joulewise("verify", bundle, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (3, "")
    record = json.loads(done.stdout)
    assert record["holds"] is False
    assert record["claim"] is None
    assert [check["holds"] for check in record["checks"]] == [False, True, True]


def test_claim_without_proof_is_refused(bundle: Path) -> None:
    record = json.loads((bundle / "joulewise.json").read_text())
    record["claims"] = []
    (bundle / "joulewise.json").write_text(json.dumps(record))
    done = joulewise("verify", bundle, "--quiet")
    assert "contradicts itself" in only_line(done)
    assert done.returncode == 1


@pytest.mark.parametrize("kind", ["empty folder", "absent", "file"])
def test_folder_that_is_no_bundle_is_one_line(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "empty folder":
        place.mkdir()
    elif kind == "file":
        place.touch()
    done = joulewise("verify", place, "--quiet")
    assert "is not a bundle: it has no joulewise.json" in only_line(done)
    assert done.returncode == 1
