"""A trained policy as a recommender: item ids in, ranked lists of item ids out."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from catalog import Catalog
from catalog.errors import InputError
from catalog.files import sealing
from catalog.progress import progress
from interactions.prompts import PromptBatch, PromptBuilder
from policy import CausalPolicy, EncoderDecoderPolicy, Exploration, TriePolicy, check_backbone
from policy.base import unwrap_model
from policy.folders import check_finished
from recommenders.base import Histories, Recommender, rank
from recommenders.engines import load_policy
from recommenders.guide import Guide
from recommenders.lists import ItemIds, RankedList, ReadHistory, Scored, spread
from recommenders.policy_folder import (
    CATALOG,
    PolicyRecord,
    copy_policy,
    find_folder,
    grown_catalog,
    marked_provenance,
    read_record,
)

READ_AT_ONCE = 65_536
"""Histories that are sorted by their length and ranked together."""


class GenerativeRecommender:
    """Ranks and draws items for histories by a policy; a `Recommender` as well, by `score` and `probabilities`.

    policy: a `TriePolicy`, that of an engine included. prompts: how histories become prompts. counts [items]: how often
    each item was in training; users without a history get the most frequent items. record, folder: what the policy's
    folder says, and where it lies, if it was read from one.
    """

    @dataclass(frozen=True)
    class Settings:
        """run: the folder of the finished run whose policy it is."""

        run: str

    def __init__(
        self,
        policy: TriePolicy,
        prompts: PromptBuilder,
        catalog: Catalog,
        counts: Tensor | None = None,
        record: PolicyRecord | None = None,
        folder: Path | None = None,
    ) -> None:
        self.policy, self.prompts, self.catalog = policy, prompts, catalog
        self.record, self.folder = record, folder
        self.counts = torch.zeros(len(catalog), dtype=torch.int64) if counts is None else counts
        self.ids = ItemIds(catalog)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str = "float32",
        engine: str = "transformers",
        engine_settings: dict[str, Any] | None = None,
        catalog: Catalog | str | Path | None = None,
    ) -> "GenerativeRecommender":
        """The recommender in the folder of a finished run or of a checkpoint, or in a repository of the hub.

        Args:
            folder: the folder, or "organization/model".
            device: where it computes, by default the first GPU, else the CPU. vLLM chooses by itself.
            dtype: of the weights, "float32", "bfloat16" or "float16".
            engine: "transformers" or "vllm", or the import path "module:Class" of another one.
            engine_settings: further arguments of the engine, for vLLM those of `vllm.LLM`.
            catalog: instead of the checkpoint's one that grew from it (`semantic_ids.extend`), or its folder.

        Raises:
            InputError: the folder is no whole, self-contained checkpoint, the catalog grew from another one, or a
                setting is wrong.
            SetupError: the engine is not installed.
        """
        found = find_folder(folder)
        check_finished(found)
        record, own, counts = read_record(found)
        source = found / CATALOG if catalog is None else catalog
        catalog = own if catalog is None else grown_catalog(catalog, own)
        policy, prompts = load_policy(
            found, catalog, record, source, device=device, dtype=dtype, engine=engine, settings=engine_settings or {}
        )
        counts = torch.nn.functional.pad(counts, (0, len(catalog) - len(own)))
        return cls(policy, prompts, catalog, counts, record, found)

    def recommend(  # noqa: PLR0913  # what one request can say, all by name
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        exclude: Sequence[str] | Sequence[Sequence[str]] | None = None,
        filter: Collection[str] | Callable[[str], bool] | None = None,
        guide: Recommender | None = None,
        guide_weight: float = 1.0,
        diversity: float = 0.0,
        beam_width: int | None = None,
        batch_size: int = 64,
    ) -> list[RankedList]:
        """The k best items for each history of item ids, oldest first, by a beam search inside the catalog's trie.

        Events whose item the catalog does not have are left out and counted. Where none is left, the most popular items
        of training are recommended, with the log of their share as score. A history that cannot be read gives a list
        with `error`, and the others go on. Fewer than k items come where no more are left.

        Args:
            histories: any number of lists of item ids; the prompt holds the newest `max_history` of each.
            k: items a list, at most the catalog's.
            exclude_seen: leave the history's items out, also those that no longer fit the prompt.
            exclude: further items to leave out, one list for all or a list for each history. Unknown ids are ignored.
            filter: the only items that may come, as ids or as a function of an id, for instance what is in stock. A
                function is called once for each item of the catalog.
            guide: a recommender that the beam counts too, see `Guide`; guide_weight: its weight, > 0.
            diversity: how much log-probability, in nats, an item loses for sharing all codes with one above it; for
                sharing the first half of the codes, half of that.
            beam_width: branches of the beam, by default 50 or k.
            batch_size: histories at once.

        Raises:
            InputError: k, beam_width, diversity or guide_weight is out of range, `exclude` or `filter` holds what is no
                item id, `exclude` has another number of lists.
            DivergedError: the weights are no finite numbers.
        """
        width = self._width(k, beam_width)
        if not 0 <= diversity < float("inf"):
            raise InputError(
                f"diversity={diversity}: give a finite number of 0 or more.", field="diversity", value=diversity
            )
        if not 0 < guide_weight < float("inf"):
            raise InputError(
                f"guide_weight={guide_weight}: give a finite number above 0.", field="guide_weight", value=guide_weight
            )
        read = [self.ids.read(history) for history in histories]
        self.ids.exclude(read, exclude, seen=exclude_seen)
        allowed = None if filter is None else self.ids.allowed(filter)  # [items] bool
        found: list[RankedList] = [one.refusal() for one in read]
        steering = None if guide is None else Guide(guide, guide_weight)
        for part in batches([n for n, one in enumerate(read) if one.items], read, batch_size):
            some = [read[n] for n in part]
            best = self._beam(some, width, steering, k=None if diversity else k, allowed=allowed)
            for n, one, items, scores in zip(part, some, *(table.tolist() for table in best), strict=True):
                ranked = self.ids.expand(items, scores, one, allowed)
                found[n] = self.ids.as_list(spread(ranked, self.catalog.trie, diversity, k), one)
        popular = [n for n, one in enumerate(read) if one.error is None and not one.items]
        for n, ranked in zip(popular, self._popular([read[n] for n in popular], allowed, k), strict=True):
            found[n] = self.ids.as_list(ranked, read[n], "popularity")
        return found

    def sample(
        self,
        histories: Sequence[Sequence[str]],
        n: int = 10,
        *,
        temperature: float = 1.0,
        seed: int = 0,
        batch_size: int = 64,
    ) -> list[RankedList]:
        """n independent draws for each history, in proportion to P_F: what comes often is likely. Items may repeat.

        scores: log P_F of the semantic ID, whatever the temperature; of items that share one, each is as likely. The
        draws without a history are from the items' shares in training. The same seed gives the same draws for the same
        call. Raises InputError for n < 1, a seed below 0 or a temperature that no draw can have.
        """
        if n < 1:
            raise InputError(f"n={n}: at least one draw.", field="n", value=n)
        if seed < 0:
            raise InputError(f"seed={seed}: give 0 or more.", field="seed", value=seed)
        exploration = Exploration(temperature)
        read = [self.ids.read(history) for history in histories]
        found = [one.refusal() for one in read]
        generator = torch.Generator(self._device).manual_seed(seed)
        choice = np.random.default_rng(seed)
        for part in batches([i for i, one in enumerate(read) if one.items], read, batch_size):
            items, log_pf = self.policy.sample(self._prompts([read[i] for i in part]), n, generator, exploration)
            for i, row, scores in zip(part, items.tolist(), log_pf.sum(-1).tolist(), strict=True):
                drawn = [(self.ids.any_of_leaf(item, choice), score) for item, score in zip(row, scores, strict=True)]
                found[i] = self.ids.as_list(drawn, read[i])
        shares = self._shares.numpy()
        chances = np.exp(np.log(shares / shares.max()) / temperature)
        for i, one in enumerate(read):
            if one.error is None and not one.items:
                row = choice.choice(len(shares), n, p=chances / chances.sum())
                found[i] = self.ids.as_list(
                    [(int(item), float(np.log(shares[item]))) for item in row], one, "popularity"
                )
        return found

    def log_probs(
        self, histories: Sequence[Sequence[str]], items: Sequence[Sequence[str]], *, batch_size: int = 64
    ) -> list[list[float]]:
        """log P_F of the semantic ID of each of the given items, as many lists as histories.

        NaN for an item that the catalog does not have and for a history that cannot be read; without a history the log
        of the item's share in training. Raises InputError for another number of lists than histories.
        """
        if len(items) != len(histories):
            raise InputError(f"{len(histories)} histories with {len(items)} lists of items.", field="items")
        read = [self.ids.read(history) for history in histories]
        asked = [torch.tensor([self.ids.number.get(str(item), -1) for item in row], dtype=torch.long) for row in items]
        found = [torch.full((len(row),), torch.nan) for row in asked]
        for part in batches([i for i, one in enumerate(read) if one.items and len(asked[i])], read, batch_size):
            table = pad_sequence([asked[i] for i in part], batch_first=True, padding_value=-1)  # [B, K]
            with torch.no_grad():
                paths = self.policy.log_probs(
                    self._prompts([read[i] for i in part]), table.clamp(min=0).to(self._device)
                )
            log_pf = paths.log_pf.sum(-1).cpu().where(table >= 0, torch.nan)  # [B, K]
            for i, row in zip(part, log_pf, strict=True):
                found[i] = row[: len(asked[i])]
        for i, one in enumerate(read):
            if one.error is None and not one.items:
                found[i] = self._shares[asked[i].clamp(min=0)].log().where(asked[i] >= 0, torch.nan)
        return [row.tolist() for row in found]

    def rank(
        self,
        histories: Histories,
        width: int,
        *,
        exclude_history: bool,
        k: int | None = None,
        guide: Guide | None = None,
        batch_size: int = 64,
    ) -> np.ndarray:
        """The items [users, k] that a beam finds for histories of item numbers, best first, -1 where none is left.

        histories: lists, or a column of a data set, of which a part is read at a time.
        One item stands for all that share its semantic ID. k: by default all of the beam's width. exclude_history:
        leave out the whole history, also the part that no longer fits the prompt.
        """
        found = np.full((len(histories), width if k is None else k), -1)
        for start in range(0, len(histories), READ_AT_ONCE):
            some = histories[start : start + READ_AT_ONCE]
            read = [ReadHistory(list(items), excluded=list(items) if exclude_history else []) for items in some]
            for part in progress(batches(range(len(read)), read, batch_size), desc="ranking", leave=False):
                found[start + np.array(part)] = self._beam([read[n] for n in part], width, guide, k=k)[0].numpy()
        return found

    def rank_exactly(self, histories: Histories, k: int, *, exclude_history: bool, batch_size: int = 16) -> np.ndarray:
        """The exact counterpart of `rank`: the k most probable items [users, k], for small catalogs.

        The whole distribution is computed. A leaf is passed over where all its items are excluded.
        """
        trie = self.catalog.trie
        leaves = trie.nodes_at(trie.levels)
        found = np.full((len(histories), k), -1)
        for start in range(0, len(histories), batch_size):
            some = histories[start : start + batch_size]
            log_p = self._distribution(some)[:, trie.item(leaves)]  # [B, leaves]
            for row, seen in enumerate(some if exclude_history else ()):
                leaf, taken = trie.leaf_number[torch.tensor(sorted(set(seen)))].unique(return_counts=True)
                log_p[row, leaf[taken == trie.items_below[leaf + trie.first_leaf]]] = -torch.inf
            score, place = log_p.topk(min(k, trie.leaves))
            best = trie.item(leaves[place]).where(score > -torch.inf, -1)
            found[start : start + len(some), : best.shape[1]] = best.numpy()
        return found

    def score(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """The exact log-probability of every item, [B, items] float32; without a history that of its share."""
        found = self._shares.log().repeat(len(histories), 1)
        known = [n for n, items in enumerate(histories) if len(items)]
        for start in range(0, len(known), 16):
            part = known[start : start + 16]
            below = self.catalog.trie.items_below[self.catalog.trie.leaf_of_item]
            found[part] = self._distribution([histories[n] for n in part]) - below.log()
        return found

    def probabilities(self, histories: Histories, without: Histories | None = None) -> Tensor:
        """The exact probability of every item, [B, items] float32; rows sum to 1."""
        return self.score(histories, without).exp()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what `from_pretrained` reads, whole or not at all. Raises InputError where it was read from nowhere."""
        if self.folder is None:
            raise InputError("This policy is in training.", remedy="Call trainer.save_model.")
        with sealing(Path(folder), {"provenance": marked_provenance(self.folder)}) as temporary:
            copy_policy(self.folder, temporary)

    # parts

    @property
    def _device(self) -> torch.device:
        return self.policy.tokens.device

    @cached_property
    def _shares(self) -> Tensor:
        """Each item's share in training, one event added to each: [items] float32."""
        counts = self.counts.double() + 1
        return (counts / counts.sum()).float()

    def _width(self, k: int, beam_width: int | None) -> int:
        """The beam's width. Raises InputError where k or the width is out of range, or the backbone is too short."""
        if not 1 <= k <= len(self.catalog):
            raise InputError(
                f"k={k}: the catalog has {len(self.catalog)} items.",
                remedy=f"Ask for 1 to {len(self.catalog)}.",
                field="k",
                value=k,
            )
        width = max(50, k) if beam_width is None else beam_width
        if width < k:
            raise InputError(
                f"beam_width={width} is below k={k}.",
                remedy=f"Set it to {k} or more.",
                field="beam_width",
                value=width,
            )
        width = min(width, self.catalog.trie.leaves)
        if isinstance(self.policy, CausalPolicy | EncoderDecoderPolicy):  # an engine has its own attention
            config = unwrap_model(self.policy.model).config
            check_backbone(config, self.prompts.longest, width, self.catalog.trie.levels - 1)
        return width

    def _prompts(self, read: Sequence[ReadHistory]) -> PromptBatch:
        return self.prompts([{"history": one.items} for one in read]).to(self._device)

    def _beam(
        self,
        read: Sequence[ReadHistory],
        width: int,
        guide: Guide | None,
        k: int | None = None,
        allowed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Items and scores [B, k], on the CPU; one item a leaf."""
        batch = self._prompts(read)
        excluded = None
        if any(one.excluded for one in read):
            rows = [torch.tensor(one.excluded, dtype=torch.long) for one in read]
            excluded = pad_sequence(rows, batch_first=True, padding_value=-1).to(self._device)  # [B, H]
        steps = None if guide is None else guide(batch, self.policy.trie)
        allowed = None if allowed is None else allowed.to(self._device)
        items, scores = self.policy.beam(batch, width, excluded, steps, k=k, allowed=allowed)
        return items.cpu(), scores.cpu()

    def _distribution(self, histories: Histories) -> Tensor:
        """The exact log-probability of every item's leaf, [B, items] float32 on the CPU."""
        return self.policy.distribution(self._prompts([ReadHistory(list(items)) for items in histories])).cpu()

    @cached_property
    def _by_share(self) -> np.ndarray:
        """The items from the largest share in training to the smallest: [items]; equal ones as `rank` orders them."""
        return rank(self._shares.log()[None], [[]], len(self._shares))[0]

    def _popular(self, read: Sequence[ReadHistory], allowed: Tensor | None, k: int) -> list[Scored]:
        """For each history the k items with the largest shares in training that may come, and the logs of these."""
        if not read:
            return []
        order = self._by_share if allowed is None else self._by_share[allowed.numpy()[self._by_share]]
        most = k + max(len(one.excluded) for one in read)
        first = order[:most].tolist()
        scored = list(zip(first, self._shares.log()[first].tolist(), strict=True))
        without = [set(one.excluded) for one in read]
        return [list(islice((pair for pair in scored if pair[0] not in gone), k)) for gone in without]


def batches(chosen: Sequence[int], read: Sequence[ReadHistory], batch_size: int) -> list[list[int]]:
    """The chosen histories in batches of similar length, so that little is padded."""
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be 1 or more.", field="batch_size", value=batch_size)
    order = sorted(chosen, key=lambda n: len(read[n].items))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
