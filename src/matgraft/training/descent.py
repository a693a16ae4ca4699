"""Search on a grid, for what has few parameters and costs little to try."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def descended(
    error: Callable[[tuple[int, ...]], float], start: Sequence[int], sizes: Sequence[int]
) -> tuple[int, ...]:
    """Coordinate descent from one point of a grid to a neighbour of less error, until there is none.

    Parameters
    ----------
    error : callable
        Of a point, given by its index along each axis; asked for the same point again and again.
    start, sizes : sequence of int
        Where it begins, and the number of points along each axis.
    """
    at = tuple(start)
    while True:
        before = at
        for axis, size in enumerate(sizes):
            for step in (1, -1):
                while 0 <= at[axis] + step < size:
                    further = (*at[:axis], at[axis] + step, *at[axis + 1 :])
                    if error(further) >= error(at):
                        break
                    at = further
        if at == before:
            return at
