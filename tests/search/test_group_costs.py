"""What groups of channels cost: the arithmetic, and one small network on this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from joulewise.compress.narrow import Narrow, narrow, narrowed
from joulewise.compress.widths import Stairs
from joulewise.core.errors import PassError
from joulewise.core.host import read_host
from joulewise.core.settings import Settings, Usage
from joulewise.learn.network import open_network
from joulewise.learn.structure import multiplications
from joulewise.meter.table import meter_opener
from joulewise.pipeline import judge_of_original
from joulewise.search.group_costs import group_costs, shares_of
from joulewise.search.session import Session
from joulewise.testing import models
from joulewise.workload.store import Store, write_store
from joulewise.workload.workload import open_workload
from tests.learn.graphs import IMAGE, Chain


def group(work: float, gone: float, file: str | None = "0.onnx") -> Narrow:
    return Narrow(name="w", work_ratio=work, gone_ratio=gone, file=file)


def test_shares_are_what_was_saved_for_all_of_a_group() -> None:
    """Half of the first group's multiplications went and took a tenth of the joules."""
    groups = [group(0.4, 0.2), group(0.5, 0.25), group(0.6, 0.3)]
    assert shares_of(groups, {0: 0.1, 1: 0.25, 2: 0.0}) == pytest.approx((0.2, 0.5, 0.0))


def test_groups_that_were_not_measured_count_like_the_mean_of_others() -> None:
    groups = [group(0.4, 0.2), group(0.4, 0.3), group(0.1, 0.05, None), group(0.2, 0.0, None)]
    found = shares_of(groups, {0: 0.3, 1: 0.1})
    assert found == pytest.approx((0.6, 0.4 / 3, 0.08, 0.16))


def test_shares_never_exceed_the_whole_and_nothing_measured_is_nothing() -> None:
    assert shares_of([group(0.9, 0.3)], {0: 0.6}) == (1.0,)
    assert shares_of([group(0.9, 0.3), group(0.1, 0.0, None)], {}) == (0.0, 0.0)


@pytest.fixture
def items(tmp_path: Path) -> Store:
    x = torch.randn(8, *IMAGE).numpy()
    return write_store(tmp_path / "items", {"x": x}, {"x": "float32"}, None, np.arange(8))


def test_each_model_has_one_narrow_group(items: Store, tmp_path: Path) -> None:
    chain = Chain().conv(24, name="a").add("Relu").conv(32, name="b").add("Relu").conv(6, name="c")
    model = chain.pooled_head().model(tmp_path / "m.onnx")
    made = narrow(str(model), str(items.folder), align=8, most=1, folder=str(tmp_path))
    groups = [Narrow(**each) for each in made]
    assert [each.name for each in groups] == ["a", "b", "c"]
    assert [each.file for each in groups] == [None, "1.onnx", None]
    whole, thin = (open_network(path) for path in (model, tmp_path / "1.onnx"))
    assert [len(layer.weight) for layer in thin.layers.values()] == [24, 8, 6, 4]
    one = (torch.zeros(1, *IMAGE),)
    before, after = (list(multiplications(network, one).values()) for network in (whole, thin))
    assert groups[1].gone_ratio == pytest.approx(1 - sum(after) / sum(before))
    assert groups[1].work_ratio == pytest.approx((before[1] + before[2]) / sum(before))
    assert Stairs(units=32, step=8).foot() == 24
    assert groups[2].gone_ratio == 0, "narrower than one step already"


def test_nothing_to_narrow_is_one_line(tmp_path: Path) -> None:
    few = models.vector_store(tmp_path / "items", 8)
    with pytest.raises(PassError, match="channels cannot be measured: no channels of this graph"):
        narrowed(models.pointwise(tmp_path / "m.onnx"), few, 8, 4, tmp_path)


def test_a_group_that_holds_nearly_all_the_work_costs_most_joules(tmp_path: Path) -> None:
    """Measured here and now, by CPU time."""
    chain = Chain().conv(128, name="a").add("Relu").conv(128, name="b").add("Relu")
    model = chain.conv(16, name="c", size=1).add("Relu").pooled_head().model(tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((400, *IMAGE)).astype(np.float32)
    labels = models.reference_answers(model, x[:40]).tolist() * 10
    np.savez(tmp_path / "data.npz", x=x, y=np.array(labels))
    settings, usage, host = Settings(meter="cpu-time"), Usage(), read_host()
    runtimes = ("onnxruntime",)
    data = str(tmp_path / "data.npz")
    workload = open_workload(model, data, usage, settings, tmp_path / "data")
    session = Session(
        workload=workload,
        judge=judge_of_original(workload, runtimes, settings, tmp_path / "original"),
        settings=settings,
        runtimes=runtimes,
        host=host,
        open_meter=meter_opener(settings.meter, host),
        folder=tmp_path,
    )
    first, second, third = group_costs(session, session.anchor, 16)
    assert 0 <= third < first <= 1000
    assert third < second <= 1000
