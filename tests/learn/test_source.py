"""Models that are not ONNX yet, in each form in which a user may have them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from joulewise.core.errors import InputError, UsageError
from joulewise.learn.network import check_same, open_network
from joulewise.learn.source import as_onnx, load_weights

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, features, scale=None):
        return self.body(features if scale is None else features * scale)

def make():
    torch.manual_seed(0)
    return Net()

def number():
    return 3

def broken():
    raise ValueError("no luck")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_nets.py").write_text(CODE)
    random = np.random.default_rng(0)
    x = random.standard_normal((10, 6))
    np.savez(tmp_path / "items.npz", features=x, y=np.zeros(10, dtype=np.int64))
    np.savez(tmp_path / "other.npz", a=x, b=x)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Net(nn.Module):  # type: ignore[misc]  # torch is skipped
    """The same as in CODE, in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(features)
        return found


def trained() -> Net:
    torch.manual_seed(1)
    net: Net = Net().eval()
    return net


def answers(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"features": x.astype(np.float32)})
    return np.asarray(found)


def test_factory_with_its_weights(folder: Path) -> None:
    net, x = trained(), np.random.default_rng(1).standard_normal((7, 6))
    expected = net(torch.from_numpy(x.astype(np.float32))).detach().numpy()
    save_file(net.state_dict(), folder / "w.safetensors")
    weights = folder / "w.safetensors"
    path = as_onnx("my_nets:make", "items.npz", folder / "made", weights)
    np.testing.assert_allclose(answers(path, x), expected, rtol=1e-5, atol=1e-5)
    assert as_onnx("my_nets:make", "gone.npz", folder / "made", weights) == path  # not made again
    torch.save({"state_dict": net.state_dict()}, folder / "w.pt")
    other = Net()
    load_weights(other, folder / "w.pt")
    assert all(map(torch.equal, other.state_dict().values(), net.state_dict().values()))


def test_module_of_this_process(folder: Path) -> None:
    net, x = trained(), np.random.default_rng(1).standard_normal((7, 6))
    path = as_onnx(net, "items.npz", folder / "made")
    network = open_network(path)
    check_same(network, path, {"features": x.astype(np.float32)})
    expected = net(torch.from_numpy(x.astype(np.float32))).detach().numpy()
    np.testing.assert_allclose(answers(path, x), expected, rtol=1e-5, atol=1e-5)


def test_hugging_face_folder_gives_pooled_embeddings(folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra huggingface")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    model.save_pretrained(folder / "bert")
    (folder / "bert" / "1_Pooling").mkdir()
    pooling = {"pooling_mode_mean_tokens": True}
    (folder / "bert" / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    random = np.random.default_rng(0)
    ids = random.integers(1, 50, (6, 9))
    mask = (np.arange(9) < random.integers(3, 10, (6, 1))).astype(np.int64)
    np.savez(folder / "tokens.npz", input_ids=ids, attention_mask=mask)
    path = as_onnx("bert", "tokens.npz", folder / "made")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    with torch.no_grad():
        hidden = model(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state.numpy()
    expected = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    check_same(open_network(path), path, {"input_ids": ids, "attention_mask": mask})


class Evil:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize(
    ("reference", "data", "weights", "says"),
    [
        ("my_nets:number", "items.npz", None, "returned int, not a torch module"),
        ("my_nets:broken", "items.npz", None, "no luck"),
        ("my_nets:gone", "items.npz", None, "has no function 'gone'"),
        ("my_nets:make", "other.npz", None, "name the arrays like its arguments"),
        ("my_nets:make", "gone.npz", None, "there is no archive"),
        ("my_nets:make", "items.npz", "gone.pt", "there are no weights"),
        ("my_nets:make", "items.npz", "evil.pt", "without running code"),
        ("my_nets:make", "items.npz", "torn.safetensors", "cannot read the weights"),
        ("my_nets:make", "items.npz", "other.safetensors", "do not fit the module"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    folder: Path, reference: str, data: str, weights: str | None, says: str
) -> None:
    (folder / "evil.pt").write_bytes(pickle.dumps(Evil()))
    (folder / "torn.safetensors").write_bytes(b"torn")
    save_file({"body.0.weight": torch.zeros(2, 2)}, folder / "other.safetensors")
    given = None if weights is None else folder / weights
    with pytest.raises((InputError, UsageError), match=says) as caught:
        as_onnx(reference, data, folder / "made", given)
    assert "\n" not in str(caught.value)
    assert not (folder / "owned").exists()
    assert not (folder / "made" / "model.onnx").exists()


def test_onnx_files_stay_where_they_are(tmp_path: Path) -> None:
    assert as_onnx(Path("a/b.onnx"), "x.npz", tmp_path / "made") == Path("a/b.onnx")
    assert not any(tmp_path.iterdir())
    with pytest.raises(UsageError, match="--weights is for a factory"):
        as_onnx("b.onnx", "x.npz", tmp_path, Path("w.pt"))
