"""`python -m signalbox` is `signalbox`."""

from signalbox.cli import main

main()
