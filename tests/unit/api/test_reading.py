"""What is wrong in a request is told in words of the API: what was expected, and what was found."""

from typing import Any

import pytest
from flask import Request
from pydantic import ValidationError
from werkzeug.test import EnvironBuilder

from api.reading import read_query, refused_members
from api.schemas.queries import InstanceQuery
from api.schemas.requests import StartBody
from common.errors import Invalid


def refusal(body: Any) -> Invalid:
    with pytest.raises(ValidationError) as wrong:
        StartBody.model_validate(body)
    return refused_members(wrong.value, StartBody)


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ([1], "", "expected a JSON object, found a list"),
        (None, "", "expected a JSON object, found null"),
        ({"definitionKey": 5}, "definitionKey", "expected a text, found 5"),
        ({"definitionKey": "order", "priority": "high"}, "priority", "expected a whole number, found 'high'"),
        ({"definitionKey": "order", "priority": 400}, "priority", "expected at most 100, found 400"),
        ({"definitionKey": "order", "labels": [1]}, "labels", "expected an object, found a list"),
    ],
)
def test_a_member_that_is_wrong_is_told_with_what_was_expected_and_found(
    body: Any, path: str, message: str
) -> None:
    refused = refusal(body)

    assert [(one["path"], one["message"]) for one in refused.problems] == [(path, message)]
    assert str(refused) == f"{path or 'body'}: {message}"


@pytest.mark.parametrize("query", ["status=broken", "status=failed&status=broken"])
def test_a_parameter_that_is_none_of_a_few_words_is_told_with_all_of_them(query: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_query(InstanceQuery, Request(EnvironBuilder(query_string=query).get_environ()))

    said = str(refused.value)
    assert said.startswith("status: expected 'pending', 'running', ")
    assert said.endswith(", found 'broken'")


def test_a_word_that_is_nearly_one_of_them_is_told_what_was_meant() -> None:
    with pytest.raises(Invalid) as refused:
        read_query(InstanceQuery, Request(EnvironBuilder(query_string="status=faild").get_environ()))

    assert str(refused.value).endswith("found 'faild'; did you mean \"failed\"?")
    assert refused.value.problems[0]["suggestion"] == "failed"
