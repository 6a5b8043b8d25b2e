"""Sweeps over functions that are killed, stopped, continued, or whose trials fail."""

import os
import random
import signal
import sys
import time
from collections import Counter
from functools import partial

import pytest
import sweep_functions

from mlkit.sagemaker.local import function_sweeps
from mlkit.sagemaker.local.function_sweeps import Budget, FunctionSweep
from mlkit.sagemaker.local.locks import is_locked
from mlkit.sagemaker.local.trial_store import TrialStore
from mlkit.sagemaker.search.space import make_space
from mlkit.sagemaker.search.stopping import Halving

SEARCH = {"lr": (0.05, 1.0), "width": [8, 16, 32]}
HYPERBAND = dict(strategy="hyperband", halving=Halving(1, sweep_functions.EPOCHS))
KINDS = {
    "hyperband": dict(function=sweep_functions.train, **HYPERBAND),
    "bayesian": dict(function=sweep_functions.train),
    "median": dict(function=sweep_functions.train, early_stopping=True),
    "without reports": dict(function=sweep_functions.whole, strategy="random"),
    "grid": dict(function=sweep_functions.whole, strategy="grid", search={"lr": [i / 40 for i in range(40)]}),
    "two at once": dict(function=sweep_functions.train, strategy="random", parallel=2),
}


def make(folder, function, trials=4, seconds=0.0, target=0.5, search=None, **options):
    config = {"lr": 0.1, "width": 8, "log": str(folder / "log"), "seconds": seconds, "target": target, "seed": 0}
    options = {"minimize": True, "budget": Budget(trials=trials), "folder": folder / "sweeps", **options}
    metric = "valid_loss" if function is sweep_functions.learn else "loss"
    return FunctionSweep(function, make_space(config, search or SEARCH), config, metric, **options)


def run(*args, **options):
    sweep = make(*args, **options)
    sweep.start()
    sweep.wait()
    return sweep


def table(sweep):
    return [(t.number, t.parameters, t.state, t.curve, t.value, t.reason) for t in sweep.trials()]


def running_trials(sweep):
    """Return the leaders of the processes of the trials that run."""
    locks = [folder / "lock" for folder in sweep.trial_folders]
    texts = [lock.read_text() for lock in locks if lock.exists() and is_locked(lock)]
    return [int(text) for text in texts if text]


class Killer:
    """Run a sweep in a process, and kill it or its trials at any moment."""

    def __init__(self, make_sweep, seed):
        self.make_sweep = make_sweep
        self.random = random.Random(seed)
        self.killed = Counter()
        self.start()

    def start(self):
        self.pid = os.fork()
        if not self.pid:
            try:
                sweep = self.make_sweep()
                sweep.start()
                sweep.wait()
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)

    def has_ended(self):
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        assert not pid or status == 0 or os.WTERMSIG(status) == signal.SIGKILL
        return bool(pid)

    def kill(self, longest):
        """Kill something after a while; return False if the sweep had ended by then."""
        time.sleep(self.random.uniform(0, longest))
        if self.has_ended():
            return False
        trials = running_trials(self.make_sweep())
        if self.random.random() < 0.5 and trials:
            os.kill(self.random.choice(trials), signal.SIGKILL)
            self.killed["trial"] += 1
            return True
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.killed["sweep"] += 1
        self.start()
        return True

    def wait(self):
        while not self.has_ended():
            time.sleep(0.02)


