"""Processes of ours end with the one that started them, and a command that is told to stop leaves nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from graphprune.cli.main import run_stoppable
from graphprune.processes import child_command, end_with, process_began, spare_process, watch
from tests.support.tiny_language import save_model

pytestmark = pytest.mark.xdist_group("processes")
PATIENCE = 60.0


def is_running(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(process: int) -> bool:
    until = time.monotonic() + PATIENCE
    while is_running(process) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_running(process)


STARTS = {
    "by the kernel": "child_command('graphprune.evaluation.bench_worker')",
    "by looking": "[sys.executable, '-c', f'from graphprune.processes import watch; watch({os.getpid()}, 0.05)']",
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_child_ends_with_its_parent_however_that_ends(start: str) -> None:
    program = f"""
import os, subprocess, sys
from graphprune.processes import child_command
child = subprocess.Popen({start})
print(child.pid, flush=True)
child.wait()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())  # its stdin stays open: nothing but its parent's end ends it
        time.sleep(0.3)
        assert is_running(child)
        parent.kill()
        assert ended(child)


def test_a_child_whose_parent_went_first_ends_at_once() -> None:
    for function in ("end_with", "watch"):
        program = f"from graphprune.processes import {function}; {function}(1 << 22); print('went on')"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
    assert callable(end_with)
    assert callable(watch)


SPARE = """
import os, sys, threading
from graphprune.processes import spare_process

def entry(arguments):
    print(*arguments, os.environ["ASKED"], os.getppid() == PARENT, sys.stdin.read() == "")
    print("a complaint", file=sys.stderr)
    return 3

PARENT = os.getpid()
print("written before", end=" ")
with spare_process(entry) as spare:
    {body}
try:
    os.kill(spare.number, 0)
except ProcessLookupError:
    print("gone")
"""
ASKED = """with spare.ask(["some", "words"], {"ASKED": "told"}) as child:
        print(*child.output, sep="", end="")
        print(child.wait())
        child.errors.seek(0)
        print(child.errors.read(), end="")"""


def run_spare(body: str) -> list[str]:
    command = [sys.executable, "-c", SPARE.replace("{body}", body)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_spare_process_does_its_work_once_and_ends() -> None:
    told = ["written before some words told True True", "3", "a complaint", "gone"]
    assert run_spare(ASKED) == told
    assert run_spare("pass") == ["written before gone"]


def test_where_there_is_no_room_for_a_spare_process_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("os.fork", full)
    with spare_process(lambda _: 0) as spare:
        assert spare is None


def test_there_is_no_spare_process_where_threads_run() -> None:
    busy = threading.Event()
    thread = threading.Thread(target=busy.wait)
    thread.start()
    try:
        with spare_process(lambda _: 0) as spare:
            assert spare is None
    finally:
        busy.set()
        thread.join()


def test_a_spare_process_that_dies_is_told_by_its_exit_code() -> None:
    dies = 'import signal; os.kill(spare.number, signal.SIGKILL); child = spare.ask([], {"ASKED": ""})\n'
    dies += "    with child as child: print(list(child.output), child.wait())"
    assert run_spare(dies) == ["written before [] -9", "gone"]


def test_a_child_takes_no_module_from_where_it_is_started(tmp_path: Path) -> None:
    for name in ("json", "torch", "graphprune"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    command = child_command("graphprune.artefacts.parity", str(tmp_path / "none"))
    program = (
        f"import os, subprocess; os.chdir({str(tmp_path)!r}); subprocess.run({command[:6]} + [str(os.getpid())] + "
    )
    program += f"{command[7:]})"
    subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, check=False)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_model(tmp_path_factory.mktemp("processes") / "model")
    (folder / "text.txt").write_text("the cat sees a dog . " * 400)
    return folder


class Compiling:
    """A compilation in a process of its own, which is stopped while it works."""

    def __init__(self, model: Path, out: Path) -> None:
        program = "import sys; from graphprune.cli.main import main; main()"
        options = ["--target-params", "80%", "--importance", "magnitude", "--data", str(model / "text.txt")]
        options += ["--backends", "huggingface"]
        command = [sys.executable, "-c", program, "compile", str(model), "-o", str(out), *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def until(self, stage: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith(stage):
                return
        pytest.fail(f"it never came to {stage}")

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in path.read_text().split()]

    def child(self) -> int:
        until = time.monotonic() + PATIENCE
        while not (found := self.children()) and time.monotonic() < until:
            time.sleep(0.01)
        return found[0]

    def stop(self, number: int) -> tuple[int, str]:
        """Send a signal and wait; gives the exit code and the last line that was said."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        with self.process.stderr:
            said = self.process.stderr.read().strip().splitlines()
        return self.process.wait(), said[-1] if said else ""


READING, CHECKING = "reading the model", "checking in a fresh process"


@pytest.mark.parametrize(
    ("number", "stage"),
    [(signal.SIGTERM, READING), (signal.SIGINT, READING), (signal.SIGHUP, READING), (signal.SIGTERM, CHECKING)],
)
def test_a_command_that_is_told_to_stop_leaves_nothing(
    model: Path, tmp_path: Path, number: signal.Signals, stage: str
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"whoever started the tests has {number.name} ignored")
    run = Compiling(model, tmp_path / "out")
    run.until(stage)
    children = [run.child()] if stage == CHECKING else []
    code, last = run.stop(number)
    assert (code, last) == (128 + number, "error: interrupted; nothing was written")
    assert list(tmp_path.iterdir()) == []
    assert all(map(ended, children))


def test_the_check_ends_with_a_run_that_is_killed(model: Path, tmp_path: Path) -> None:
    run = Compiling(model, tmp_path / "out")
    run.until(CHECKING)
    child = run.child()
    assert run.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    assert ended(child)
    assert not (tmp_path / "out").exists()


def test_signals_are_as_before_after_a_command_and_what_was_ignored_stays_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`nohup` has the end of the terminal ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        assert run_stoppable(["list", "backends"]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGHUP, before[0])


ENDED = """
import atexit, os, signal, sys
from graphprune.cli.main import main
atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
sys.argv[1:] = {arguments}
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code"), [(["list", "backends"], 0), (["list", "no-such-kind"], -signal.SIGTERM)]
)
def test_a_stop_while_a_process_ends_makes_no_failure_of_what_was_done(arguments: list[str], code: int) -> None:
    """One that failed can be stopped as any process: what it waits for may take long."""
    command, nothing = [sys.executable, "-c", ENDED.format(arguments=arguments)], subprocess.DEVNULL
    assert subprocess.run(command, stdout=nothing, stderr=nothing, check=False).returncode == code


CODE = """
import time
time.sleep(0.3)  # what it imports before it asks
from graphprune.processes import process_began
print(process_began())
"""


def test_a_process_began_before_its_imports() -> None:
    before = time.time()
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    after = time.time()
    assert before - 0.1 <= float(done.stdout) <= after - 0.2


def test_it_is_always_the_same_moment() -> None:
    assert abs(process_began() - process_began()) < 0.1
    assert process_began() <= time.time()
