from pathlib import Path

import pytest

from catalog.errors import GFlowGRError, InputError, RunError, SetupError
from experiments.command_line import program


def test_an_error_carries_what_a_program_shows_and_a_test_reads():
    error = InputError("p.csv: row 3 has no item.", remedy="Delete it.", file="p.csv", row=3, field="item", value="")
    assert str(error) == "p.csv: row 3 has no item. Delete it."
    assert (error.file, error.row, error.field, error.value) == (Path("p.csv"), 3, "item", "")
    assert str(RunError("It stopped.")) == "It stopped."


def test_the_types_are_those_that_python_programs_catch_already():
    assert issubclass(InputError, ValueError)
    assert issubclass(SetupError, RuntimeError) and issubclass(RunError, RuntimeError)


@pytest.mark.parametrize("kind", [InputError, SetupError, RunError])
def test_a_program_ends_with_one_sentence_for_what_the_user_can_mend(kind):
    with pytest.raises(SystemExit) as ended:
        program(_fails)(kind("It stands still.", remedy="Push it."))
    assert ended.value.code == "error: It stands still. Push it."


@pytest.mark.parametrize("mistake", [KeyError("ours"), ValueError("ours"), OSError(2, "ours")])
def test_a_mistake_of_ours_keeps_its_traceback(mistake):
    with pytest.raises(type(mistake)):
        program(_fails)(mistake)


def test_a_full_disk_is_one_sentence_wherever_it_shows():
    with pytest.raises(SystemExit) as ended:
        program(_fails)(OSError(28, "No space left on device", "metrics.jsonl"))
    assert "metrics.jsonl" in str(ended.value.code)


def _fails(error: GFlowGRError | Exception) -> None:
    raise error
