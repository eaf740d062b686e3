"""The command line where things go wrong around it: streams, names, folders, signals, what stands in the way."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from ccm_fast.command import batch, machine
from ccm_fast.command.main import main

WEIGHTS = str(tiny.GOLDEN / "tiny.safetensors")
CODED = tiny.GOLDEN / "colour.ccm"
ROOT = Path(__file__).parents[1]
MODEL = ("-m", WEIGHTS)


def run(*argv):
    try:
        return main([str(a) for a in argv])
    except SystemExit as leave:
        return leave.code


def command(*argv, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, **options}
    return subprocess.run([sys.executable, "-m", "ccm_fast", *map(os.fsdecode, argv)], **options)


def shell(line, **options):
    """A line for bash, in which $CCM is the command, $MODEL its option, $CODED a file."""
    variables = {"CCM": f"{sys.executable} -m ccm_fast", "MODEL": f"-m {WEIGHTS}", "CODED": str(CODED)}
    options = {"cwd": ROOT, "capture_output": True, "env": {**os.environ, **variables}, **options}
    return subprocess.run(["bash", "-c", line], **options)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(tiny.photo(20, 30, 1)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for k, name in enumerate(("a.png", "b.png", "deep/c.png")):
        Image.fromarray(tiny.photo(20, 30, k)).save(folder / name)
    return folder


# --- standard streams, pipes, devices --------------------------------------------------------------------------------


@pytest.mark.slow
def test_pipes_by_their_paths(photo, tmp_path):
    """/dev/stdout and >(command) are pipes, and so is <(command)."""
    for line in (
        "$CCM decode $MODEL $CODED /dev/stdout | cat",
        "$CCM decode $MODEL $CODED >(cat > $T/x); until grep -qa IEND $T/x; do :; done; cat $T/x",
        "$CCM decode $MODEL <(cat $CODED) - | cat",
        "$CCM decode $MODEL $CODED /dev/stdout > $T/y; cat $T/y",
    ):
        done = shell(f"T={tmp_path}; {line}", timeout=60)
        assert done.stderr == b"" and Image.open(io.BytesIO(done.stdout)).size == (53, 37), line
    with subprocess.Popen(["cat", photo], stdout=subprocess.PIPE) as pipe:  # Pillow goes back and forth in files
        assert run("encode", f"/dev/fd/{pipe.stdout.fileno()}", tmp_path / "z.ccm", *MODEL) == 0


def test_formats_that_jump_go_to_standard_output():
    for suffix, start in (("tif", b"II*\0"), ("pdf", b"%PDF")):
        done = command("decode", CODED, "-", *MODEL, "--format", suffix)
        assert done.returncode == 0 and done.stderr == b"" and done.stdout.startswith(start)


@pytest.mark.slow
def test_closed_standard_streams(photo, tmp_path, monkeypatch):
    """A stream that is not there is an error where it is needed, and no file takes its number."""
    done = shell(f"$CCM decode $MODEL $CODED {tmp_path}/o.png 2>&-")
    assert done.returncode == 0 and (tmp_path / "o.png").read_bytes()[1:4] == b"PNG"
    done = shell(f"$CCM decode $MODEL $CODED {tiny.GOLDEN}/grey.ccm {tmp_path}/folder/ 2>&-")
    assert done.returncode == 0 and len(os.listdir(tmp_path / "folder")) == 2
    monkeypatch.setattr(sys, "stderr", None)
    assert run("encode", photo, tmp_path / "p.ccm", *MODEL) == 0
    monkeypatch.undo()
    for line, stream in (
        (f"$CCM decode $MODEL - {tmp_path}/p.png <&-", "input"),
        ("$CCM info - <&-", "input"),
        ("$CCM decode $MODEL $CODED - >&-", "output"),
        ("$CCM info $CODED >&-", "output"),
        ("$CCM env --json >&-", "output"),
    ):
        done = shell(line)
        said = done.stderr.decode()
        assert done.returncode == 1 and said.count("\n") == 1 and f"standard {stream} is closed" in said, line


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_reports_onto_a_full_disk(tmp_path):
    for line in (
        "$CCM info $CODED > /dev/full",
        f"$CCM decode $MODEL --json $CODED {tmp_path}/o.png > /dev/full",
        "$CCM decode $MODEL $CODED - > /dev/full",
    ):
        done = shell(line)
        said = done.stderr.decode()
        assert done.returncode == 1 and said.count("\n") == 1 and "No space left" in said, (line, said)
    assert shell(f"$CCM decode $MODEL {tmp_path}/none.ccm {tmp_path}/x.png 2> /dev/full").returncode == 1


def test_a_reader_that_leaves():
    done = shell("$CCM info $CODED $CODED | true; exit ${PIPESTATUS[0]}")
    assert done.returncode in (0, 1) and done.stderr == b""


def test_what_never_ends_is_not_read(tmp_path):
    """A file that is no .ccm file costs its first bytes only; a picture from a pipe no more than the limit."""
    limit = "ulimit -v 4000000; "
    done = shell(limit + "$CCM info /dev/zero")
    assert done.returncode == 1 and b"does not begin with CCM" in done.stderr
    done = shell(limit + "$CCM decode $MODEL /dev/zero -")
    assert done.returncode == 1 and b"does not begin with CCM" in done.stderr
    done = shell(limit + f"$CCM encode $MODEL --max-pixels 1000 - {tmp_path}/x.ccm < /dev/zero")
    assert done.returncode == 1 and b"bytes" in done.stderr and done.stderr.count(b"\n") == 1


def test_images_are_not_written_onto_terminals():
    leader, terminal = os.openpty()
    done = command("decode", CODED, "-", *MODEL, stdout=terminal)
    assert done.returncode == 2 and b"terminal" in done.stderr
    os.close(terminal)
    os.close(leader)


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf8(tmp_path):
    bad = os.fsencode(tmp_path) + b"/bad\xff\n\x1b[2J.ccm"
    Path(os.fsdecode(bad)).write_bytes(CODED.read_bytes())
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = command("info", bad, env=strict)
    assert done.returncode == 0 and b"bad\\xff\\n\\x1b[2J.ccm: 53x37" in done.stdout.replace(b"37x53", b"53x37")
    done = command("info", bad, "--json", env=strict)
    assert os.fsencode(json.loads(done.stdout)["file"]) == bad
    done = command("decode", bad, bad + b".png", *MODEL, env=strict)
    assert done.returncode == 0 and os.path.exists(bad + b".png")
    missing = os.fsencode(tmp_path) + b"/gone\xfe\n.ccm"
    for what in (["info", missing], ["decode", missing, bad + b".x.png", *MODEL]):
        done = command(*what, env=strict)
        assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"gone\\xfe\\n.ccm" in done.stderr


def test_chunk_types_do_not_reach_the_terminal(tmp_path, capsys):
    from ccm_fast.stream.container import parse_container, write_container

    packet = bytes(parse_container(CODED.read_bytes()).packet)
    (tmp_path / "x.ccm").write_bytes(write_container(packet, {"\x1b": b"1", "\x9b": b"2", "\n": b"3"}))
    assert run("info", tmp_path / "x.ccm") == 0
    out = capsys.readouterr().out
    assert "\\x1b 1, \\x9b 1, \\n 1" in out and not set(out) & set("\x1b\x9b") and out.count("\n") == 6


def test_a_locale_without_the_characters(tmp_path):
    (tmp_path / "ü.ccm").write_bytes(CODED.read_bytes())
    done = command("info", tmp_path / "ü.ccm", env={**os.environ, "PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 0 and b"\\xfc.ccm: " in done.stdout


# --- folders and what stands in the way ------------------------------------------------------------------------------


def test_a_folder_job_names_what_it_leaves_out(photos, tmp_path, capsys):
    Image.fromarray(tiny.photo(20, 30)).save(photos / "d.jfif", "JPEG")
    Image.fromarray(tiny.photo(20, 30)).save(photos / "e.avif")
    Image.fromarray(tiny.photo(20, 30)).save(photos / "f.pnm", "PPM")
    (photos / "g.heic").touch()
    (photos / "notes").touch()
    (photos / "._a.png").write_bytes(b"what macOS leaves on foreign disks")
    assert run("encode", photos, tmp_path / "out", *MODEL) == 0
    left_out, summary = capsys.readouterr().err.splitlines()
    assert "g.heic" in left_out and "notes" in left_out and "._a" not in left_out
    assert summary.startswith("ccm-fast: 6 encoded, 0 skipped, 0 failed; ")
    for k in range(9):
        (photos / f"{k}.cr2").touch()
    assert run("encode", photos, tmp_path / "out", *MODEL, "--skip-existing") == 0
    left_out, summary = capsys.readouterr().err.splitlines()
    assert "11 files (9 .cr2, " in left_out and "0 encoded, 6 skipped" in summary


def test_a_subfolder_that_cannot_be_read(photos, tmp_path, capsys, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert run("encode", photos, tmp_path / "out", *MODEL) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0] == f"ccm-fast: {photos / 'deep'}: Permission denied" and "2 encoded, 0 skipped, 1 failed" in err[-1]


def test_whatever_happens_to_one_file(photos, tmp_path, capsys, monkeypatch):
    """Also an error of a kind that nobody thought of: the others are worked on, and the exit code tells."""
    from ccm_fast import files

    encode_file = files.encode_file

    def fail(source, *args, **options):
        if str(source).endswith("a.png"):
            raise AttributeError("no one expected this")
        return encode_file(source, *args, **options)

    monkeypatch.setattr(files, "encode_file", fail)
    for jobs in (1, 2):
        assert run("encode", photos, tmp_path / f"out{jobs}", *MODEL, "-j", jobs) == 1
        error, summary = capsys.readouterr().err.splitlines()
        assert error == f"ccm-fast: {photos / 'a.png'}: AttributeError: no one expected this"
        assert "2 encoded, 0 skipped, 1 failed" in summary
        assert sorted(p.name for p in (tmp_path / f"out{jobs}").rglob("*.ccm")) == ["b.ccm", "c.ccm"]


def test_several_at_once_write_the_same_files(photos, tmp_path, capsys):
    for jobs in (1, 3):
        assert run("encode", photos, tmp_path / f"{jobs}", *MODEL, "-j", jobs, "--json") == 0
        reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [Path(r["input"]).name for r in reports] == ["a.png", "b.png", "c.png"]
    for path in (tmp_path / "1").rglob("*.ccm"):
        assert path.read_bytes() == (tmp_path / "3" / path.relative_to(tmp_path / "1")).read_bytes()


@pytest.mark.parametrize(
    "cores, memory, files, jobs",
    [(8, 3 << 30, 10, 3), (8, None, 10, 8), (8, 1 << 40, 2, 2), (8, 0, 10, 1), (1, None, 1, 1)],
)
def test_how_many_at_once(monkeypatch, cores, memory, files, jobs):
    """A core for each file, as far as memory goes."""
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    monkeypatch.setattr(machine, "available_memory", lambda: memory)
    assert machine.default_jobs(files) == jobs


def test_waiting_threads_give_the_processor_away(tmp_path, monkeypatch):
    """Unless someone has said otherwise."""
    for said, then in ((None, "passive"), ("active", "active")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if said:
            monkeypatch.setenv("OMP_WAIT_POLICY", said)
        assert run("decode", CODED, tmp_path / "x.png", "-f", *MODEL) == 0
        assert os.environ["OMP_WAIT_POLICY"] == then


def test_a_finished_folder_again(photos, tmp_path, capsys, monkeypatch):
    """Nothing heavy is done for it; with --skip-existing it is fine, without it says so."""
    assert run("encode", photos, tmp_path / "out", *MODEL) == 0
    capsys.readouterr()
    again = command("encode", photos, tmp_path / "out", *MODEL, "--skip-existing", "--json")
    assert again.returncode == 0 and again.stdout.count(b'"skipped": true') == 3
    code = "import sys; from ccm_fast.command.main import main\nmain(sys.argv[1:])\n"
    code += "print(sorted({'torch', 'numpy', 'PIL', 'tqdm'} & set(sys.modules)))"
    argv = [sys.executable, "-c", code, "encode", photos, tmp_path / "out", *MODEL, "--skip-existing"]
    assert subprocess.run(argv, cwd=ROOT, capture_output=True, check=True).stdout == b"[]\n"
    assert run("encode", photos, tmp_path / "out", *MODEL) == 1
    assert capsys.readouterr().err.count("--force replaces it") == 3
    monkeypatch.setattr(batch, "_NAMED", 2)
    assert run("encode", photos, tmp_path / "out", *MODEL) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and "3 outputs exist" in err[0] and "3 failed" in err[1]
    assert run("encode", photos, tmp_path / "out", *MODEL, "--force") == 0


def test_outputs_that_look_like_files(photos, tmp_path, capsys):
    """The quality of another program's scale does not make a folder of the output."""
    a, b = photos / "a.png", photos / "b.png"
    for argv in (["-q", 80, a, tmp_path / "x.ccm"], [a, b, tmp_path / "x.ccm"], [photos, tmp_path / "x.CCM"]):
        assert run("encode", *argv, *MODEL) == 2
    assert run("decode", CODED, CODED, tmp_path / "x.png", *MODEL) == 2
    assert os.listdir(tmp_path) == ["photos"]
    assert "1..8" in capsys.readouterr().err
    assert run("encode", a, b, f"{tmp_path}/x.ccm/", *MODEL) == 0  # who means it


