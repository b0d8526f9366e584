"""A folder of pages: private, bounded, and nothing in it is trusted."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gptoss.page_files import HEADER_BYTES, PageFiles, PageNames

SIZE = 4096
LIMIT = 64 * (SIZE + HEADER_BYTES)


def name_of(number: int) -> str:
    return f"{number:040x}-0.kv"


def contents_of(number: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, SIZE, dtype=np.uint8)


def total_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.fixture
def files(tmp_path: Path) -> PageFiles:
    return PageFiles(tmp_path / "pages", LIMIT)


@pytest.fixture
def no_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


@pytest.mark.skipif(os.name != "posix", reason="needs modes and owners")
class TestWhoMayLookIn:
    @pytest.mark.usefixtures("no_umask")
    def test_nobody_else(self, tmp_path: Path) -> None:
        files = PageFiles(tmp_path / "a" / "pages", LIMIT)
        files.write(name_of(1), contents_of(1), time.time_ns())
        assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((files.folder / name_of(1)).stat().st_mode) == 0o600

    @pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
    def test_a_folder_that_others_may_write_into_is_refused(
        self, tmp_path: Path, mode: int
    ) -> None:
        tmp_path.chmod(mode)
        with pytest.raises(PermissionError, match=f"found mode {mode:04o}: chmod 700 it"):
            PageFiles(tmp_path, LIMIT)

    def test_one_that_others_may_read_is_not(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        PageFiles(tmp_path, LIMIT)

    def test_a_folder_of_another_user_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        with pytest.raises(PermissionError, match=rf"this user \({user + 1}\).* of user {user}"):
            PageFiles(tmp_path, LIMIT)

    def test_a_page_of_another_user_is_not_read(
        self, files: PageFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files.write(name_of(1), contents_of(1), 0)
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        assert files.read(name_of(1), SIZE) is None

    def test_where_files_have_no_owners(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("geteuid", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
            monkeypatch.delattr(os, name)
        monkeypatch.setattr(os, "supports_follow_symlinks", set())
        tmp_path.chmod(0o777)
        files = PageFiles(tmp_path / "pages", LIMIT)
        files.write(name_of(1), contents_of(1), 0)
        assert files.touch(name_of(1), SIZE, time.time_ns())
        read = files.read(name_of(1), SIZE)
        assert read is not None
        assert np.array_equal(read, contents_of(1))

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(NotADirectoryError, match="expected a folder for the prefix cache"):
            PageFiles(tmp_path / "file", LIMIT)
        with pytest.raises(OSError, match="file"):
            PageFiles(tmp_path / "file" / "pages", LIMIT)


class TestWhatIsRead:
    def test_what_was_written(self, files: PageFiles) -> None:
        for number in range(5):
            files.write(name_of(number), contents_of(number), time.time_ns())
        for number in range(5):
            read = files.read(name_of(number), SIZE)
            assert read is not None
            assert np.array_equal(read, contents_of(number))
        assert files.read(name_of(7), SIZE) is None

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda data: data[:-1], id="cut off"),
            pytest.param(lambda data: data[:HEADER_BYTES], id="header alone"),
            pytest.param(lambda data: b"", id="empty"),
            pytest.param(lambda data: data + b"\0", id="longer"),
            pytest.param(lambda data: bytes(len(data)), id="zeros"),
            pytest.param(lambda data: bytes([data[0] ^ 1]) + data[1:], id="magic"),
            pytest.param(lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:], id="digest"),
            pytest.param(lambda data: data[:63] + b"\1" + data[64:], id="padding"),
            pytest.param(lambda data: data[:64] + bytes([data[64] ^ 128]) + data[65:], id="first"),
            pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 1]), id="last"),
        ],
    )
    def test_what_is_damaged_is_removed(
        self, files: PageFiles, damage: Callable[[bytes], bytes]
    ) -> None:
        files.write(name_of(1), contents_of(1), 0)
        path = files.folder / name_of(1)
        path.write_bytes(damage(path.read_bytes()))
        assert files.read(name_of(1), SIZE) is None
        assert not path.exists()

    def test_a_page_under_another_name(self, files: PageFiles) -> None:
        files.write(name_of(1), contents_of(1), 0)
        (files.folder / name_of(1)).rename(files.folder / name_of(2))
        assert files.read(name_of(2), SIZE) is None

    def test_what_is_cut_off_is_no_page(self, files: PageFiles) -> None:
        for look in (files.has, lambda *page: files.touch(*page, 0)):
            files.write(name_of(1), contents_of(1), 0)
            assert look(name_of(1), SIZE)
            (files.folder / name_of(1)).write_bytes(b"")
            assert not look(name_of(1), SIZE)
            assert list(files.folder.iterdir()) == []

    def test_a_page_of_another_size(self, files: PageFiles) -> None:
        files.write(name_of(1), contents_of(1), 0)
        assert files.read(name_of(1), SIZE * 2) is None

    @pytest.mark.skipif(os.name != "posix", reason="needs links that users may make")
    def test_a_link_is_not_followed(self, files: PageFiles, tmp_path: Path) -> None:
        files.write(name_of(1), contents_of(1), 0)
        (files.folder / name_of(1)).rename(tmp_path / "elsewhere")
        (files.folder / name_of(1)).symlink_to(tmp_path / "elsewhere")
        assert files.read(name_of(1), SIZE) is None
        assert (tmp_path / "elsewhere").exists()
        assert not files.has(name_of(1), SIZE)

    def test_a_folder_in_place_of_a_page(self, files: PageFiles) -> None:
        (files.folder / name_of(1)).mkdir()
        before = os.dup(0)
        assert files.read(name_of(1), SIZE) is None
        after = os.dup(0)
        assert after == before + 1  # no descriptor between them is left open
        os.close(before)
        os.close(after)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes among the files")
    def test_a_pipe_in_place_of_a_page(self, files: PageFiles) -> None:
        os.mkfifo(files.folder / name_of(1))
        assert files.read(name_of(1), SIZE) is None
        assert not files.has(name_of(1), SIZE)


class TestTheLimit:
    def test_is_kept(self, files: PageFiles) -> None:
        for number in range(200):
            files.write(name_of(number), contents_of(number), time.time_ns())
            assert total_bytes(files.folder) <= LIMIT
        assert files.read(name_of(199), SIZE) is not None
        assert files.read(name_of(0), SIZE) is None
        assert total_bytes(files.folder) > LIMIT * 3 // 4

    def test_what_is_used_stays(self, files: PageFiles) -> None:
        for number in range(200):
            files.write(name_of(number), contents_of(number), 1000 * number)
            assert files.touch(name_of(0), SIZE, 1000 * number)
        assert files.touch(name_of(0), SIZE, 0)
        assert not files.touch(name_of(1), SIZE, 0)

    def test_what_was_there_before_counts(self, files: PageFiles) -> None:
        for number in range(60):
            files.write(name_of(number), contents_of(number), number)
        smaller = PageFiles(files.folder, LIMIT // 2)
        smaller.write(name_of(100), contents_of(100), 100)
        assert total_bytes(files.folder) <= LIMIT // 2
        assert smaller.has(name_of(59), SIZE)
        assert not smaller.has(name_of(20), SIZE)

    def test_four_writers_at_the_same_time(self, tmp_path: Path) -> None:
        writers = [PageFiles(tmp_path / "pages", LIMIT) for _ in range(4)]
        for number in range(200):
            writers[number % 4].write(name_of(number), contents_of(number), number)
            assert total_bytes(tmp_path / "pages") <= LIMIT

    def test_other_files_are_left_alone(self, files: PageFiles) -> None:
        (files.folder / "notes.txt").write_bytes(bytes(10 * LIMIT))
        (files.folder / "0.kv").write_text("not one of ours")
        for number in range(100):
            files.write(name_of(number), contents_of(number), number)
        assert (files.folder / "notes.txt").exists()
        assert (files.folder / "0.kv").exists()
        assert files.has(name_of(99), SIZE)

    def test_what_a_kill_left_is_cleared_away(self, files: PageFiles) -> None:
        old, new = files.folder / ".12-0.kv.part", files.folder / ".13-0.kv.part"
        for path in (old, new):
            path.write_bytes(b"half a page")
        os.utime(old, (0, 0))
        files.write(name_of(1), contents_of(1), 0)
        assert not old.exists()
        assert new.exists()  # somebody may be writing it


class TestFoldersThatChange:
    def test_one_that_is_cleared(self, files: PageFiles) -> None:
        files.write(name_of(1), contents_of(1), 0)
        shutil.rmtree(files.folder)
        assert files.read(name_of(1), SIZE) is None
        assert not files.touch(name_of(1), SIZE, 0)
        files.write(name_of(2), contents_of(2), 0)
        assert files.read(name_of(2), SIZE) is not None
        if os.name == "posix":
            assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700

    def test_a_page_that_cannot_be_replaced(
        self, files: PageFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As Windows refuses it while another process reads the page."""
        files.write(name_of(1), contents_of(1), 0)

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Access is denied")

        monkeypatch.setattr(Path, "replace", refuse)
        files.write(name_of(1), contents_of(1), 0)
        with pytest.raises(PermissionError, match="Access is denied"):
            files.write(name_of(2), contents_of(2), 0)
        assert [path.name for path in files.folder.iterdir()] == [name_of(1)]

    def test_a_write_that_fails_leaves_nothing(
        self, files: PageFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "utime", full)
        with pytest.raises(OSError, match="No space"):
            files.write(name_of(1), contents_of(1), 0)
        assert list(files.folder.iterdir()) == []


class TestNames:
    def test_depend_on_all_that_comes_before(self) -> None:
        tokens = np.arange(300, dtype=np.int32)
        names = PageNames(b"model", tokens, 0, 64)
        assert len(names) == 4
        other = tokens.copy()
        other[70] += 1
        others = PageNames(b"model", other, 0, 64)
        same = [names.of(page, 0) == others.of(page, 0) for page in range(4)]
        assert same == [True, False, False, False]

    def test_depend_on_model_salt_and_group(self) -> None:
        tokens = np.arange(64, dtype=np.int32)
        names = [PageNames(model, tokens, salt, 64) for model in (b"a", b"b") for salt in (0, 1)]
        assert len({name.of(0, group) for name in names for group in (0, 1)}) == 8

    def test_of_texts_shorter_than_a_page_there_are_none(self) -> None:
        assert len(PageNames(b"", np.arange(63, dtype=np.int32), 0, 64)) == 0
