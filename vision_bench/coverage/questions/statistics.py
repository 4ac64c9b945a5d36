"""What runs and suites say together: intervals, correlations, impartiality, normalised changes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float64

from aim_plugins.sweep.intervals import NORMAL_FACTOR
from aim_plugins.sweep.paired import Interval


def sign_of(one: Interval) -> int:
    """The sign of a value, 0 where its interval holds 0 or is not known.

    Runs that happen to agree, as counts do, give a point, which is no interval: five equal runs of
    one sign have a sign test of p = .06.
    """
    return int(one.low > 0) - int(one.high < 0) if one.low < one.high else 0


def pearson(x: Sequence[float], y: Sequence[float], groups: Sequence[Hashable] = ()) -> Interval:
    """Pearson's correlation with Fisher's interval, of values less the mean of their group.

    Groups take away what is common to suites of one size: what is left says whether, of suites of
    the same size, those of larger x have larger y. Each group beyond the first costs a degree of
    freedom.

    Args:
        x: Values.
        y: As many.
        groups: The group of each; by default all are in one.

    Returns:
        r; NaN where one of them does not vary. Its ends are NaN with too few values.

    Source:
        Fisher, "On the probable error of a coefficient of correlation deduced from a small
        sample", Metron 1921: atanh r has the variance 1 / (n − 3), less one for each covariate
        ("The distribution of the partial correlation coefficient", Metron 1924).
    """
    names = list(groups) or [0] * len(x)
    left, right = _less_means(x, names), _less_means(y, names)
    # What rounding leaves of equal values is no variation.
    if _flat(left, x) or _flat(right, y):
        return Interval(math.nan, math.nan, math.nan)
    r = float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))
    r = min(max(r, -1.0), 1.0)
    freedom = len(x) - 3 - (len(set(names)) - 1)
    if freedom < 1:
        return Interval(r, math.nan, math.nan)
    if abs(r) == 1:
        return Interval(r, r, r)
    reach = NORMAL_FACTOR / math.sqrt(freedom)
    return Interval(r, math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach))


def _flat(rest: Float64[np.ndarray, " n"], values: Sequence[float]) -> bool:
    largest = max(map(abs, values), default=0.0)
    return bool(np.abs(rest).max(initial=0.0) <= 1e-12 * largest)


def _less_means(values: Sequence[float], groups: Sequence[Hashable]) -> Float64[np.ndarray, " n"]:
    found = np.asarray(values, dtype=float)
    for name in set(groups):
        own = np.array([one == name for one in groups])
        found = np.where(own, found - found[own].mean(), found)
    return found


def impartiality(counts: Sequence[int], classes: int) -> float:
    """Output impartiality J = H / log k: how evenly a suite's predictions spread over all classes.

    Args:
        counts: Predictions of each class that is predicted.
        classes: Number of classes k of the model. Over the classes that occur alone, a suite of
            two classes could be as even as one of all.

    Source:
        Harel-Canada et al., "Is neuron coverage a meaningful measure for testing deep neural
        networks?", FSE 2020, section 3.3; Pielou, 1966.

    >>> impartiality([5, 5], 4)
    0.5
    """
    total = sum(counts)
    if classes < 2 or not total:
        return math.nan
    shares = [one / total for one in counts if one]
    return math.fsum(one * math.log(1 / one) for one in shares) / math.log(classes)


def normalised_changes(changes: Sequence[float]) -> list[float]:
    """NCov: each change of coverage over the range of all, max Δ − min Δ.

    The suite that nothing is replaced in, of change 0, counts among them. So the range is 0 only
    where no change is seen at all, and NCov is 0 there; it lies within −1 and 1.

    >>> normalised_changes([1.0, 3.0, 4.0]), normalised_changes([0.0, 0.0])
    ([0.25, 0.75, 1.0], [0.0, 0.0])
    """
    width = max([*changes, 0.0]) - min([*changes, 0.0])
    return [one / width if width else 0.0 for one in changes]
