"""What a study of inherited defects shows: terminal, files, pictures and the report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Exhibit, Page, Section, Table, publish_page
from vision_bench.reengineering.defects.findings import Findings, show_retained
from vision_bench.reengineering.defects.pictures import draw_inheritance
from vision_bench.reengineering.defects.settings import DefectsSettings

_NOTE = (
    "The attack is crafted on the features of the public model and carried over (PGD in normalised "
    "space). DIR, the defect inheritance rate, is the share of an arm's right answers that it "
    "overturns. All intervals are 95 %: Wilson's of shares; of differences, paired over the images "
    "that both arms answer rightly, whose number stands beside them: it may therefore differ from "
    "the difference of two DIRs. They hold for the images, not for training again with another "
    "seed. Retained is the share of the hidden weights of convolutions and linear layers."
)


def publish(
    folder: Path,
    findings: Findings,
    settings: DefectsSettings,
    manifest: Mapping[str, Any],
    *,
    target: str,
    masks: Mapping[str, Any] | None,
    exhibits: Sequence[Exhibit] = (),
) -> Path:
    """Writes and prints everything; returns the report's path.

    Args:
        folder: The study's folder.
        findings: What was found.
        settings: What was asked.
        manifest: The study's manifest.
        target: What a person calls the data set.
        masks: What was noted of the masks when they were learned; None where no arm needs any.
        exhibits: Attacked images.

    Raises:
        OSError: If a file cannot be written.
    """
    drawn = draw_inheritance(findings)
    model = str(manifest.get("model", settings.model))
    told = [*findings.sentences, *_of_masks(masks, settings)]
    title = f"{model}, reused for {target}"
    subject = (
        f"{target}: {manifest.get('images')} test images; attack eps={settings.eps:g}, "
        f"{settings.nb_iter} steps of {settings.eps_iter:g}"
    )
    sections = _sections(findings, told, drawn["png"], exhibits)
    return publish_page(
        folder,
        Page("Inherited defects", title, subject, findings.summary, sections),
        manifest,
        files={
            "defects.json": findings.to_json(target=target, model=model, masks=masks),
            "defects.csv": findings.csv,
        },
        pictures={f"inheritance.{kind}": content for kind, content in drawn.items()},
        table=Overview(title, columns=findings.columns, rows=findings.rows).as_text(),
        sentences=[findings.summary, *told],
        others=["models/"] + ["masks/"] * (masks is not None),
    )


def _sections(
    findings: Findings, told: Sequence[str], picture: bytes, exhibits: Sequence[Exhibit]
) -> list[Section]:
    """The table with its picture, and attacked images where there are any."""
    pictures = {"accuracy against inherited defects": picture}
    table = Table(findings.columns, findings.rows)
    sections = [Section("Inherited defects", _NOTE, told, pictures, [table])]
    if exhibits:
        note = (
            "Test images whose right answer the attack overturns after standard fine-tuning. Below "
            "each stands what every arm answers to the attacked image."
        )
        sections.append(Section("Attacked images", note, exhibits=exhibits))
    return sections


def _of_masks(masks: Mapping[str, Any] | None, settings: DefectsSettings) -> list[str]:
    if masks is None:
        return []
    found = (
        f"The masks retain {show_retained(masks['retained'])} of the hidden weights after epoch "
        f"{masks['epoch'] + 1}, with a validation accuracy of {masks['accuracy']:.1%} before "
        "fine-tuning."
    )
    if masks["emptied"]:
        found += (
            " The epoch after removed every weight, so these were taken; lower alpha or lr_mask."
        )
    elif not masks["reached"]:
        found += (
            f" prune_threshold={settings.prune_threshold:g} was not reached: the masks of the best "
            "accuracy less retained share were taken; raise alpha, lr_mask or n_epochs to remove "
            "more."
        )
    return [found]
