from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from joulewise.core.errors import InputError, MissingExtraError, UsageError
from joulewise.workload.data import Dataset, as_asked, check_data, load_arrays, load_data
from joulewise.workload.model import Model

from .conftest import MakeModel

PIXELS = np.arange(5 * 4, dtype=np.uint8).reshape(5, 1, 2, 2)
LABELS = np.array([0, 1, 2, 1, 0], np.uint8)


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    return make_model("n", 1, 2, 2, classes=3)


def archive(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "data.npz", **arrays)
    return str(folder / "data.npz")


def dataset(pixels: Any = PIXELS, labels: Any = None, **options: Any) -> Dataset:
    return Dataset(inputs={"pixels": np.asarray(pixels)}, labels=labels, source="s", **options)


# ---------------------------------------------------------------- the value


def test_items_are_counted_on_the_first_axis() -> None:
    assert dataset().items == 5


# ---------------------------------------------------------------- .npz


@pytest.mark.parametrize("key", ["pixels", "x", "X", "images", "inputs", "data"])
def test_archive_input_keys(tmp_path: Path, model: Model, key: str) -> None:
    data = load_data(archive(tmp_path, **{key: PIXELS}), model)
    np.testing.assert_array_equal(data.inputs["pixels"], PIXELS)


@pytest.mark.parametrize("key", ["y", "labels", "label", "targets"])
def test_archive_label_keys(tmp_path: Path, model: Model, key: str) -> None:
    labels = load_data(archive(tmp_path, x=PIXELS, **{key: LABELS}), model).labels
    assert labels is not None
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, LABELS)


def test_archive_keeps_the_small_dtype(tmp_path: Path, model: Model) -> None:
    assert load_data(archive(tmp_path, x=PIXELS), model).inputs["pixels"].dtype == np.uint8


def test_archive_without_labels(tmp_path: Path, model: Model) -> None:
    assert load_data(archive(tmp_path, x=PIXELS), model).labels is None


def test_archive_with_class_names(tmp_path: Path, model: Model) -> None:
    data = load_data(archive(tmp_path, x=PIXELS, classes=["a", "b", "c"]), model)
    assert data.classes == ("a", "b", "c")


def test_class_names_must_be_strings(tmp_path: Path, model: Model) -> None:
    with pytest.raises(InputError, match="list of strings"):
        load_data(archive(tmp_path, x=PIXELS, classes=[1, 2]), model)


def test_archive_of_several_inputs(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model("n", 1, 2, 2, second=["n", 4])
    data = load_data(archive(tmp_path, pixels=PIXELS, mask=np.ones((5, 4))), model)
    assert list(data.inputs) == ["pixels", "mask"]


def test_several_inputs_need_their_names(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model("n", 1, 2, 2, second=["n", 4])
    with pytest.raises(
        InputError, match=r"no array for the model's input 'mask'; it has: 'pixels'"
    ):
        load_data(archive(tmp_path, pixels=PIXELS), model)


def test_an_input_may_be_called_like_labels(tmp_path: Path, make_model: MakeModel) -> None:
    data = load_data(archive(tmp_path, y=PIXELS), make_model("n", 1, 2, 2, name="y"))
    assert data.labels is None


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["b", "a", "b", "c", "a"], ("a", "b", "c")),
        ([7, 3, 7, 9, 3], ("3", "7", "9")),
        ([True, False, True, True, False], ("False", "True")),
    ],
)
def test_slices_are_numbered(
    tmp_path: Path, model: Model, given: list[Any], names: tuple[str, ...]
) -> None:
    reference = archive(tmp_path, x=PIXELS, y=LABELS, light=given)
    data = load_data(reference, model, "light")
    assert data.slices is not None
    assert [data.slice_names[number] for number in data.slices] == [str(value) for value in given]
    assert data.slice_names == names
    assert set(load_arrays(reference, ["light"])) == {"x"}


def test_labels_that_are_named_as_slices_stay_labels(tmp_path: Path, model: Model) -> None:
    data = load_data(archive(tmp_path, x=PIXELS, y=LABELS), model, "y")
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.slices is not None


def test_no_slices_where_there_are_none(tmp_path: Path, model: Model) -> None:
    data = load_data(archive(tmp_path, x=PIXELS), model, "light")
    assert (data.slices, data.slice_names) == (None, ())


