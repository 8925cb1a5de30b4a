import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import tiny
import torch

from equipoise.execution.process_pool import side_by_side
from equipoise.runtime.errors import RunError
from equipoise.runtime.signals import Interrupted


def answer(value, *, reporter):
    reporter.begin("counting", 3, 0)
    reporter.step(3, "done")
    reporter.log(f"it was {value}")
    return value, os.getpid(), torch.get_num_threads()


def refuse(*, reporter):
    raise ValueError("images must have one channel")


def be_killed(*, reporter):
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_a_signal(folder, *, reporter):
    """Work until a signal arrives, then save something, as training does."""
    from equipoise.runtime.signals import stop_on_signals

    stop = threading.Event()
    with stop_on_signals(stop):
        (folder / "ready").touch()
        if not stop.wait(60):
            return "no signal arrived"
    (folder / "saved").touch()
    raise Interrupted


def run(work, workers=2, reporter=lambda name: tiny.AfterSteps(0, None)):
    return side_by_side(work, workers=workers, threads=1, reporter=reporter)


def until(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    pytest.fail(f"{path} never appeared")


@pytest.mark.slow
def test_results_and_reports_of_each_process_come_back_by_name():
    heard = {}

    def listen(name):
        return heard.setdefault(name, tiny.AfterSteps(0, None))

    results = run({"b": (answer, (2,)), "a": (answer, (1,)), "c": (answer, (3,))}, reporter=listen)
    assert [(name, value) for name, (value, _, _) in results.items()] == [
        ("b", 2),
        ("a", 1),
        ("c", 3),
    ]
    assert len({process for _, process, _ in results.values()} | {os.getpid()}) == 4
    assert {threads for _, _, threads in results.values()} == {1}
    assert heard["a"].stages == ["counting"]
    assert heard["a"].lines == ["it was 1"]


@pytest.mark.slow
def test_one_failure_stops_the_others_and_is_raised(tmp_path):
    work = {"waits": (wait_for_a_signal, (tmp_path,)), "refuses": (refuse, ())}
    with pytest.raises(ValueError, match="images must have one channel"):
        run(work)


@pytest.mark.slow
def test_the_error_for_a_killed_worker_names_it_and_the_remedy():
    with pytest.raises(RunError, match=r"ran doomed ended with status -9 .* run the same command"):
        run({"doomed": (be_killed, ())})


@pytest.mark.slow
def test_a_signal_reaches_every_worker_and_lets_it_save(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()

    def ask():
        for folder in folders:
            until(folder / "ready")
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Interrupted):
        run({folder.name: (wait_for_a_signal, (folder,)) for folder in folders})
    asking.join()
    assert all((folder / "saved").exists() for folder in folders)


@pytest.mark.slow
def test_workers_stop_when_their_parent_is_killed(tmp_path):
    root = Path(__file__).parents[2]
    paths = [str(root), str(root / "tests" / "helpers")]
    script = f"""
        import sys
        sys.path[:0] = {paths!r}
        from pathlib import Path
        from tests.execution.test_process_pool import run, wait_for_a_signal

        if __name__ == "__main__":
            run({{"waits": (wait_for_a_signal, (Path({str(tmp_path)!r}),))}})
    """
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(script))
    parent = subprocess.Popen([sys.executable, str(program)])
    until(tmp_path / "ready")
    parent.kill()
    parent.wait()
    until(tmp_path / "saved")
