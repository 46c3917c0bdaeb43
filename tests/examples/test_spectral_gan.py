"""A GAN on eight clusters: what counts as found, norms under the rule, weights inside the clipping, equal starts."""

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import surgery
from examples import spectral_gan as example

STEPS = 30


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What the example sets for its process, and put back: small matrices gain nothing by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runs() -> dict[str, list[example.Run]]:
    """Each variant, briefly."""
    return {variant: [example.train(variant, 0, steps=STEPS, measured_every=1)] for variant in example.BOUNDS}


def test_the_data_are_on_a_ring_and_count_as_good():
    points = example.data(4000)
    modes, good = example.quality(points)
    assert (modes, good) == (8, pytest.approx(1, abs=2e-3))  # beyond four deviations: exp(-8) of them
    distances = torch.cdist(points, example.centres()).min(1).values
    assert distances.square().mean().sqrt().item() == pytest.approx(example.DEVIATION * 2**0.5, rel=0.05)
    assert example.centres().norm(dim=1).tolist() == pytest.approx([example.RADIUS] * 8)


def test_collapse_is_seen():
    one = example.centres()[3].expand(100, 2)
    assert example.quality(one) == (1, 1.0)
    assert example.quality(torch.zeros(100, 2)) == (0, 0.0)
    rare = torch.cat([one.repeat(10, 1), example.centres()[:1].expand(19, 2)])  # 19 of 1019 is less than 1 in 50
    assert example.quality(rare)[0] == 1


def test_the_slope_is_that_of_a_linear_critic():
    critic = example.Critic(2)
    with torch.no_grad():
        for layer, weight in ((critic.first, torch.eye(2)), (critic.second, torch.eye(2))):
            layer.weight.copy_(weight)
            layer.bias.fill_(10.0)  # so that no rectifier bends
        critic.score.weight.copy_(torch.tensor([[3.0, 4.0]]))
    assert example.slope(critic) == pytest.approx(5)


def test_norms_under_the_rule_are_one_in_eval_and_near_it_while_training(runs):
    (run,) = runs["spectral"]
    assert surgery.check(run.critic).ok
    for layer in (run.critic.first, run.critic.second, run.critic.score):
        exact = np.linalg.svd(layer.weight.detach().double().numpy(), compute_uv=False)[0]
        assert exact == pytest.approx(1, abs=1e-3)
    assert run.largest_norm < 1.5
    assert run.slope < 1 + 3e-3
    assert type(run.critic) is example.Critic


def test_clipped_parameters_are_inside_and_free_ones_are_not(runs):
    for variant, bound in example.BOUNDS.items():
        largest = max(parameter.abs().max().item() for parameter in runs[variant][0].critic.parameters())
        if bound is not None:
            assert largest <= np.float32(bound)
    assert max(parameter.abs().max().item() for parameter in runs["none"][0].critic.parameters()) > 0.1


def test_the_rule_changes_nothing_of_the_model_but_its_weights():
    torch.manual_seed(0)
    critic = example.Critic()
    before = {name: tensor.clone() for name, tensor in critic.state_dict().items()}
    surgery.apply_constraints(critic, example.RULES)
    assert list(surgery.computed_parameters(critic)) == ["first.weight", "second.weight", "score.weight"]
    assert torch.equal(critic.first.bias, before["first.bias"])
    surgery.undo(critic)
    assert all(torch.equal(critic.state_dict()[name], tensor) for name, tensor in before.items())


def test_all_clusters_are_found_under_the_rule_at_full_size(size, evidence, one_thread):
    if size != "full":
        pytest.skip("trainings of full length, in `make test-full`")
    modes = {variant: [example.train(variant, seed).modes for seed in example.SEEDS] for variant in example.BOUNDS}
    assert min(modes["spectral"]) >= 7
    for variant in ("clipped to 0.03", "clipped to 0.1", "none"):
        assert max(modes[variant]) < min(modes["spectral"])
    text = "; ".join(f"{variant}: {' '.join(map(str, counts))}" for variant, counts in modes.items())
    evidence("clusters of eight that a small GAN finds, three seeds, by what bounds its critic", text)


def test_the_picture_and_the_table(runs, tmp_path, capsys):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("the picture needs matplotlib, of the extra 'examples'")
    example.print_table(runs)
    printed = capsys.readouterr().out
    assert all(f"\n{variant}" in printed for variant in example.BOUNDS)
    assert max(map(len, printed.splitlines())) <= 80
    example.draw(runs, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