def test_clusters_are_numbered(tmp_path: Path, model: Model) -> None:
    given = ["b", "a", "b", "c", "a"]
    reference = archive(tmp_path, x=PIXELS, y=LABELS, patient=given, light=[1, 2, 1, 1, 2])
    data = load_data(reference, model, "light", "patient")
    assert data.clusters is not None
    assert [data.cluster_names[number] for number in data.clusters] == given
    assert data.slice_names == ("1", "2")


@pytest.mark.parametrize("given", [np.zeros(5), np.zeros((5, 2), np.int64)])
def test_slices_that_are_no_names_are_refused(tmp_path: Path, model: Model, given: Any) -> None:
    with pytest.raises(InputError, match=r"'light' of .* must be one integer or word per item"):
        load_data(archive(tmp_path, x=PIXELS, light=given), model, "light")


def test_unknown_keys_are_named(tmp_path: Path, model: Model) -> None:
    with pytest.raises(InputError, match="not understood: 'weights', 'targets'"):
        load_data(archive(tmp_path, x=PIXELS, y=LABELS, weights=LABELS, targets=LABELS), model)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 3, 1)])
def test_labels_of_floats_are_values(tmp_path: Path, model: Model, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 4
    data = load_data(archive(tmp_path, x=PIXELS, y=values), model)
    assert data.labels is None
    assert data.targets is not None
    assert data.targets.dtype == np.float64
    np.testing.assert_array_equal(data.targets, values)


def test_labels_of_text(tmp_path: Path, model: Model) -> None:
    with pytest.raises(InputError, match="must be integers or floats, not str"):
        load_data(archive(tmp_path, x=PIXELS, y=LABELS.astype(str)), model)


def test_labels_of_two_axes(tmp_path: Path, model: Model) -> None:
    with pytest.raises(InputError, match=r"shape \[n\], not \[n, 1\]"):
        as_asked(load_data(archive(tmp_path, x=PIXELS, y=LABELS[:, None]), model), "auto")
    with pytest.raises(InputError, match=r"shape \[n\], not \[n, 1, 1\]"):
        load_data(archive(tmp_path, x=PIXELS, y=LABELS[:, None, None]), model)


@pytest.mark.parametrize(
    ("task", "labels", "says"),
    [
        ("tokens", LABELS, "must have a row per item, not"),
        ("tokens", None, "give the right token of each place"),
        ("several classes", None, "give 0 or 1 for each class"),
        ("several classes", np.full((5, 3), 2), "go from 2 to 2; give 1 for each class"),
        ("tokens", np.full((5, 3), -100), "go from -100 to -100"),
        ("tokens", np.full((5, 3), -1), "go from -1 to -1; give token numbers"),
    ],
)
def test_labels_that_a_metric_cannot_take(model: Model, task: str, labels: Any, says: str) -> None:
    given = None if labels is None else np.asarray(labels, np.int64)
    with pytest.raises(InputError, match=says):
        check_data(as_asked(dataset(labels=given), task), model, 1, task)


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_labels_of_several_classes(tmp_path: Path, model: Model, kind: type) -> None:
    rows: Any = np.array([[1, 0], [0, 0], [1, 1], [0, 1], [1, 0]], kind)
    data = as_asked(load_data(archive(tmp_path, x=PIXELS, y=rows), model), "several classes")
    check_data(data, model, 1, "several classes")
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    np.testing.assert_array_equal(data.labels, rows)


def test_object_arrays_are_refused(tmp_path: Path, model: Model) -> None:
    objects = np.array([1, "a", None], dtype=object)
    with pytest.raises(InputError, match=r"'x' of .* would need pickle.*np\.savez"):
        load_data(archive(tmp_path, x=objects), model)


def test_members_of_other_formats_are_refused(tmp_path: Path, model: Model) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as file:
        file.writestr("x.pkl", b"\x80\x04N.")
    with pytest.raises(InputError, match="would need pickle"):
        load_data(str(tmp_path / "data.npz"), model)


def test_archive_that_is_no_zip(tmp_path: Path, model: Model) -> None:
    (tmp_path / "data.npz").write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match=r"truncated or not a \.npz"):
        load_data(str(tmp_path / "data.npz"), model)