def check_kills(fault, tmp_path, trials, kills, longest, seconds, seed=0, **options):
    expected = table(run(tmp_path / "quiet", trials=trials, **options))
    folder = tmp_path / "killed"
    folder.mkdir()
    killer = Killer(lambda: make(folder, trials=trials, seconds=seconds, **options), seed)
    for _ in range(kills):
        if not killer.kill(longest):
            break
    else:
        killer.wait()
    sweep = make(folder, trials=trials, seconds=seconds, **options)
    assert sum(killer.killed.values()) >= kills / 2
    assert [number for number, *_ in table(sweep)] == list(range(len(expected)))
    n_lost = sum(trial not in table(sweep) for trial in expected)
    for process, n in killer.killed.items():
        fault(f"kill: a sweep over a function, the process of the {process}", n, lost=n_lost)
    assert table(sweep) == expected
    # Only the epoch that was trained when the kill came is trained again, and a trial without checkpoints as a whole.
    lines = Counter((folder / "log").read_text().splitlines())
    assert lines.total() - len(lines) <= killer.killed.total() * options.get("parallel", 1)


@pytest.fixture(autouse=True)
def folders(tmp_path):
    (tmp_path / "quiet").mkdir()


def test_a_sweep_that_is_killed_comes_to_the_same_trials(tmp_path, fault):
    check_kills(fault, tmp_path, trials=4, kills=4, longest=0.8, seconds=0.03, **KINDS["hyperband"])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_30_trials_with_many_kills_come_to_the_same_trials(tmp_path, fault, kind, seed):
    check_kills(fault, tmp_path, trials=30, kills=40, longest=1.5, seconds=0.05, seed=seed, **KINDS[kind])


class DyingStore(TrialStore):
    """The trials of a sweep whose process dies when it is about to change more than a few things in the file."""

    changes = 2

    def __init__(self, *args):
        super().__init__(*args)
        self.left = self.changes
        for name in CHANGES:
            setattr(self._storage, name, partial(self.change, getattr(self._storage, name)))

    def change(self, function, *args):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return function(*args)


CHANGES = """
    create_new_study set_study_user_attr create_new_trial set_trial_intermediate_value set_trial_user_attr
    set_trial_state_values
""".split()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["hyperband", "median", "without reports"])
@pytest.mark.parametrize("changes", [2, 3])
def test_a_sweep_that_dies_after_every_few_changes_comes_to_the_same_trials(
    tmp_path, monkeypatch, fault, kind, changes
):
    expected = table(run(tmp_path / "quiet", trials=5, **KINDS[kind]))
    monkeypatch.setattr(function_sweeps, "TrialStore", DyingStore)
    monkeypatch.setattr(DyingStore, "changes", changes)
    lives = 0
    while True:
        lives += 1
        killer = Killer(lambda: make(tmp_path, trials=5, **KINDS[kind]), 0)
        _, status = os.waitpid(killer.pid, 0)
        if not status:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert lives > 5
    trials = table(make(tmp_path, trials=5, **KINDS[kind]))
    fault(
        "kill: a sweep over a function, after every few changes", lives - 1, lost=sum(t not in trials for t in expected)
    )
    assert trials == expected


def test_a_sweep_whose_first_trials_fail_ends_and_says_why(tmp_path):
    sweep = run(tmp_path, sweep_functions.fails, target=0)
    assert sweep.status == "Failed" and len(sweep.trials()) == 3
    assert "the first 3 trials failed, the first with RuntimeError: no good: " in sweep.reason
    again = run(tmp_path, sweep_functions.fails, target=2)  # another config, with which it works
    assert again.status == "Completed" and "the sweep begins anew" in again.notes[0]
    assert [t.state for t in again.trials()] == ["completed"] * 4


def test_a_trial_that_fails_is_told_from_one_that_is_bad(tmp_path):
    sweep = run(tmp_path, sweep_functions.fails, trials=5, strategy="random", target=0.8)
    assert sweep.status == "Completed"
    assert {t.state for t in sweep.trials()} == {"completed", "failed"}
    for trial in sweep.trials():
        assert trial.reason == (f"RuntimeError: no good: {trial.parameters['width']}" if trial.value is None else "")


