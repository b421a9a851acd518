"""``python -m torchshrink`` is the program."""

import runpy

runpy.run_module("torchshrink.cli", run_name="__main__", alter_sys=True)
