"""Turn trials, choice and proof into the record that the bundle holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from joulewise.core.claim import Check, Claim, Ledger, Trial
from joulewise.core.energy import Interval
from joulewise.core.front import front
from joulewise.core.host import package_versions
from joulewise.core.recipe import Recipe
from joulewise.core.records import Artifact, Bundle
from joulewise.core.supply import Footprint, Supply
from joulewise.meter.bill import Bill
from joulewise.proof.prove import Contest
from joulewise.report.text import worst_of
from joulewise.search.choose import Choice, with_reasons
from joulewise.search.session import Session
from joulewise.workload.workload import workload_record

__all__ = ["Outcome", "contest", "record"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a search has come to.

    Args:
        trials: all that was tried.
        choice: baseline and candidate.
        claims: the final tests, in the order in which they were made.
        smallest_margin: that the hold-out can certify, as a fraction.
        warnings: each with its remedy.
    """

    trials: tuple[Trial, ...]
    choice: Choice
    claims: tuple[Claim, ...]
    smallest_margin: float
    warnings: tuple[str, ...]

    @property
    def won(self) -> Claim | None:
        """The claim of the winner, None where the original is kept."""
        return next((claim for claim in reversed(self.claims) if claim.holds), None)


def contest(session: Session, choice: Choice, candidate: Trial) -> Contest:
    """Return the final test of `candidate`: against the baseline, or as found if it is that."""
    workload, recipe = session.workload, candidate.recipe
    return Contest(
        original=workload.model.path,
        artifact=session.main_file(recipe),
        candidate=recipe,
        baseline=(choice.as_found if recipe.lossless else choice.baseline).recipe,
        as_found=choice.as_found.recipe,
        task=session.judge.task,
        classes=workload.classes,
        usage=workload.usage,
        size_bytes=session.made(recipe).size_bytes,
        margin=session.settings.margin,
        confidence=session.settings.confidence,
        slice_names=workload.slice_names,
        slice_margin=session.settings.slice_margin,
    )


def record(session: Session, outcome: Outcome, bill: Bill, supply: Supply | None = None) -> Bundle:
    """Return the bundle's record.

    Args:
        session: of the search.
        outcome: what it has come to.
        bill: what it cost.
        supply: where its electricity came from; None counts neither grams nor money.
    """
    settings, choice = session.settings, outcome.choice
    ledger = _ledger(bill, outcome.claims)
    claims = tuple(_with_payback(claim, ledger, session) for claim in outcome.claims)
    won = next((claim for claim in reversed(claims) if claim.holds), None)
    recipe = choice.as_found.recipe if won is None else won.candidate
    verdict = "keep" if won is None else _verdict(recipe)
    return Bundle(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=verdict,
        summary=_summary(verdict, outcome, claims),
        workload=workload_record(session.workload, session.judge.task),
        host=session.host,
        packages=package_versions(),
        seed=settings.seed,
        margin=settings.margin,
        confidence=settings.confidence,
        slice_margin=settings.slice_margin,
        smallest_margin=outcome.smallest_margin,
        recipe=recipe,
        artifact=_inside_bundle(session, recipe),
        as_found=choice.as_found.recipe,
        baseline=choice.baseline.recipe,
        anchor=session.anchor,
        claims=claims,
        trials=with_reasons(
            outcome.trials,
            choice,
            chosen=None if won is None else recipe,
            refuted=[claim.candidate for claim in claims if not claim.holds],
        ),
        ledger=ledger,
        warnings=(*outcome.warnings, *_noise(outcome)),
        footprints={} if supply is None else _footprints(supply, ledger, outcome, won),
        front=front(outcome.trials),
    )


def _footprints(
    supply: Supply, ledger: Ledger, outcome: Outcome, won: Claim | None
) -> Mapping[str, Footprint]:
    """Return the footprints of the search, and of a million items of the winner if known."""
    winner = outcome.choice.as_found.measurement if won is None else won.measurements["candidate"]
    per_item = None if winner is None else winner.net_j_per_item
    found = {"search": supply.footprint(ledger.total_j)}
    if per_item is not None:
        found["million inferences"] = supply.footprint(per_item.scaled(1e6))
    return found


def _verdict(recipe: Recipe) -> str:
    return "rerun" if recipe.lossless else "cheaper"


def _inside_bundle(session: Session, recipe: Recipe) -> Artifact:
    made = session.made(recipe)
    return replace(made, files={f"model/{name}": digest for name, digest in made.files.items()})


def _ledger(bill: Bill, claims: Sequence[Claim]) -> Ledger:
    """Return the ledger; the break-even is that of the last claim that holds, else of the last."""
    ledger = Ledger(stages_j=bill.stages_j, seconds=bill.seconds, grade=bill.meter.sensor.grade)
    told = [claim for claim in claims if claim.holds] or claims
    if not told:
        return ledger
    return replace(ledger, break_even_items=_break_even(ledger.total_j.central, told[-1]))


def _break_even(cost_j: float, claim: Claim) -> Interval | None:
    """Return after how many items the saving has paid `cost_j`.

    Cost and saving come from the same sensor, so the band of its absolute joules cancels and the
    interval is that of the ratio.
    """
    before, ratio = claim.measurements["baseline"].net_j_per_item, claim.ratio
    if before is None or ratio.high >= 1:
        return None
    items = [cost_j / (before.central * (1 - r)) for r in (ratio.low, ratio.value, ratio.high)]
    return Interval(low=items[0], central=items[1], high=items[2])


def _with_payback(claim: Claim, ledger: Ledger, session: Session) -> Claim:
    """Add the condition that the search pays back, where the user said how many items come."""
    expected = session.workload.usage.expected_items
    if expected is None:
        return claim
    pays = _break_even(ledger.total_j.central, claim)
    check = Check(
        name="pays back",
        holds=pays is not None and pays.high <= expected,
        detail="the saving is not certain"
        if pays is None
        else f"after {pays.high:,.0f} items at the latest; {expected:,} are expected",
    )
    return replace(claim, checks=(*claim.checks, check))


def _noise(outcome: Outcome) -> list[str]:
    taken = [trial.measurement for trial in outcome.trials if trial.measurement is not None]
    if outcome.claims:
        taken = [each for claim in outcome.claims for each in claim.measurements.values()]
    return worst_of(text for measurement in taken for text in measurement.warnings)


def _summary(verdict: str, outcome: Outcome, claims: Sequence[Claim]) -> str:
    if verdict == "cheaper":
        return "a changed model does the same job for fewer joules"
    if verdict == "rerun":
        return "the same model, run another way, needs fewer joules"
    if claims:
        failed = [
            f"{check.name} ({check.detail})" for check in claims[-1].checks if not check.holds
        ]
        return f"the best candidate failed the final test: {'; '.join(failed)}"
    return _nothing_helps(outcome.trials, outcome.choice)


def _nothing_helps(trials: Sequence[Trial], choice: Choice) -> str:
    changed = [trial for trial in trials if not trial.recipe.lossless]
    inferior = sum(1 for t in changed if t.difference and t.reason and "quality" in t.reason)
    failed = sum(1 for t in changed if t.state == "failed")
    dear = len(changed) - inferior - failed
    words = [
        f"{inferior} lost quality" if inferior else "",
        f"{dear} saved no joules with certainty" if dear else "",
        f"{failed} could not be made or run" if failed else "",
    ]
    told = ", ".join(word for word in words if word) or "none could be tried"
    way = "" if choice.baseline is choice.as_found else ", nor does another way to run it"
    return f"of {len(changed)} changed models {told}{way}"
