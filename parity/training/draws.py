"""The same random numbers for every side's dropout, by step and place."""

import contextlib
import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from scratch_gpt import dropout as ours


@dataclasses.dataclass(frozen=True)
class Site:
    """One place that drops: its name, and the shape of one row of what it drops from."""

    name: str
    shape: tuple[int, ...]


class Draws:
    """Uniform numbers of one step, for a batch or for one part of it after the other.

    Attributes:
        sites: Where Hugging Face's model dropped, in order; filled by its run.
    """

    def __init__(self, seed: int, step: int, rows: int) -> None:
        self._key = (seed, step)
        self._rows = rows
        self.sites: list[Site] = []

    def keeps(self, name: str, x: Tensor, probability: float) -> Tensor:
        """Return which elements Hugging Face's model keeps, and note the place."""
        site = Site(name, tuple(x.shape[1:]))
        if site not in self.sites:
            self.sites.append(site)
        return self._uniform(site, slice(0, len(x))) >= probability

    def _uniform(self, site: Site, rows: slice) -> Tensor:
        """Return float32 draws for some rows of the whole batch."""
        key = [*self._key, self.sites.index(site)]
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        drawn = generator.random((self._rows, *site.shape), dtype=np.float32)
        return torch.from_numpy(drawn[rows])

    @contextlib.contextmanager
    def given_to_ours(self, first: int) -> Iterator[list[str]]:
        """Let our dropout draw these numbers, for a part that begins at row `first`.

        What it does with them, from the threshold to the scale, is its own. A call that asks for
        another shape than the next place has is taken to be of a later one; more calls than places
        draw zeros. Gives the names of the places drawn at, in order.
        """
        asked: list[str] = []
        left = iter(self.sites)

        def rand_like(x: Tensor, *, dtype: torch.dtype) -> Tensor:
            site = next((s for s in left if s.shape == tuple(x.shape[1:])), None)
            asked.append(site.name if site is not None else "nowhere")
            if site is None:
                return torch.zeros(x.shape, dtype=dtype)
            return self._uniform(site, slice(first, first + len(x))).to(dtype)

        names = vars(ours)  # the module draws by torch's name, and by nothing else
        before = names["torch"]
        names["torch"] = SimpleNamespace(rand_like=rand_like, float32=torch.float32)
        try:
            yield asked
        finally:
            names["torch"] = before