def test_truncated_archive(tmp_path: Path, model: Model) -> None:
    path = Path(archive(tmp_path, x=PIXELS))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"truncated or not a \.npz"):
        load_data(str(path), model)


def test_damaged_archive(tmp_path: Path, model: Model) -> None:
    path = Path(archive(tmp_path, x=PIXELS))
    content = bytearray(path.read_bytes())
    content[content.index(PIXELS.tobytes())] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_data(str(path), model)


@pytest.mark.parametrize("header", [b"{'descr': '<f4'}", b"{'descr': ('<f4'", b",", b""])
def test_damaged_array_in_an_archive(tmp_path: Path, model: Model, header: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + bytes([len(header), 0]) + header)
    with pytest.raises(InputError, match="cannot be read"):
        load_data(str(tmp_path / "data.npz"), model)


def test_missing_archive(tmp_path: Path, model: Model) -> None:
    with pytest.raises(InputError, match="no archive at"):
        load_data(str(tmp_path / "data.npz"), model)


def test_single_value_is_no_data(tmp_path: Path, model: Model) -> None:
    with pytest.raises(InputError, match="first axis must be items"):
        load_data(archive(tmp_path, x=3.0), model)


def test_npy_is_pointed_to_npz(tmp_path: Path, model: Model) -> None:
    with pytest.raises(InputError, match=r"np\.savez"):
        load_data(str(tmp_path / "x.npy"), model)


@pytest.mark.parametrize("reference", ["data.csv", "nowhere", "a.b", "1a:b", "a:b:c", ""])
def test_other_references_name_the_three_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Model, reference: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"\.npz archive.*folder of images.*package\.module"):
        load_data(reference, model)


# ---------------------------------------------------------------- images


def image(path: Path, *, size: tuple[int, int] = (2, 2), color: Any = 7, mode: str = "L") -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new(mode, size, color).save(path)
    return path


def test_class_per_subfolder(tmp_path: Path, model: Model) -> None:
    for name in ("dog/1.png", "cat/2.PNG", "cat/1.bmp"):
        image(tmp_path / "d" / name)
    data = load_data(str(tmp_path / "d"), model)
    assert data.classes == ("cat", "dog")
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels, [0, 0, 1])


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp"])
def test_image_formats(tmp_path: Path, model: Model, suffix: str) -> None:
    image(tmp_path / "d" / f"a.{suffix}")
    assert load_data(str(tmp_path / "d"), model).items == 1


def test_flat_folder_has_no_labels(tmp_path: Path, model: Model) -> None:
    image(tmp_path / "d" / "b.png", color=2)
    image(tmp_path / "d" / "a.png", color=1)
    (tmp_path / "d" / "notes.txt").touch()
    data = load_data(str(tmp_path / "d"), model)
    assert data.labels is None
    np.testing.assert_array_equal(data.inputs["pixels"][:, 0, 0, 0], [1, 2])


def test_pixels_stay_bytes(tmp_path: Path, model: Model) -> None:
    image(tmp_path / "d" / "a.png", color=255)
    pixels = load_data(str(tmp_path / "d"), model).inputs["pixels"]
    np.testing.assert_array_equal(pixels, np.full((1, 1, 2, 2), 255, np.uint8), strict=True)


def test_images_are_resized(tmp_path: Path, make_model: MakeModel) -> None:
    image(tmp_path / "d" / "a.png", size=(7, 5))
    model = make_model("n", 1, 2, 3)
    assert load_data(str(tmp_path / "d"), model).inputs["pixels"].shape == (1, 1, 2, 3)


def test_channels_first(tmp_path: Path, make_model: MakeModel) -> None:
    image(tmp_path / "d" / "a.png", mode="RGB", color=(1, 2, 3))
    pixels = load_data(str(tmp_path / "d"), make_model("n", 3, 2, 2)).inputs["pixels"]
    np.testing.assert_array_equal(pixels[0, :, 0, 0], [1, 2, 3])


def test_channels_last(tmp_path: Path, make_model: MakeModel) -> None:
    image(tmp_path / "d" / "a.png", mode="RGB", color=(1, 2, 3))
    pixels = load_data(str(tmp_path / "d"), make_model("n", 2, 2, 3)).inputs["pixels"]
    np.testing.assert_array_equal(pixels[0, 0, 0], [1, 2, 3])


