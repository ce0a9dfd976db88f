"""`signalbox demo`, as a visitor runs it: real processes, a real broker, a real mail file, and nothing left behind."""

import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.support.processes import Child, Processes
from tests.support.slowdown import assert_within

DEMO_SECONDS = 60
SECOND_RUN_SECONDS = 15


def run_demo(processes: Processes, *options: str, env: dict[str, str] | None = None) -> Child:
    child = processes.start("demo", "signalbox", "demo", *options, env=env)
    child.wait(seconds=DEMO_SECONDS)
    return child


def assert_in_order(text: str, *parts: str) -> None:
    """Each of `parts` stands in `text`, after the one before."""
    position = 0
    for part in parts:
        found = text.find(part, position)
        assert found >= 0, f"{part!r} does not follow in:\n{text}"
        position = found + len(part)


def seconds_of(demo: Child) -> float:
    (took,) = re.findall(r"the whole demo took ([\d.]+) s", demo.log())
    return float(took)


def pids_in(log: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"pid (\d+)", log)]


def runs(pid: int) -> bool:
    """A zombie that nobody has reaped yet runs no more."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_demo_shows_hello_workflow_leaves_nothing_running_and_goes_on_in_its_folder_within_seconds(
    processes: Processes, tmp_path: Path
) -> None:
    """Two runs in one folder: what there is to see, and what the second one finds."""
    demo = run_demo(processes)

    assert demo.exit_code == 0, demo.log()
    log = demo.log()
    assert_in_order(
        log,
        "Signalbox",
        *("✓ database", "SQLite"),
        "Apply the definition hello-workflow",
        "start ── WORKFLOW_START ──▶ notify",
        "notify ── HELLO_SENT ──▶ done",
        "version 1, active",
        "POST http://127.0.0.1:",
        *("instance.started", "→ notify", "EMAIL send-hello", "HELLO_SENT", "→ done", "instance.completed"),
        "completed",
        *("From:", "signalbox@localhost", "To:", "user@example.com", "Subject:", "Hello"),
        "chain verified: 2 rows, replaying them gives the stored state",
        '"greeted": false',
        *("EMAIL task claimed", "EMAIL task succeeded", "instance completed"),
        "all processes stopped in",
        "Try next",
    )
    for part in ("broker", "api", "orchestrator", "task-runner"):
        assert re.search(rf"✓ {part} .*pid \d+", log), part
    assert "\x1b[" not in log
    (mail,) = re.findall(r"^ *(/\S+\.eml)$", log, re.MULTILINE)
    assert Path(mail).parent == tmp_path / ".signalbox" / "demo" / "mail"
    assert "To: user@example.com" in Path(mail).read_text()
    pids = pids_in(log)
    assert len(pids) == 4
    assert not [pid for pid in pids if runs(pid)]
    whole = seconds_of(demo)

    second = processes.start("second", "signalbox", "demo")

    assert second.wait(seconds=DEMO_SECONDS) == 0
    assert "version 1, active" in second.log()
    # What is there already is not made again; on a machine that others use, the first run tells what a run takes.
    assert_within(seconds_of(second), max(SECOND_RUN_SECONDS, 1.5 * whole))


def test_the_demo_loads_no_module_of_the_current_folder(processes: Processes) -> None:
    """Whoever tries it out does so in the folder of a project, which may have an `api.py` of its own."""
    (processes.folder / "api.py").write_text("raise SystemExit('this is not the API of Signalbox')")

    demo = run_demo(processes)

    assert demo.exit_code == 0, demo.log()
    assert "fork-server" not in demo.log()


def test_a_demo_that_fails_says_what_and_shows_the_logs(processes: Processes, tmp_path: Path) -> None:
    mail = tmp_path / ".signalbox" / "demo" / "mail"
    mail.parent.mkdir(parents=True)
    mail.touch()  # a file where the folder of the mails should be: the EMAIL task cannot succeed

    demo = run_demo(processes)

    assert demo.exit_code == 1, demo.log()
    assert_in_order(
        demo.log(),
        "the demo failed",
        "--- end of api.log",
        "--- end of task-runner.log",
        f"the logs are in {tmp_path / '.signalbox' / 'demo' / 'logs'}",
    )
    assert not [pid for pid in pids_in(demo.log()) if runs(pid)]


def test_a_database_that_cannot_be_used_is_one_sentence(processes: Processes, tmp_path: Path) -> None:
    folder = tmp_path / ".signalbox" / "demo"
    folder.mkdir(parents=True)
    (folder / "signalbox.db").write_text(
        "this is no database, and it is longer than a header of SQLite would be " * 20
    )

    demo = run_demo(processes)

    assert demo.exit_code == 1
    assert "the demo failed: the database" in demo.log()
    assert "file is not a database" in demo.log()
    assert "Traceback" not in demo.log()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing_running(
    processes: Processes, number: signal.Signals
) -> None:
    demo = processes.start("demo", "signalbox", "demo")
    demo.wait_for_log("✓ broker", seconds=DEMO_SECONDS)
    children = psutil.Process(demo.pid).children(recursive=True)

    demo.popen.send_signal(number)

    assert demo.wait(seconds=20) == 130
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not [child for child in alive if runs(child.pid)]


def test_the_order_demo_shows_regions_a_retry_and_a_map_and_touches_nothing_that_is_set_for_others(
    processes: Processes, tmp_path: Path
) -> None:
    """With settings that no demo could run with, if it took them: every demo makes its environment in the same way."""
    (tmp_path / ".env").write_text("SMTP_URL=smtp://127.0.0.1:1\nSIGNALBOX_LOOK_SECONDS=nonsense\n")
    others = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
        "REDIS_URL": "redis://127.0.0.1:1",
        "SMTP_URL": "smtp://127.0.0.1:1",
        "SIGNALBOX_SECRET": "not base64",
    }

    demo = run_demo(processes, "order", env=others)

    assert demo.exit_code == 0, demo.log()
    assert_in_order(
        demo.log(),
        "Apply the definition order",
        "preparing ── done ──▶ confirming",
        *("task.created", "MAP", "instance.completed"),
        *("orders.charge", "3/4"),
        *("reserve-lamp", "reserve-rope", "reserve-bell", "reserve-flag"),
        *("To:", "ada@example.com", "Subject:", "Order A-1007 is on its way", "Paid 84 with receipt-"),
        "chain verified",
    )


def test_the_approval_demo_shows_a_refused_ai_and_a_person_who_decides_by_a_link(
    processes: Processes,
) -> None:
    demo = run_demo(processes, "approval")

    assert demo.exit_code == 0, demo.log()
    assert_in_order(
        demo.log(),
        "Apply the definition approval",
        *("ai.decided", "refused APPROVED"),
        *('"event": "APPROVED"', '"verdict": "refused"'),
        *("To:", "boss@example.com", "Approve: http://127.0.0.1:"),
        *("200: a page with a button", "200: decided", "410: a link works once"),
        *("human.decided", "instance.completed"),
        "chain verified",
    )
