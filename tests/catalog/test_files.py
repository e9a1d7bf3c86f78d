import json
import re

import pytest

from catalog.errors import SetupError
from catalog.files import complete, read_json, write_json


def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_file_takes_its_place_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        before = content(tmp_path)
        with complete(path) as temporary:
            temporary.write_text(text)
            assert {name: content(tmp_path)[name] for name in before} == before
        assert content(tmp_path) == {"new/file.txt": text}


def test_a_folder_takes_its_place_when_it_is_complete(tmp_path):
    for name in ("first", "second"):
        with complete(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
        assert content(tmp_path) == {f"folder/{name}": name}


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("exists", [True, False])
def test_an_exception_leaves_the_old_content_and_nothing_else(kind, exists, tmp_path):
    def fill(path, text):
        if kind == "folder":
            path.mkdir()
        (path / "part" if kind == "folder" else path).write_text(text)

    if exists:
        fill(tmp_path / "kept", "old")
    before = content(tmp_path)
    with pytest.raises(KeyError, match="mine"), complete(tmp_path / "kept") as temporary:
        fill(temporary, "new")
        raise KeyError("mine")
    assert content(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["kept"] * exists


def test_a_full_disk_is_told_with_the_place_and_the_remedy(tmp_path, nearly_full_disk):
    place = re.escape(str(tmp_path / "table.json"))
    with pytest.raises(SetupError, match=rf"{place} could not be written \(.*\)\. Free space there") as error:
        with nearly_full_disk():
            write_json(tmp_path / "table.json", "x" * 2_000_000)
    assert error.value.file == tmp_path / "table.json" and error.value.__cause__.errno
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "table.json", {"ä": [1, 2.5, None]})
    with pytest.raises(TypeError):
        write_json(tmp_path / "table.json", {"a": object()})
    assert read_json(tmp_path / "table.json", "The table") == {"ä": [1, 2.5, None]}
    assert json.loads((tmp_path / "table.json").read_text()) == {"ä": [1, 2.5, None]}
