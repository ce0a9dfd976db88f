"""The data folder: private, one `up` at a time, and a secret that is made once."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.credentials import read_secret
from common.errors import Conflict, Misconfigured
from signalbox.folder import DataFolder


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder.at(tmp_path / "data")
    folder.create()
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_and_everything_secret_in_it_belong_to_one_user(folder: DataFolder) -> None:
    folder.secret()
    folder.store_key("sb_key")
    folder.store_url("http://127.0.0.1:1")
    folder.store_broker_url("redis://:password@127.0.0.1:2")

    assert mode(folder.path) == 0o700
    for name in ("secret", "key", "url", "broker/url"):
        assert mode(folder.path / name) == 0o600, name


def test_a_folder_that_was_there_before_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)

    DataFolder.at(shared).create()

    assert mode(shared) == 0o755
    assert mode(shared / "logs") == 0o700


def test_a_secret_is_usable_and_stays_the_same(folder: DataFolder) -> None:
    assert len(read_secret(folder.secret())) == 32
    assert folder.secret() == folder.secret() == folder.stored_secret()


def test_processes_that_make_the_secret_at_the_same_time_agree(folder: DataFolder) -> None:
    with ThreadPoolExecutor(8) as pool:
        secrets = {future.result() for future in [pool.submit(folder.secret) for _ in range(32)]}

    assert len(secrets) == 1
    assert not [path for path in folder.path.iterdir() if path.name.startswith(".")]


def test_what_is_stored_is_read_back_and_replaced(folder: DataFolder) -> None:
    assert (folder.url(), folder.key()) == (None, None)
    folder.store_url("http://127.0.0.1:1")
    folder.store_url("http://127.0.0.1:2")

    assert folder.url() == "http://127.0.0.1:2"


def test_a_second_up_is_refused_while_the_first_lives_and_allowed_after(folder: DataFolder) -> None:
    folder.store_url("http://127.0.0.1:8000")
    with folder.locked(), pytest.raises(Conflict) as refused, folder.locked():
        pytest.fail("two at once")

    assert refused.value.message == (
        f'another Signalbox (pid {os.getpid()}) already works in "{folder.path}" and answers at '
        "http://127.0.0.1:8000; stop it first, or name another folder with --data"
    )
    with folder.locked():
        pass


def test_a_path_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(Misconfigured, match=r'cannot make the data folder ".*file/data": Not a directory'):
        DataFolder.at(tmp_path / "file" / "data").create()