def test_an_output_that_is_the_input(photo, capsys):
    before = photo.read_bytes()
    assert run("encode", photo, photo, "--force", *MODEL) == 1
    assert "the input itself" in capsys.readouterr().err and photo.read_bytes() == before


def test_links_that_lead_nowhere(photo, tmp_path, capsys):
    (tmp_path / "o.ccm").symlink_to(tmp_path / "victim")
    assert run("encode", photo, tmp_path / "o.ccm", *MODEL) == 1
    assert "exists" in capsys.readouterr().err and not (tmp_path / "victim").exists()
    assert run("encode", photo, tmp_path / "o.ccm", "--force", *MODEL) == 0
    assert (tmp_path / "victim").read_bytes()[:3] == b"CCM"


def test_latents_to_standard_output(tmp_path, capsys):
    done = command("decode", CODED, "--latents", "-", *MODEL, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and np.load(io.BytesIO(done.stdout)).dtype == np.int16
    assert os.listdir(tmp_path) == []
    out = tmp_path / "x.png"
    for argv in (
        [CODED, out, "--latents", out],
        [CODED, "-", "--latents", "-"],
        [CODED, "--latents", "-", "--json"],
        [CODED, "--latents", CODED, "--force"],
    ):
        assert run("decode", *argv, *MODEL) == 2
    assert os.listdir(tmp_path) == [] and capsys.readouterr().err.count("\n") == 4


def test_a_damaged_folder_beside_python(tmp_path):
    """`python -m` would run a torch.py that lies among the pictures."""
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger was run')")
    done = command("info", CODED, "--json", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and done.stderr == b""


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number, jobs", [(signal.SIGTERM, 1), (signal.SIGHUP, 1), (signal.SIGINT, 2)])
def test_signals_leave_nothing_behind(tmp_path, number, jobs):
    """The signal comes while a file is being written, which takes two seconds here."""
    code = """if 1:
        import sys, time
        from ccm_fast.command import streams
        from ccm_fast.command.main import main
        whole = streams.atomic_write
        class Slow:
            def __init__(self, file): self.file = file
            def write(self, data):
                self.file.write(data[:5])
                sys.stdout.write("writing\\n")
                sys.stdout.flush()
                time.sleep(2)
        from contextlib import contextmanager
        @contextmanager
        def slow(path, **options):
            with whole(path, **options) as file: yield Slow(file)
        streams.atomic_write = slow
        sys.exit(main(sys.argv[1:]))
    """
    (tmp_path / "in").mkdir()
    for k in range(4):
        (tmp_path / f"in/{k}.ccm").write_bytes(CODED.read_bytes())
    argv = [sys.executable, "-c", code, "decode", tmp_path / "in", tmp_path / "out", *MODEL, "-j", str(jobs)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"writing")
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number and err == b""
    left = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert not [p for p in left if not p.name.endswith(".png")] and len(left) < 3


def test_a_signal_that_is_ignored_stays_ignored():
    """As nohup sets it."""
    code = (
        "import os, signal, sys\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom ccm_fast.command import env, main\n"
    )
    code += "env.run = lambda args: os.kill(os.getpid(), signal.SIGHUP) or 7\nsys.exit(main.main(['env']))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 7


# --- spellings -------------------------------------------------------------------------------------------------------


def test_old_spellings(photo, tmp_path, capsys):
    assert run("encode", photo, tmp_path / "a.ccm", "-Q", 6, *MODEL) == 0
    assert "-Q is now -q" in capsys.readouterr().err
    assert run("info", "-j", tmp_path / "a.ccm") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["quality"] == 6 and "-j is now --json" in err
    for option, now in (("-q", "--quiet"), ("-j", "--json")):
        assert run("encode", option, photo, tmp_path / "b.ccm", *MODEL) == 2
        assert now in capsys.readouterr().err


def test_an_output_by_its_option(photos, tmp_path):
    assert run("encode", photos / "a.png", "-o", tmp_path / "a.ccm", *MODEL) == 0
    assert run("encode", "-o", f"{tmp_path}/many/", photos / "a.png", photos / "b.png", *MODEL) == 0
    assert run("decode", tmp_path / "many", "-o", tmp_path / "back", *MODEL) == 0
    assert sorted(os.listdir(tmp_path / "back")) == ["a.png", "b.png"]


def test_unknown_options_show_their_commands_usage(capsys):
    assert run("encode", "a.png", "b.ccm", "--losless") == 2
    assert "usage: ccm-fast encode" in capsys.readouterr().err
    assert run("encode", "a.png", "b.ccm", "--lossless") == 2
    assert "there is no lossless mode: use PNG, lossless WebP or JPEG XL" in capsys.readouterr().err


def test_the_default_effort_in_help_is_the_default(capsys):
    from ccm_fast.effort import DEFAULT_EFFORT

    assert run("encode", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"minutes for a photograph) (default: {DEFAULT_EFFORT})" in text
