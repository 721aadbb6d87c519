"""The bundle's README.md: what the model is, what was proved of it, how to run and verify it.

Only fields that the records make true are filled in; grams of CO2 are among them where the user
said on which grid the search ran.

Source: Hugging Face, "Displaying carbon emissions for your model",
https://huggingface.co/docs/hub/model-cards-co2 (``co2_eq_emissions``; its grams are those of the
search, as that is all that joulewise has seen of the model's making).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from joulewise.core.records import Bundle
from joulewise.core.supply import Carbon, Footprint
from joulewise.report.footprint import carbon_words, intensity_words, left_out, money_words
from joulewise.report.snippet import run_requirement, run_snippet
from joulewise.report.text import (
    counted,
    describe_recipe,
    fixed,
    grade_word,
    joules,
    metric_words,
    plain,
    size,
)
from joulewise.report.verdict import LABELS, headline, verdict_parts

__all__ = ["render_card"]

_METRICS = {"top1": "accuracy"}  # names that the Hugging Face Hub knows


def render_card(bundle: Bundle) -> str:
    """Return the bundle's README.md.

    Raises:
        InputError: the bundle announces a winner that no claim in it proves.
    """
    sections = (
        _front_matter(bundle),
        f"# {_escaped(headline(bundle))}",
        _what_it_is(bundle),
        _verdict(bundle),
        *_footprints(bundle),
        _how_to_run(bundle),
        _how_to_verify(),
        _origin(bundle),
    )
    return "\n\n".join(sections) + "\n"


def _front_matter(bundle: Bundle) -> str:
    tags = ("joulewise", "energy-efficiency", bundle.artifact.format)
    lines = ["---", "tags:", *(f"- {tag}" for tag in tags)]
    metric = _METRICS.get(bundle.workload.metric)
    if metric:
        lines += ["metrics:", f"- {metric}"]
    search = bundle.footprints.get("search")
    if search is not None and search.carbon is not None:
        lines += _emissions(bundle, search.carbon)
    return "\n".join([*lines, "---"])


def _emissions(bundle: Bundle, carbon: Carbon) -> list[str]:
    """Return Hugging Face's field; a JSON text is one of YAML too."""
    spent, grade = bundle.ledger.total_j.central, bundle.ledger.grade
    words = {
        "source": f"joulewise: {joules(spent)} {grade_word(grade)} (grade {grade}) at "
        f"{intensity_words(carbon.intensity)}; {carbon.intensity.source}",
        "training_type": "search for a version that needs fewer joules; the training of the "
        "original is not counted",
        "geographical_location": carbon.intensity.name,
        "hardware_used": bundle.host.short,
    }
    return [
        "co2_eq_emissions:",
        f"  emissions: {fixed(carbon.g.central).replace(',', '')}",
        *(f"  {key}: {json.dumps(plain(text))}" for key, text in words.items()),
    ]


def _what_it_is(bundle: Bundle) -> str:
    return (
        f"Made by joulewise from {_code(bundle.workload.model)} "
        f"on {_escaped(bundle.created)}: {_escaped(describe_recipe(bundle.recipe))}. "
        f"{_escaped(bundle.summary)}\n\n"
        f"Open {_code(bundle.artifact.main)} ({_escaped(bundle.artifact.format)}, "
        f"{size(bundle.artifact.size_bytes)}); `report.html` shows all that was tried."
    )


def _verdict(bundle: Bundle) -> str:
    parts = zip(LABELS, verdict_parts(bundle), strict=True)
    lines = (f"- **{label}**: {_escaped(part)}" for label, part in parts)
    return "\n".join(["## What was proved", "", *lines])


def _footprints(bundle: Bundle) -> Iterator[str]:
    """Yield the section of grams and money, where a place or a price was given."""
    found = dict(bundle.footprints)
    if not found:
        return
    if million := found.pop("million inferences", None):
        found["a thousand inferences, net of idle"] = million.scaled(1e-3)
    search = bundle.footprints["search"]
    sensors = [trial.measurement.sensor for trial in bundle.trials if trial.measurement]
    lines = [f"{name}: {', '.join(_amounts(each))}" for name, each in found.items()]
    if search.carbon is not None:
        lines.append(f"grid: {intensity_words(search.carbon.intensity)}")
    if search.pue is not None:
        lines.append(f"PUE: {search.pue:g}")
    lines.append(f"left out: {'; '.join(left_out(search, sensors))}")
    yield _bullets("## Carbon and money", [_escaped(line) for line in lines])


def _amounts(footprint: Footprint) -> Iterator[str]:
    if footprint.carbon is not None:
        yield carbon_words(footprint.carbon)
    if footprint.money is not None:
        yield money_words(footprint.money)


def _how_to_run(bundle: Bundle) -> str:
    return (
        "## Run it without joulewise\n\n"
        f"```sh\npip install {run_requirement(bundle)}\n```\n\n"
        f"```python\n{run_snippet(bundle)}```"
    )


def _how_to_verify() -> str:
    return (
        "## Verify it again\n\n"
        "On any machine with the data, DIR being this folder:\n\n"
        "```sh\njoulewise verify DIR\n```"
    )


def _origin(bundle: Bundle) -> str:
    workload, host = bundle.workload, bundle.host
    splits = [
        f"{name} split, {counted(split.items, 'item')}: {_code(split.digest)}"
        for name, split in workload.splits.items()
    ]
    return _bullets(
        "## Where it comes from",
        [
            f"host: {_escaped(host.short)}, {_escaped(host.system)}",
            "packages: " + _escaped(", ".join(f"{k} {v}" for k, v in bundle.packages.items())),
            f"seed: {bundle.seed}",
            f"data: {_code(workload.data)}",
            f"quality: {_escaped(metric_words(workload))}",
            *splits,
            *_digests("original", workload.model_artifact.files.items()),
            *_digests("model", bundle.artifact.files.items()),
        ],
    )


def _digests(what: str, files: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{what} {_code(name)}: sha256 {_code(digest)}" for name, digest in files]


def _bullets(title: str, items: Iterable[str]) -> str:
    return "\n".join([title, "", *(f"- {item}" for item in items)])


def _code(text: str) -> str:
    """Return `text` as inline code; the fence is longer than any run of backticks inside."""
    text = plain(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def _escaped(text: str) -> str:
    """Return `text` so that Markdown shows it as it is."""
    shown = plain(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", shown)
