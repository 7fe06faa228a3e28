"""Writing equations token by token, with keys and values of earlier tokens kept."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from paperworks.operators.symbolic.layers import Features, Mask, Pair, shown
from paperworks.operators.symbolic.tokens import BOS, EOS, PAD


class Writer:
    """The decoder of symbols with what it remembers of the tokens so far; a step costs one token."""

    def __init__(self, network: Any, memory: Features, mask: Mask | None) -> None:
        self.network, self.rows, self.device = network, len(memory), memory.device
        self.layers = list(network.symbol_decoder)
        self.cross: list[Pair] = [layer.cross.remembered(memory) for layer in self.layers]
        self.mask = shown(mask)
        self.own: list[Pair | None] = [None] * len(self.layers)
        self.length = 0
        names = network.tokenizer.vocabulary
        self.first, self.last, self.padding = (names.index(token) for token in (BOS, EOS, PAD))

    def step(self, ids: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Take one token of each row in, and return the logits of the next ones."""
        x = self.network.embed_tokens(ids[:, None], self.length)
        self.length += 1
        for i, layer in enumerate(self.layers):
            new, before = layer.itself.remembered(x), self.own[i]
            own = new if before is None else tuple(torch.cat(pair, 2) for pair in zip(before, new, strict=True))
            self.own[i] = own  # type: ignore[assignment]
            x = layer.step(x, own, self.cross[i], None, self.mask)
        return self.network.logits(x)[:, 0]

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Go on with these rows, which may repeat."""
        self.cross = [(keys[rows], values[rows]) for keys, values in self.cross]
        self.own = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self.own]
        self.mask = None if self.mask is None else self.mask[rows]

    def tokens(self, ids: Int[Tensor, "rows length"]) -> list[list[str]]:
        """Return tokens up to the end of each row."""
        return [self.network.tokenizer.tokens(row) for row in ids]


def write(
    writer: Writer, max_len: int, temperature: float = 0.0, generator: torch.Generator | None = None
) -> list[list[str]]:
    """Return the likeliest tokens one after the other, or drawn ones."""
    ids = torch.full((writer.rows,), writer.first, device=writer.device)
    done = torch.zeros_like(ids, dtype=torch.bool)
    found = []
    for _ in range(max_len):
        logits = writer.step(ids)
        if temperature:
            ids = torch.multinomial(_shares(logits, temperature), 1, generator=generator)[:, 0]
        else:
            ids = logits.argmax(-1)
        ids = ids.masked_fill(done, writer.padding)
        found.append(ids)
        done = done | (ids == writer.last)
        if done.all():
            break
    return writer.tokens(torch.stack(found, 1))


def _shares(logits: Float[Tensor, "rows vocabulary"], temperature: float) -> Float[Tensor, "rows vocabulary"]:
    """Return probabilities; in double precision from the greatest logit down, so that none is lost however cold."""
    return ((logits - logits.amax(-1, keepdim=True)).double() / temperature).softmax(-1)


def beam_search(writer: Writer, max_len: int, beam: int) -> list[list[str]]:
    """Return the sequences of greatest mean log-probability of a token, of those that a beam of each sample keeps."""
    rows, device = writer.rows, writer.device
    writer.reorder(torch.arange(rows, device=device).repeat_interleave(beam))
    ids = torch.full((rows * beam,), writer.first, device=device)
    found = torch.zeros(rows * beam, 0, dtype=torch.long, device=device)
    # At first all beams of a sample are alike, and only one of them counts.
    scores = torch.zeros(rows, beam, device=device)
    scores[:, 1:] = -torch.inf
    done = torch.zeros(rows * beam, dtype=torch.bool, device=device)
    lengths = torch.zeros(rows * beam, device=device)
    for _ in range(max_len):
        log = writer.step(ids).double().log_softmax(-1)
        over = torch.full_like(log, -torch.inf)
        over[:, writer.padding] = 0.0
        log = torch.where(done[:, None], over, log)
        total = (scores.flatten()[:, None] + log).view(rows, beam * log.shape[1])
        best, place = total.topk(beam, dim=1)
        size = log.shape[1]
        source = (torch.arange(rows, device=device)[:, None] * beam + place // size).flatten()
        ids, scores = (place % size).flatten(), best
        writer.reorder(source)
        found = torch.cat([found[source], ids[:, None]], 1)
        lengths, done = lengths[source] + ~done[source], done[source] | (ids == writer.last)
        if done.all():
            break
    mean = (scores / lengths.view(rows, beam).clamp_min(1)).argmax(1)
    return writer.tokens(found.view(rows, beam, found.shape[1])[torch.arange(rows, device=device), mean])
