"""What can be wrong: with a definition (`Problem`, `DefinitionInvalid`) or with a step (`StepFailed`).

A problem is data, one per finding, so that the API, the CLI and the console show the same list. `docs/checks.md`
is the catalogue of codes, with an example that fails for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Literal

from statechart.env import Json

Severity = Literal["error", "warning"]
MAX_COMPARED = 200
MAX_COMPARED_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding about a definition: an `error` refuses it, a `warning` is kept beside it.

    `code` is stable and dotted (`target.unknown`), `path` the place in the document (`states.review.on.approve`),
    `suggestion` what was probably meant, or None.
    """

    severity: Severity
    code: str
    path: str
    message: str
    suggestion: str | None = None

    def to_json(self) -> dict[str, Json]:
        return {
            "severity": self.severity,
            "code": self.code,
            "path": self.path,
            "message": self.message,
            "suggestion": self.suggestion,
        }

    def __str__(self) -> str:
        hint = f"; did you mean {self.suggestion!r}?" if self.suggestion else ""
        return f"{self.path or '(document)'}: {self.message}{hint}"


class DefinitionInvalid(Exception):
    """A document that no chart can be made of; `problems` says all that was found, errors and warnings."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        errors = [problem for problem in self.problems if problem.severity == "error"]
        super().__init__("; ".join(str(problem) for problem in errors[:5]) or "the definition is invalid")


class StepFailed(Exception):
    """A step that must not become true: the caller keeps the old snapshot.

    `code` is stable: `step.uncaught` (an `error.execution` that nobody handles), `step.endless` (more than 1,000
    microsteps), `snapshot.unusable` (another kernel, or states that the chart does not have), `event.invalid`.
    `path` is the place in the definition or snapshot, `data` more facts as JSON.
    """

    def __init__(self, code: str, message: str, *, path: str = "", data: Json = None) -> None:
        self.code = code
        self.message = message
        self.path = path
        self.data = data
        super().__init__(f"{path}: {message}" if path else message)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be, or None.

    Looks at a bounded number of words of about the same length, so that a hostile document with thousands of long
    names costs no more than a friendly one.
    """
    if len(word) > MAX_COMPARED_LENGTH:
        return None
    alike = (other for other in known if abs(len(other) - len(word)) <= 3 + len(word) // 4)
    candidates = list(islice(alike, MAX_COMPARED))
    folded = word.lower()
    for candidate in candidates:
        if candidate.lower() == folded:
            return candidate
    return next(iter(get_close_matches(word, candidates, n=1, cutoff=0.6)), None)
