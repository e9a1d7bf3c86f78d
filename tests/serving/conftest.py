"""A recommender of 48 items, and the url of its server."""

import pytest
import torch

from interactions.prompts import PromptBuilder
from recommenders import GenerativeRecommender
from serving.app import make_app
from serving.served import Served
from tests.http_server import served


@pytest.fixture
def recommender(policy, catalog, tokenizer):
    return GenerativeRecommender(policy, PromptBuilder(catalog, tokenizer, max_history=4), catalog, torch.arange(48))


@pytest.fixture
def serve(recommender):
    """A context with the url of a server of `recommender`, or of another one."""

    def start(other=None, key=None, seconds=20.0, **settings):
        made = Served(other or recommender, **({"max_batch": 8} | settings))
        return served(make_app(made, key=key, about={"model": "the run"}, seconds=seconds))

    return start


@pytest.fixture
def url(serve):
    with serve() as url:
        yield url
