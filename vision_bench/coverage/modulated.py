"""What a pass says of images while the classifier is changed, at many strengths at once.

Noise on the logits changes the neurons of the layer that returns them, and the predicted class;
every other neuron stays as it is, so that one forward pass serves all strengths. A transport
changes activations from its first module on, so that each strength has a forward pass of its own.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aim_plugins.core.strengths import Axis
from aim_plugins.coverage.activations import channel_dim_of
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.hooks import change_outputs, find_module
from aim_plugins.modulation.sites import split_site
from aim_plugins.sweep.cells import Cell
from aim_plugins.transport.change import Transport
from vision_bench.coverage.subject import Images, Seen, Subject
from vision_bench.focus import focus_axis
from vision_bench.logits.noise import document_noise


class Modulated(abc.ABC):
    """A classifier under one kind of change.

    Attributes:
        axis: The strength.
        cells: Strengths and draws that differ: those of strength 0 are one.
        draws: Number of draws; 0 where nothing is drawn.
    """

    axis: Axis
    cells: tuple[Cell, ...]
    draws: int

    @abc.abstractmethod
    def see(self, images: Images, cells: Sequence[Cell]) -> Iterator[Seen]:
        """What a pass says of images at some of the cells, in their order."""


class NoisyLogits(Modulated):
    """Noise on the logits.

    Args:
        subject: The classifier.
        stds: Strengths, in logit units.
        example: One of the classifier's inputs, with which the layer of the logits is found.
        draws: Number of draws.
        seed: Seed of the first one.
        targets: Target classes and signs of focus modulation.
        names: Names of the classes.

    Attributes:
        place: Columns of the layer that returns the logits; None where no layer looked at does.
    """

    def __init__(
        self,
        subject: Subject,
        stds: Sequence[float],
        example: Float[Tensor, "1 3 height width"],
        *,
        draws: int = 1,
        seed: int = 0,
        targets: Mapping[int, int] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.subject, self.seed, self.targets, self.draws = subject, seed, targets, draws
        self.axis = focus_axis(targets, names)
        chosen = [Cell(std, draw) for draw in range(draws) for std in stds if std or not draw]
        self.cells = tuple(chosen)
        self.place = _logits_place(subject, example)

    def see(self, images: Images, cells: Sequence[Cell]) -> Iterator[Seen]:
        (clean,) = self.subject.see([images])
        classes, noise = clean.logits.shape[1], {}
        for cell in cells:
            if not cell.strength:
                yield clean
                continue
            if cell.draw not in noise:
                seed = self.seed + cell.draw
                noise[cell.draw] = document_noise(clean.positions, classes, seed, self.targets)
            # Two rounded operations, as in every command that adds this noise.
            yield self._with_logits(clean, (noise[cell.draw] * cell.strength).add_(clean.logits))

    def _with_logits(self, clean: Seen, logits: Float[Tensor, "images classes"]) -> Seen:
        neurons = clean.batch.neurons
        if self.place is not None:
            neurons = neurons.clone()
            neurons[:, self.place] = logits
        return Seen(clean.positions, Batch(neurons, logits.argmax(1)), logits)


def _logits_place(subject: Subject, example: Float[Tensor, "1 3 height width"]) -> slice | None:
    """The columns of the layer whose neurons are the logits themselves."""
    image = Images(torch.zeros(1, dtype=torch.int64), example.to(subject.device))
    (seen,) = subject.see([image])
    for place in reversed(subject.layers.slices):
        if torch.equal(seen.batch.neurons[:, place], seen.logits):
            return place
    return None


class TransportedActivations(Modulated):
    """Affine maps of activations.

    A map of a convolution acts on its channels, and one of another module on the last dimension.

    Args:
        subject: The classifier.
        maps: The maps.
        strengths: Strengths λ, at which T(x) takes the place of x as (1 - λ) x + λ T(x).

    Raises:
        ValueError: If the classifier lacks a module, or the maps are those of a last token.
    """

    axis = Transport.axis
    draws = 0

    def __init__(self, subject: Subject, maps: ActivationMaps, strengths: Sequence[float]) -> None:
        if maps.positions != "all":
            raise ValueError(
                f"transport: its maps act on positions={maps.positions!r}, of tokens that are "
                "generated; an image has no last one: learn maps of all positions"
            )
        self.subject = subject
        self.cells = tuple(map(Cell, strengths))
        self._maps = {site: one.to(subject.device) for site, one in maps.maps.items()}
        for site in self._maps:
            find_module(subject.named, split_site(site)[0])

    def see(self, images: Images, cells: Sequence[Cell]) -> Iterator[Seen]:
        for cell in cells:
            with self._applied(cell.strength):
                (seen,) = self.subject.see([images])
            yield seen

    @contextlib.contextmanager
    def _applied(self, strength: float) -> Iterator[None]:
        """Transports while the block runs; attached before neurons are read, which see it."""
        if not strength:
            yield
            return
        named = self.subject.named
        functions = {
            site: _moved(site, one, strength, find_module(named, split_site(site)[0]))
            for site, one in self._maps.items()
        }
        with change_outputs(named, functions):
            yield


def _moved(
    site: str, one: ActivationMap, strength: float, module: nn.Module
) -> Callable[[Tensor], Tensor]:
    """The function that transports a module's output."""
    channel_dim = channel_dim_of(module)

    def move(output: Tensor) -> Tensor:
        values = output.movedim(channel_dim, -1)
        one.check_width(site, values.shape[-1])
        # Maps are float32; a half-precision model's activations are rounded once, at the end.
        exact = values.to(torch.promote_types(values.dtype, torch.float32))
        moved = one(exact, strength).to(output.dtype).movedim(-1, channel_dim)
        # Models may take views of what a layer returns.
        return moved.contiguous()

    return move
