from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.core.errors import InputError
from joulewise.workload.store import Store, open_store, write_store

Array = npt.NDArray[Any]

PIXELS = np.arange(7 * 4, dtype=np.uint8).reshape(7, 1, 2, 2)
AGES = np.linspace(0, 1, 7)
LABELS = np.array([0, 1, 2, 1, 0, 2, 1])
ALL = np.arange(7)


def write(
    folder: Path,
    inputs: dict[str, Array] | None = None,
    dtypes: dict[str, str] | None = None,
    labels: Array | None = LABELS,
    indices: Array = ALL,
) -> Store:
    given_: dict[str, Array] = {"pixels": PIXELS, "age": AGES}
    given_ = given_ if inputs is None else inputs
    types = dtypes or dict.fromkeys(given_, "float32")
    return write_store(folder, given_, types, labels, indices)


def test_round_trip(tmp_path: Path) -> None:
    write(tmp_path / "s", indices=np.array([5, 0, 3]))
    store = open_store(tmp_path / "s")
    assert store.items == 3
    assert store.inputs["pixels"].dtype == np.uint8
    np.testing.assert_array_equal(store.inputs["pixels"], PIXELS[[5, 0, 3]])
    np.testing.assert_array_equal(store.inputs["age"], AGES[[5, 0, 3]])
    assert store.labels is not None
    assert store.labels.dtype == np.int64
    np.testing.assert_array_equal(store.labels, LABELS[[5, 0, 3]])
    assert store.dtypes == {"pixels": "float32", "age": "float32"}


def test_slices_go_with_their_items(tmp_path: Path) -> None:
    x, slices = {"age": AGES}, np.arange(len(AGES)) % 3
    order = np.array([5, 0, 3])
    store = write_store(tmp_path / "s", x, {"age": "float32"}, None, order, slices=slices)
    assert store.slices is not None
    np.testing.assert_array_equal(store.slices, slices[order])
    plain = write_store(tmp_path / "p", x, {"age": "float32"}, None, order)
    labelled = write_store(tmp_path / "l", x, {"age": "float32"}, slices, order)
    assert len({store.digest(), plain.digest(), labelled.digest()}) == 3


def test_clusters_go_with_their_items(tmp_path: Path) -> None:
    x, clusters = {"age": AGES}, np.arange(len(AGES)) // 2
    order = np.array([5, 0, 1])
    store = write_store(tmp_path / "s", x, {"age": "float32"}, None, order, clusters=clusters)
    assert store.clusters is not None
    np.testing.assert_array_equal(store.clusters, clusters[order])
    plain = write_store(tmp_path / "p", x, {"age": "float32"}, None, order)
    sliced = write_store(tmp_path / "l", x, {"age": "float32"}, None, order, slices=clusters)
    assert len({store.digest(), plain.digest(), sliced.digest()}) == 3
    assert (store.units, plain.units) == (2, 3)


def test_no_labels(tmp_path: Path) -> None:
    assert write(tmp_path / "s", labels=None).labels is None


def test_batch_is_contiguous_in_the_models_type(tmp_path: Path) -> None:
    store = write(tmp_path / "s", {"pixels": np.asfortranarray(PIXELS)})
    batch = store.batch(2, 3)["pixels"]
    assert batch.flags.c_contiguous
    np.testing.assert_array_equal(batch, PIXELS[2:5].astype(np.float32), strict=True)


def test_batch_goes_round_at_the_end(tmp_path: Path) -> None:
    store = write(tmp_path / "s", {"age": AGES}, {"age": "float64"})
    np.testing.assert_array_equal(store.batch(5, 4)["age"], AGES[[5, 6, 0, 1]])
    np.testing.assert_array_equal(store.batch(0, 16)["age"], AGES[np.arange(16) % 7])


