"""What is wrong with a resource, in a form that becomes a condition."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that keeps the resource from being made so.

    reason: stable CamelCase word. field: path of the field, such as ``spec.speculative.k``, or empty.
    message: names the value and the way out; deterministic, since conditions are compared.
    """

    reason: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class Stalling(Exception):
    """The resource can't be made so until its spec (or what it names) changes."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems

    @property
    def reason(self) -> str:
        """Reason of the first problem."""
        return self.problems[0].reason
