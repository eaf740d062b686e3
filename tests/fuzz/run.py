"""The long run: `make fuzz MINUTES=n`, or `python tests/fuzz/run.py --minutes n`.

Each kind of input is worked on by a process of its own, since what is looked for may end it. A case that fails is
written into the folder of findings: the input, and beside it what happened and the line that repeats it.
"""

import argparse
import collections
import faulthandler
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

#: Kind -> module and class.
TARGETS = {
    "files": ("files", "Files"),
    "plans": ("plans", "Plans"),
    "weights": ("weights_files", "Weights"),
    "pictures": ("pictures", "Pictures"),
    "strings": ("strings", "Strings"),
    "coder": ("coder", "Coder"),
}
#: Seconds without a new case after which a process hangs: much, for a machine that has other things to do.
HANG = 1800.0


def with_sanitizers(folder: Path) -> None:
    """Starts this program again with the package that lies in a folder, built with AddressSanitizer and UBSan."""
    if os.environ.get("PYTHONPATH") == str(folder):
        return
    compiler = os.environ.get("CXX", "c++")
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")  # the second, for what it throws to be seen by the first
    ]
    settings = {
        "PYTHONPATH": str(folder),
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # Python keeps what it has
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})


def target(kind: str):
    """What tests one kind of input."""
    module, name = TARGETS[kind]
    return getattr(importlib.import_module(module), name)()


def worker(kind: str, seed: int, minutes: float, slack: float) -> None:
    """Cases from a seed on: a line of JSON before each, and one after it."""
    from target import run

    faulthandler.enable()
    tested, end = target(kind), time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        print(json.dumps({"seed": seed}), flush=True)
        data = tested.case(seed)
        try:
            found = {"found": run(tested, data, slack)}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        print(json.dumps(found), flush=True)
        seed += 1


def note(args: argparse.Namespace, kind: str, seed: int, what: str) -> None:
    """Writes a finding: the input, made again here, and how to repeat it."""
    path = args.out / f"{kind}-{seed}"
    sanitized = f" --sanitized {args.sanitized}" if args.sanitized else ""
    command = f"{sys.executable} {Path(__file__).name} --kinds {kind} --case {seed}{sanitized}"
    path.with_suffix(".txt").write_text(f"cd {HERE} && {command}\n\n{what}\n")
    code = f"import run; run.write_case({kind!r}, {seed}, {str(path.with_suffix('.bin'))!r})"
    subprocess.run([sys.executable, "-c", code], cwd=HERE, check=False)


def write_case(kind: str, seed: int, path: str) -> None:
    Path(path).write_bytes(target(kind).case(seed))


class Worker:
    """A process that works on one kind of input, and is started again where it ends."""

    def __init__(self, kind: str, seed: int, end: float, args: argparse.Namespace):
        self.kind, self.seed, self.end, self.args = kind, seed, end, args
        self.seen: collections.Counter = collections.Counter()
        self.failed = 0
        self.log = args.out / f"{kind}.log"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        minutes = (self.end - time.monotonic()) / 60
        command = [sys.executable, __file__, "--worker", self.kind, "--seed", str(self.seed), "--minutes", str(minutes)]
        with open(self.log, "ab") as log:
            slack = ["--slack", str(self.args.slack)]
            self.process = subprocess.Popen([*command, *slack], stdout=subprocess.PIPE, stderr=log, text=True)
        self.lines: queue.SimpleQueue = queue.SimpleQueue()
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True)
        self.reader.start()
        self.heard = time.monotonic()

    @staticmethod
    def _read(stream, lines: queue.SimpleQueue) -> None:
        for line in stream:
            lines.put(line)

    def look(self) -> bool:
        """Reads what has come; False when the time is over."""
        over = not self.reader.is_alive()  # then nothing comes behind what there is
        while not self.lines.empty():
            self.heard = time.monotonic()
            said = json.loads(self.lines.get())
            if "seed" in said:
                self.seed = said["seed"]
            elif "found" in said:
                self.seen[said["found"]] += 1
            else:
                self._fail(f"{said['error']}\n\n{said['trace']}")
        if over:
            code = self.process.wait()
            if code == 0:
                return False
            self._fail(f"the process ended with {code}; {self.log} says why")
        elif time.monotonic() - self.heard > HANG:
            self.process.kill()
            self.process.wait()
            self._fail("it hangs")
        else:
            return True
        self.seed += 1
        if self.end - time.monotonic() < 1:
            return False
        self.start()
        return True

    def _fail(self, what: str) -> None:
        self.failed += 1
        print(f"{self.kind} {self.seed}: {what.splitlines()[0]}", flush=True)
        if self.failed <= 50:
            note(self.args, self.kind, self.seed, what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kinds", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--seed", type=int, default=None, help="of the first case; by default another one each time")
    parser.add_argument("--sanitized", type=Path, help="folder of a build with sanitizers")
    parser.add_argument("--slack", type=float, help="by how much limits of time are wider; if at all, memory has none")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="where findings are written")
    parser.add_argument("--case", help="repeat one case: a seed, or a file with an input (of one kind)")
    parser.add_argument("--worker", choices=list(TARGETS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.slack = args.slack or (20.0 if args.sanitized else 1.0)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.sanitized:
        args.sanitized = args.sanitized.resolve()
        with_sanitizers(args.sanitized)
    if args.worker:
        worker(args.worker, args.seed, args.minutes, args.slack)
        return 0
    if args.case:
        from target import run

        (kind,) = args.kinds
        tested = target(kind)
        data = tested.case(int(args.case)) if args.case.isdigit() else Path(args.case).read_bytes()
        print(run(tested, data, args.slack))
        return 0
    seed = int(time.time()) * 1000 if args.seed is None else args.seed
    end = time.monotonic() + 60 * args.minutes
    workers = [Worker(kind, seed, end, args) for kind in args.kinds]
    for w in workers:
        w.start()
    open_ = list(workers)
    while open_:
        time.sleep(0.5)
        open_ = [w for w in open_ if w.look()]
    for w in workers:
        seen = ", ".join(f"{name} {count}" for name, count in w.seen.most_common())
        print(f"{w.kind}: {w.seen.total() + w.failed} cases from seed {seed} on, {w.failed} failed; {seen}")
    return int(any(w.failed for w in workers))


if __name__ == "__main__":
    sys.exit(main())
