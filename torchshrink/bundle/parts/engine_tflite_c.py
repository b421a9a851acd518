"""The model in the TFLite C library, called through ctypes: no NumPy, nothing to import."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

POINTER = ctypes.c_void_p


class DelegateOptions(ctypes.Structure):
    """Settings of XNNPACK, which this library does not use unless told to; of the rest its own defaults are kept."""

    _fields_ = (("threads", ctypes.c_int32), ("rest", ctypes.c_char * 252))


def library(folder: str) -> ctypes.CDLL:
    """Open what TFLITE_C names, this folder's library for this machine, or the one that requirements.txt installs."""
    machine = f"{sys.platform}-{os.uname().machine}"
    name = "libtensorflowlite_c.dylib" if sys.platform == "darwin" else "libtensorflowlite_c.so"
    places = [os.environ.get("TFLITE_C", ""), os.path.join(folder, "lib", machine, name)]
    places += [os.path.join(path, "pymicro_wakeword", "lib", name) for path in sys.path]
    for place in places:
        if os.path.isfile(place):
            return ctypes.CDLL(place)
    raise OSError("no TFLite C library for this machine: pip install --no-deps --require-hashes -r requirements.txt")


class Engine:
    """``engine(bytes)`` is the output's bytes; one call at a time."""

    def __init__(self, folder: str, spec: dict[str, Any], threads: int) -> None:
        self.lib = lib = library(folder)
        makers = ("ModelCreateFromFile", "InterpreterOptionsCreate", "XNNPackDelegateCreate", "InterpreterCreate")
        for name in (*makers, "InterpreterGetInputTensor", "InterpreterGetOutputTensor"):
            getattr(lib, f"TfLite{name}").restype = POINTER
        lib.TfLiteXNNPackDelegateOptionsDefault.restype = DelegateOptions
        lib.TfLiteTensorByteSize.restype = ctypes.c_size_t
        model = POINTER(lib.TfLiteModelCreateFromFile(os.path.join(folder, spec["file"]).encode()))
        options = POINTER(lib.TfLiteInterpreterOptionsCreate())
        lib.TfLiteInterpreterOptionsSetNumThreads(options, threads)
        settings = lib.TfLiteXNNPackDelegateOptionsDefault()
        settings.threads = threads
        delegate = POINTER(lib.TfLiteXNNPackDelegateCreate(ctypes.byref(settings)))
        lib.TfLiteInterpreterOptionsAddDelegate(options, delegate)
        self.interpreter = POINTER(lib.TfLiteInterpreterCreate(model, options))
        if not model or not self.interpreter or lib.TfLiteInterpreterAllocateTensors(self.interpreter):
            raise OSError(f"the TFLite C library cannot open {spec['file']}: run selftest.py")
        self.input = POINTER(lib.TfLiteInterpreterGetInputTensor(self.interpreter, 0))
        self.output = POINTER(lib.TfLiteInterpreterGetOutputTensor(self.interpreter, 0))
        self.size = lib.TfLiteTensorByteSize(self.output)

    def __call__(self, data: bytes) -> bytes:
        """Run the model once."""
        lib, found = self.lib, ctypes.create_string_buffer(self.size)
        if (
            lib.TfLiteTensorCopyFromBuffer(self.input, data, ctypes.c_size_t(len(data)))
            or lib.TfLiteInterpreterInvoke(self.interpreter)
            or lib.TfLiteTensorCopyToBuffer(self.output, found, ctypes.c_size_t(self.size))
        ):
            raise OSError("the TFLite C library cannot run the model: run selftest.py")
        return found.raw