def test_a_trial_whose_process_always_dies_fails_after_some_attempts(tmp_path, fault):
    sweep = run(tmp_path, sweep_functions.dies, strategy="grid", search={"width": [8, 16]})
    first, second = sweep.trials()
    assert "was killed by SIGKILL, 4 times" in first.reason and second.value == 16
    assert (tmp_path / "log").read_text().count("dies 8\n") == 4
    fault("kill: a trial over a function, each time", 4, said=first.reason)


def test_what_a_trial_has_started_ends_with_the_sweep(tmp_path):
    killer = Killer(lambda: make(tmp_path, sweep_functions.starts_another), 0)
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text().strip():
        time.sleep(0.05)
    os.kill(killer.pid, signal.SIGKILL)
    os.waitpid(killer.pid, 0)
    pid = int((tmp_path / "log").read_text())
    while os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.05)


def test_a_sweep_is_stopped_and_continued_and_runs_once_at_a_time(tmp_path, monkeypatch):
    whole = run(tmp_path / "quiet", sweep_functions.train, trials=2)
    sweep = make(tmp_path, sweep_functions.train, trials=2, seconds=0.05)
    sweep.start()
    assert sweep.status == "InProgress" and not sweep.wait(0.01)
    monkeypatch.setattr(FunctionSweep, "lock_patience", 0)
    with pytest.raises(RuntimeError, match="runs already, in this process or in another one"):
        make(tmp_path, sweep_functions.train).start()
    while not any(t.curve for t in sweep.trials()):
        time.sleep(0.01)
    sweep.stop()
    assert sweep.wait(60) and sweep.status == "Stopped"
    assert {t.state for t in sweep.trials()} <= {"paused", "completed"}
    sweep.start()
    assert sweep.wait(60) and sweep.status == "Completed"
    assert table(sweep) == table(whole)


def test_a_larger_budget_continues_the_trials_that_a_completed_sweep_stopped(tmp_path):
    options = dict(strategy="hyperband", halving=Halving(1, 3, 3), search={"lr": (0.01, 0.1)})
    small = run(tmp_path, sweep_functions.train, budget=Budget(trials=3, epochs=2), **options)
    assert small.status == "Completed" and {t.state for t in small.trials()} == {"stopped"}
    assert {t.reason for t in small.trials()} == {"the budget of 2 epochs is used"}
    large = run(tmp_path, sweep_functions.train, trials=3, **options)
    assert sorted(t.state for t in large.trials()) == ["completed", "stopped", "stopped"]
    assert sum(len(t.curve) for t in large.trials()) == 5


def test_the_trials_of_another_sweep_are_refused(tmp_path):
    run(tmp_path, sweep_functions.whole, trials=1)
    for options, message in (
        (dict(seed=1), "seed was 0, is 1"),
        (dict(target=0.4), "the config was"),
        (dict(search={"lr": (0.1, 0.2)}), "space was"),
        (dict(function=sweep_functions.fails, name="whole"), "the function has changed"),
    ):
        with pytest.raises(ValueError, match=message):
            make(tmp_path, **{"function": sweep_functions.whole, **options}).start()
    assert len(run(tmp_path, sweep_functions.whole, trials=2).trials()) == 2
    os.unlink(make(tmp_path, sweep_functions.whole).path)
    assert len(run(tmp_path, sweep_functions.whole, trials=1, seed=1).trials()) == 1


@pytest.mark.long
def test_a_promoted_trial_continues_from_its_checkpoint_bit_for_bit(tmp_path):
    options = dict(strategy="hyperband", halving=Halving(2, 4, 2), search={"lr": (0.01, 0.1)}, trials=2)
    sweep = run(tmp_path, sweep_functions.learn, **options)
    ended, stopped = sorted(sweep.trials(), key=lambda t: t.state)
    assert (ended.state, len(ended.curve)) == ("completed", 4)
    assert (stopped.state, stopped.reason) == ("stopped", "after epoch 2, others were better")
    for trial in (ended, stopped):
        history = sweep_functions.learn(sweep.config | trial.parameters, None)
        assert history["valid_loss"][: len(trial.curve)] == trial.curve
