"""The `signalbox` command in a test: the real one, asking the API of the test over a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Thread
from typing import Any

import pytest
from typer import testing
from typer.testing import CliRunner, Result
from werkzeug.serving import make_server

from signalbox.cli.app import app
from tests.integration.api.conftest import Api

LOOK_SECONDS = 0.02
"""How often the server looks whether it is to end."""


# What Typer makes of the app, once: it takes as long as most commands.
testing._get_command = cache(testing._get_command)


@contextmanager
def served(api: Api) -> Iterator[str]:
    """The API of a test on the loopback, on a port of its own: its URL."""
    server = make_server("127.0.0.1", 0, api.app, threaded=True)
    thread = Thread(target=server.serve_forever, args=(LOOK_SECONDS,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


class Cli:
    """Runs `signalbox …` as the admin of the test's tenant."""

    def __init__(self, api: Api, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SIGNALBOX_URL", url)
        monkeypatch.setenv("SIGNALBOX_KEY", api.keys["admin"])

    def run(self, *words: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(words), input=stdin)

    def text(self, *words: str) -> str:
        """What it prints for people; it must have gone well."""
        result = self.run(*words)
        assert result.exit_code == 0, f"{result.output} {result.exception}"
        return result.stdout

    def json(self, *words: str) -> Any:
        """What it answers with `--json`; it must have gone well."""
        return json.loads(self.text(*words, "--json"))
