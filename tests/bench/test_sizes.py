"""Sizes against numbers worked out by hand."""

import doctest
import gzip
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from torchshrink.bench import sizes
from torchshrink.errors import ModelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "variables").mkdir()
    (tmp_path / "model.pb").write_bytes(b"a" * 1000)
    (tmp_path / "variables" / "data").write_bytes(bytes(range(256)))
    return tmp_path


def test_size_of_files_and_folders(folder: Path) -> None:
    assert sizes.size_bytes(folder / "model.pb") == 1000
    assert sizes.size_bytes(folder) == 1256


def test_gzip_is_what_the_standard_library_writes(folder: Path) -> None:
    expected = {path: len(gzip.compress(path.read_bytes(), 9, mtime=0)) for path in folder.rglob("*") if path.is_file()}
    for path, length in expected.items():
        assert sizes.gzip_bytes(path) == length
    assert sizes.gzip_bytes(folder) == sum(expected.values())


def test_gzip_depends_on_nothing_but_the_content(folder: Path) -> None:
    content = np.random.default_rng(0).integers(-8, 8, 3 << 20, dtype=np.int8).tobytes()  # more than one chunk
    (folder / "first").write_bytes(content)
    (folder / "a_much_longer_name").write_bytes(content)
    assert sizes.gzip_bytes(folder / "first") == sizes.gzip_bytes(folder / "a_much_longer_name")


def test_zstd_can_be_expanded_and_finds_what_repeats(folder: Path) -> None:
    content = (folder / "model.pb").read_bytes()
    packed = zstandard.ZstdCompressor(level=19).compress(content)
    assert zstandard.ZstdDecompressor().decompress(packed) == content
    assert sizes.zstd_bytes(folder / "model.pb") == len(packed) < 50
    assert sizes.zstd_bytes(folder) > 256  # all bytes once: nothing to gain


@pytest.mark.parametrize("function", [sizes.size_bytes, sizes.gzip_bytes, sizes.zstd_bytes])
def test_missing_path_is_named(function: Callable[[Path], int], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such model file: .*/absent"):
        function(tmp_path / "absent")


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32])
def test_equal_values_cost_nothing(dtype: type) -> None:
    assert sizes.entropy_bytes([np.full((4, 25), 3, dtype)]) == 0


def test_uniform_codes_cost_a_byte_each() -> None:
    codes = np.tile(np.arange(-128, 128).astype(np.int8), 5)
    assert sizes.entropy_bytes([codes.reshape(10, 128)]) == 1280


def test_eighty_percent_zeros() -> None:
    # 800 zeros and 100 each of 1 and 2: H = 0.8 * 0.321928 + 2 * 0.1 * 3.321928 = 0.921928 bits; 115.24 bytes.
    values = np.array([0] * 800 + [1] * 100 + [2] * 100)
    assert sizes.entropy_bytes([values.astype(np.int8)]) == 116
    assert sizes.entropy_bytes([values.astype(np.float32)]) == 116


def test_distinct_floats_cost_their_index() -> None:
    assert sizes.entropy_bytes([np.linspace(0, 1, 1024, dtype=np.float32)]) == 1024 * 10 // 8


def test_bit_patterns_are_what_counts() -> None:
    signed_zeros = np.array([0.0, -0.0] * 4, np.float32)
    assert sizes.entropy_bytes([signed_zeros]) == 1  # 8 values of 1 bit
    assert sizes.entropy_bytes([np.full(8, np.nan, np.float32)]) == 0


def test_arrays_are_added_before_rounding_up() -> None:
    coin = np.array([0, 1, 0, 1], np.int8)  # 4 bits
    assert sizes.entropy_bytes([coin] * 3) == math.ceil(1.5)
    assert sizes.entropy_bytes([coin, np.zeros(0, np.int8)]) == 1
    assert sizes.entropy_bytes([]) == 0


def test_each_array_has_its_own_distribution() -> None:
    assert sizes.entropy_bytes([np.zeros(100, np.int8), np.ones(100, np.int8)]) == 0


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(sizes).failed == 0