def test_grey_images_for_a_colour_model(tmp_path: Path, make_model: MakeModel) -> None:
    image(tmp_path / "d" / "a.png")
    pixels = load_data(str(tmp_path / "d"), make_model("n", 3, 2, 2)).inputs["pixels"]
    np.testing.assert_array_equal(pixels[0, :, 0, 0], [7, 7, 7])


def test_transparent_palettes(tmp_path: Path, make_model: MakeModel) -> None:
    (tmp_path / "d").mkdir()
    Image.new("P", (2, 2)).save(tmp_path / "d" / "a.png", transparency=b"\x00\x80")
    assert load_data(str(tmp_path / "d"), make_model("n", 3, 2, 2)).items == 1


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_corrupt_images_are_named(tmp_path: Path, model: Model, content: bytes) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.png is not a readable image"):
        load_data(str(tmp_path / "d"), model)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_truncated_images_are_named(tmp_path: Path, model: Model, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = image(tmp_path / "d" / f"bad.{suffix}")
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"bad\.\w+ is not a readable image"):
        load_data(str(tmp_path / "d"), model)


def test_deep_images_are_refused(tmp_path: Path, model: Model) -> None:
    image(tmp_path / "d" / "a.png", mode="I;16", color=300)
    with pytest.raises(InputError, match="more than 8 bits"):
        load_data(str(tmp_path / "d"), model)


def test_folder_without_images(tmp_path: Path, model: Model) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        load_data(str(tmp_path / "d"), model)


def test_class_without_images(tmp_path: Path, model: Model) -> None:
    image(tmp_path / "d" / "cat" / "a.png")
    (tmp_path / "d" / "dog").mkdir()
    with pytest.raises(InputError, match="dog holds no images"):
        load_data(str(tmp_path / "d"), model)


def test_images_beside_classes(tmp_path: Path, model: Model) -> None:
    image(tmp_path / "d" / "cat" / "a.png")
    image(tmp_path / "d" / "a.png")
    with pytest.raises(InputError, match="beside and inside"):
        load_data(str(tmp_path / "d"), model)


@pytest.mark.parametrize(
    "shape", [("n", 3, "h", "w"), ("n", "h", "w", 3), ("n", 2, 8, 8), ("n", 8, 8), ("n", 4)]
)
def test_images_need_a_model_of_fixed_size(
    tmp_path: Path, make_model: MakeModel, shape: tuple[int | str, ...]
) -> None:
    image(tmp_path / "d" / "a.png")
    with pytest.raises(InputError, match=r"give a \.npz or a Python function"):
        load_data(str(tmp_path / "d"), make_model(*shape))


def test_images_need_a_model_with_one_input(tmp_path: Path, make_model: MakeModel) -> None:
    image(tmp_path / "d" / "a.png")
    with pytest.raises(InputError, match=r"give a \.npz or a Python function"):
        load_data(str(tmp_path / "d"), make_model("n", 1, 2, 2, second=["n", 1]))


def test_without_pillow(tmp_path: Path, model: Model, without: Callable[[str], None]) -> None:
    image(tmp_path / "d" / "a.png")
    without("PIL")
    with pytest.raises(MissingExtraError, match=r"joulewise\[images\]"):
        load_data(str(tmp_path / "d"), model)


# ---------------------------------------------------------------- Python functions


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Model) -> Callable[[str], Dataset]:
    """Return a function that writes a module with the given body of `items` and loads from it."""

    def load(body: str, head: str = "") -> Dataset:
        source = f"import numpy as np\n{head}\ndef items():\n    {body}\n"
        (tmp_path / "user_code.py").write_text(source)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        monkeypatch.delitem(sys.modules, "user_code", raising=False)
        try:
            return load_data("user_code:items", model)
        finally:
            sys.modules.pop("user_code", None)

    return load


Call = Callable[..., Dataset]
X = "np.zeros((5, 1, 2, 2), np.uint8)"


@pytest.mark.parametrize("body", [f"return {X}", f"return ({X},)", f"return {{'x': {X}}}"])
def test_function_without_labels(call: Call, body: str) -> None:
    data = call(body)
    assert (data.items, data.labels, data.source) == (5, None, "user_code:items")


@pytest.mark.parametrize(
    "body", [f"return {X}, [0, 1, 2, 1, 0]", f"return dict(x={X}, y=[0, 1, 2, 1, 0])"]
)
def test_function_with_labels(call: Call, body: str) -> None:
    labels = call(body).labels
    assert labels is not None
    np.testing.assert_array_equal(labels, LABELS)


