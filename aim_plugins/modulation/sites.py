"""Names of sites: a module whose output is changed, or an item of its outputs."""

from __future__ import annotations

import re


def split_site(site: str) -> tuple[str, int]:
    """Splits a site into the module's name (or a pattern of names) and the index of its output.

    >>> split_site("model.norm"), split_site("model.layers.0:1")
    (('model.norm', 0), ('model.layers.0', 1))
    """
    name, colon, output = site.rpartition(":")
    return (name, int(output)) if colon and output.isdecimal() else (site, 0)


def compile_site(pattern: str) -> tuple[re.Pattern[str], int]:
    """The regular expression of module names in a pattern, and the index of the output.

    Raises:
        ValueError: If it is no regular expression.
    """
    expression, output = split_site(pattern)
    try:
        return re.compile(expression), output
    except re.error as error:
        raise ValueError(
            f"modules='{pattern}' is no regular expression ({error}): write for example "
            "'.*layernorm'"
        ) from error
