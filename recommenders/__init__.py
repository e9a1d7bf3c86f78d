"""Recommenders: baselines to print beside the policy, and models that rewards and samplers use.

- `base`: the `Recommender` protocol (histories -> `[B, items]` scores or probabilities) and `rank`, scores -> items
- `popularity`: training counts, the same for everybody
- `item_knn`: item-to-item cosine, with older events counting less
- `factors`: `ALS` and `BPR`, matrix factorizations that a history is folded into
- `sasrec`: self-attention over the history; `sasrec_layers` and `sasrec_losses`, what it is made of
- `products`: the best inner products, all computed or those of the nearest clusters
- `text_knn`: items whose vectors are near those of the history, new items too
- `mixture`: several of them as one; `confidence`, how sure one is of a user, and weights by that
- `store`: a recommender by its kind and settings, fitted once and kept in a folder
- `batch`: a recommender as rewards and samplers call it, by batch of prompts
- `generative`: `GenerativeRecommender`, a trained policy that ranks and draws by item ids; `lists`, what it answers
- `engines`: what computes it, transformers or vLLM; `policy_folder`: what its folder holds beside the weights
- `guide`: what a recommender adds to each step of a beam

All are fitted on the training part; the validation items decide when to stop and how sharp a distribution is. A new
recommender is one file with the methods of `Recommender`; with those that `RECOMMENDERS` names, and a line there, it is
stored and mixed like the others.
"""

from recommenders.base import Recommender, rank, scored
from recommenders.batch import BatchRecommender
from recommenders.factors import ALS, BPR
from recommenders.generative import GenerativeRecommender
from recommenders.guide import Guide
from recommenders.item_knn import ItemKNN
from recommenders.lists import RankedList
from recommenders.mixture import Mixture
from recommenders.policy_folder import push_to_hub
from recommenders.popularity import Popularity
from recommenders.sasrec import SASRec
from recommenders.store import RECOMMENDERS, fit_recommender, load_recommender, made_of
from recommenders.text_knn import TextKNN

__all__ = [
    "ALS",
    "BPR",
    "RECOMMENDERS",
    "GenerativeRecommender",
    "Guide",
    "ItemKNN",
    "Mixture",
    "Popularity",
    "RankedList",
    "Recommender",
    "SASRec",
    "TextKNN",
    "BatchRecommender",
    "fit_recommender",
    "load_recommender",
    "made_of",
    "push_to_hub",
    "rank",
    "scored",
]
