"""A look at what is in a figure."""

from __future__ import annotations

from itertools import combinations

from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Each visible text with the rectangle that it fills, ticks outside the axes' limits left out."""
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                hidden.add(tick.label2)
                if not low <= tick.get_loc() <= high or not tick.label1.get_visible() or not ax.axison:
                    hidden.add(tick.label1)
    texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible() and t not in hidden]
    renderer = figure.canvas.get_renderer()
    placed = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    return [(text, place) for text, place in placed if place.width > 0]


def words(figure: Figure) -> str:
    return "\n".join(text for text, _ in boxes(figure))


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes touch."""
    return [
        (first, second)
        for (first, here), (second, there) in combinations(boxes(figure), 2)
        if here.padded(-2).overlaps(there.padded(-2))
    ]


def is_picture(path) -> bool:
    image = imread(path)
    return image.ndim == 3 and min(image.shape[:2]) > 200 and image[..., :3].std() > 0.02
