"""A training without a terminal says how far it is in lines, unless it is to be silent."""

import pytest
from transformers.trainer_callback import ProgressCallback

import catalog.progress
from trainer import SFTTrainer
from trainer.reporting.progress import Progress


@pytest.mark.parametrize("silent", [False, True])
def test_lines_take_the_place_of_the_bar(silent, make_trainer, monkeypatch, capfd):
    monkeypatch.setattr(catalog.progress, "SECONDS", 0.0)
    trainer = make_trainer(SFTTrainer, disable_tqdm=silent)
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert (Progress in kinds) != silent and not any(issubclass(kind, ProgressCallback) for kind in kinds)
    trainer.train()
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("training: ")]
    assert bool(lines) != silent
    if lines:
        assert lines[-1].startswith("training: 3/3 in ") and "loss=" in lines[-1]
