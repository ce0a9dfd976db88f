"""JSON in arguments and files: read strictly, refused with the place."""

from pathlib import Path

import pytest

from common.errors import Invalid
from signalbox.cli.arguments import json_argument, json_object, labels, read_document, read_object
from signalbox.cli.exits import UsageError


def test_json_is_given_in_place_or_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"order": 7}')

    assert json_argument('{"order": 7}', "--input") == {"order": 7}
    assert json_argument(f"@{tmp_path / 'input.json'}", "--input") == {"order": 7}
    assert json_argument(None, "--input") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "{order: 7}",
            "--input: not JSON: Expecting property name enclosed in double quotes at line 1, column 2",
        ),
        ('{"a": 1, "a": 2}', '--input: duplicate key "a" in an object'),
        ("NaN", "--input: NaN is not JSON"),
        ("9007199254740993", "--input: integer beyond"),
        ("@nowhere.json", 'cannot read "nowhere.json": No such file or directory'),
    ],
)
def test_what_is_not_json_names_the_option(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        json_argument(text, "--input")

    assert refused.value.message.startswith(said)


def test_an_option_that_holds_an_object_takes_nothing_else() -> None:
    assert json_object('{"a": 1}', "--data") == {"a": 1}
    assert json_object(None, "--data") is None
    with pytest.raises(UsageError, match="--data: expected a JSON object"):
        json_object("[1]", "--data")


def test_labels_are_names_and_values() -> None:
    assert labels(["team=a", "note=x=y", "empty="]) == {"team": "a", "note": "x=y", "empty": ""}
    for bad in ("team", "=a"):
        with pytest.raises(UsageError, match="expected name=value"):
            labels([bad])


def test_a_syntax_error_is_shown_with_its_line_and_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{\n  "id": "x",\n  "states": {,}\n}')

    with pytest.raises(Invalid) as refused:
        read_document(str(path))

    assert refused.value.message == (
        f"{path}:3:14: not JSON: Expecting property name enclosed in double quotes\n"
        '      "states": {,}\n'
        "                 ^"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1:1: not JSON: Expecting value"),
        ('{"a": 1, "a": 2}', ': duplicate key "a" in an object'),
        ('{"a": "\\ud800"}', ": a: text contains a lone surrogate"),
        ("1" * 5_000, ": integer beyond"),
        ("[" * 100_000, ": JSON nests too deep"),
    ],
)
def test_a_file_that_is_not_strict_json_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)

    with pytest.raises(Invalid) as refused:
        read_document(str(path))

    assert refused.value.message.startswith(f"{path}{said}")


def test_a_file_that_is_not_text_or_not_there_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="byte 0 is not UTF-8"):
        read_document(str(tmp_path / "binary"))
    with pytest.raises(UsageError, match="Is a directory"):
        read_document(str(tmp_path))


def test_a_definition_is_an_object(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")

    with pytest.raises(Invalid, match="a definition is a JSON object, found list"):
        read_object(str(tmp_path / "list.json"))
