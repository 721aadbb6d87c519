"""Does somebody speak in this second? Silero VAD on sentences in noise, and on the noise alone.

Sound: what telephone exchanges say, of Debian's packages asterisk-core-sounds-en-wav, -es-wav,
-fr-wav (CC BY-SA 3.0) and -it-wav (CC BY 3.0), from 8 kHz to 16 kHz. `VOICES` names their folder
where the packages are not installed. Each second in which there is speech for the most part gives
two items: mixed with white noise, pink noise or hum, 0 to 20 dB weaker; and another noise of such a
level. Models are judged on a French and an Italian voice and can learn from an English and Spanish
one.

Model: the weights for 16 kHz of the package silero-vad 6.2.3 (MIT). The original takes 32 ms at a
time and gives the probability of speech; here 31 such steps go through it together, and the mean of
their probabilities is the score. What was built is compared with the original as it runs;
`python -m tests.workloads.voices` prints its path.
"""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import signal

from joulewise.learn.session import open_session
from tests.workloads.packages import cache_folder, member
from tests.workloads.time_series import Items, export

if TYPE_CHECKING:
    from torch import nn

FOLDER = Path(os.environ.get("VOICES", "/usr/share/asterisk/sounds"))

PACKAGES = " ".join(f"asterisk-core-sounds-{language}-wav" for language in ("en", "es", "fr", "it"))

REQUIREMENT = "silero-vad==6.2.3"
MEMBER = "silero_vad/data/silero_vad_16k_op15.onnx"
VERSION = 1

TAUGHT = ("en_US_f_Allison", "es_MX_f_Allison")
JUDGED = ("fr_CA_f_June", "it_IT_m_Carlo")
"""Folders by language and voice."""

RATE, STEP, CONTEXT, STEPS = 16_000, 512, 64, 31
"""Samples a second, a step, and before a step; steps an item."""

FULL = 32_768.0
"""The loudest sample of 16 bits."""

SPEECH, SPOKEN = 0.01, 0.6
"""Least root mean square of a step with speech, full scale being 1; least share of such steps."""

SNR_DB = (0.0, 20.0)
HUM_HZ, HARMONICS = (50.0, 60.0), 8
SEED = 0

BINS, WINDOW, HOP, WIDTH = 129, 256, 128, 128
"""Of the spectrum: frequencies, samples of a window and between windows; width of the decoder."""

ENCODER = ((BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, WIDTH, 1))
"""Channels before and after a convolution, and its stride."""

NAMES = {
    "model.stft.forward_basis_buffer": "spectrum.weight",
    "model.encoder": "encoder",
    ".reparam_conv": "",
    "model.decoder.rnn": "lstm",
    "model.decoder.decoder.2": "decoder",
    "_ih": "_ih_l0",
    "_hh": "_hh_l0",
}
"""Of weights: parts of the original's names -> those of torch."""

SAME = 1e-4
"""Largest difference of a probability to the original's."""


def items() -> Items:
    """Return seconds, x, int16 [n, 15936], and y: 1 where a French or Italian voice speaks."""
    return _mixed(JUDGED)


def lessons() -> Items:
    """Return seconds with and without an English or Spanish voice."""
    return _mixed(TAUGHT)


def model() -> Path:
    """Return the network as an ONNX file, made once per machine."""
    target = cache_folder(f"voices-{VERSION}") / "model.onnx"
    if not target.exists():
        part, seconds = target.with_suffix(".part"), lessons()["x"][:16].astype(np.float32)
        export(network(), seconds[:2], part)
        _fold(part)
        off = np.abs(_scores(part, seconds)[:, 1] - probabilities(seconds).mean(axis=1)).max()
        if not off < SAME:
            raise RuntimeError(f"the network differs from the original by {off:.2g}")
        part.rename(target)
    return target


