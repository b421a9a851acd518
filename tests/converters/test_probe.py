"""The convolutions that say what int8 gains here are real ones: both forms of each runtime compute the same."""

from pathlib import Path

import numpy as np

from torchshrink import bench
from torchshrink.converters import probe
from torchshrink.converters.contents import read_weights


def test_both_forms_compute_the_same(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-63, 64, (32, 32, 3, 3)).astype(np.int8)
    sample = np.random.default_rng(1).uniform(-1, 1, (1, 32, 32, 32)).astype(np.float32)
    for write, ending in ((probe._write_onnx, ".onnx"), (probe._write_tflite, ".tflite")):
        found = {}
        for is_int8 in (False, True):
            path = tmp_path / f"{is_int8}{ending}"
            write(path, codes, is_int8)
            found[is_int8] = bench.predict(path, sample)
            assert any(array.dtype == np.int8 for array in read_weights(path)) == is_int8
        assert found[False].std() > 0.1
        inside = np.abs(found[False]) < 1.9  # what does not leave the int8 grid
        assert np.abs(found[True] - found[False])[inside].max() < 3 / 64


def test_the_gain_is_of_both_runtimes() -> None:
    found = probe.int8_gain()
    assert set(found) == {"ONNX Runtime", "LiteRT"}
    assert all(np.isfinite(gain) and gain > 0 for gain in found.values())
