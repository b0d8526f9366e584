"""The store of responses: its bounds, its expiry, and what a killed process leaves."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gptoss.server.responses.store import Record, ResponseStore


def record(response_id: str, text: str = "", status: str = "completed") -> Record:
    output = {"id": f"msg_{response_id}", "type": "message", "text": text}
    given = {"id": f"in_{response_id}", "type": "message"}
    history: list[dict[str, Any]] = [{"id": "msg_earlier", "type": "message"}]
    return Record({"id": response_id, "status": status, "error": None}, history, [given], [output])


@pytest.fixture(params=["memory", "file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "memory" else tmp_path / "responses.sqlite"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestKeeping:
    def test_what_is_put_is_there(self, path: Path | None) -> None:
        with ResponseStore(path) as store:
            assert store.put(record("a", "é\ud800"))
            assert store.get("a") == record("a", "é\ud800")
            for missing in ("b", "", "\ud800", "é"):
                assert store.get(missing) is None
                assert store.item(missing) is None
                assert not store.delete(missing)
            assert [item["id"] for item in record("a").conversation] == [
                *("msg_earlier", "in_a", "msg_a"),
            ]

    def test_one_that_is_dropped_is_closed(self, path: Path | None) -> None:
        store = ResponseStore(path)
        store.put(record("a"))
        database = store._database
        del store
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            database.execute("SELECT 1")

    def test_a_later_state_takes_the_place_of_an_earlier_one(self, path: Path | None) -> None:
        with ResponseStore(path) as store:
            store.put(record("a", status="queued"))
            store.put(record("a", "done"))
            assert store.get("a") == record("a", "done")
            assert store.size[0] == 1

    def test_deleted(self, path: Path | None) -> None:
        with ResponseStore(path) as store:
            store.put(record("a"))
            assert store.delete("a")
            assert not store.delete("a")
            assert store.get("a") is None
            assert store.item("msg_a") is None

    def test_items_of_input_and_output(self, path: Path | None) -> None:
        with ResponseStore(path) as store:
            store.put(record("a", "text"))
            assert store.item("msg_a") == record("a", "text").output[0]
            assert store.item("in_a") == record("a").input[0]
            assert store.item("msg_earlier") is None

    def test_several_threads(self, path: Path | None) -> None:
        def work(name: str) -> None:
            for index in range(20):
                store.put(record(f"{name}{index}"))
                if store.get(f"{name}{index}") != record(f"{name}{index}"):
                    wrong.append(name)

        wrong: list[str] = []
        with ResponseStore(path) as store:
            threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not wrong
            assert store.size[0] == 80


class TestBounds:
    def test_entries(self, path: Path | None) -> None:
        with ResponseStore(path, max_entries=3) as store:
            for name in "abc":
                store.put(record(name))
            assert store.get("a") is not None  # used last, so that b goes first
            store.put(record("d"))
            assert [name for name in "abcd" if store.get(name)] == ["a", "c", "d"]

    def test_bytes(self, path: Path | None) -> None:
        with ResponseStore(path, max_bytes=5000) as store:
            for name in "abc":
                store.put(record(name, "x" * 1500))
            assert store.size[1] <= 5000
            store.put(record("d", "x" * 3500))
            assert store.size[1] <= 5000
            assert [name for name in "abcd" if store.get(name)] == ["d"]

    def test_one_that_is_larger_than_the_store(self, path: Path | None) -> None:
        with ResponseStore(path, max_bytes=5000) as store:
            store.put(record("a"))
            assert not store.put(record("b", "x" * 5000))
            assert store.get("b") is None
            assert store.get("a") is not None

    def test_one_that_grows_larger_than_the_store(self) -> None:
        with ResponseStore(max_bytes=5000) as store:
            store.put(record("a", status="queued"))
            assert not store.put(record("a", "x" * 5000))
            assert store.get("a") is None

    def test_expiry(self, path: Path | None) -> None:
        clock = Clock()
        with ResponseStore(path, ttl_s=10, clock=clock) as store:
            store.put(record("a"))
            clock.now += 6
            store.put(record("b"))
            clock.now += 4
            assert store.get("a") is None
            assert store.item("msg_a") is None
            assert not store.delete("a")
            assert store.get("b") is not None
            assert store.size[0] == 1

    def test_a_file_does_not_grow_for_ever(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        with ResponseStore(path, max_entries=5) as store:
            for index in range(200):
                store.put(record(f"r{index}", "x" * 10_000))
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1_000_000


class TestFile:
    def test_outlives_the_process(self, tmp_path: Path) -> None:
        with ResponseStore(tmp_path / "store") as store:
            store.put(record("a", "text"))
        with ResponseStore(tmp_path / "store") as store:
            assert store.get("a") == record("a", "text")

    @pytest.mark.parametrize("status", ["queued", "in_progress"])
    def test_what_was_being_answered_has_failed(self, tmp_path: Path, status: str) -> None:
        with ResponseStore(tmp_path / "store") as store:
            store.put(record("a", status=status))
            store.put(record("b"))
        with ResponseStore(tmp_path / "store") as store:
            found = store.get("a")
            assert found is not None
            assert found.response["status"] == "failed"
            assert found.response["error"]["code"] == "server_error"
            assert store.get("b") == record("b")

    def test_only_its_owner_reads_it(self, tmp_path: Path) -> None:
        path = tmp_path / "store"
        path.touch(mode=0o644)
        with ResponseStore(path) as store:
            store.put(record("a"))
            for file in tmp_path.iterdir():
                assert file.stat().st_mode & 0o077 == 0, file

    def test_a_second_process_is_refused(self, tmp_path: Path) -> None:
        code = "import sys; from gptoss.server.responses.store import ResponseStore as S"
        with ResponseStore(tmp_path / "store") as store:
            store.put(record("a"))
            second = subprocess.run(
                [sys.executable, "-c", f"{code}; S(sys.argv[1])", str(tmp_path / "store")],
                capture_output=True,
                text=True,
                check=False,
            )
            assert second.returncode == 1
            assert "cannot be opened, or is in use" in second.stderr

    def test_another_file_is_not_touched(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("not a database, and longer than the header of one " * 20)
        before = path.read_bytes()
        with pytest.raises(ValueError, match="no store of responses"):
            ResponseStore(path)
        assert path.read_bytes() == before

    def test_another_database_is_not_touched(self, tmp_path: Path) -> None:
        path = tmp_path / "other.sqlite"
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE responses (id)")
        database.commit()
        database.close()
        with pytest.raises(ValueError, match="no store of responses of this version"):
            ResponseStore(path)
        database = sqlite3.connect(path)
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
        database.close()

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="cannot be opened"):
            ResponseStore(tmp_path)

    def test_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "store").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match="cannot be opened"):
            ResponseStore(tmp_path / "store")
        assert not (tmp_path / "elsewhere").exists()


# Writes records for ever, and says after each one that it is kept.
_WRITER = """
import sys
from gptoss.server.responses.store import Record, ResponseStore
store = ResponseStore(sys.argv[1], max_entries=40)
number = int(sys.argv[2])
while True:
    text = f"{number} " * 20_000
    store.put(Record({"id": f"r{number}", "status": "completed"}, [], [], [{"id": f"m{number}",
              "text": text}]))
    print(number, flush=True)
    number += 1
"""


def test_a_kill_in_the_middle_of_writing_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "store"
    number = 0
    for wanted in (1, 4, 9):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        for _ in range(wanted):
            kept = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        kept = max([kept, *(int(line) for line in writer.stdout.read().split("\n") if line)])
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
        with ResponseStore(path, max_entries=40) as store:
            for index in range(max(0, kept - 30), kept + 1):
                found = store.get(f"r{index}")
                assert found is not None, (index, kept)
                assert found.output[0]["text"] == f"{index} " * 20_000
                assert store.item(f"m{index}") == found.output[0]
        database = sqlite3.connect(path)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for body, length in database.execute("SELECT body, bytes FROM responses"):
            assert len(json.dumps(json.loads(body))) == length
        database.close()
        number = kept + 1
    assert number >= 14
