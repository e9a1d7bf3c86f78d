"""What comes next, by self-attention over the history: SASRec, arXiv 1808.09781."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from catalog import DENSE_ITEMS, Catalog
from catalog.errors import InputError
from catalog.progress import progress
from catalog.settings import at_least, check_values
from interactions import Splits, training_sequences
from interactions.rows import sample_rows
from recommenders.base import Histories, fit_temperature, flatten, scored
from recommenders.products import Products
from recommenders.sasrec_layers import layers
from recommenders.sasrec_losses import Loss, Positions, make_loss
from recommenders.sasrec_windows import Windows
from recommenders.text_knn import centered_vectors, unit_length
from recommenders.top import Top

INITIAL = 0.02
"""Standard deviation of the items' first embeddings."""
VALIDATED_ENTRIES, LEAST_VALIDATED = 2_000_000_000, 2000
"""An epoch is judged by so many scores of validation rows, and by no fewer rows than the second."""

OnEpoch = Callable[[int, Mapping[str, float]], None]
"""Told the number of an epoch, from 1, and its loss, Recall@10 and NDCG@10 on the validation items."""


@dataclass(frozen=True)
class SASRecSettings:
    """How the network looks and how it is trained.

    layer: "sasrec" = a transformer's, "hstu" and "ligr" = those of `sasrec_layers`.
    loss: "softmax" = cross-entropy over the catalog; "bce" = as published, against one item the user never took;
    "sampled_softmax" and "gbce" = against `negatives` drawn items a batch, for large catalogs, see `sasrec_losses`;
    calibration: of gbce. Beyond `DENSE_ITEMS` items these two change the embeddings of the items in a batch alone, by
    Adam without weight decay.
    vectors: a file of item vectors as `text_knn` takes it, for instance of titles: an item's embedding is then one of
    its own plus a learned projection of its vector.
    probes: 0, or how many clusters of items are searched for a user's best ones, see `Products`.
    patience: it stops after so many epochs without a better NDCG@10 on the validation items; the best weights are kept.
    """

    loss: Literal["softmax", "bce", "sampled_softmax", "gbce"] = "softmax"
    max_length: int = 50
    dimensions: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.3
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    batch_size: int = 64
    epochs: int = 60
    patience: int = 5
    seed: int = 0
    layer: Literal["sasrec", "hstu", "ligr"] = "sasrec"
    negatives: int = 256
    calibration: float = 0.75
    vectors: str = ""
    probes: int = 0

    def __post_init__(self) -> None:
        check_values(self)
        counts = ("max_length", "dimensions", "layers", "heads", "batch_size", "epochs", "patience", "negatives")
        at_least(self, 1, *counts)
        at_least(self, 0, "learning_rate", strictly=True)
        at_least(self, 0, "probes")
        if self.dimensions % self.heads:
            raise InputError(
                f"dimensions={self.dimensions} cannot be shared by heads={self.heads}.",
                remedy="Set a multiple of heads.",
                field="dimensions",
                value=self.dimensions,
            )
        for name, most in (("dropout", 0.99), ("calibration", 1)):
            if not 0 <= getattr(self, name) <= most:
                value = getattr(self, name)
                raise InputError(f"{name}={value}: it must be from 0 to {most}.", field=name, value=value)


