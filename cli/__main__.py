"""The program as a module: ``python -m torchshrink.cli``, which launchers of several processes start."""

from torchshrink.cli.app import main

main()
