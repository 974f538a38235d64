"""How a process ends; the children import next to nothing, so that they start fast."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clsweep import process
from clsweep.errors import InputError, RunError

# What winds up takes a moment, in which a second signal may come.
WORKS_UNTIL_IT_IS_INTERRUPTED = """
import sys, time
from clsweep import process

def command():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.3)
        print("kept", flush=True)

sys.exit(process.run_last("program", command))
"""
PRINTS = """
import os, sys
from clsweep import process

def command():
    for number in range(100):
        print("line", number, flush=True)
    os.write(7, b"done")
    return 0

os.dup2(int(sys.argv[1]), 7)
sys.exit(process.run_last("program", command))
"""


def interrupted(*signals: signal.Signals, ignored: Sequence[signal.Signals] = ()) -> tuple[int, str, str]:
    """The exit code and outputs of a process that gets some signals while it works."""
    command = f"import signal\nfor one in {[int(one) for one in ignored]}: signal.signal(one, signal.SIG_IGN)\n"
    with subprocess.Popen(
        [sys.executable, "-c", command + WORKS_UNTIL_IT_IS_INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for one in signals:
            child.send_signal(one)
        printed, complained = child.communicate(timeout=60)
    return child.returncode, printed, complained


def test_an_interrupt_that_python_drops_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Signals:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(process, "_interrupts", process._Interrupts())  # another test's may be winding up
    before = process._handlers()
    process._set(dict.fromkeys(before, signal.SIG_DFL))
    try:
        process.catch_interrupts()
        process.raise_if_interrupted()  # nothing came yet
        Signals()
        with pytest.raises(KeyboardInterrupt):
            process.raise_if_interrupted()
        process.catch_interrupts()
        process.raise_if_interrupted()
    finally:
        process._set(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_an_interrupt_ends_with_130_after_the_winding_up(number: signal.Signals) -> None:
    assert interrupted(number) == (130, "kept\n", "program: interrupted.\n")


def test_a_second_interrupt_does_not_disturb_the_winding_up() -> None:
    assert interrupted(signal.SIGINT, signal.SIGINT, signal.SIGTERM) == (130, "kept\n", "program: interrupted.\n")


def _passes_over(number: int, frame: object) -> None:
    """As submitit does with SIGTERM."""


def _gives_up(number: int, frame: object) -> None:
    """As submitit does at the time limit, where it doesn't submit the job again."""
    raise RuntimeError("Job not requeued")


def _submits_again(number: int, frame: object) -> None:
    sys.exit(-1)


@pytest.mark.parametrize(
    ("number", "handler", "raised"),
    [
        (signal.SIGTERM, _passes_over, KeyboardInterrupt),
        (signal.SIGUSR2, _gives_up, KeyboardInterrupt),
        (signal.SIGUSR1, _gives_up, KeyboardInterrupt),
        (signal.SIGUSR2, _submits_again, SystemExit),
    ],
)
def test_a_launchers_handlers_interrupt_a_job(
    number: signal.Signals, handler: Any, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_interrupts", process._Interrupts())
    before = signal.signal(number, handler)
    try:
        with pytest.raises(raised), process.interrupts_of_a_job():
            signal.raise_signal(number)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_what_nohup_ignores_stays_ignored() -> None:
    code, printed, _ = interrupted(signal.SIGHUP, signal.SIGINT, ignored=[signal.SIGHUP])
    assert (code, printed) == (130, "kept\n")
    command = (
        "import signal\nfrom clsweep import process\nsignal.signal(1, signal.SIG_IGN)\nprocess.catch_interrupts()\n"
    )
    child = subprocess.run([sys.executable, "-c", f"{command}signal.raise_signal(1)"], timeout=60, check=False)
    assert child.returncode == 0


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("seed=-1: expected 0."), 2, "program: seed=-1: expected 0.\n"),
        (RunError("it diverged."), 1, "program: it diverged.\n"),
        (KeyboardInterrupt(), 130, "program: interrupted.\n"),
    ],
)
def test_errors_are_a_sentence_and_a_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error

    assert process.run("program", command) == code
    assert capsys.readouterr() == ("", said)


def test_an_interrupt_within_the_block_waits_until_it_is_done() -> None:
    done: list[bool] = []
    with pytest.raises(KeyboardInterrupt), process.interrupts_held():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append(True)
    assert done == [True]


def outcome(stdout: int) -> tuple[int, bytes, str]:
    """The exit code of a process that prints to `stdout`, what it wrote elsewhere, and its standard error."""
    reading, writing = os.pipe()
    child = subprocess.run(
        [sys.executable, "-c", PRINTS, str(writing)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        pass_fds=[writing],
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as elsewhere:
        return child.returncode, elsewhere.read(), child.stderr


def test_a_reader_that_has_enough_changes_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    lost = "program: standard output can't be written to (Broken pipe); going on without it.\n"
    assert outcome(writing) == (0, b"done", lost)
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_output_changes_nothing() -> None:
    lost = "program: standard output can't be written to (No space left on device); going on without it.\n"
    with Path("/dev/full").open("wb") as full:
        assert outcome(full.fileno()) == (0, b"done", lost)


@pytest.mark.parametrize("module", ["clsweep.__main__", "clsweep.report.__main__"])
def test_a_package_that_is_not_there_is_a_sentence(module: str) -> None:
    program = (
        "import runpy, sys; sys.modules['pandas'] = sys.modules['hydra'] = None; "
        f"runpy.run_module('{module}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == process.WRONG_INPUT
    assert re.fullmatch(
        r"clsweep(-report)?: the package (hydra|pandas) is not installed in \S+; expected an environment that has it: "
        r"source \.venv/bin/activate after make setup, or pip install \. in the checkout\.\n",
        done.stderr,
    )


def test_what_a_users_code_fails_to_import_is_no_package_of_clsweeps() -> None:
    def command() -> int:
        raise ModuleNotFoundError("No module named 'mine'", name="mine")

    with pytest.raises(ModuleNotFoundError, match="mine"):
        process.run("clsweep", command)
