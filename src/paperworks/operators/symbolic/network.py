"""The network: a trajectory and a guess in, the future and the equations out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from paperworks.core.validation import check_choice, check_count, check_finite, check_number
from paperworks.numerics import mlp
from paperworks.operators.symbolic import decoding
from paperworks.operators.symbolic.layers import Features, Layer, ResNetAdapter, positions, shown
from paperworks.operators.symbolic.tokens import SymbolicTokenizer


@dataclass(frozen=True)
class PROSEConfig:
    """Shape of a network; the defaults are those of the paper's code.

    Parameters
    ----------
    tokenizer
        Says the vocabulary and the most components of a system.
    width
        Width of the features.
    heads
        Heads of each attention.
    ffn
        Hidden width of the layers' perceptrons / their width.
    data_layers, symbol_layers, fusion_layers
        Self-attention layers of the encoders of data and of symbols, and of their fusion.
    operator_layers, decoder_layers
        Layers of the decoder of values and of that of symbols.
    modes
        "2to2": both in, both out; "2to1": both in, values out; "1to1": data in, values out, without fusion.
    split_fused
        Whether each decoder sees its own part of the fused features, as in the paper, or all of them.
    adapter
        Residual blocks on the data's features before fusion; 0, as in the paper, for none.
    operator_self_attention
        Whether queries also see one another; in the paper they don't, so that each time is answered by itself.
    smooth_numbers
        Whether mantissas begin with embeddings that change little from one number to the next, so that what is learned
        of a number holds for those beside it. The paper's begin at random and take far more samples.
    last_time
        About the last time that is asked for: over the times up to it, the embedding of queries changes evenly at
        first, where one drawn as usual hardly changes. The paper's times end at 6.
    eps
        Added to variances in norms; 1e-12 in the authors' code.

    Raises
    ------
    ValueError
        For counts below 1, an unknown mode, or heads that don't divide the width.

    Examples
    --------
    >>> PROSEConfig(width=96, heads=8, data_layers=2).ffn
    4
    """

    tokenizer: SymbolicTokenizer = field(default_factory=SymbolicTokenizer)
    width: int = 512
    heads: int = 8
    ffn: int = 4
    data_layers: int = 2
    symbol_layers: int = 4
    fusion_layers: int = 8
    operator_layers: int = 8
    decoder_layers: int = 8
    modes: Literal["2to2", "2to1", "1to1"] = "2to2"
    split_fused: bool = True
    adapter: int = 0
    operator_self_attention: bool = False
    smooth_numbers: bool = False
    last_time: float = 6.0
    eps: float = 1e-12

    def __post_init__(self) -> None:
        names = ("width", "heads", "ffn", "operator_layers", "decoder_layers")
        for name in names:
            check_count(name, getattr(self, name))
        for name in ("data_layers", "symbol_layers", "fusion_layers", "adapter"):
            check_count(name, getattr(self, name), at_least=0)
        check_choice("modes", self.modes, ("2to2", "2to1", "1to1"))
        check_number("last_time", self.last_time, gt=0)
        check_number("eps", self.eps, ge=0)
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; it takes a divisor of width, {self.width}")


class PROSEOutput(NamedTuple):
    """What a network found.

    Parameters
    ----------
    values
        The solution at the times asked for, (batch, times, components).
    logits
        What comes after each given token, (batch, length, vocabulary); None without target tokens.

    Examples
    --------
    >>> PROSEOutput(torch.zeros(1, 4, 3), None).values.shape
    torch.Size([1, 4, 3])
    """

    values: Float[Tensor, "batch times d"]
    logits: Float[Tensor, "batch length vocabulary"] | None


class Memory(NamedTuple):
    """What the decoders see: features with the masks of what is no padding."""

    data: Float[Tensor, "batch length width"]
    data_mask: Bool[Tensor, "batch length"] | None
    symbols: Float[Tensor, "batch given width"]
    symbol_mask: Bool[Tensor, "batch given"] | None


class PROSE(nn.Module):
    """A transformer from a trajectory and a guess of its equations to both made right (arXiv 2309.16816, section 3).

    Measurements with their times and the tokens of the guess are encoded apart, fused by attention of all to all, and
    decoded apart: a time asked for becomes a query to the data's features, whose answer depends on no other query; the
    equations are written token by token from the symbols' features.

    Parameters
    ----------
    config
        Shape and variants.

    Raises
    ------
    ValueError
        On a call with more components than the tokenizer's `max_dim`, NaN or infinity, masks of another shape or with
        an empty row, symbols that are missing or not asked for, or unknown numbers of tokens.
    TypeError
        On a call with data of another type than the weights', masks that aren't of bool, or tokens that aren't whole.

    Examples
    --------
    >>> network = PROSE(PROSEConfig(width=16, heads=2, symbol_layers=1, fusion_layers=1, operator_layers=1,
    ...                             decoder_layers=1))
    >>> data = torch.zeros(2, 8, 1 + 3)  # times and three components
    >>> symbols, mask = network.tokenizer.batch([["u_0"], ["sin", "u_0"]])
    >>> network(data, None, symbols, mask, torch.linspace(2, 6, 5)).values.shape
    torch.Size([2, 5, 3])
    """

    def __init__(self, config: PROSEConfig) -> None:
        super().__init__()
        self.config = c = config
        self.tokenizer = c.tokenizer
        vocabulary, width, d = len(c.tokenizer.vocabulary), c.width, c.tokenizer.max_dim

        def layers(count: int, **options: Any) -> nn.ModuleList:
            return nn.ModuleList(Layer(width, c.heads, c.ffn * width, c.eps, **options) for _ in range(count))

        self.embed_data = mlp([1 + d, width, width], nn.GELU)
        self.data_encoder = layers(c.data_layers)
        self.adapter = ResNetAdapter(width, c.ffn * width, c.adapter)
        if c.modes != "1to1":
            self.embed_symbols = nn.Embedding(vocabulary, width)
            self.symbol_encoder = layers(c.symbol_layers)
            self.types = nn.Parameter(torch.randn(2, width) * width**-0.5)
            self.fusion_norm = nn.LayerNorm(width, eps=c.eps)
            self.fusion = layers(c.fusion_layers)
        self.embed_time = nn.Linear(1, width)
        self.operator_decoder = layers(c.operator_layers, itself=c.operator_self_attention, cross=True)
        self.values = nn.Linear(width, d)
        if c.modes == "2to2":
            self.embed_target = nn.Embedding(vocabulary, width)  # tied: the logits are products with it
            self.target_norm = nn.LayerNorm(width, eps=c.eps)
            self.symbol_decoder = layers(c.decoder_layers, cross=True)
            self.logit_bias = nn.Parameter(torch.zeros(vocabulary))
        self.reset_embeddings()

    @torch.no_grad()
    def reset_embeddings(self) -> None:
        """Draw the embeddings of tokens and of query times anew."""
        # Each feature of a time is 0 at a time of its own, so that their directions turn all along.
        weight, last = self.embed_time.weight, self.config.last_time
        nn.init.normal_(weight, std=6 / last)
        self.embed_time.bias.copy_(-last * torch.rand_like(weight[:, 0]) * weight[:, 0])
        first = self.tokenizer.vocabulary.index(self.tokenizer.mantissas[0])
        count = len(self.tokenizer.mantissas)
        for embedding in [m for m in self.modules() if isinstance(m, nn.Embedding)]:
            nn.init.normal_(embedding.weight, std=self.config.width**-0.5)
            if self.config.smooth_numbers:
                waves = positions(count, embedding.weight)  # neighbours are alike, and those far away aren't
                embedding.weight[first : first + count] = waves * (2 / self.config.width) ** 0.5

    def forward(
        self,
        data: Float[Tensor, "batch length channels"],
        data_mask: Bool[Tensor, "batch length"] | None,
        symbols: Int[Tensor, "batch given"] | None,
        symbol_mask: Bool[Tensor, "batch given"] | None,
        query_times: Float[Tensor, " times"],
        target_symbols: Int[Tensor, "batch target"] | None = None,
    ) -> PROSEOutput:
        """Return the solution at the times asked for, and the logits of the tokens that follow the given ones.

        Parameters
        ----------
        data
            Times and components of the measurements, (batch, length, 1 + d).
        data_mask
            Where measurements are no padding; None for everywhere.
        symbols
            Tokens of the guesses as the tokenizer numbers them, without beginning and end; None in the mode "1to1".
        symbol_mask
            Where tokens are no padding; None for everywhere.
        query_times
            Times to know the solution at, in any order.
        target_symbols
            Tokens of the true equations with their beginning, for the logits; None for values alone.

        Returns
        -------
        PROSEOutput
            Values for the components of `data`, and logits.
        """
        memory = self.encode(data, data_mask, symbols, symbol_mask)
        values = self._values(memory, query_times)[..., : data.shape[2] - 1]
        if target_symbols is None:
            return PROSEOutput(values, None)
        if target_symbols.ndim != 2 or len(target_symbols) != len(data):
            raise ValueError(
                f"target_symbols has shape {tuple(target_symbols.shape)}; it takes (batch, length) of {len(data)} rows"
            )
        self._check_ids("target_symbols", target_symbols)
        if self.config.modes != "2to2":
            raise ValueError(f"target_symbols is given; a network of modes={self.config.modes!r} writes no symbols")
        x = self.embed_tokens(target_symbols)
        for layer in self.symbol_decoder:
            x = layer(x, None, memory.symbols, shown(memory.symbol_mask), causal=True)
        return PROSEOutput(values, self.logits(x))

    def predict(
        self,
        data: Float[Tensor, "batch length channels"],
        data_mask: Bool[Tensor, "batch length"] | None,
        symbols: Int[Tensor, "batch given"] | None,
        symbol_mask: Bool[Tensor, "batch given"] | None,
        query_times: Float[Tensor, " times"],
    ) -> Float[Tensor, "batch times d"]:
        """Return the solution at the times asked for, without gradients.

        Parameters
        ----------
        data, data_mask, symbols, symbol_mask, query_times
            As `forward` takes them.

        Returns
        -------
        Tensor
            Values for the components of `data`.
        """
        with torch.no_grad():
            return self(data, data_mask, symbols, symbol_mask, query_times).values

    def decode_symbols(
        self,
        data: Float[Tensor, "batch length channels"],
        data_mask: Bool[Tensor, "batch length"] | None,
        symbols: Int[Tensor, "batch given"] | None,
        symbol_mask: Bool[Tensor, "batch given"] | None,
        max_len: int = 150,
        beam: int = 1,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[list[str]]:
        """Write the equations token by token.

        Parameters
        ----------
        data, data_mask, symbols, symbol_mask
            As `forward` takes them.
        max_len
            Most tokens; 150 in the paper.
        beam
            Sequences that are followed at once, of which the most probable one is returned; 1, the likeliest token at
            each place, as in the paper.
        temperature
            0 for the likeliest tokens; else they are drawn, from logits divided by it.
        generator
            Draws the tokens, by default torch's global one.

        Returns
        -------
        list of list of str
            Tokens of each sample, which the tokenizer decodes; they may make no system.

        Raises
        ------
        ValueError
            For a network without symbol output, counts below 1, a negative temperature, or one with a beam.
        """
        if self.config.modes != "2to2":
            raise ValueError(f"a network of modes={self.config.modes!r} writes no symbols; it takes '2to2'")
        check_count("max_len", max_len)
        check_count("beam", beam)
        if check_number("temperature", temperature, ge=0) and beam > 1:
            raise ValueError(f"temperature is {temperature:g} with a beam of {beam}; it takes one or the other")
        with torch.no_grad():
            memory = self.encode(data, data_mask, symbols, symbol_mask)
            writer = decoding.Writer(self, memory.symbols, memory.symbol_mask)
            if beam > 1:
                return decoding.beam_search(writer, max_len, beam)
            return decoding.write(writer, max_len, temperature, generator)

    def encode(
        self,
        data: Float[Tensor, "batch length channels"],
        data_mask: Bool[Tensor, "batch length"] | None,
        symbols: Int[Tensor, "batch given"] | None,
        symbol_mask: Bool[Tensor, "batch given"] | None,
    ) -> Memory:
        """Return what the decoders see of data and symbols.

        Parameters
        ----------
        data, data_mask, symbols, symbol_mask
            As `forward` takes them.

        Returns
        -------
        Memory
            Fused features with their masks.
        """
        self._check(data, data_mask, symbols, symbol_mask)
        missing = 1 + self.tokenizer.max_dim - data.shape[2]
        x = self.embed_data(nn.functional.pad(data, (0, missing)))
        seen = shown(data_mask)
        for layer in self.data_encoder:
            x = layer(x, seen)
        x = self.adapter(x)
        if symbols is None:
            return Memory(x, data_mask, x, data_mask)
        y = self.embed_symbols(symbols) * self.config.width**0.5
        y = y + positions(y.shape[1], y)
        seen = shown(symbol_mask)
        for layer in self.symbol_encoder:
            y = layer(y, seen)
        n = x.shape[1]
        fused = self.fusion_norm(torch.cat([x + self.types[0], y + self.types[1]], 1))
        mask = None
        if data_mask is not None or symbol_mask is not None:
            whole = [torch.ones_like(z[..., 0], dtype=torch.bool) for z in (x, y)]
            parts = [w if m is None else m for m, w in zip((data_mask, symbol_mask), whole, strict=True)]
            mask = torch.cat(parts, 1)
        seen = shown(mask)
        for layer in self.fusion:
            fused = layer(fused, seen)
        if not self.config.split_fused:
            return Memory(fused, mask, fused, mask)
        return Memory(fused[:, :n], data_mask, fused[:, n:], symbol_mask)

    def embed_tokens(self, ids: Int[Tensor, "batch length"], start: int = 0) -> Features:
        """Return the features of written tokens.

        Parameters
        ----------
        ids
            Numbers of the tokens.
        start
            Place of the first of them.

        Returns
        -------
        Tensor
            What the first layer of the decoder takes.
        """
        x = self.embed_target(ids) * self.config.width**0.5
        return self.target_norm(x + positions(start + ids.shape[1], x)[start:])

    def logits(self, x: Features) -> Float[Tensor, "batch length vocabulary"]:
        """Return the logits of the next token.

        Parameters
        ----------
        x
            Features that leave the decoder of symbols.

        Returns
        -------
        Tensor
            One number for each token of the vocabulary.
        """
        return nn.functional.linear(x, self.embed_target.weight, self.logit_bias)

    def _values(self, memory: Memory, query_times: Tensor) -> Float[Tensor, "batch times d"]:
        if query_times.ndim != 1:
            raise ValueError(f"query_times has shape {tuple(query_times.shape)}; it takes one row of times")
        x = self.embed_time(query_times.to(memory.data)[:, None]).expand(len(memory.data), -1, -1)
        seen = shown(memory.data_mask)
        for layer in self.operator_decoder:
            x = layer(x, None, memory.data, seen)
        return self.values(x)

    def _check(self, data: Tensor, data_mask: Tensor | None, symbols: Tensor | None, mask: Tensor | None) -> None:
        most = self.tokenizer.max_dim
        if data.ndim != 3 or not 2 <= data.shape[2] <= 1 + most or not data.shape[1]:
            raise ValueError(
                f"data has shape {tuple(data.shape)}; it takes (batch, length, 1 + d) with 1 to {most} components"
            )
        if data.dtype != self.values.weight.dtype:
            raise TypeError(f"data is {data.dtype}; this network takes {self.values.weight.dtype}")
        if not data.is_meta:
            check_finite("data", data)
        self._check_mask("data_mask", data_mask, data)
        if (symbols is None) != (self.config.modes == "1to1"):
            given = "missing" if symbols is None else "given"
            raise ValueError(f"symbols is {given}; a network of modes={self.config.modes!r} takes the opposite")
        if symbols is None:
            return
        if symbols.ndim != 2 or len(symbols) != len(data) or not symbols.shape[1]:
            raise ValueError(f"symbols has shape {tuple(symbols.shape)}; it takes (batch, length) of {len(data)} rows")
        self._check_mask("symbol_mask", mask, symbols)
        self._check_ids("symbols", symbols)

    def _check_mask(self, name: str, mask: Tensor | None, of: Tensor) -> None:
        if mask is None:
            return
        if mask.shape != of.shape[:2]:
            raise ValueError(f"{name} has shape {tuple(mask.shape)}; it takes {tuple(of.shape[:2])}")
        if mask.dtype != torch.bool:
            raise TypeError(f"{name} is {mask.dtype}; it takes torch.bool")
        if not mask.is_meta and not mask.any(1).all():
            raise ValueError(f"{name} has a row without any; it takes one place or more in each row")

    def _check_ids(self, name: str, ids: Tensor) -> None:
        size = len(self.tokenizer.vocabulary)
        if ids.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name} is {ids.dtype}; it takes torch.int64 or torch.int32")
        if ids.is_meta:
            return
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise ValueError(f"{name} has numbers from {int(ids.min())} to {int(ids.max())}; it takes 0 to {size - 1}")


def guesses(network: PROSE, sequences: Sequence[Sequence[str]]) -> tuple[Tensor | None, Tensor | None]:
    """Return tokens of guesses as a network takes them, None where it takes none.

    Parameters
    ----------
    network
        Says whether it takes symbols, and where it is.
    sequences
        Tokens of each sample.

    Returns
    -------
    symbols, mask : Tensor or None
        What `PROSE.forward` takes.

    Examples
    --------
    >>> network = PROSE(PROSEConfig(width=8, heads=1, modes="1to1"))
    >>> guesses(network, [["u_0"]])
    (None, None)
    """
    if network.config.modes == "1to1":
        return None, None
    ids, mask = network.tokenizer.batch(sequences)
    device = network.values.weight.device
    return ids.to(device), mask.to(device)
