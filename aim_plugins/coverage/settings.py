"""Which criteria are measured, and with which constants; those of the papers by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.settings import Count, Names, Natural, Positive, Settings, bound, option

CRITERIA = (
    "NC", "KMNC", "NBC", "SNAC", "TKNC", "TKNP", "CC", "LSC", "DSC", "MDSC", "NLC", "IDC",
)  # fmt: skip

OF_TRACES = frozenset({"LSC", "DSC"})
"""Criteria that keep activations of training inputs."""
GINI = "DeepGini"
"""The order of inputs by how unsure the model is, beside those by what inputs add."""
BEYOND_TRAINING = frozenset({"NBC", "SNAC", "LSC", "DSC"})
"""Criteria of what training inputs do not do, so that these are no suite to compare with."""

ATTRIBUTORS = ("lrp-epsilon", "lrp", "lc", "la", "ii", "ldl", "ldls", "lgs", "lig")
"""What scores neurons, by name; `relevance.registry` makes them."""
WISDOM = "wisdom"
"""The vote of eight attributors, which takes the place of one."""

_Threshold = Annotated[float, bound("a number from 0 to 1", lambda value: 0 <= value <= 1)]


@dataclass(frozen=True)
class NeuronSettings(Settings):
    """Whose neurons are looked at.

    Attributes:
        modules: Regular expressions of the modules whose neurons are looked at; by default every
            convolution and linear layer.
    """

    modules: Sequence[str] = option((), metavar="PATTERN")


@dataclass(frozen=True)
class CriteriaSettings(NeuronSettings):
    """What is measured.

    Attributes:
        criteria: Names of criteria, by default all: NC,KMNC,NBC,SNAC,TKNC,TKNP,CC,LSC,DSC,MDSC,NLC
            and IDC.
        nc_threshold: Of NC, the scaled activation above which a neuron counts as activated.
        kmnc_buckets: Of KMNC, the buckets k of a neuron's training range.
        top_k: Of TKNC and TKNP, how many of the most active neurons of a layer count.
        cc_threshold: Of CC, the squared distance up to which activations of a layer are alike.
        lsc_width: Of LSC, the width of a bucket of surprise, in nats.
        dsc_width: Of DSC, the width of a bucket of surprise.
        mdsc_width: Of MDSC, the width of a bucket of surprise, in standard deviations.
        surprise_layer: The layer that LSC, DSC and MDSC look at; by default the last but one, whose
            neurons the classes are read from.
        surprise_inputs: Training inputs, taken evenly, whose activations LSC and DSC keep.
        compat: "neural-coverage" reproduces the library of that name with its quirks, "none" the
            papers.
    """

    criteria: Names = option(CRITERIA, metavar="NAMES")
    nc_threshold: _Threshold = 0.5
    kmnc_buckets: Count = 1000
    top_k: Count = 10
    cc_threshold: Positive = 10.0
    lsc_width: Positive = 10.0
    dsc_width: Positive = 0.1
    mdsc_width: Positive = 1.0
    surprise_layer: str | None = None
    surprise_inputs: Count = 10_000
    compat: Literal["none", "neural-coverage"] = "none"

    def check(self) -> None:
        super().check()
        if not self.criteria:
            raise ValueError("criteria is empty: name at least one, such as NC")
        for name in self.criteria:
            if name not in CRITERIA:
                raise ValueError(f"criteria holds {name!r}: {did_you_mean(name, CRITERIA)}")
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError(f"criteria={','.join(self.criteria)!r} names a criterion twice")


@dataclass(frozen=True)
class ImportanceSettings(Settings):
    """Which neurons are important, and how their activations are clustered.

    Attributes:
        attr: What scores neurons: lrp-epsilon (gradient times activation), or one of captum's
            attributors lrp, lc, la, ii, ldl, ldls, lgs and lig, or wisdom, their vote.
        importance_file: A CSV of scores, LayerName,NeuronIndex,Score as WISDOM writes it, in the
            place of an attributor.
        top_m_neurons: How many of the most important neurons IDC combines.
        n_clusters: Clusters of each neuron's training activations.
        use_silhouette: Chooses the number of clusters of each neuron, 2 to 4, by the silhouette.
        layer_index: The layer that IDC looks at, counted from 1, or from the end by negative
            numbers.
        layer_by_layer: Measures IDC of every layer besides.
        end2end: Measures IDC of the most important neurons of all layers but the last besides.
        all_class: Measures IDC of every class besides: its important neurons, on its own inputs;
            of those with as many correctly classified training inputs as clusters.
    """

    attr: str = "lrp-epsilon"
    importance_file: str | None = None
    top_m_neurons: Count = 6
    n_clusters: Annotated[int, bound("a whole number from 2 upwards", lambda one: one >= 2)] = 2
    use_silhouette: bool = False
    layer_index: Annotated[int, bound("a number other than 0", lambda one: one != 0)] = -2
    layer_by_layer: bool = False
    end2end: bool = False
    all_class: bool = False

    def check(self) -> None:
        super().check()
        check_attributor(self.attr)
        if self.all_class and (self.attr == WISDOM or self.importance_file is not None):
            what = (
                "a file of scores (importance_file)" if self.importance_file else f"attr={WISDOM!r}"
            )
            raise ValueError(
                f"all_class needs relevance by class, which {what} lacks: name an attributor "
                "(attr), or leave all_class out"
            )

    @property
    def clusters(self) -> int | tuple[int, ...]:
        """The number of clusters, or those that the silhouette chooses from (section 3.2)."""
        return (2, 3, 4) if self.use_silhouette else self.n_clusters


def check_attributor(name: str) -> None:
    """Refuses a name that is neither an attributor's nor their vote's.

    Raises:
        ValueError: If so.
    """
    if name not in (known := (*ATTRIBUTORS, WISDOM)):
        raise ValueError(f"attr={name!r}: {did_you_mean(name, known)}")


@dataclass(frozen=True)
class VoteSettings(Settings):
    """How WISDOM's attributors vote.

    Attributes:
        vote_inputs: Training inputs of each vote.
        vote_neurons: How many neurons each attributor names.
        vote_keep: How many neurons of a vote get points.
        vote_gain: What an attributor is weighed by: the "loss" that the model gains without the
            neurons it names, or the "accuracy" that it drops.
    """

    vote_inputs: Count = 128
    vote_neurons: Count = 6
    vote_keep: Count = 10
    vote_gain: Literal["loss", "accuracy"] = "loss"


@dataclass(frozen=True)
class SuiteSettings(Settings):
    """What a measured suite is compared with.

    Attributes:
        baselines: How many random suites of the same size are measured besides, of training inputs
            and of noise each; 0 for none.
    """

    baselines: Natural = 5
