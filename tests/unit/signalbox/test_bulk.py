"""What is said before and after something is done to many."""

from collections.abc import Iterator
from typing import Any

import pytest

from signalbox.cli.control import act_on_many
from signalbox.cli.exits import UsageError
from signalbox.cli.output import Output


def asking(*ids: str) -> Any:
    def ask(_is_dry: bool) -> Iterator[Any]:
        yield {"accepted": list(ids), "refused": [], "nextCursor": None}

    return ask


def retry(*ids: str, dry_run: bool, yes: bool) -> None:
    out = Output(as_json=False)
    act_on_many(out, asking(*ids), "retry", "instance", dry_run=dry_run, yes=yes, on_none=lambda: None)


@pytest.mark.parametrize(("ids", "said"), [(["one"], "1 instance"), (["one", "two"], "2 instances")])
def test_one_is_one_and_two_are_some(capsys: pytest.CaptureFixture[str], ids: list[str], said: str) -> None:
    retry(*ids, dry_run=True, yes=False)
    assert f"would retry {said}\n" in capsys.readouterr().out

    retry(*ids, dry_run=False, yes=True)
    assert f"accepted: retry {said}\n" in capsys.readouterr().out

    with pytest.raises(UsageError, match=f"this would retry {said}; say --yes"):
        retry(*ids, dry_run=False, yes=False)
