"""vision-bench attribute edit CONFIG      ablate what targets need, or what harms them"""

from __future__ import annotations

from collections.abc import Sequence

from vision_bench.attribution.editing.settings import EditSettings
from vision_bench.attribution.settings import AttributionSettings
from vision_bench.commands import run_study


def edit(arguments: Sequence[str]) -> int:
    """Runs `vision-bench attribute edit`; returns 0."""
    run_study(
        EditSettings,
        "attribute edit",
        "Ablates the few components of a classifier that matter to some images more than to "
        "others: forgets classes, mends mistakes, closes a backdoor, helps the worst group. "
        "Measures on other images what changes and what it costs, against random edits and "
        "fine-tuning. The config may be that of `attribute run`. A killed run goes on when it is "
        "started again.",
        "vision_bench.attribution.editing.study:EditStudy",
        arguments,
        besides=(AttributionSettings,),
    )
    return 0
