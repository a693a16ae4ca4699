"""Transfer schemes as data: which parameters move, how fast, and from when on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from matgraft.errors import InputError
from matgraft.settings import Settings


class Rate(Settings):
    """How a group of parameters learns.

    Attributes
    ----------
    parameters : str
        Parameters whose name starts so: ``embedding``, ``interactions``, ``interactions.5``,
        ``interactions.5.filter``, ``output``; the empty string means all of them.
    factor : float
        Multiplies the learning rate; 0 freezes.
    from_epoch : int
        Frozen until then (staged unfreezing).
    """

    what: ClassVar[str] = "rate of a scheme"

    parameters: str = ""
    factor: float = Field(default=1.0, ge=0)
    from_epoch: int = Field(default=0, ge=0)

    def covers(self, name: str) -> bool:
        return not self.parameters or name == self.parameters or name.startswith(self.parameters + ".")


class Scheme(Settings):
    """A way to start and to move.

    Attributes
    ----------
    name, description : str
    start : {"random", "source"}
    rates : tuple of Rate
        The longest name that covers a parameter wins; what none covers is frozen.
    """

    what: ClassVar[str] = "scheme"

    name: str
    description: str = ""
    start: Literal["random", "source"] = "source"
    rates: tuple[Rate, ...] = (Rate(),)

    def require_known(self, names: Iterable[str]) -> None:
        """Raise InputError for a rate that covers no parameter: a misspelt one would freeze what it means."""
        names = list(names)
        for rate in self.rates:
            if not any(rate.covers(name) for name in names):
                tops = dict.fromkeys(name.split(".")[0] for name in names)
                raise InputError(
                    f"scheme {self.name}: no parameter's name starts with {rate.parameters!r}; there are "
                    f"{', '.join(tops)}, and parts of these such as interactions.0."
                )

    def rate(self, name: str) -> Rate:
        """The rate that applies to the parameter ``name``."""
        covering = [rate for rate in self.rates if rate.covers(name)]
        return max(covering, key=lambda rate: len(rate.parameters), default=Rate(factor=0.0))


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(name="direct", description="random start, everything moves", start="random"),
        Scheme(name="tl1", description="source start, everything moves"),
        Scheme(
            name="tl2",
            description="source start, embedding frozen",
            rates=(Rate(), Rate(parameters="embedding", factor=0.0)),
        ),
        Scheme(
            name="tl3", description="source start, output layers only", rates=(Rate(parameters="output"),)
        ),
        Scheme(
            name="staged",
            description="source start, from the output layers down",
            rates=(
                Rate(parameters="output"),
                Rate(parameters="interactions", from_epoch=5),
                Rate(parameters="embedding", from_epoch=10),
            ),
        ),
    )
}
