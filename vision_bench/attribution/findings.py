"""What an evaluation of attributions found, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.modulation.components import Components
from aim_plugins.sweep.paired import Interval, mean_interval

COAR, RIDGE, LEAST_SQUARES = "COAR", "ridge", "least squares"
"""Attributions as they are fitted here; from masks alone; and as the paper fits them."""

OTHERS = "published"
"""Attributions that others fitted."""

NAMES = {
    "leave_one_out": "leave one out",
    "gradient_times_parameter": "gradient × parameter",
    "neuron_conductance": "neuron conductance",
    "internal_influence": "internal influence",
}
"""What a person calls the baselines."""

SHARED = 3
"""Components of each class that are shown beside those of others."""


def percent(share: float) -> str:
    """A share of the components.

    >>> percent(0.025), percent(0.1)
    ('2.5%', '10%')
    """
    return f"{100 * share:.3g}%"


@dataclass(frozen=True)
class Method:
    """Attributions of one kind, and how well they predict.

    Attributes:
        name: What a person calls them.
        passes: What they cost, in forward passes over all images.
        correlations: By share of ablated components, of each image the correlation of predicted
            and true outputs over fresh masks.
    """

    name: str
    passes: float
    correlations: Mapping[float, Sequence[float]]

    def at(self, alpha: float) -> Interval:
        """The mean correlation at a share of ablated components, which lies within -1 and 1."""
        one = mean_interval(self.correlations[alpha])
        return Interval(one.value, max(one.low, -1.0), min(one.high, 1.0))

    def against(self, other: Method, alpha: float) -> Interval:
        """By how much it correlates better than another method, image by image."""
        pairs = zip(self.correlations[alpha], other.correlations[alpha], strict=True)
        return mean_interval([mine - theirs for mine, theirs in pairs])


@dataclass(frozen=True)
class RankTest:
    """What ablating images' highest components does, beside as many random ones.

    Attributes:
        count: Components that are ablated of each image.
        highest: By how much each image's output falls without its highest components.
        random: The same without random ones, on average over draws.
        p: How likely they would differ so much, or more, if the highest were as good as random.
    """

    count: int
    highest: Sequence[float]
    random: Sequence[float]
    p: float

    @property
    def difference(self) -> Interval:
        """By how much more the output falls, image by image."""
        return mean_interval(
            [one - other for one, other in zip(self.highest, self.random, strict=True)]
        )


@dataclass(frozen=True)
class Example:
    """An image of the report.

    Attributes:
        place: Where it stands among the images that are attributed.
        name: Its name.
        label: Its class.
        output: What is attributed, of the whole model.
        picture: The content of a PNG.
        predicted: Predicted outputs under fresh masks.
        true: True ones.
        correlation: How they correlate.
    """

    place: int
    name: str
    label: str
    output: float
    picture: bytes
    predicted: Sequence[float]
    true: Sequence[float]
    correlation: float


@dataclass(frozen=True)
class Findings:
    """What the front shows.

    Attributes:
        title: The data set.
        output: What is attributed.
        alpha: Share of ablated components that attributions were learned at, and pictures are of.
        fresh: Fresh masks of each share.
        components: The components.
        weights: What each component adds to each image's output.
        labels: Classes of the images.
        classes: Names of all classes.
        methods: Every kind of attribution, the fitted one first.
        curves: By name, the same kind from fewer and more passes.
        rank: What ablating the highest components does.
        examples: Images to show.
        left_out: Images whose outputs do not vary, of which no correlation is known.
    """

    title: str
    output: str
    alpha: float
    fresh: int
    components: Components
    weights: Float[Tensor, "examples components"]
    labels: Int[Tensor, " examples"]
    classes: Sequence[str]
    methods: Sequence[Method]
    curves: Mapping[str, Sequence[Method]]
    rank: RankTest | None
    examples: Sequence[Example] = ()
    left_out: int = 0

    @property
    def alphas(self) -> list[float]:
        """The shares that fresh masks ablate."""
        return list(self.methods[0].correlations)

    @property
    def shown_alpha(self) -> float:
        """The share that is nearest to the one that attributions were learned at."""
        return min(self.alphas, key=lambda one: (abs(one - self.alpha), one))

    def method(self, name: str) -> Method | None:
        """One of the methods; None where it was not asked for."""
        return next((one for one in self.methods if one.name == name), None)

    def class_means(self) -> dict[int, Float[Tensor, " components"]]:
        """Of each class that has images, what each component adds on average."""
        return {
            one: self.weights[self.labels == one].mean(0)
            for one in sorted(set(self.labels.tolist()))
        }

    def class_tops(self, label: int, count: int) -> list[tuple[int, float, float]]:
        """The components that raise a class's images most.

        Args:
            label: The class.
            count: How many components.

        Returns:
            Their numbers, what they add on average, and the share of the class's images that have
            them among their own `count` highest.
        """
        own = self.weights[self.labels == label]
        means = own.mean(0)
        count = min(count, len(self.components))
        highest = own.topk(count, 1).indices
        return [
            (one, float(means[one]), float((highest == one).any(1).double().mean()))
            for one in means.topk(count).indices.tolist()
        ]

    def fewer_passes(self) -> tuple[Method, Method] | None:
        """COAR with the fewest passes with which it does better than least squares at their best.

        Of the numbers of passes that were tried, so the true one may be smaller; better is what
        the interval of the difference, image by image, leaves no doubt of. None where there is
        none with fewer passes, or either was not tried.
        """
        mine, theirs = self.curves.get(COAR, ()), self.curves.get(LEAST_SQUARES, ())
        if not mine or not theirs:
            return None
        alpha = self.shown_alpha
        best = max(theirs, key=lambda one: one.at(alpha).value)
        better = [one for one in mine if one.against(best, alpha).low > 0]
        return (better[0], best) if better and better[0].passes < best.passes else None
