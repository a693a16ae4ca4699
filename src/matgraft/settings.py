"""Settings that users write, and what is wrong with them in words."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from matgraft.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self


class Settings(BaseModel):
    """Settings that never change once they are checked; ``what`` names them in messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    what: ClassVar[str] = "settings"

    @classmethod
    def of(cls, settings: Mapping[str, object], where: str | None = None) -> Self:
        """Check settings.

        Parameters
        ----------
        settings : dict
        where : str, optional
            They come from.

        Raises
        ------
        InputError
            A setting that does not exist, lacks or does not fit.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise InputError(f"{where or cls.what}: {said(error, cls)}") from error

    def changed(self, **changes: object) -> Self:
        """A copy with other settings, checked like new ones.

        Raises
        ------
        InputError
            A setting that does not exist or does not fit.
        """
        return self.of({**self.model_dump(), **changes})


def said(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with settings, in a sentence, with the nearest setting that exists."""
    # What is misspelt may lack elsewhere, where it is harder to understand.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = get_close_matches(key, model.model_fields, 1)
        return f"no setting {key!r}; " + (
            f"did you mean {near[0]!r}?" if near else f"there are {', '.join(model.model_fields)}."
        )
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message}." if key else f"{message}."
