"""Ids: made by several processes, and never the same."""

import os

from common.ids import new_id, new_token


def test_a_forked_process_makes_other_ids_than_its_parent() -> None:
    new_id(), new_token()  # the parent has a generator by now
    read, written = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(written, " ".join([new_token(), new_id(), new_token()]).encode())
        os._exit(0)
    ours = {new_token(), new_id(), new_token()}
    os.waitpid(pid, 0)
    assert ours.isdisjoint(os.read(read, 1_000).decode().split())
    os.close(read)
    os.close(written)
