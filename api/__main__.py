"""`python -m api`: the HTTP API by its own server, see `api.server`."""

import gc
import sys

if __name__ == "__main__":
    # What is loaded now stays: looking through it for garbage, again and again, takes a quarter of the start.
    gc.disable()
    from api.server import main

    gc.enable()
    sys.exit(main())