def network() -> nn.Module:
    """Return Silero VAD for many steps at once, scores [n, 2] of x [n, CONTEXT + k * STEP]."""
    import onnx
    import torch
    from onnx import numpy_helper
    from torch import Tensor, nn
    from torch.nn import functional as F  # noqa: N812 - its usual name

    class SileroVad(nn.Module):  # type: ignore[misc]  # torch is skipped
        def __init__(self) -> None:
            super().__init__()
            self.spectrum = nn.Conv1d(1, 2 * BINS, WINDOW, stride=HOP, bias=False)
            self.encoder = nn.ModuleList(
                nn.Conv1d(before, after, 3, stride=stride, padding=1)
                for before, after, stride in ENCODER
            )
            self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
            self.decoder = nn.Conv1d(WIDTH, 1, 1)

        def steps(self, x: Tensor) -> Tensor:
            """Return the probability of speech by step, [n, k]."""
            before = x[:, :-CONTEXT].unflatten(1, (-1, STEP))[..., :CONTEXT]
            parts = torch.cat([before, x[:, CONTEXT:].unflatten(1, (-1, STEP))], dim=-1) / FULL
            k = parts.shape[1]
            y = F.pad(parts.reshape(-1, 1, CONTEXT + STEP), (0, CONTEXT), mode="reflect")
            y = self.spectrum(y)
            y = (y[:, :BINS].square() + y[:, BINS:].square()).sqrt()
            for convolution in self.encoder:
                y = F.relu(convolution(y))
            y, _ = self.lstm(y.reshape(-1, k, WIDTH))
            return self.decoder(F.relu(y).transpose(1, 2)).sigmoid()[:, 0]

        def forward(self, x: Tensor) -> Tensor:
            speech = self.steps(x).mean(dim=1, keepdim=True)
            return torch.cat([1.0 - speech, speech], dim=1)

    found = SileroVad().eval()
    state = {}
    for tensor in onnx.load(member(REQUIREMENT, MEMBER)).graph.initializer:
        name = tensor.name
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        state[name] = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    found.load_state_dict(state)
    return found


def probabilities(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what the original says of x [n, CONTEXT + k * STEP] step by step, [n, k]."""
    session = open_session(member(REQUIREMENT, MEMBER))
    state, found = np.zeros((2, len(x), WIDTH), np.float32), []
    for start in range(0, x.shape[1] - CONTEXT, STEP):
        part = x[:, start : start + CONTEXT + STEP] / np.float32(FULL)
        given = {"input": part, "state": state, "sr": np.array(RATE)}
        output, state = session.run(None, given)
        found.append(output[:, 0])
    return np.stack(found, axis=1)


def spoken(voices: tuple[str, ...]) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the seconds, [15936], in which there is speech for the most part, full scale being 1.

    Raises:
        FileNotFoundError: a voice is not there.
    """
    for voice in voices:
        paths = sorted((FOLDER / voice).rglob("*.wav"))
        if not paths:
            raise FileNotFoundError(f"there is no {FOLDER / voice}: apt install {PACKAGES}")
        for path in paths:
            yield from _seconds(path)


def _fold(path: Path) -> None:
    """Compute what is constant: the exporter puts weights in ONNX's order within the graph."""
    import onnx
    from onnxscript import optimizer

    most = 4 * WIDTH * WIDTH
    folded = optimizer.optimize(onnx.load(path), input_size_limit=most, output_size_limit=most)
    onnx.save(folded, path)


def _scores(path: Path, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    scores: npt.NDArray[np.float32] = open_session(path).run(None, {"x": x})[0]
    return scores


@cache
def _mixed(voices: tuple[str, ...]) -> Items:
    """Return each second of speech in noise, and after it a noise alone."""
    random, x = np.random.default_rng(SEED), []
    for speech in spoken(voices):
        level = np.sqrt(np.square(speech).mean())
        ratios = 10 ** (-random.uniform(*SNR_DB, size=2) / 20)
        mixed, alone = (level * ratio * _noise(random, len(speech)) for ratio in ratios)
        x += [_sixteen_bits(speech + mixed), _sixteen_bits(alone)]
    return {"x": np.stack(x), "y": np.tile([1, 0], len(x) // 2)}


def _seconds(path: Path) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the seconds of a clip in which there is speech for the most part."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / FULL
        sound = signal.resample_poly(samples, RATE, file.getframerate())
    length = CONTEXT + STEPS * STEP
    for start in range(0, len(sound) - length + 1, length):
        second = sound[start : start + length]
        powers = np.square(second[CONTEXT:]).reshape(STEPS, STEP).mean(axis=1)
        if np.mean(powers >= SPEECH**2) >= SPOKEN:
            yield second


def _noise(random: np.random.Generator, length: int) -> npt.NDArray[np.float64]:
    """Return white noise, pink noise or hum, its root mean square 1."""
    kind = random.choice(["white", "pink", "hum"])
    if kind == "hum":
        orders = np.arange(1, HARMONICS + 1)[:, None]
        phases = random.uniform(0, 2 * np.pi, (HARMONICS, 1))
        turns = random.choice(HUM_HZ) * orders * np.arange(length) / RATE
        noise = (np.sin(2 * np.pi * turns + phases) / orders).sum(axis=0)
    else:
        noise = random.normal(size=length)
    if kind == "pink":
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), length)
    scaled: npt.NDArray[np.float64] = noise / np.sqrt(np.square(noise).mean())
    return scaled


def _sixteen_bits(sound: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    return np.clip(np.round(sound * FULL), -FULL, FULL - 1).astype(np.int16)


if __name__ == "__main__":
    print(model())
