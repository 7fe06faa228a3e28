"""A Brownian path that is the same whoever asks, in whatever steps: rejected steps don't change it."""

import torch
from torch import Tensor

from paperworks.core.validation import check_count, check_number
from paperworks.numerics import torch_generator

_DEPTH = 40  # halvings of the span down to the finest places


class BrownianTree:
    r"""A Brownian path and its integral, drawn where they are asked for and determined by the seed.

    Values at the middle of an interval are drawn from their law given those at its ends, each from a generator of its
    own place; so a solver that rejects a step, or another one with other steps, meets the same path. An interval gives
    the increment $W$ and the space-time Lévy area $H \sim N(0, h / 12)$, the mean of the path over its chord.

    Parameters
    ----------
    shape
        Shape of the states; each element has a path of its own.
    t_span
        Where time begins and ends, rising; places are its 2^40th parts.
    random_state
        The seed, which determines the path.
    dtype, device
        Precision and place of what is returned; the path itself is kept in float64 on the processor.

    Raises
    ------
    ValueError
        For a span that doesn't rise, or times outside of it.

    References
    ----------
    Foster, Oberhauser, Lyons, arXiv 1905.01262; Kidger et al., arXiv 2105.13493.

    Examples
    --------
    >>> path = BrownianTree((2, 3), (0.0, 1.0), random_state=0)
    >>> whole, _ = path(0.0, 1.0)
    >>> first, _ = path(0.0, 0.3)
    >>> rest, _ = path(0.3, 1.0)
    >>> whole.shape, bool((first + rest - whole).abs().max() < 1e-12)
    (torch.Size([2, 3]), True)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        t_span: tuple[float, float],
        random_state: int,
        dtype: torch.dtype = torch.float64,
        device: "torch.device | str" = "cpu",
    ) -> None:
        start, end = (check_number("t_span", time) for time in t_span)
        if end <= start:
            raise ValueError(f"t_span is {(start, end)}; it takes two times that rise")
        self.shape, self.start, self.span = tuple(shape), start, end - start
        self.random_state = check_count("random_state", random_state, at_least=0)
        self.dtype, self.device = dtype, torch.device(device)
        nothing = torch.zeros(self.shape, dtype=torch.float64)
        chord, area = self._normals(2**_DEPTH)
        w = chord * self.span**0.5
        # The path and its integral so far: W, and the integral over the chord's half plus the area.
        self._known = {0: (nothing, nothing), 2**_DEPTH: (w, self.span * (w / 2 + area * (self.span / 12) ** 0.5))}

    def place(self, t: float) -> int:
        """Return the number of the place nearest to a time, from 0 at the start.

        Parameters
        ----------
        t
            A time of the span.

        Returns
        -------
        int
            The place, up to 2^40 at the end.

        Raises
        ------
        ValueError
            For a time outside of the span.
        """
        share = (t - self.start) / self.span
        if not -1e-12 <= share <= 1 + 1e-12:
            raise ValueError(f"t is {t:g}; it takes times from {self.start:g} to {self.start + self.span:g}")
        return min(max(round(share * 2**_DEPTH), 0), 2**_DEPTH)

    def time(self, place: int) -> float:
        """Return the time of a place.

        Parameters
        ----------
        place
            Number of the place, from 0.

        Returns
        -------
        float
            The time there.
        """
        return self.start + self.span * (place / 2**_DEPTH)

    def next_place(self, place: int, h: float) -> int:
        """Return a place about `h` after another, as coarse as is near enough, which saves drawing.

        Parameters
        ----------
        place
            Number of the place where a step begins.
        h
            About how long the step is to be.

        Returns
        -------
        int
            Number of a later place, the end of the span at most.
        """
        length = max(int(h / self.span * 2**_DEPTH), 1)
        shift = max(length.bit_length() - 4, 0)
        return min(max((place + length) >> shift << shift, place + 1), 2**_DEPTH)

    def __call__(self, s: float, t: float) -> tuple[Tensor, Tensor]:
        """Return the increment and the space-time Lévy area between two times.

        Parameters
        ----------
        s, t
            Two times that rise.

        Returns
        -------
        Tensor, Tensor
            The increment and the area, each of the path's shape.
        """
        return self.between(self.place(s), self.place(t))

    def between(self, a: int, b: int) -> tuple[Tensor, Tensor]:
        """Return the increment and the space-time Lévy area between two places.

        Parameters
        ----------
        a, b
            Numbers of two places that rise.

        Returns
        -------
        Tensor, Tensor
            The increment and the area, each of the path's shape.

        Raises
        ------
        ValueError
            For places that don't rise.
        """
        if a >= b:
            raise ValueError(f"t is at place {b}, s at {a}; it takes a time after s")
        (wa, ia), (wb, ib) = self._at(a), self._at(b)
        w = wb - wa
        area = (ib - ia) / (self.span * ((b - a) / 2**_DEPTH)) - wa - w / 2
        return w.to(self.device, self.dtype), area.to(self.device, self.dtype)

    def _at(self, place: int) -> tuple[Tensor, Tensor]:
        if place in self._known:
            return self._known[place]
        reach = place & -place
        (wa, ia), (wb, ib) = self._at(place - reach), self._at(place + reach)
        length = self.span * (2 * reach / 2**_DEPTH)
        first, second = self._normals(place)
        # The means are the cubic's that has the ends' values and integrals; what is drawn is independent of both.
        w = first.mul_(length**0.5 / 4).add_(wa + wb, alpha=-0.25).add_(ib - ia, alpha=1.5 / length)
        i = second.mul_(length / 4 * (length / 12) ** 0.5).add_(wa - wb, alpha=length / 8).add_(ia + ib, alpha=0.5)
        self._known[place] = w, i
        return w, i

    def _normals(self, place: int) -> Tensor:
        generator = torch_generator(self.random_state, place)
        return torch.randn((2, *self.shape), generator=generator, dtype=torch.float64)
