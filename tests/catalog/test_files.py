import json
import os
import re
import socket

import pytest

from catalog.errors import SetupError
from catalog.files import broken, complete, locked, read_json, seal, sealed, write_json
from tests.raising import raises


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


def test_what_dead_processes_left_is_removed_and_what_others_write_is_not(tmp_path):
    dead, alive = 2**22 + 1, os.getppid()
    names = [f".folder.{socket.gethostname()}.{process}.tmp" for process in (dead, alive)]
    for name in (*names, ".folder.elsewhere.1.tmp", ".other.x.1.tmp"):
        (tmp_path / name).mkdir()
    with complete(tmp_path / "folder") as temporary:
        temporary.mkdir()
    assert {path.name for path in tmp_path.iterdir()} == {
        "folder",
        names[1],
        ".folder.elsewhere.1.tmp",
        ".other.x.1.tmp",
    }


def test_a_folder_moved_aside_by_a_killed_process_comes_back_where_the_next_try_fails(tmp_path):
    old = tmp_path / f".folder.{socket.gethostname()}.{2**22 + 1}.old"
    old.mkdir()
    (old / "kept").touch()
    with pytest.raises(KeyError), complete(tmp_path / "folder"):
        raise KeyError
    assert content(tmp_path) == {"folder/kept": ""}


def test_a_sealed_folder_is_complete_until_a_file_is_lost_or_cut(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "weights").write_text("1234")
    assert broken(tmp_path)
    seal(tmp_path, {"seed": 1})
    assert broken(tmp_path) is None and sealed(tmp_path, "The run") == {"seed": 1}
    (tmp_path / "a" / "weights").write_text("123")
    with raises(file=tmp_path):
        sealed(tmp_path, "The run")
    (tmp_path / "a" / "weights").unlink()
    assert "weights" in broken(tmp_path)


def test_a_folder_takes_one_writer_at_a_time(tmp_path):
    with locked(tmp_path / "run"):
        with raises(SetupError, file=tmp_path / "run"), locked(tmp_path / "run"):
            pass
    with locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize(("content", "row"), [(b'{"a": 1,}', 1), (b'{"\xe4": 1}', None), (b"\x1f\x8b\x08\x00", None)])
def test_a_file_that_is_no_json_is_named(content, row, tmp_path):
    (tmp_path / "items.json").write_bytes(content)
    with raises(file=tmp_path / "items.json", row=row):
        read_json(tmp_path / "items.json", "The item table")