def test_import_path_is_restored(call: Call) -> None:
    before = list(sys.path)
    call(f"return {X}")
    assert sys.path == before


def test_error_in_the_function_is_one_line(call: Call) -> None:
    with pytest.raises(InputError, match="failed with ValueError: two lines; mend") as caught:
        call(r"raise ValueError('two\nlines')")
    assert "\n" not in str(caught.value)


def test_exit_in_the_function(call: Call) -> None:
    with pytest.raises(InputError, match="failed with SystemExit"):
        call("raise SystemExit(3)")


def test_error_in_the_module(call: Call) -> None:
    with pytest.raises(InputError, match="failed with ZeroDivisionError"):
        call("pass", "1 / 0")


def test_missing_import_in_the_module(call: Call) -> None:
    with pytest.raises(InputError, match="failed with ModuleNotFoundError"):
        call("pass", "import no_such_package_at_all")


@pytest.mark.parametrize("body", ["return None", "return [object()]"])
def test_function_that_returns_objects(call: Call, body: str) -> None:
    with pytest.raises(InputError, match="holds Python objects"):
        call(body)


def test_function_that_returns_ragged_lists(call: Call) -> None:
    with pytest.raises(InputError, match="is not an array"):
        call("return [[1, 2], [3]]")


def test_function_that_returns_too_much(call: Call) -> None:
    with pytest.raises(InputError, match=r"returned 3 value\(s\)"):
        call("return 1, 2, 3")


def test_array_for_a_model_of_several_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_model: MakeModel
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"for 2 model input\(s\)"):
        load_data("os:getcwd", make_model("n", 2, second=["n", 1]))


def test_missing_module(model: Model) -> None:
    with pytest.raises(UsageError, match="no module 'no_such_module'"):
        load_data("no_such_module.inner:items", model)


def test_missing_submodule(model: Model) -> None:
    with pytest.raises(UsageError, match=r"no module 'json\.nothing'"):
        load_data("json.nothing:items", model)


def test_missing_function(model: Model) -> None:
    with pytest.raises(UsageError, match="no function 'nothing'"):
        load_data("json:nothing", model)


def test_attribute_that_is_no_function(model: Model) -> None:
    with pytest.raises(UsageError, match="no function '__name__'"):
        load_data("json:__name__", model)


# ---------------------------------------------------------------- checks


def test_data_that_fit(model: Model) -> None:
    check_data(dataset(labels=LABELS.astype(np.int64)), model, 2)


def test_no_items(model: Model) -> None:
    with pytest.raises(InputError, match="holds no items"):
        check_data(dataset(PIXELS[:0]), model, 1)


def test_labels_of_another_count(model: Model) -> None:
    with pytest.raises(InputError, match="labels: 4 for 5 items"):
        check_data(dataset(labels=np.zeros(4, np.int64)), model, 1)


def test_inputs_of_another_count(make_model: MakeModel) -> None:
    model = make_model("n", 1, 2, 2, second=["n", 1])
    data = Dataset(inputs={"pixels": PIXELS, "mask": np.ones((4, 1), np.float32)}, source="s")
    with pytest.raises(InputError, match="mask: 4 for 5 items"):
        check_data(data, model, 1)


def test_shape_that_does_not_fit(model: Model) -> None:
    with pytest.raises(
        InputError, match=r"'pixels' takes \[batch, 1, 2, 2\], the data has \[n, 1, 2, 3\]"
    ):
        check_data(dataset(np.zeros((5, 1, 2, 3), np.uint8)), model, 1)


def test_missing_channel_axis_has_a_hint(model: Model) -> None:
    with pytest.raises(InputError, match=r"np\.expand_dims\(x, 1\)"):
        check_data(dataset(PIXELS[:, 0]), model, 1)


def test_free_axes_take_any_size(make_model: MakeModel) -> None:
    check_data(dataset(np.zeros((5, 1, 9, 7), np.uint8)), make_model("n", 1, "h", "w"), 1)


def test_scalar_inputs(make_model: MakeModel) -> None:
    with pytest.raises(InputError, match="without a batch axis"):
        check_data(dataset(np.zeros(5, np.float32)), make_model(), 1)


