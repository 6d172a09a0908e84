"""Values of measures, by the measures' names, as records and summaries hold them.

A new measure needs no field here, and a record of an earlier version that lacks one stays readable.
Which measures there are, and what they mean, stands in `measures.py`.
"""

from __future__ import annotations

from typing import Any, cast

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from engine.config import FrozenConfig

Value = float | None | dict[str, float] | dict[str, tuple[float, ...]]
"""A number (None: it has no meaning there), one of each class, or several of each class."""


class Measured(FrozenConfig):
    """A record with values of measures; in JSON they stand among the record's other keys.

    Attributes:
        values: by the measure's name.
    """

    values: dict[str, Value] = Field(default_factory=dict)

    def number(self, name: str) -> float | None:
        """A value that is one number; None where it is missing or has no meaning."""
        return cast("float | None", self.values.get(name))

    def by_class(self, name: str) -> dict[str, float]:
        """A value that has a number for each class; empty where it is missing."""
        return cast("dict[str, float]", self.values.get(name) or {})

    def levels(self, name: str) -> dict[str, tuple[float, ...]]:
        """A value that has several numbers for each class; empty where it is missing."""
        return cast("dict[str, tuple[float, ...]]", self.values.get(name) or {})

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, fields: Any) -> Any:
        """Keys that are no field of the record are measures."""
        if not isinstance(fields, dict) or "values" in fields:
            return fields
        own = {key: value for key, value in fields.items() if key in cls.model_fields}
        return {**own, "values": {k: v for k, v in fields.items() if k not in own}}

    @model_serializer(mode="wrap")
    def _spread(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The values stand where the field does, each under its own key."""
        spread: dict[str, Any] = {}
        for key, value in serialize(self).items():
            spread.update(value if key == "values" else {key: value})
        return spread


class VolumeMeasures(Measured):
    """What was measured on one volume.

    Attributes:
        unit: "HU" or "a.u.", of all intensities among the values.
    """

    unit: str