class Network(nn.Module):
    """Causal layers over embeddings of the items `0 .. items - 1` and of their positions.

    Histories are padded at the end, so that no item has padding before it and none needs a mask. As SASRec was
    published, embeddings begin small and are read times the root of their dimensions: scores of rare items then begin
    near 0, and a few updates change what is read.

    text: `[items, d]`, what is known of the items beside who took them; it is projected and added to their embeddings.
    """

    text: Tensor | None

    def __init__(self, items: int, settings: SASRecSettings, text: Tensor | None = None) -> None:
        super().__init__()
        width, self.padding = settings.dimensions, items
        self.scale = width**0.5
        sparse = settings.loss != "softmax" and items > DENSE_ITEMS
        self.item = nn.Embedding(items + 1, width, padding_idx=self.padding, sparse=sparse)
        self.position = nn.Embedding(settings.max_length, width)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = layers(settings)
        nn.init.normal_(self.item.weight.detach()[: self.padding], std=INITIAL)
        nn.init.normal_(self.position.weight, std=width**-0.5)
        self.register_buffer("text", None if text is None else F.pad(text, (0, 0, 0, 1)))  # padding has none
        if text is not None:
            self.project = nn.Linear(text.shape[1], width, bias=False)
            nn.init.normal_(self.project.weight, std=INITIAL)

    def forward(self, history: Tensor) -> Tensor:
        """State after each item, `[B, N] -> [B, N, dimensions]`, which later items do not change."""
        scaled = self.embed(history) * self.scale
        return self.blocks(self.dropout(scaled + self.position.weight[: history.shape[1]]))

    def embed(self, items: Tensor) -> Tensor:
        """Embeddings of items, `[...] -> [..., dimensions]`; 0 for padding."""
        own = self.item(items)
        return own if self.text is None else own + self.project(self.text[items])

    def logits(self, states: Tensor) -> Tensor:
        """Inner products with every item, `[..., dimensions] -> [..., items]`."""
        return states @ self.table().T

    def table(self) -> Tensor:
        """The embeddings of all items `[items, dimensions]`."""
        table = self.item.weight[: self.padding]
        return table if self.text is None else table + self.project(self.text[: self.padding])

    def pad(self, histories: Histories) -> Tensor:
        """The newest items of each history, `[B, N]`, padded at the end; nothing but padding for an empty history."""
        newest = [list(history[-len(self.position.weight) :]) or [self.padding] for history in histories]
        padded = pad_sequence([torch.tensor(items) for items in newest], batch_first=True, padding_value=self.padding)
        return padded.to(self.item.weight.device)


