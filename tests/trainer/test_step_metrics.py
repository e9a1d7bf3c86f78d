import pytest
from transformers import TrainerState, TrainingArguments

from trainer.reporting.step_metrics import will_log

STEPS = range(6)
"""How many are done."""


def logged(folder, logging_steps=1, **settings):
    args = TrainingArguments(str(folder), use_cpu=True, logging_steps=logging_steps, **settings)
    states = (TrainerState(global_step=done, logging_steps=logging_steps) for done in STEPS)
    return [done for done, state in zip(STEPS, states, strict=True) if will_log(args, state, began_at=0)]


@pytest.mark.parametrize("first", [True, False])
def test_a_step_is_logged_when_its_number_is_a_multiple_or_when_it_is_the_first_and_asked_for(first, tmp_path):
    assert logged(tmp_path, 3, logging_first_step=first) == ([0, 2, 5] if first else [2, 5])


def test_any_step_may_be_the_last_of_an_epoch(tmp_path):
    assert logged(tmp_path, 3, logging_strategy="epoch") == [*STEPS]


@pytest.mark.parametrize("first", [True, False])
def test_of_a_run_that_logs_nothing_the_first_step_is_logged_where_it_is_asked_for(first, tmp_path):
    assert logged(tmp_path, logging_strategy="no", logging_first_step=first) == [0] * first
