"""Whatever stands in a folder: a data set, or a DataError that names the path, the same from every way in."""

import io
import os
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fewshot_lib.course.running.runner import check_dataset
from fewshot_lib.data.checks.inspect import inspect
from fewshot_lib.data.dataset import ClassDataset
from fewshot_lib.data.own.folders import visible
from fewshot_lib.data.own.pictures import from_folder
from fewshot_lib.data.reporting import DataError

EXAMPLES = int(os.environ.get("FEWSHOT_EXAMPLES", "120"))  # a long run takes 20,000

# What Pillow can write: mode -> the type of its pixels, and formats that keep it.
MODES = {
    "1": (bool, ["PNG", "TIFF", "PPM"]),
    "L": (np.uint8, ["PNG", "TIFF", "JPEG", "GIF", "BMP", "WEBP", "TGA"]),
    "P": (np.uint8, ["PNG", "GIF", "TIFF"]),
    "LA": (np.uint8, ["PNG", "TIFF", "WEBP", "TGA"]),
    "RGB": (np.uint8, ["PNG", "JPEG", "WEBP", "BMP", "PPM", "JPEG2000", "SGI", "PCX"]),
    "RGBA": (np.uint8, ["PNG", "TIFF", "WEBP", "ICO"]),
    "CMYK": (np.uint8, ["JPEG", "TIFF"]),
    "YCbCr": (np.uint8, ["JPEG", "TIFF"]),
    "LAB": (np.uint8, ["TIFF"]),
    "I;16": (np.uint16, ["PNG", "TIFF", "PPM"]),
    "I;16B": (np.dtype(">u2"), ["TIFF", "PNG"]),
    "I": (np.int32, ["TIFF", "PPM"]),
    "F": (np.float32, ["TIFF", "PPM"]),
}
CHANNELS = {"LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3, "LAB": 3}
ENDINGS = [".png", ".PNG", ".tif", ".jpg"] * 3 + ["", ".txt"]
CLASSES = [
    b"a",
    b"b",
    b"A",
    b"caf\xc3\xa9",
    b"cafe\xcc\x81",
    b"\xff\xfe",
    b"\\xff",
    b"new\nline",
    b"\x1b[2J",
    b" ",
]
PLACES = [b""] * 30 + [b"inner", b"x/y/z", b"test"] * 5 + [b".hidden", b"__MACOSX"]
PARTS = [
    [b""],
    [b"", b"wrapped"],
    [b"train", b"Test", b"valid"],
    [b"", b"train"],
    [b"train", b"test", b"more"],
]
IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # folders come and go there ten times as fast


@st.composite
def picture_bytes(draw) -> bytes:
    """A picture file, whole or damaged."""
    mode = draw(st.sampled_from(sorted(MODES)))
    kind, formats = MODES[mode]
    random = np.random.default_rng(draw(st.integers(0, 5)))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    shape = (height, width, CHANNELS[mode]) if mode in CHANNELS else (height, width)
    low, high = draw(st.sampled_from([(0, 1), (0, 255), (0, 4096), (900, 950), (-50, 70_000)]))
    values = random.uniform(low, high, shape)
    if kind == np.float32:
        values.flat[0] = draw(st.sampled_from([0, 1] * 6 + [3e38, -3e38, np.inf, np.nan]))
    with np.errstate(invalid="ignore"), io.BytesIO() as file:
        array = values.astype(kind)
        Image.frombytes(mode, (width, height), _packed(array)).save(file, draw(st.sampled_from(formats)))
        content = bytearray(file.getvalue())
    damage = draw(st.sampled_from(["no"] * 40 + ["cut", "byte", "empty", "text"]))
    if damage == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    elif damage == "byte":
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes({"empty": b"", "text": b"<html>"}.get(damage, content))


def _packed(array: np.ndarray) -> bytes:
    return np.packbits(array, axis=1).tobytes() if array.dtype == bool else array.tobytes()


def trees(parts: list[bytes]) -> st.SearchStrategy:
    """Files of a folder: part, class, place in the class folder, name, ending, content."""
    names = st.sampled_from(CLASSES + [b"c", b"d", b"e"] * 8)
    rest = (st.sampled_from(PLACES), st.integers(0, 2).map(str), st.sampled_from(ENDINGS), picture_bytes())
    return st.lists(st.tuples(st.sampled_from(parts), names, *rest), max_size=9)


def checked_before_a_run(root, options):
    notes = []
    check_dataset({}, {"dataset": {"source": root, **options}}, notes.append)
    return notes


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(
    files=st.sampled_from(PARTS).flatmap(trees),
    split=st.sampled_from([None, {"test": 1.0}]),
    size=st.sampled_from([1, 5, "3x4", (4, 3)]),
    color=st.booleans(),
    min_examples=st.sampled_from([1, 1, 2]),
)
def test_any_folder_becomes_a_data_set_or_an_error_with_its_path(files, split, size, color, min_examples):
    options = {"split": split, "size": size, "color": color, "min_examples": min_examples}
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as root, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for part, name, place, stem, ending, content in files:
            folder = os.path.join(os.fsencode(root), part, name, place)
            os.makedirs(folder, exist_ok=True)
            Path(os.fsdecode(folder), stem + ending).write_bytes(content)
        try:
            data = from_folder(root, **options)
        except DataError as error:
            data, messages = None, [str(error)]
            for other in (lambda: inspect(root, **options), lambda: checked_before_a_run(root, options)):
                with pytest.raises(DataError, match=f"^{re.escape(str(error))}$"):
                    other()
        else:
            messages = [str(warning.message) for warning in caught]
            report = inspect(root, **options)
            assert (
                torch.equal(report.data.inputs, data.inputs) and report.data.class_names == data.class_names
            )
            assert report.notes == list(dict.fromkeys(m.removeprefix(f"{root}: ") for m in messages))
            assert len(checked_before_a_run(root, options)) == len(report.notes)
    assert all(root in message and message == visible(message) for message in messages)
    if data is None:
        return
    assert isinstance(data, ClassDataset) and data.inputs.dtype == torch.uint8
    height, width = {1: (1, 1), 5: (5, 5)}.get(size, (3, 4) if size == "3x4" else (4, 3))
    assert data.inputs.shape[1:] == (3 if color else 1, height, width)
    assert (data.counts >= min_examples).all() and len(set(data.class_names)) == data.n_classes
    assert data.class_names == [visible(name) for name in data.class_names] and all(data.class_names)
