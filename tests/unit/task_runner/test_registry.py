"""Handlers by name: what may register, who is found for a task, and where modules are looked for."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from common.errors import Misconfigured
from task_runner import registry as module
from task_runner.registry import (
    REGISTRY,
    Handler,
    HandlerError,
    Permanent,
    Registry,
    Retryable,
    discover,
    handler,
    make_handler,
)


def one(_input: Any) -> None:
    """Does one thing."""


def two(_input: Any, _context: Any) -> None: ...


def test_a_handler_is_described_by_its_function() -> None:
    made = make_handler("orders.one", one)

    assert (made.takes_context, made.description, made.built_in) == (False, "Does one thing.", False)
    assert make_handler("orders.two", two).takes_context is True
    assert make_handler("orders.rest", lambda *arguments: None).takes_context is True
    assert make_handler("orders.optional", lambda _input, context=None: None).takes_context is True
    assert make_handler("orders.one", one, "said otherwise").description == "said otherwise"


async def asynchronous(_input: Any) -> None: ...


def without() -> None: ...


def by_name(*, input: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [(asynchronous, "is async"), (without, r"must take \(input\)"), (by_name, r"must take \(input\)")],
)
def test_a_function_that_cannot_be_called_as_a_handler_is_refused(function: Any, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        make_handler("orders.bad", function)


@pytest.mark.parametrize("name", ["", "1st", "two words", "ümlaut", "a" * 201, ".a", "a/b"])
def test_a_name_is_letters_digits_and_a_few_signs(name: str) -> None:
    with pytest.raises(Misconfigured, match="expected a letter"):
        Registry().add(Handler(name, one, takes_context=False, description=""))


def test_a_name_belongs_to_one_function() -> None:
    registry = Registry()
    registry.add(make_handler("orders.one", one))
    registry.add(make_handler("orders.one", one))  # imported twice under the same path: the same function

    with pytest.raises(Misconfigured, match=r"registered twice: by .*\.one and .*\.two"):
        registry.add(make_handler("orders.one", two))


def test_a_task_finds_its_handler_by_type_and_a_system_task_by_name() -> None:
    registry = Registry()
    registry.add(make_handler("orders.one", one))

    assert registry.find("orders.one", "whatever").function is one
    assert registry.find("SYSTEM", "orders.one").function is one
    with pytest.raises(KeyError, match=r'no handler "orders\.won"'):
        registry.find("orders.won", "job")
    with pytest.raises(KeyError, match=r'did you mean "orders\.one"'):
        registry.find("SYSTEM", "order.one")


def test_types_and_functions_are_what_a_runner_claims() -> None:
    registry = Registry()
    registry.add(make_handler("orders.one", one))
    registry.add(make_handler("EMAIL", two, built_in=True))

    assert registry.types() == ["EMAIL", "SYSTEM", "orders.one"]
    assert registry.functions() == ["orders.one"], "a built-in type is no function of SYSTEM"
    assert [one_.name for one_ in registry.all()] == ["EMAIL", "orders.one"]


@pytest.fixture
def forgets() -> Iterator[None]:
    """Give the registry of this process back as it was."""
    before = dict(REGISTRY._handlers)
    path = list(sys.path)
    yield
    REGISTRY._handlers.clear()
    REGISTRY._handlers.update(before)
    sys.path[:] = path


@pytest.mark.usefixtures("forgets")
def test_the_decorator_registers_and_returns_the_function() -> None:
    decorated = handler("tests.decorated", description="said", input_schema={"type": "object"})(one)

    assert decorated is one
    found = REGISTRY.find("tests.decorated", "")
    assert (found.description, found.input_schema) == ("said", {"type": "object"})


def write_module(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("forgets")
def test_modules_are_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registering = "from signalbox import handler\n@handler('{0}')\ndef work(input):\n    return input\n"
    write_module(tmp_path, "shop_orders", registering.format("shop.orders"))
    write_module(tmp_path, "shop_mails", registering.format("shop.mails"))
    monkeypatch.chdir(tmp_path)

    discover(" shop_orders, shop_mails ,")

    assert {"shop.orders", "shop.mails"} <= set(REGISTRY.functions())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
    ],
)
@pytest.mark.usefixtures("forgets")
def test_a_module_that_cannot_be_imported_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    write_module(tmp_path, f"broken_{said.lower()}", text)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(
        Misconfigured, match=rf'SIGNALBOX_HANDLERS: cannot import "broken_{said.lower()}": {said}'
    ):
        discover(f"broken_{said.lower()}")


@pytest.mark.usefixtures("forgets")
def test_a_module_that_raises_is_told_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "broken_inside", "\n\nNOT_THERE['key']")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(Misconfigured, match=r"NameError: .* \(.*broken_inside\.py, line 3\)$"):
        discover("broken_inside")
    with pytest.raises(Misconfigured, match=r"No module named 'not_there_at_all'$"):
        discover("not_there_at_all")


@pytest.mark.usefixtures("forgets")
def test_entry_points_are_imported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(
        tmp_path,
        "installed_plugin",
        "from signalbox import handler\n@handler('plugin.work')\ndef work(i):\n    return i\n",
    )
    monkeypatch.chdir(tmp_path)
    point = EntryPoint("plugin", "installed_plugin:work", module.ENTRY_POINTS)
    monkeypatch.setattr(module, "entry_points", lambda group: [point] if group == module.ENTRY_POINTS else [])

    discover("")

    assert "plugin.work" in REGISTRY.functions()


@pytest.mark.usefixtures("forgets")
def test_the_built_in_handlers_are_found_by_their_entry_point() -> None:
    for name in [name for name in sys.modules if name.startswith("task_runner.handlers")]:
        del sys.modules[name]  # so that they register once more

    discover("")

    assert "EMAIL" in REGISTRY.types()
    assert "signalbox.noop" in REGISTRY.functions()
    assert REGISTRY.find("signalbox.noop", "").function({}) == {}


def test_handler_errors_carry_code_data_and_what_they_say() -> None:
    for kind, retryable, code in (
        (HandlerError, None, "handler.failed"),
        (Retryable, True, "handler.retryable"),
        (Permanent, False, "handler.permanent"),
    ):
        error = kind("no", data=[1])
        assert (str(error), error.code, error.data, error.retryable) == ("no", code, [1], retryable)
        assert kind(code="own.code").code == "own.code"


@pytest.mark.usefixtures("forgets")
def test_options_say_how_a_handler_wants_to_be_run() -> None:
    handler(
        "orders.slow",
        retry={"maxAttempts": 5},
        timeout="30s",
        heartbeat_timeout=timedelta(seconds=5),
        isolated=True,
        memory_limit="512MB",
    )(one)
    options = REGISTRY.find("orders.slow", "").options

    assert (options.retry, options.timeout_ms, options.heartbeat_ms) == ({"maxAttempts": 5}, 30_000, 5_000)
    assert (options.isolated, options.memory_bytes) == (True, 512 * 2**20)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retry": {"maxAttempts": 0}}, "retry.maxAttempts"),
        ({"timeout": "soon"}, "timeout: expected a duration"),
        ({"timeout": 0}, "timeout: expected at least 1 ms"),
        ({"heartbeat_timeout": timedelta(0)}, "heartbeat_timeout: expected at least 1 ms"),
        ({"memory_limit": "512MB"}, "needs isolated=True"),
        ({"light": True, "isolated": True}, "no isolation and no time-out"),
        ({"light": True, "timeout": "1s"}, "no isolation and no time-out"),
        ({"memory_limit": "lots", "isolated": True}, "memory_limit: expected at least 128 MB"),
        ({"memory_limit": "64MB", "isolated": True}, "memory_limit: expected at least 128 MB"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(Misconfigured, match=f'handler "orders.bad": .*{said}'):
        handler("orders.bad", **options)


@pytest.mark.parametrize(
    ("written", "size"),
    [("128MB", 2**27), ("1G", 2**30), ("1GiB", 2**30), ("262144k", 2**28), (2**28, 2**28)],
)
@pytest.mark.usefixtures("forgets")
def test_a_memory_limit_is_bytes_or_text_with_a_unit(written: Any, size: int) -> None:
    handler("orders.big", isolated=True, memory_limit=written)(one)
    assert REGISTRY.find("orders.big", "").options.memory_bytes == size


def test_the_name_of_the_handler_that_holds_policies_is_nobody_elses() -> None:
    with pytest.raises(Misconfigured, match="reserved"):
        Registry().add(make_handler("AI", one))
    with pytest.raises(Misconfigured, match="reserved"):
        handler("AI")(one)
