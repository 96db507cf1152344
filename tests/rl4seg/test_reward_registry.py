import sys
import textwrap
from pathlib import Path

import pytest
import torch

from reward_data.errors import ConfigError
from rl4seg.configs.reward_tuning import TaskRewardConfig
from rl4seg.reward_registry import RewardMix, find_reward, reward_sources
from rl4seg.task_rewards import RewardContext, accuracy, miou

CONTEXT = RewardContext(("background", "thing"), [(1.0, 1.0)] * 2)

# One's own reward in ten lines, as the README shows it.
OWN_REWARD = '''
import torch


def right_size(masks, truth, context):
    """1 where every class covers as much of the mask as of the truth."""
    score = torch.ones(masks.shape[:2])
    for value in range(context.num_classes):
        got, wanted = ((part == value).flatten(2).float().mean(2) for part in (masks, truth[:, None]))
        score = score - (got - wanted).abs() / 2
    return score
'''


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    masks = torch.tensor([[[0, 0, 1, 1], [0, 1, 1, 1]], [[1, 1, 1, 1], [0, 0, 0, 0]]])
    return masks, torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path with a module of rewards."""
    (tmp_path / "my_rewards.py").write_text(OWN_REWARD)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path  # type: ignore[misc]
    sys.modules.pop("my_rewards", None)


@pytest.mark.parametrize("how", ["module", "file", "entry point"])
def test_ones_own_reward_in_ten_lines(own: Path, how: str) -> None:
    name = {"module": "my_rewards:right_size", "file": f"{own}/my_rewards.py:right_size"}.get(how, "size")
    if how == "entry point":
        (own / "my_rewards-1.0.dist-info").mkdir()
        (own / "my_rewards-1.0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: my-rewards\nVersion: 1\n"
        )
        (own / "my_rewards-1.0.dist-info" / "entry_points.txt").write_text(
            "[rl4seg.rewards]\nsize = my_rewards:right_size\n"
        )
    assert len(OWN_REWARD.strip().splitlines()) <= 10
    assert OWN_REWARD.strip() in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    mix = RewardMix(TaskRewardConfig(mix={name: 1, "accuracy": 3}))
    mix.try_out(CONTEXT, (64, 64))
    masks, truth = batch()
    # sizes: right; 1/4 of the pixels too many of one class; all wrong by half, twice
    own_score = torch.tensor([[1.0, 0.75], [0.5, 0.5]])
    right = torch.tensor([[1.0, 0.75], [0.5, 0.5]])
    torch.testing.assert_close(mix(masks, truth, CONTEXT), (own_score + 3 * right) / 4)
    assert list(reward_sources(mix.config)) == [name]


def test_the_source_of_ones_own_reward_is_part_of_its_identity(own: Path) -> None:
    config = TaskRewardConfig(mix={f"{own}/my_rewards.py:right_size": 1, "miou": 1})
    before = reward_sources(config)
    assert reward_sources(config) == before
    (own / "my_rewards.py").write_text(OWN_REWARD.replace("/ 2", "/ 3"))
    assert reward_sources(config) != before


def test_a_mix_is_the_mean_by_weight() -> None:
    masks, truth = batch()
    found = RewardMix(TaskRewardConfig(mix={"miou": 2, "accuracy": 6}))(masks, truth, CONTEXT)
    wanted = (miou(masks, truth, CONTEXT) + 3 * accuracy(masks, truth, CONTEXT)) / 4
    torch.testing.assert_close(found, wanted)
    assert found[0, 0] == 1
    assert not found.requires_grad


BROKEN = {
    "nan": ("return torch.full(masks.shape[:2], float('nan'))", "returned nan for image 0, mask 0"),
    "sometimes_nan": (
        "m = masks.flatten(2).float().mean(2)\n    return m / m",
        r"returned nan for image 1, mask 1",
    ),
    "shape": ("return torch.zeros(len(masks))", r"returned shape \(2,\) for masks \(2, 2, 12, 12\), wanted"),
    "range": ("return torch.full(masks.shape[:2], 1.5)", "returned values in 1.5 .. 1.5"),
    "number": ("return 0.5", "returned a float, wanted a tensor"),
    "fails": ("return masks / truth.missing", "failed on masks .* mend the function"),
    "writes": ("masks.zero_()\n    return torch.ones(masks.shape[:2])", "changed the masks"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_reward_is_one_clear_error_before_the_training(name: str, tmp_path: Path) -> None:
    body, message = BROKEN[name]
    file = tmp_path / "broken.py"
    file.write_text(
        textwrap.dedent("import torch\n\n\ndef reward(masks, truth, context):\n") + f"    {body}\n"
    )
    mix = RewardMix(TaskRewardConfig(mix={f"{file}:reward": 1.0}))
    with pytest.raises(ConfigError, match=message):
        mix.try_out(CONTEXT, (32, 32))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mioh", "no reward 'mioh', wanted one of miou.*did you mean miou"),
        ("nowhere.to.be.found:f", "cannot be imported"),
        ("nowhere.py:f", "cannot be imported"),
        ("math:pi", "wanted a function"),
        ("math:missing", "wanted a function"),
    ],
)
def test_a_reward_that_cannot_be_found_is_one_clear_error(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_reward(name)


def test_an_entry_point_that_cannot_be_loaded_is_one_clear_error(own: Path) -> None:
    (own / "bad-1.0.dist-info").mkdir()
    (own / "bad-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1\n")
    (own / "bad-1.0.dist-info" / "entry_points.txt").write_text("[rl4seg.rewards]\nbad = bad_module:f\n")
    with pytest.raises(ConfigError, match="entry point bad_module:f cannot be loaded"):
        find_reward("bad")


def test_validity_without_rules_is_refused_before_the_training() -> None:
    with pytest.raises(ConfigError, match="needs anatomical rules"):
        RewardMix(TaskRewardConfig(mix={"validity": 1})).try_out(CONTEXT, (32, 32))


def test_every_reward_of_the_project_passes_the_trial() -> None:
    RewardMix(
        TaskRewardConfig(mix=dict.fromkeys(("miou", "dice", "accuracy", "boundary", "hausdorff"), 1.0))
    ).try_out(CONTEXT, (64, 64, 32))


@pytest.mark.parametrize("weight", [0, -1, float("inf"), float("nan")])
def test_weights_are_positive(weight: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        TaskRewardConfig(mix={"miou": weight})
