"""Jobs whose ranks are killed lose no checkpoint, and end with the bits of an undisturbed one.

DISTGRAD_KILLS and DISTGRAD_KILLS_SEED ask for other numbers of kills and other moments;
`scripts/list_kills.py` does it at length.
"""

import os
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

KILLS = int(os.environ.get("DISTGRAD_KILLS", "3"))  # of each training
SEED = int(os.environ.get("DISTGRAD_KILLS_SEED", "7"))

if not (Path(sys.executable).parent / "mpirun").exists():
    pytest.skip("needs an MPI", allow_module_level=True)


@pytest.mark.parametrize("training", ["train_digits", "train_text --zero 1"])
def test_a_job_whose_ranks_are_killed_again_and_again_ends_with_the_same_bits(
    chains, monkeypatch, training
):
    monkeypatch.setattr(chains, "STEPS", 15)
    monkeypatch.setattr(chains, "RANKS", (1, 2, 3))
    played = list(chains.play(KILLS, SEED, [training], in_a_row=3))

    kills = [kill for chain in played for kill in chain.kills]
    assert len(kills) == KILLS
    assert all(kill.then in chains.RANKS for kill in kills)


def test_a_checkpoint_that_a_kill_had_damaged_would_be_found(chains, tmp_path):
    folder = tmp_path / "saved"
    where = chains.dg.checkpoint.save(folder, {"x": chains.dg.ones((5,))}, step=3)
    path = next(where.glob("*.safetensors"))
    chains.check_whole(folder)
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(chains.LostWorkError, match="the checkpoint of step 3 is lost"):
        chains.check_whole(folder)


def test_a_result_that_differs_is_told_with_how_to_do_it_again(chains, monkeypatch):
    def ended(training, folder, ranks):
        return [{"step": 1, "loss": 2.0, "grad_norm": 1.0}, {"variables_sha256": "other"}]

    def expected(training):
        return [{"step": 1, "loss": 2.5, "grad_norm": 1.0}, {"variables_sha256": "own"}]

    def killed(training, folder, ranks, chance):
        return chains.Kill(training, ranks, 0, "any", 1, 1, unfinished=False)

    monkeypatch.setattr(chains, "run_to_the_end", ended)
    monkeypatch.setattr(chains, "undisturbed", expected)
    monkeypatch.setattr(chains, "kill_once", killed)

    with pytest.raises(chains.LostWorkError, match=r"turn 0 .*--seed 5: .*differs: \[1\]"):
        list(chains.play(1, 5, ["train_text"]))


def test_jobs_that_always_end_before_a_kill_are_an_error_and_no_endless_loop(chains, monkeypatch):
    monkeypatch.setattr(chains, "undisturbed", lambda training: [])
    monkeypatch.setattr(chains, "play_chain", lambda training, *_: chains.Chain(training, []))

    with pytest.raises(chains.LostWorkError, match="10 jobs one after the other ended before"):
        list(chains.play(1, 5, ["train_text"]))


def test_a_job_that_hangs_after_a_kill_is_told_with_what_it_said(chains, monkeypatch, tmp_path):
    command = [sys.executable, "-c", "import time; print('stuck', flush=True); time.sleep(60)"]
    monkeypatch.setattr(chains, "command_of", lambda *_: command)
    monkeypatch.setattr(chains, "DEADLINE", 2.0)

    with (
        chains.Run("train_text", tmp_path, 1) as run,
        pytest.raises(chains.LostWorkError, match=r"did not end in 2\.0 s; it said:\nstuck"),
    ):
        run.wait()


def test_a_run_that_does_not_go_on_from_the_newest_checkpoint_is_found(chains):
    class Run:
        def said(self):
            return "resumed after step 4\nstep 5"

    chains.check_resumed(Run(), 4)
    with pytest.raises(chains.LostWorkError, match="the newest checkpoint was 5"):
        chains.check_resumed(Run(), 5)


def test_the_page_tells_of_more_than_fifty_kills_by_job_and_moment():
    page = (Path(__file__).resolve().parents[2] / "docs" / "kill-proof.md").read_text()
    summary = re.findall(
        r"^\| `?(train_.*?|all)`? \| (\d+) \| (\d+) \| (\d+) \| (\d+) ", page, re.M
    )
    counted = {name: [int(each) for each in figures] for name, *figures in summary}
    kills = re.findall(r"^\| \d+ \| (train_.*?) \|", page, re.MULTILINE)

    assert counted.pop("all")[0] == len(kills) >= 50
    for name, (own, *moments) in counted.items():
        assert own == kills.count(name) == sum(moments)


def test_the_page_counts_kills_by_job_and_moment(list_kills, chains):
    kill = chains.Kill("train_text", 3, 2, "writing", 4, 5, unfinished=True, then=1)

    text = list_kills.page([chains.Chain("train_text", [kill])], 0, 60.0)

    assert "| `train_text` | 1 | 0 | 0 | 1 | 1 | 0 | 1 | 1 |" in text
    assert "| 1 | train_text | 3 | rank 2 | writing | 4 → 5 | yes | 1 |" in text
