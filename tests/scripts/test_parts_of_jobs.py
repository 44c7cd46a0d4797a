"""What the fits, the text and the policy are made of: solutions, motions, bits, and refusals."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load_job(name):
    """Return a script as a module: `scripts` is no package."""
    specification = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up by name
    specification.loader.exec_module(module)
    return module


def run(name, *arguments):
    """Run a job as one process and return what it printed."""
    return subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "DISTGRAD_PROGRESS": "lines"},
    )


# --- fit_newton -----------------------------------------------------------------------------------


def test_newton_finds_scikit_learns_coefficients(tmp_path):
    path = tmp_path / "metrics.jsonl"

    result = run("fit_newton", "--metrics", path)

    assert result.returncode == 0, result.stderr
    *steps, last = [json.loads(line) for line in path.read_text().splitlines()]
    # 2e-15 as a rule; where rounding ends a search along a line early, the gradient over --l2.
    assert last["largest_difference"] < 1e-7
    assert steps[-1]["grad_norm"] < 1e-9
    # Conjugate gradients: a product costs one pass over the data, and so does a gradient.
    assert all(step["passes"] <= step["products"] + 3 for step in steps)
    assert "coefficients differ by" in result.stdout


@pytest.mark.parametrize("words", [("--learning-rate", 0.1), ("--global-batch", 32)])
def test_newton_refuses_what_makes_no_sense_for_it(words):
    result = run("fit_newton", *words)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"fit_newton: {words[0]}: Newton's method takes all examples")


def test_newton_refuses_a_penalty_that_leaves_no_minimum():
    result = run("fit_newton", "--l2", 0)

    assert result.returncode == 1
    assert result.stderr.startswith("fit_newton: --l2 0.0: expected more than 0")


# --- fit_physics ----------------------------------------------------------------------------------


def test_the_exact_velocity_obeys_burgers_equation():
    physics = load_job("fit_physics")
    x, t = (each.ravel() for each in np.meshgrid(np.linspace(0.1, 0.9, 5), np.linspace(0.1, 1, 4)))
    h = 1e-4

    u = physics.velocity(x, t)
    right, left = physics.velocity(x + h, t), physics.velocity(x - h, t)
    u_t = (physics.velocity(x, t + h) - physics.velocity(x, t - h)) / (2 * h)
    residual = u_t + u * (right - left) / (2 * h)
    residual -= physics.VISCOSITY * (right - 2 * u + left) / h**2

    assert np.max(np.abs(u)) > 0.1
    np.testing.assert_allclose(residual, 0, atol=1e-6)  # of differences with an error of h²
    np.testing.assert_allclose(physics.velocity(np.array([0.0, 1.0]), np.array(0.3)), 0, atol=1e-15)


def test_the_residual_of_a_network_has_its_derivatives():
    physics = load_job("fit_physics")
    fluid = physics.Fluid(3, "float64")
    x, t, h = np.array([0.2, 0.7, 0.9]), np.array([0.5, 0.1, 0.8]), 1e-4

    def at(x, t):
        return fluid(physics.dg.asarray(x), physics.dg.asarray(t)).numpy()

    u_t = (at(x, t + h) - at(x, t - h)) / (2 * h)
    u_x = (at(x + h, t) - at(x - h, t)) / (2 * h)
    u_xx = (at(x + h, t) - 2 * at(x, t) + at(x - h, t)) / h**2
    expected = u_t + at(x, t) * u_x - fluid.viscosity * u_xx

    np.testing.assert_allclose(fluid.residual(x, t).numpy(), expected, rtol=1e-5, atol=1e-6)


# --- train_policy ---------------------------------------------------------------------------------


def test_the_cart_obeys_newtons_laws():
    policy = load_job("train_policy")
    state = np.random.default_rng(0).uniform(-1, 1, (5, 4))
    right = np.array([True, False, True, True, False])

    _, pull, _, turn = ((policy.moved(state, right) - state) / policy.INTERVAL).T

    _, speed, angle, spin = state.T
    sine, cosine = np.sin(angle), np.cos(angle)
    torque = policy.POLE * policy.HALF
    # The momentum of both along the track, and that of the pole about its joint.
    along = (policy.CART + policy.POLE) * pull + torque * (turn * cosine - spin**2 * sine)
    force = np.where(right, 10.0, -10.0) - policy.CART_FRICTION * np.sign(speed)
    about = torque * (4 / 3 * policy.HALF * turn + pull * cosine)
    np.testing.assert_allclose(along, force, rtol=1e-12)
    np.testing.assert_allclose(
        about, torque * 9.8 * sine - policy.POLE_FRICTION * spin, rtol=1e-9, atol=1e-12
    )


def test_an_episode_is_the_same_whichever_are_played_beside_it():
    policy = load_job("train_policy")
    pusher = policy.Policy(0, "float64")

    several = policy.play(pusher, 5, 2, np.arange(6))
    alone = policy.play(pusher, 5, 2, np.array([4]))
    later = policy.play(pusher, 5, 3, np.array([4]))

    np.testing.assert_allclose(several["states"][4], alone["states"][0], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(several["right"][4], alone["right"][0])
    assert not np.array_equal(alone["states"], later["states"])
    lengths = several["up"].sum(axis=1)
    assert np.all((lengths > 5) & (lengths < 200))  # nobody balances by chance


def test_returns_end_where_the_pole_falls():
    policy = load_job("train_policy")
    up = np.array([[True, True, False], [True, True, True]])

    found = policy.earned(up) / policy.REWARD

    c = policy.DISCOUNT
    np.testing.assert_allclose(found, [[1 + c, 1, 0], [1 + c + c**2, 1 + c, 1]], rtol=1e-15)


def test_the_policy_learns_to_balance_for_190_moves(tmp_path):
    path = tmp_path / "metrics.jsonl"

    result = run("train_policy", "--metrics", path, "--quiet")

    assert result.returncode == 0, result.stderr
    *steps, last = [json.loads(line) for line in path.read_text().splitlines()]
    assert steps[0]["return"] < 50
    assert last["test_return"] >= 190


# --- train_text -----------------------------------------------------------------------------------


def test_pieces_of_a_text_overlap_by_all_but_a_byte():
    text = load_job("train_text")
    pieces = text.Text(np.frombuffer(b"abcdefg", np.uint8), context=3)

    assert len(pieces) == 4
    assert [bytes(row.tolist()) for row in pieces.read(np.array([0, 3]))] == [b"abcd", b"defg"]


def test_a_writer_beats_the_frequencies_of_bytes_soon_and_writes(tmp_path):
    path = tmp_path / "metrics.jsonl"

    result = run(
        *("train_text", "--steps", 150, "--width", 32, "--context", 16, "--blocks", 1),
        *("--learning-rate", 0.01, "--metrics", path),
    )

    assert result.returncode == 0, result.stderr
    last = json.loads(path.read_text().splitlines()[-1])
    assert last["bits_per_byte"] < last["bits_by_frequencies"] - 0.5
    assert 4 < last["bits_by_frequencies"] < 5.5
    assert "SHA-256" in result.stdout
    assert len(result.stdout.partition("It writes:\n\n")[2]) > 200


def test_a_text_of_another_python_is_refused_by_a_resumed_job():
    text = load_job("train_text")

    class Job:
        world = text.dist.SerialCommunicator()

    source = text.Source(Job())
    source.load_state(source.state())

    with pytest.raises(text.JobError, match="another version of Python"):
        source.load_state({"sha256": "0" * 64})
