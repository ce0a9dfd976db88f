"""Replace this process by a command that must not outlive whoever started it.

    python -I -S launch.py PARENT_PID ACCOUNT command argument…

ACCOUNT is `uid:gid` to become before, or `-` to stay who we are.

Linux kills the command as soon as its parent is gone (`PR_SET_PDEATHSIG`), so a `kill -9` of `signalbox up` leaves
nothing behind. The request is made here, in a fresh interpreter between fork and exec: code that runs between
`fork` and `exec` of a process with threads may meet locks that nobody will ever release. Elsewhere there is no such
request; a supervisor that is killed there leaves its children to be ended by hand.

Imports nothing of ours and nothing installed: it costs 20 ms a child.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, account: str, command: list[str]) -> None:
    """Tie this process to `parent` and become `command`; exit 1 when the parent has gone already."""
    if account != "-":
        uid, _, gid = account.partition(":")
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    # After the change of account, which takes such a request back.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request above: nobody would ever end the command
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the supervisor's own list of arguments, no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
