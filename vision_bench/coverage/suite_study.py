"""What every study of a classifier and a suite of labelled images does alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.coverage.reference import Reference
from aim_plugins.sweep.store import SweepStore
from vision_bench.coverage.learn import (
    all_positions,
    check_fit,
    keep_reference,
    open_reference,
)
from vision_bench.coverage.settings import CoverageSettings, TrainedSettings
from vision_bench.coverage.subject import Subject, load_subject
from vision_bench.data.classification import ClassificationData
from vision_bench.data.dataset import VisionData, list_left_out


class OfSuite:
    """A part of studies: the classifier, its suite and its training images.

    Attributes:
        subject: The classifier.
        suite: The suite.
        training: The training images; None where a reference stands for them.
        positions: The suite's images that are measured, in the order of measuring.
    """

    subject: Subject
    suite: ClassificationData
    training: ClassificationData | None
    positions: list[int]

    def load_suite(self, settings: TrainedSettings) -> None:
        """Loads all of them.

        Raises:
            ValueError: If a name, a file or a setting is not usable.
            FileNotFoundError: If a file is not there.
        """
        self.subject, self.suite, self.training = load_subject(settings)
        self.positions = all_positions(self.suite, settings)

    def note_suite(self, store: SweepStore, **pinned: Any) -> None:
        """Pins in the manifest what must not change, and notes what was measured.

        Raises:
            SweepMismatchError: If a folder is resumed with another model or other data.
        """
        model, layers = self.subject.model, self.subject.layers
        store.pin_manifest(
            model_fingerprint=model.fingerprint,
            data_fingerprint=self.suite.fingerprint,
            preprocessing=self.suite.identity()["preprocessing"],
            **pinned,
        )
        store.update_manifest(
            model=model.title,
            weights=model.weights,
            layers=len(layers.names),
            neurons=layers.neurons,
            images=len(self.positions),
        )

    def tell_left_out(self, store: SweepStore, others: Iterable[VisionData | None] = ()) -> None:
        """Notes the images that were left out, and says which."""
        store.update_manifest(left_out=dict(self.suite.unreadable))
        read = (self.suite, self.training, *others)
        for data in dict.fromkeys(one for one in read if one is not None):
            if data.unreadable:
                say(f"{data.title}: {list_left_out(data.unreadable)}")


class OfReference(OfSuite):
    """A part of studies that measure criteria, and so need a reference.

    Attributes:
        reference: What the criteria know of the training set; None before it is learned.
    """

    reference: Reference | None = None

    def load_with_reference(self, settings: CoverageSettings) -> None:
        """Loads the suite, and the reference that a setting names.

        Raises:
            ValueError: If a setting is not usable, or the reference is not of this model.
            FileNotFoundError: If a file is not there.
        """
        self.load_suite(settings)
        if settings.reference is not None:
            self.reference = open_reference(settings, self.subject)
        elif self.training is not None:
            check_fit(self.subject, self.training, settings)

    def learned(self, store: SweepStore, settings: CoverageSettings) -> Reference:
        """The reference, learned once and kept in the folder."""
        self.reference = keep_reference(
            store, self.subject, self.training, self.reference, settings
        )
        return self.reference
