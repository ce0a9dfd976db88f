"""`python -m signalbox` is `signalbox`."""

from signalbox.entry import main

main()
