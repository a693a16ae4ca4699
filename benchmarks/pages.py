"""Parts of pages that come from results stand between marks: ``<!-- name -->`` and ``<!-- /name -->``."""

from __future__ import annotations

import re

from matgraft.errors import InputError


def filled(page: str, name: str, content: str) -> str:
    """The page with other content between the marks of that name."""
    text, found = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
        lambda match: match[1] + content + match[2],
        page,
        flags=re.DOTALL,
    )
    if found != 1:
        raise InputError(f"A page needs the marks <!-- {name} --> and <!-- /{name} --> once.")
    return text
