"""Memory that threads have let go of is used by others."""

import subprocess
import sys
from pathlib import Path

from common.memory import ARENAS

# What many threads ask for at once, and give back, is counted in glibc's own account of its pools.
COUNT_POOLS = """
import ctypes, sys, threading
from pathlib import Path
from common.memory import take_few_arenas

take_few_arenas()
together = threading.Barrier(16)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def use():
    together.wait()
    for _ in range(2_000):
        libc.free(libc.malloc(5_000))

threads = [threading.Thread(target=use) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype, libc.malloc_info.argtypes, libc.fclose.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
out = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, out)
libc.fclose(out)
print(Path(sys.argv[1]).read_text().count("<heap nr="))
"""


def test_many_threads_share_a_few_pools(tmp_path: Path) -> None:
    counted = subprocess.run(
        [sys.executable, "-c", COUNT_POOLS, f"{tmp_path}/pools.xml"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert int(counted.stdout) <= ARENAS


def test_who_sets_their_number_has_as_many_as_he_says(tmp_path: Path) -> None:
    counted = subprocess.run(
        [sys.executable, "-c", COUNT_POOLS, f"{tmp_path}/pools.xml"],
        capture_output=True, text=True, check=True, env={"MALLOC_ARENA_MAX": "6", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip

    assert ARENAS < int(counted.stdout) <= 6
