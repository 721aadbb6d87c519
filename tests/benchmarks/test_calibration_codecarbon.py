from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.calibration_codecarbon import KWH_J, Record, main, read_runs
from joulewise.core.records import load

ROOT = Path(__file__).parents[2]
COLUMNS = (
    "run_id", "metrics.running_time_total", "metrics.power_draw_total", "params.model",
    "params.architecture", "params.dataset",
)  # fmt: skip
TRUE_A, TRUE_B_W = 1.25, 30.0


def write_results(folder: Path, *, noise_w: float = 0.0) -> None:
    """Write runs whose wall power is 1.25 times CodeCarbon's and 30 W, in the published layout."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for name, dataset, unit, models, repeats in (
        ("imagenet_120_a", "ImageNet (ILSVRC 2012)", "13th Gen Intel(R) Core(TM)", 4, 3),
        ("ollama_900_b", "LLM Benchmark (Puffin)", "NVIDIA GeForce RTX 4090", 3, 2),
    ):
        runs, pictures, meter_kwh = [], [], 4.0
        for number in range(models * repeats):
            run, seconds = f"{number:032x}", 120.0 + number
            estimate_w = 50.0 + 10.0 * number
            wall_w = TRUE_A * estimate_w + TRUE_B_W + noise_w * random.standard_normal()
            runs.append(
                [run, seconds, estimate_w * seconds, f"model {number % models}", unit, dataset]
            )
            for moment, used_kwh in (("start", 0.0), ("stop", wall_w * seconds / KWH_J)):
                meter_kwh += used_kwh
                path = rf"d:\repos\results\{name}\{run}_capture_{moment}.jpg"
                pictures.append([path, meter_kwh, meter_kwh, "False", "", "False"])
        runs.append(["f" * 32, 1.0, 1.0, "no picture", unit, dataset])
        write(folder / f"{name}.csv", COLUMNS, runs)
        head = ("", "ocr", "value", "manual", "val_diff", "still_errors")
        write(folder / f"{name}_image_analysis.csv", head, pictures)


def write(path: Path, head: tuple[str, ...], rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([list(head), *rows])


def test_exact_data_are_fitted_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "results")
    output = tmp_path / "record.json"
    main([str(tmp_path / "results"), "-o", str(output), "--commit", "abc"])
    record = load(Record, output)
    assert (record.commit, [each.name for each in record.workloads]) == (
        "abc",
        ["LLM, GPU", "vision, CPU"],
    )
    for each, (runs, models) in zip(record.workloads, [(6, 3), (12, 4)], strict=True):
        assert (each.runs, each.models) == (runs, models)
        assert each.line.a.central == pytest.approx(TRUE_A)
        assert each.line.b_w.central == pytest.approx(TRUE_B_W)
        assert each.calibrated_error_ratio == pytest.approx(0.0, abs=1e-6)
        estimates_w = 50.0 + 10.0 * np.arange(runs)
        off = estimates_w / (TRUE_A * estimates_w + TRUE_B_W) - 1
        assert each.raw_bias_ratio == pytest.approx(off.mean())
        assert each.raw_error_ratio == pytest.approx(np.abs(off).mean())
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert printed[0].startswith(
        "LLM, GPU        6 runs of   3 models: error 40.0 % -> 0.0 %; wall = 1.250 "
    )


def test_left_out_models_are_predicted_by_the_others(tmp_path: Path) -> None:
    write_results(tmp_path / "results", noise_w=5.0)
    runs = [run for run in read_runs(tmp_path / "results") if run.workload == "vision, CPU"]
    errors = []
    for run in runs:
        x, y = np.array(
            [
                (each.codecarbon_j / each.seconds, each.wall_j / each.seconds)
                for each in runs
                if each.model != run.model
            ]
        ).T
        line = np.polyfit(x, y, 1)
        predicted_w = np.polyval(line, run.codecarbon_j / run.seconds)
        errors.append(abs(predicted_w / (run.wall_j / run.seconds) - 1))
    output = tmp_path / "record.json"
    main([str(tmp_path / "results"), "-o", str(output)])
    (_, vision) = load(Record, output).workloads
    assert vision.calibrated_error_ratio == pytest.approx(np.mean(errors))
    assert 0 < vision.calibrated_error_ratio < vision.raw_error_ratio


@pytest.mark.parametrize("spoil", ["no files", "no runs", "no number"])
def test_a_folder_that_is_another_is_one_line(
    spoil: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    write_results(folder)
    if spoil == "no files":
        folder = tmp_path
    elif spoil == "no runs":
        (folder / "ollama_900_b.csv").unlink()
    else:
        path = folder / "imagenet_120_a.csv"
        path.write_text(path.read_text().replace("120.0", "many"))
    with pytest.raises(SystemExit) as ended:
        main([str(folder)])
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1


def test_the_record_holds_what_was_published() -> None:
    """CodeCarbon is 20 to 37 % off there, and 2 to 6 % after a calibration."""
    path = ROOT / "records" / "calibration-codecarbon.json"
    record = load(Record, path)
    found = {
        each.name: (
            each.runs,
            round(each.raw_error_ratio, 3),
            round(each.calibrated_error_ratio, 3),
        )
        for each in record.workloads
    }
    assert found == {
        "LLM, GPU": (78, 0.199, 0.018),
        "vision, CPU": (120, 0.369, 0.057),
        "vision, GPU": (120, 0.270, 0.040),
    }
    assert len(str(json.loads(path.read_text())["commit"])) == 40
