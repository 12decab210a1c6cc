"""Base model of the resource: camelCase names, bounded strings, and CEL rules kept beside the fields they judge.

Every rule becomes an ``x-kubernetes-validations`` entry of the CRD, so that
``kubectl apply --dry-run=server`` already says what is wrong. A rule's message names
the remedy; the API server itself adds the field's path and, for scalars, the value.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A part of the resource. Immutable: resolved specs are values that plans are functions of."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    def body(self) -> dict[str, Any]:
        """The JSON form, absent fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def rules(*validations: dict[str, Any]) -> dict[str, Any]:
    """Attach CEL rules to a model or a field (``json_schema_extra``)."""
    return {"x-kubernetes-validations": list(validations)}


def rule(
    expression: str, message: str, *, reason: str = "FieldValueInvalid", at: str = "", saying: str = ""
) -> dict[str, Any]:
    """One CEL rule: ``expression`` must hold; ``message`` tells the user what to do instead.

    ``at`` is the path (such as ``.k``) below the model that the error shall name. ``saying`` is a CEL expression
    for the message where that needs values: the API server shows none of an object.
    """
    entry: dict[str, Any] = {"rule": expression, "message": message, "reason": reason}
    if saying:
        entry["messageExpression"] = saying
    if at:
        entry["fieldPath"] = at
    return entry


# Bounds exist for every string and list that a CEL rule reads: the API server budgets a rule's
# cost by the largest input that the schema admits, and an unbounded one does not install.
Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Key = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
Word = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][-._A-Za-z0-9]*$")]
ModelName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^(/[^\s]+|[A-Za-z0-9][^\s]*)$")]
Revision = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][-._/A-Za-z0-9]*$")]
Quantity = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
