"""CAA: the difference of means at the last token."""

from __future__ import annotations

from aim_plugins.transport.methods.mean import MeanTransport


class CAA(MeanTransport):
    """CAA: T(x) = x + m_b - m_a, with the means of activations at the last token.

    With as many source as target sentences this is the mean of the pairs' differences, however they
    are paired; λ is the multiplier.

    Source: arXiv 2312.06681. There the pairs are one question with either answer letter, the
    vector comes from the residual stream after one layer, and it is added from the end of the
    prompt on, as positions "last" does. Here the user chooses sentences and modules.
    """

    name = "caa"
    title = "CAA"
    pooling = "last"
    positions = "last"
    incremental = "atonce"
