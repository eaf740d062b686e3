"""Outputs appear complete or not at all, whatever else is in the folder, and whoever else writes."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ccm_fast.atomic import atomic_write

ROOT = Path(__file__).parents[1]


def write(path, data=b"new", **options):
    with atomic_write(path, **options) as file:
        file.write(data)


def test_complete_or_not_at_all(tmp_path):
    target = tmp_path / "x"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(target) as file:
        file.write(b"new")
        raise RuntimeError
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]
    write(target)
    assert target.read_bytes() == b"new" and os.listdir(tmp_path) == ["x"]
    write(os.devnull)
    assert not os.path.isfile(os.devnull)


def test_what_a_killed_run_has_left_is_in_nobodys_way(tmp_path):
    """In containers process numbers repeat, so a name made of them does."""
    (tmp_path / f".x.{os.getpid()}.tmp").touch()
    (tmp_path / "x.tmp").touch()
    write(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"new"


def test_writers_at_once(tmp_path):
    """Two threads of one process: every call succeeds, and one of the files stays, whole."""
    failures = []

    def work(data):
        try:
            for _ in range(50):
                write(tmp_path / "x", data)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(bytes([k]) * 9999,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() in [bytes([k]) * 9999 for k in range(4)]


def test_long_names(tmp_path):
    write(tmp_path / ("a" * 255))
    with pytest.raises(OSError, match="too long") as caught:
        write(tmp_path / ("a" * 256))
    assert caught.value.filename.endswith("a" * 256) and len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write(tmp_path / "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


def test_a_replaced_file_keeps_its_mode(tmp_path):
    target = tmp_path / "x"
    for mode in (0o600, 0o640, 0o666):
        target.touch()
        target.chmod(mode)
        with atomic_write(target) as file:
            (temporary,) = (p for p in tmp_path.iterdir() if p != target)
            assert not stat.S_IMODE(temporary.stat().st_mode) & 0o077  # nor is it readable before
            file.write(b"private")
        assert stat.S_IMODE(target.stat().st_mode) == mode
    if os.geteuid() == 0:
        os.chown(target, 1234, 1235)
        write(target)
        assert (target.stat().st_uid, target.stat().st_gid) == (1234, 1235)


def test_links(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "x")
    with pytest.raises(FileExistsError):  # also one that leads nowhere: not even the name is made
        write(tmp_path / "link", replace=False)
    assert os.listdir(tmp_path) == ["link"]
    write(tmp_path / "link")
    write(tmp_path / "link", b"newer")
    assert (tmp_path / "x").read_bytes() == b"newer" and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("hard_links", [True, False])
def test_nothing_is_replaced_unasked(tmp_path, monkeypatch, hard_links):
    """Not even what comes up while the new file is written, also on file systems without hard links."""
    if not hard_links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "not supported")))
    target = tmp_path / "x"
    write(target, b"first", replace=False)
    assert target.read_bytes() == b"first" and target.stat().st_nlink == 1
    with pytest.raises(FileExistsError):
        write(target, replace=False)
    target.unlink()
    with pytest.raises(FileExistsError) as caught, atomic_write(target, replace=False) as file:
        target.write_bytes(b"someone else's")
        file.write(b"ours")
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"someone else's" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM])
def test_a_file_that_cannot_be_replaced_is_written_in_place(tmp_path, monkeypatch, number):
    """A file that is mounted by itself (docker -v FILE:FILE)."""

    def busy(*_):
        raise OSError(number, os.strerror(number))

    target = tmp_path / "x"
    target.write_bytes(b"old, and longer than the new one")
    node = target.stat().st_ino
    monkeypatch.setattr(os, "replace", busy)
    write(target)
    assert target.read_bytes() == b"new" and target.stat().st_ino == node and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_takes_no_new_files(tmp_path, monkeypatch, number):
    target = tmp_path / "x"
    target.write_bytes(b"old")
    system_open = os.open

    def refuse(path, flags, *args, **options):
        if flags & os.O_EXCL and os.path.dirname(path) == str(tmp_path):
            raise OSError(number, os.strerror(number), path)
        return system_open(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RuntimeError), atomic_write(target) as file:
        file.write(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    write(target)
    assert target.read_bytes() == b"new"
    with pytest.raises(OSError) as caught:
        write(tmp_path / "y")
    assert caught.value.errno == number and caught.value.filename == str(tmp_path / "y")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="paths of Linux")
def test_descriptors(tmp_path):
    """/dev/stdout on a pipe, on a file that the shell appends to, and as a closed descriptor."""
    code = "import sys; from ccm_fast.atomic import atomic_write\nwith atomic_write(sys.argv[1]) as f: f.write(b'new')"
    argv = [sys.executable, "-c", code]
    for path in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        assert subprocess.run([*argv, path], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout == b"new"
    log = tmp_path / "log"
    log.write_bytes(b"old,")
    with log.open("ab") as file:
        subprocess.run([*argv, "/dev/stdout"], cwd=ROOT, check=True, stdout=file)
    assert log.read_bytes() == b"old,new"
    read, end = os.pipe()
    write(f"/proc/{os.getpid()}/fd/{end}")  # leads to "pipe:[...]", which is no path
    os.close(end)
    with os.fdopen(read, "rb") as file:
        assert file.read() == b"new"
    with pytest.raises(OSError, match="/dev/fd/987"):
        write("/dev/fd/987")


def test_a_system_without_modes_and_with_texts(tmp_path, monkeypatch):
    """Windows: no fchmod before Python 3.13, and files of bytes have to be asked for."""
    flags, path = [], tmp_path / "file"
    path.write_bytes(b"old")
    open_file = os.open
    monkeypatch.delattr(os, "fchmod")
    monkeypatch.setattr(os, "O_BINARY", 0x8000000, raising=False)

    def opened(name, given, *mode, **options):
        flags.append(given)
        return open_file(name, given & ~0x8000000, *mode, **options)

    monkeypatch.setattr(os, "open", opened)
    with atomic_write(path) as file:
        file.write(b"a\nb")
    assert path.read_bytes() == b"a\nb" and flags[0] & 0x8000000