@given(items=st.integers(1, 7), batch=st.integers(1, 9), limit=st.none() | st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_batches_cover_each_item_once_and_are_whole(
    tmp_path_factory: pytest.TempPathFactory, items: int, batch: int, limit: int | None
) -> None:
    folder = tmp_path_factory.mktemp("s")
    store = write(folder, {"age": AGES}, {"age": "float64"}, indices=np.arange(items))
    parts = [part["age"] for part in store.batches(batch, limit)]
    assert {len(part) for part in parts} == {batch}
    wanted = min(limit or items, items)
    np.testing.assert_array_equal(np.concatenate(parts)[:wanted], AGES[:wanted])
    assert len(parts) == -(-wanted // batch)


# ---------------------------------------------------------------- digest


def digest(folder: Path, **options: Any) -> str:
    return write(folder, **options).digest()


def test_digest_is_that_of_the_content(tmp_path: Path) -> None:
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    turned = {"age": AGES, "pixels": PIXELS}
    assert digest(tmp_path / "a") == digest(tmp_path / "c", inputs=turned)


def test_digest_of_a_part_is_that_of_the_part_alone(tmp_path: Path) -> None:
    chosen = np.array([4, 1])
    alone = {"pixels": PIXELS[chosen], "age": AGES[chosen]}
    part = digest(tmp_path / "a", indices=chosen)
    whole = digest(tmp_path / "b", inputs=alone, labels=LABELS[chosen], indices=np.arange(2))
    assert part == whole


def other_pixel() -> Array:
    pixels = PIXELS.copy()
    pixels[6, 0, 1, 1] += 1
    return pixels


def other_label() -> Array:
    labels = LABELS.copy()
    labels[6] = 0
    return labels


@pytest.mark.parametrize(
    "options",
    [
        {"inputs": {"pixels": other_pixel(), "age": AGES}},
        {"inputs": {"pixels": PIXELS.astype(np.int8), "age": AGES}},
        {"inputs": {"pixels": PIXELS.reshape(7, 4), "age": AGES}},
        {"inputs": {"image": PIXELS, "age": AGES}},
        {"inputs": {"pixels": PIXELS}},
        {"dtypes": {"pixels": "float16", "age": "float32"}},
        {"labels": other_label()},
        {"labels": None},
        {"indices": ALL[::-1]},
        {"indices": ALL[:6]},
    ],
    ids=["value", "stored", "shape", "name", "fewer", "dtype", "label", "none", "order", "items"],
)
def test_digest_changes_with(tmp_path: Path, options: dict[str, Any]) -> None:
    assert digest(tmp_path / "a") != digest(tmp_path / "b", **options)


@given(place=st.integers(0, 27), value=st.integers(1, 255))
@settings(deadline=None, max_examples=25)
def test_digest_changes_with_any_value(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    folder = tmp_path_factory.mktemp("s")
    pixels = PIXELS.copy()
    pixels.flat[place] ^= value
    first = digest(folder / "a", inputs={"pixels": PIXELS})
    assert first != digest(folder / "b", inputs={"pixels": pixels})


def test_labels_are_not_an_input_called_labels(tmp_path: Path) -> None:
    as_input = {"age": AGES, "labels": LABELS}
    types = {"age": "float32", "labels": "int64"}
    first = digest(tmp_path / "a", inputs={"age": AGES})
    assert first != digest(tmp_path / "b", inputs=as_input, dtypes=types, labels=None)


# ---------------------------------------------------------------- what is refused


Spoil = Callable[[Path], None]


def rename_file(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        np.save(folder.parent / "outside.npy", AGES)
        index = json.loads((folder / "index.json").read_text())
        index["columns"]["age"]["file"] = name
        (folder / "index.json").write_text(json.dumps(index))

    return spoil


@pytest.mark.parametrize("name", ["../outside.npy", "/etc/passwd", "sub/input_1.npy", "..", ""])
def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "s").folder
    rename_file(name)(folder)
    with pytest.raises(InputError):
        open_store(folder)


def test_labels_outside_the_folder_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "s").folder
    np.save(tmp_path / "outside.npy", LABELS)
    text = (folder / "index.json").read_text().replace("labels.npy", "../outside.npy")
    (folder / "index.json").write_text(text)
    with pytest.raises(InputError, match="outside the folder"):
        open_store(folder)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "unpickled"))


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "s").folder
    trap = np.array([Trap(tmp_path / "ran")] * 7, dtype=object)
    np.save(folder / "input_0.npy", trap, allow_pickle=True)
    with pytest.raises(InputError, match="input_0"):
        open_store(folder)
    assert not (tmp_path / "ran").exists()


def test_objects_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        write(tmp_path / "s", {"x": np.array([{}] * 7, dtype=object)})


@pytest.mark.parametrize("name", ["input_0.npy", "input_1.npy", "labels.npy", "index.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "noise", "zip"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    folder = write(tmp_path / "s").folder
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    np.savez(tmp_path / "other.npz", x=PIXELS)
    contents = {
        "empty": b"",
        "truncated": whole[:-1] if name != "index.json" else whole[:-4],
        "noise": np.random.default_rng(0).bytes(len(whole)),
        "zip": (tmp_path / "other.npz").read_bytes(),
    }
    if damage in contents:
        path.write_bytes(contents[damage])
    with pytest.raises(InputError) as caught:
        open_store(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0x01, 0x08, 0x20, 0x80])
def test_any_damaged_header_is_read_or_refused(tmp_path: Path, value: int) -> None:
    folder = write(tmp_path / "s").folder
    whole = (folder / "input_0.npy").read_bytes()
    for place in range(128):
        content = bytearray(whole)
        content[place] ^= value
        (folder / "input_0.npy").write_bytes(content)
        with suppress(InputError):
            open_store(folder)


@pytest.mark.parametrize("items", [0, 6, 8, -1])
def test_other_number_of_items_is_refused(tmp_path: Path, items: int) -> None:
    folder = write(tmp_path / "s").folder
    text = (folder / "index.json").read_text().replace('"items": 7', f'"items": {items}')
    (folder / "index.json").write_text(text)
    with pytest.raises(InputError, match="does not hold"):
        open_store(folder)


def test_short_input_called_labels_is_refused_too(tmp_path: Path) -> None:
    inputs = {"labels": AGES}
    folder = write(tmp_path / "s", inputs, {"labels": "float32"}).folder
    np.save(folder / "input_0.npy", AGES[:3])
    with pytest.raises(InputError, match="does not hold 7 items"):
        open_store(folder)


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        write(tmp_path / "file")
