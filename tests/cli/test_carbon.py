"""``joulewise carbon``, and the options of place and price on other commands."""

from __future__ import annotations

import json
import sys

import pytest

from joulewise.cli import main
from tests.carbon.service import GB, serving
from tests.cli.program import joulewise, only_line


def test_a_kilowatt_hour_in_germany() -> None:
    joules = joulewise("carbon", "3.6e6", "--place", "DE")
    assert joules.returncode == 0
    assert "carbon   344 g CO2e (215 g to 486 g); 344 g/kWh" in joules.stdout
    assert "CC-BY-4.0" in joules.stdout
    assert joulewise("carbon", "--kwh", 1, "--place", "germany").stdout == joules.stdout


def test_a_place_that_is_not_named_is_anywhere_and_no_country() -> None:
    anywhere = joulewise("carbon", "--kwh", 1)
    assert anywhere.returncode == 0
    assert "the world, 2023" in anywhere.stdout
    assert anywhere.stdout == joulewise("carbon", "--kwh", 1, "--place", "world").stdout


def test_json_has_grams_source_and_terms() -> None:
    done = joulewise("carbon", "--kwh", 2, "--place", "us:CAMX", "--pue", 1.5, "--json")
    found = json.loads(done.stdout)
    intensity = found["carbon"]["intensity"]
    assert found["carbon"]["g"]["central"] == pytest.approx(3 * intensity["g_per_kwh"]["central"])
    assert (intensity["basis"], intensity["period"]) == ("direct", "2023")
    assert intensity["accounting"] == "average"
    assert found["money"] is None


def test_list_filters_and_tells_figures_in_json() -> None:
    done = joulewise("carbon", "--list", "camx")
    assert done.stdout.splitlines() == [
        "us:CAMX  199 g/kWh (124 to 364), United States, WECC California, 2023, direct, average"
    ]
    found = json.loads(joulewise("carbon", "--list", "camx", "--json").stdout)
    assert found[0]["figures"] == [
        {"place": "us:CAMX", "source": "egrid", "year": 2023, "g_per_kwh": 198.7}
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("carbon", "--place", "DE"), "joules"),
        (("carbon", "1", "--kwh", "1", "--place", "DE"), "either"),
        (("carbon", "much", "--place", "DE"), "3.6e6"),
        (("carbon", "-1", "--place", "DE"), "No such option"),
        (("carbon", "nan", "--place", "DE"), "0 J or more"),
        (("carbon", "1", "--place", "germny"), "did you mean DE (Germany)"),
        (("carbon", "1", "--price", "0.25"), "--currency"),
        (("carbon", "--list", "atlantis"), "atlantis"),
        (("measure", "--place", "Utopia", "--", "echo", "ran"), "--list"),
        (("measure", "--pue", "1.2", "--", "echo", "ran"), "--place"),
        (("optimize", "m.onnx", "-d", "d.npz", "-o", "out", "--place", "Utopia"), "Utopia"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    arguments: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["joulewise", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert told in err


def test_measured_command_tells_grams_only_where_asked() -> None:
    plain = joulewise("measure", "--meter", "cpu-time", "--", "true")
    assert "carbon" not in plain.stderr
    placed = joulewise("measure", "--meter", "cpu-time", "--place", "world", "--", "echo", "hi")
    assert placed.stdout == "hi\n"
    (line,) = [line for line in placed.stderr.splitlines() if line.startswith("carbon ")]
    assert "net of idle" in line
    assert "gross" in line
    assert "the world, 2023" in line


def test_measured_command_in_json_multiplies_both_intervals() -> None:
    done = joulewise(
        "measure", "--meter", "cpu-time", "--json", "--place", "FR", "--price", 0.2,
        "--currency", "eur", "--", "true",
    )  # fmt: skip
    found = json.loads(done.stdout)
    for kind, field in (("net of idle", "net_j_per_item"), ("gross", "gross_j_per_item")):
        footprint = found["footprints"][kind]
        assert footprint["energy_j"] == pytest.approx(found[field])
        grams = footprint["carbon"]["intensity"]["g_per_kwh"]
        for bound in ("low", "central", "high"):
            assert footprint["carbon"]["g"][bound] == pytest.approx(
                found[field][bound] / 3.6e6 * grams[bound]
            )
        assert footprint["money"]["price"] == {"per_kwh": 0.2, "currency": "EUR"}
    assert "footprints" not in json.loads(
        joulewise("measure", "--meter", "cpu-time", "--json", "--", "true").stdout
    )


def test_service_is_asked_once_and_before_the_command() -> None:
    with serving(GB) as service:
        there = {"JOULEWISE_SERVICE_URL": service.url}
        done = joulewise(
            "measure", "--meter", "cpu-time", "--service", "uk", "--", "true", environment=there
        )
        assert done.returncode == 0, done.stderr
        assert service.paths == ["/intensity"]
    assert "Great Britain, 2026-01-20T12:00Z, direct" in done.stderr
    gone = joulewise("measure", "--service", "uk", "--", "echo", "ran", environment=there)
    assert "cannot reach 127.0.0.1" in only_line(gone)


def test_nothing_is_asked_without_its_name() -> None:
    with serving(GB) as service:
        there = {"JOULEWISE_SERVICE_URL": service.url, "ELECTRICITYMAPS_TOKEN": "secret"}
        joulewise("carbon", "1", "--place", "GB", environment=there)
    assert service.paths == []
