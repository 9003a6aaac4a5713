"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wsi_pipeline.atomic import atomic_path, write_bytes, write_json, write_text


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "er" / "file.bin"
    with atomic_path(final) as temporary:
        temporary.write_bytes(b"half")
        assert not final.exists()
        assert temporary.parent == final.parent, "a rename must stay on one file system"
        assert temporary.name.startswith("."), "half-written files are hidden"
    assert final.read_bytes() == b"half"
    assert [p.name for p in final.parent.iterdir()] == ["file.bin"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    final = tmp_path / "file.txt"
    write_text(final, "before")

    def fail() -> None:
        with atomic_path(final) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="middle"):
        fail()
    assert final.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [final]


def test_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    final = tmp_path / "file.txt"
    write_text(final, "before")
    code = (
        "import os, signal; from pathlib import Path; from wsi_pipeline.atomic import atomic_path\n"
        f"with atomic_path(Path({str(final)!r})) as t:\n"
        "    t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert final.read_text(encoding="utf-8") == "before"


def test_a_new_file_replaces_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "file"
    write_bytes(final, b"long and old")
    write_bytes(final, b"new")
    assert final.read_bytes() == b"new"


def test_names_of_any_length_and_script(tmp_path: Path) -> None:
    for name in ("x" * 250, "Blutausstrich_Mädchen_3.json", "骨髓" * 20):
        write_bytes(tmp_path / name, b"1")
        assert (tmp_path / name).read_bytes() == b"1"


def test_writers_do_not_meet(tmp_path: Path) -> None:
    final = tmp_path / "file"
    texts = [str(i) * 20_000 for i in range(8)]
    threads = [threading.Thread(target=write_text, args=(final, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert final.read_text(encoding="utf-8") in texts
    assert list(tmp_path.iterdir()) == [final]


def test_json_is_strict_sorted_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": "é"})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"a": "é", "b": [1, 2.5, None]}
    assert text.index('"a"') < text.index('"b"')
    assert "é" in text
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": float("nan")})
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OSError, match="denied"):
            write_text(tmp_path / "x", "")
    finally:
        tmp_path.chmod(0o755)
