"""How flat the loss is around SWA's average and around the same run's last iterate, and on the line between them.

Both centres are moved along the same random directions, forth and back: loss(W + a d) - loss(W) for a and -a. Each
tensor of a direction has the norm of the average's tensor, so that a distance a means the same share of every tensor
(Li et al. 2018, arXiv:1712.09913, scale every filter so; scaling whole tensors is ours) and the same step for both
centres.

Source: Lu et al. (2022), arXiv:2212.05956, who look for flatter solutions by averaging; the sizes here are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

Weights = Mapping[str, Tensor]
Losses = Callable[[nn.Module], np.ndarray]
AVERAGE, LAST = "average", "last"


@dataclass(frozen=True)
class Survey:
    """Where the loss is looked at.

    Attributes:
        num_directions: random directions, each used for both centres.
        radii: distances a > 0, ascending; every one is used as a and as -a.
        positions: on the line, 0 the last iterate and 1 the average.
        seed: of the directions.
    """

    num_directions: int = 20
    radii: tuple[float, ...] = (0.1, 0.2)
    positions: tuple[float, ...] = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    seed: int = 0

    @property
    def distances(self) -> tuple[float, ...]:
        """The radii on both sides of 0, ascending, 0 among them."""
        return (*(-radius for radius in reversed(self.radii)), 0.0, *self.radii)


@dataclass(frozen=True)
class Surroundings:
    """What a survey found around one centre.

    Attributes:
        loss: at the centre, float64 [splits].
        rise: loss there minus loss at the centre, float64 [directions, distances, splits]; 0 at distance 0.
    """

    loss: np.ndarray
    rise: np.ndarray


def survey_around(
    model: nn.Module, average: Weights, last: Weights, losses_of: Losses, survey: Survey
) -> dict[str, Surroundings]:
    """The loss around the average and around the last iterate, along the same directions.

    Args:
        model: of the architecture of both; runs in eval mode and is left exactly as it was.
        average: tensors by state-dict name; those the parameters are named by are moved, the others only set.
        last: likewise.
        losses_of: model -> float64 [splits]; must depend on the weights alone.
        survey: directions and distances.

    Returns:
        By `average` and `last`.
    """
    centres = {AVERAGE: average, LAST: last}
    with weights_restored(model):
        found = {name: _losses_at_centre(model, centre, losses_of, survey) for name, centre in centres.items()}
        for number, direction in enumerate(directions_like(model, average, survey)):
            for name, centre in centres.items():
                for place, distance in enumerate(survey.distances):
                    if distance != 0.0:
                        move_to(model, centre, direction, distance)
                        found[name].rise[number, place] = losses_of(model) - found[name].loss
    return found


def _losses_at_centre(model: nn.Module, centre: Weights, losses_of: Losses, survey: Survey) -> Surroundings:
    """A centre's own loss, and room for what lies around it."""
    move_to(model, centre)
    loss = losses_of(model)
    return Surroundings(loss, np.zeros((survey.num_directions, len(survey.distances), len(loss))))


def losses_on_line(
    model: nn.Module, average: Weights, last: Weights, losses_of: Losses, positions: tuple[float, ...]
) -> np.ndarray:
    """The loss at last + t (average - last) for every position t.

    Returns:
        float64 [positions, splits]. The centres' own tensors are used at 0 and 1, so these are their losses exactly.
    """
    between = {name: average[name] - last[name] for name, _ in model.named_parameters()}
    found = []
    with weights_restored(model):
        for position in positions:
            # From the nearer end: last + 1 * (average - last) is not the average to the last bit.
            if position > 0.5:
                move_to(model, average, between, position - 1.0)
            else:
                move_to(model, last, between, position)
            found.append(losses_of(model))
    return np.stack(found)


def directions_like(model: nn.Module, reference: Weights, survey: Survey) -> Iterator[dict[str, Tensor]]:
    """Random directions over the parameters, one after the other; each tensor has the norm of the reference's.

    Drawn in float32 from a generator of their own: the same seed gives the same directions, and the global random
    state is not moved. Weights that are tied are one tensor here too.
    """
    generator = torch.Generator().manual_seed(survey.seed)
    names = [name for name, _ in model.named_parameters()]
    for _ in range(survey.num_directions):
        yield {name: _random_like(reference[name], generator) for name in names}


def _random_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)
    return drawn.mul_(torch.linalg.vector_norm(tensor) / torch.linalg.vector_norm(drawn))


def move_to(model: nn.Module, centre: Weights, direction: Weights | None = None, distance: float = 0.0) -> None:
    """Set the parameters to centre + distance * direction and the buffers to the centre's, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if direction is None or distance == 0.0:
                parameter.copy_(centre[name])
            else:
                torch.add(centre[name], direction[name], alpha=distance, out=parameter.detach())
        for name, buffer in model.named_buffers():
            if name in centre:
                buffer.copy_(centre[name])


@contextmanager
def weights_restored(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every tensor and every module's mode is what it was, also after an error."""
    kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        move_to(model, kept)
        for module, mode in modes.items():
            module.training = mode