@dataclass(frozen=True)
class SASRec:
    """Scores an item by its inner product with the state after the newest item.

    No count is kept from which a user could be taken out again, so `without` is ignored, though the network remembers
    its sequences: `CrossFitted` has copies that never saw the user. After an empty history every item has the score 0.
    """

    network: Network
    settings: SASRecSettings
    temperature: float = 1.0

    Settings: ClassVar = SASRecSettings

    @classmethod
    def from_catalog(
        cls, splits: Splits, catalog: Catalog, settings: SASRecSettings, on_epoch: OnEpoch | None = None
    ) -> "SASRec":
        """`from_splits`, with the items' vectors where the settings name a file of them.

        Raises InputError for a file that lacks an item or cannot be read.
        """
        vectors = torch.from_numpy(centered_vectors(settings.vectors, catalog.item_ids)) if settings.vectors else None
        text = None if vectors is None else unit_length(vectors)
        return cls.from_splits(splits, len(catalog), settings, text, on_epoch)

    @classmethod
    def from_splits(
        cls,
        splits: Splits,
        items: int,
        settings: SASRecSettings,
        text: Tensor | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> "SASRec":
        """Trained on the training sequences; the validation items decide when to stop, and the temperature.

        text: `[items, d]`, see `Network`. on_epoch: is told the metrics on the validation items after each epoch.
        """
        model = cls(_train(splits, items, settings, text, on_epoch), settings)
        return replace(model, temperature=fit_temperature(model, splits.validation))

    @torch.no_grad()
    def score(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Inner products, `[B, items]` float32, on the network's device."""
        return self.network.logits(self._states(histories))

    @torch.no_grad()
    def top(self, histories: Histories, k: int, without: Histories | None = None) -> Top:
        """The k items with the largest `probabilities`, on the network's device."""
        return self._products.top(self._states(histories), k, self.temperature)

    @cached_property
    def _products(self) -> Products:
        return Products(self.network.table().detach(), self.settings.probes)

    def _states(self, histories: Histories) -> Tensor:
        """State after the newest item of any number of histories, `[B, dimensions]`."""
        self.network.eval()
        return torch.cat([self._newest(histories[start : start + 512]) for start in range(0, len(histories), 512)])

    def _newest(self, histories: Histories) -> Tensor:
        """State after the newest item, `[B, dimensions]`; 0 for an empty history."""
        history = self.network.pad(histories)  # [B, N]
        length = (history != self.network.padding).sum(1)  # [B]
        states = self.network(history)  # [B, N, dimensions]
        return states[torch.arange(len(history)), length.clamp(min=1) - 1] * (length > 0).unsqueeze(-1)

    def probabilities(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """Softmax of the scores at the fitted temperature."""
        return (self.score(histories) / self.temperature).softmax(-1)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        numbers = {"temperature": self.temperature, "scale": self.network.scale}
        return tensors, {"settings": asdict(self.settings)} | numbers

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> "SASRec":
        """Raises InputError for the state of an earlier version, which read embeddings as they are."""
        if "scale" not in numbers:
            raise InputError("This SASRec was fitted by an earlier version.", remedy="Fit it again.")
        settings = SASRecSettings(**numbers["settings"])
        text = tensors["text"][:-1] if "text" in tensors else None
        network = Network(len(tensors["item.weight"]) - 1, settings, text)
        network.load_state_dict(tensors)
        return cls(network.to(_device()), settings, numbers["temperature"])


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _train(
    splits: Splits, items: int, settings: SASRecSettings, text: Tensor | None, on_epoch: OnEpoch | None
) -> Network:
    """The network of the epoch with the best validation NDCG@10; leaves the random state of the caller as it was."""
    windows, device = Windows(training_sequences(splits), settings.max_length), _device()
    measure = make_loss(splits, items, settings, settings.batch_size * windows.targets, device)
    validation = sample_rows(splits.validation, max(LEAST_VALIDATED, VALIDATED_ENTRIES // items))
    used = [torch.cuda.current_device()] if device.type == "cuda" else []  # by default fork_rng starts every GPU
    with (
        torch.random.fork_rng(used),
        progress(range(settings.epochs), desc=f"sasrec {settings.loss}", unit="epoch") as epochs,
    ):
        torch.manual_seed(settings.seed)
        network = Network(items, settings, text).to(device)
        optimizers = _optimizers(network, settings)
        best, best_ndcg, waited = network.state_dict(), -1.0, 0
        for epoch in epochs:
            loss = _epoch(network, optimizers, windows, measure, settings.batch_size)
            recall, ndcg = _validate(SASRec(network, settings), validation)
            epochs.set_postfix({"loss": loss, "recall@10": recall, "ndcg@10": ndcg})
            if on_epoch:
                on_epoch(epoch + 1, {"loss": loss, "recall@10": recall, "ndcg@10": ndcg})
            waited += 1
            if ndcg > best_ndcg:
                best, best_ndcg, waited = copy.deepcopy(network.state_dict()), ndcg, 0
            if waited == settings.patience:
                break
    network.load_state_dict(best)
    return network.eval()


def _epoch(
    network: Network,
    optimizers: Sequence[torch.optim.Optimizer],
    windows: Windows,
    measure: Loss,
    batch_size: int,
) -> float:
    """One pass over the windows in random order; returns the mean loss of its steps."""
    network.train()
    losses = []
    for rows in torch.randperm(len(windows)).split(batch_size):
        users, sequences = zip(*(windows[row] for row in rows.tolist()), strict=True)
        loss = measure(network, _positions(network, sequences, users))
        network.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def _optimizers(network: Network, settings: SASRecSettings) -> list[torch.optim.Optimizer]:
    """AdamW; where the loss is sampled and the items are many, lazy Adam for their embeddings."""
    named = dict(network.named_parameters())
    item = [named.pop("item.weight")] if network.item.sparse else []
    rest = torch.optim.AdamW(named.values(), settings.learning_rate, weight_decay=settings.weight_decay)
    return [rest, torch.optim.SparseAdam(item, settings.learning_rate)] if item else [rest]


def _positions(network: Network, windows: Histories, users: Sequence[int]) -> Positions:
    """The places of B windows at which an item follows, with the states there."""
    history = network.pad([window[:-1] for window in windows])  # [B, N]
    target = network.pad([window[1:] for window in windows])  # [B, N]
    mask = target != network.padding
    return Positions(network(history)[mask], target[mask], mask, users)


def _validate(model: SASRec, rows: Dataset) -> tuple[float, float]:
    """Recall@10 and NDCG@10 of the targets among the items that are not in the history; ties count as half."""
    places = []
    targets, start = torch.tensor(rows["target"][:]), 0
    for histories, found in scored(model, rows["history"]):
        scores = found.to("cpu", copy=True)  # [b, items]
        seen, lengths = flatten(histories)
        scores[np.repeat(np.arange(len(scores)), lengths), seen] = -torch.inf
        target = scores.gather(1, targets[start : start + len(scores)].unsqueeze(1))  # [b, 1]
        start += len(scores)
        above, level = (np.count_nonzero(found.numpy(), axis=1) for found in (scores > target, scores == target))
        places.append(above + (level - 1) / 2)
    place = np.concatenate(places)  # [rows], from 0
    return float((place < 10).mean()), float(np.where(place < 10, 1 / np.log2(place + 2), 0).mean())