def test_fixed_batch_of_another_size(make_model: MakeModel) -> None:
    with pytest.raises(UsageError, match="use --batch 4"):
        check_data(dataset(), make_model(4, 1, 2, 2), 1)


def test_fixed_batch_of_the_same_size(make_model: MakeModel) -> None:
    check_data(dataset(), make_model(4, 1, 2, 2), 4)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8, np.int16, bool])
def test_dtypes_for_a_float_model(model: Model, dtype: type) -> None:
    check_data(dataset(PIXELS.astype(dtype)), model, 1)


def test_big_endian_data(model: Model) -> None:
    check_data(dataset(PIXELS.astype(">f4")), model, 1)


def test_dtypes_that_lose_values_are_named(model: Model) -> None:
    with pytest.raises(InputError, match=r"takes float32, the data is int64.*astype\('float32'\)"):
        check_data(dataset(PIXELS.astype(np.int64)), model, 1)


@pytest.mark.parametrize("dtype", [np.complex64, "M8[s]"])
def test_other_kinds_of_data(model: Model, dtype: Any) -> None:
    with pytest.raises(InputError, match="takes float32, the data is"):
        check_data(dataset(PIXELS.astype(dtype)), model, 1)


def test_integers_that_fit_a_smaller_dtype(make_model: MakeModel) -> None:
    model = make_model("n", 1, element=TensorProto.INT32)
    check_data(dataset(np.array([[2**31 - 1]])), model, 1)


def test_integers_that_do_not_fit_a_smaller_dtype(make_model: MakeModel) -> None:
    model = make_model("n", 1, element=TensorProto.INT32)
    with pytest.raises(InputError, match="takes int32, the data is int64"):
        check_data(dataset(np.array([[2**31]])), model, 1)


def test_model_that_takes_strings(make_model: MakeModel) -> None:
    with pytest.raises(InputError, match="string tensors are not supported"):
        check_data(dataset([["a"]]), make_model("n", 1, element=TensorProto.STRING), 1)


def test_data_of_strings(make_model: MakeModel) -> None:
    with pytest.raises(InputError, match="string tensors are not supported"):
        check_data(dataset([["a"]]), make_model("n", 1), 1)


def test_model_of_a_dtype_unknown_to_numpy(make_model: MakeModel) -> None:
    with pytest.raises(InputError, match="takes bfloat16"):
        check_data(dataset([[1]]), make_model("n", 1, element=TensorProto.BFLOAT16), 1)


def test_values_that_are_not_finite(model: Model) -> None:
    pixels = PIXELS.astype(np.float32)
    pixels[2, 0, 1] = np.nan
    pixels[4, 0, 0, 0] = np.inf
    with pytest.raises(InputError, match=r"has 3 NaN or infinite values.*first in item 2"):
        check_data(dataset(pixels), model, 1)


def test_values_are_searched_in_every_part(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joulewise.workload.data.CHUNK_BYTES", 1)
    pixels = PIXELS.astype(np.float32)
    pixels[3:] = np.nan
    with pytest.raises(InputError, match=r"has 8 NaN or infinite values.*first in item 3"):
        check_data(dataset(pixels), model, 1)


def test_values_too_large_for_the_model(model: Model) -> None:
    pixels = PIXELS.astype(np.float64)
    pixels[1] = 1e300
    with pytest.raises(InputError, match="has 4 NaN or infinite values in float32"):
        check_data(dataset(pixels), model, 1)


def test_negative_labels(model: Model) -> None:
    with pytest.raises(InputError, match="go down to -1"):
        check_data(dataset(labels=np.array([0, 1, -1, 0, 0])), model, 1)


def test_labels_beyond_the_model(model: Model) -> None:
    with pytest.raises(InputError, match="go up to 3 for 3 classes"):
        check_data(dataset(labels=np.array([0, 1, 3, 0, 0])), model, 1)


def test_labels_beyond_the_names(model: Model) -> None:
    with pytest.raises(InputError, match="go up to 2 for 2 classes"):
        check_data(dataset(labels=np.array([0, 1, 2, 0, 0]), classes=("a", "b")), model, 1)


def test_labels_for_a_model_without_classes(make_model: MakeModel) -> None:
    check_data(dataset(labels=np.arange(5) + 100), make_model("n", 1, 2, 2), 1)
