from collections import Counter

import pytest
import torch
from torch import nn

from rl4seg.configs.augment import DegradeConfig
from rl4seg.rewards import mask_rewards
from rl4seg.target_data import Anchor
from tests.rl4seg.ppo_problem import RULES, TruthReward, accuracy, batch, config, learner


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.learning
@pytest.mark.parametrize("baseline", ["group", "critic"])
def test_the_known_best_mask_is_learned(baseline: str) -> None:
    subject = learner(config(baseline))
    before = accuracy(subject.policy)
    for index in range(80):
        subject.round(batch(index), [], generator(index))
    assert before < 0.7
    assert accuracy(subject.policy) > 0.95


@pytest.mark.learning
def test_a_wrong_sign_would_be_seen() -> None:
    # the same problem with the reward turned round ends at the opposite mask
    class Wrong(TruthReward):
        def score(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
            return 1 - super().score(images, masks)

    subject = learner(config("group"))
    subject.reward = Wrong()
    for index in range(80):
        subject.round(batch(index), [], generator(index))
    assert accuracy(subject.policy) < 0.05


@pytest.mark.parametrize("baseline", ["group", "critic"])
def test_equal_seeds_equal_weights(baseline: str) -> None:
    results = []
    for seed in (1, 1, 2):
        subject = learner(config(baseline))
        subject.round(batch(0), [], generator(seed))
        results.append(weights(subject.policy))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_round_changes_no_normalisation_statistics() -> None:
    subject = learner(config("group"), norm=True)
    before = {k: v.clone() for k, v in subject.policy.named_buffers()}
    assert before
    subject.round(batch(0), [], generator())
    for name, value in subject.policy.named_buffers():
        assert torch.equal(value, before[name]), name


def test_reference_and_reward_never_learn() -> None:
    subject = learner(config("critic", divergence=0.1))
    before = weights(subject.reference)
    subject.round(batch(0), [], generator())
    assert torch.equal(weights(subject.reference), before)
    assert not torch.equal(weights(subject.policy), before)


def test_passes_at_k_5_are_12_forward_and_10_backward() -> None:
    # lean form of the paper's step: the rollout's forward is update 1's, reference and reward are scored once
    subject = learner(config("critic", updates=5))
    passes: Counter[str] = Counter()
    assert subject.critic is not None
    for name, network in (
        ("policy", subject.policy),
        ("critic", subject.critic),
        ("reference", subject.reference),
    ):
        network.register_forward_hook(lambda *_, n=name: passes.update([f"{n} forward"]))
        if name != "reference":
            network.register_full_backward_hook(lambda *_, n=name: passes.update([f"{n} backward"]))
    subject.round(batch(0), [], generator())
    assert isinstance(subject.reward, TruthReward)
    passes["reward forward"] = subject.reward.calls
    assert passes == {
        "policy forward": 5,
        "critic forward": 5,
        "reference forward": 1,
        "reward forward": 1,
        "policy backward": 5,
        "critic backward": 5,
    }
    assert sum(n for k, n in passes.items() if "forward" in k) <= 12
    assert sum(n for k, n in passes.items() if "backward" in k) <= 10


def test_the_first_update_has_ratio_one() -> None:
    # with k = 1 the acting policy is the updated one: no clipping, no KL to itself
    row = learner(config("group", updates=1)).round(batch(0), [], generator())
    assert row["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert row["clip_fraction"] == 0


def test_group_advantage_acts_only_where_masks_disagree() -> None:
    subject = learner(config("group"))
    rollout, _ = subject.act(batch(0), torch.zeros(8, 2, 8, 8), subject.value(batch(0).images), generator())
    actions = rollout.actions.clone()
    actions[:, :, 0, 0] = 1
    gain, weight = subject.advantage(rollout._replace(actions=actions))
    assert weight[:, :, 0, 0].sum() == 0
    assert weight.sum() > 0
    assert gain.mean(1).abs().max().item() < 1e-5


def test_accepted_masks_become_actions_with_reward_one() -> None:
    subject = learner(config("critic", accepted_images="as_actions", divergence_in="loss"))
    data = batch(0)._replace(accepted=torch.tensor([True] + [False] * 7), truth=torch.ones(8, 8, 8).long())
    rollout, _ = subject.act(data, torch.zeros(8, 2, 8, 8), subject.value(data.images), generator())
    assert torch.equal(rollout.actions[0, 0], torch.ones(8, 8).long())
    assert rollout.reward[0].min() == 1
    assert rollout.reward[1:].min() == 0


@pytest.mark.parametrize("baseline", ["group", "critic"])
def test_accepted_images_left_to_the_anchor_have_no_advantage_and_keep_their_weight(baseline: str) -> None:
    # image 0 is accepted, image 1 is an expert's (accepted too), the others are unknown
    accepted, reviewed = torch.arange(8) < 2, torch.arange(8) == 1
    data = batch(0)._replace(accepted=accepted, reviewed=reviewed)
    gains = {}
    for what in ("left_to_anchor", "judged"):
        subject = learner(config(baseline, accepted_images=what))
        rollout, _ = subject.act(data, torch.zeros(8, 2, 8, 8), subject.value(data.images), generator())
        gains[what], weight = subject.advantage(rollout)
        assert weight[0].sum() > 0
    assert gains["judged"][0].abs().sum() > 0
    assert gains["left_to_anchor"][0].abs().sum() == 0
    assert torch.equal(gains["left_to_anchor"][1:], gains["judged"][1:])
    assert gains["left_to_anchor"][1].abs().sum() > 0


def test_divergence_in_the_reward_is_the_papers_penalty() -> None:
    # R - beta (log pi - log pi_ref): with pi = (.5, .5) and the reference's own logits known, checked per pixel
    penalised = learner(config("critic", divergence=0.4, divergence_in="reward"))
    data, logits = batch(0), torch.zeros(8, 2, 8, 8)
    rollout, _ = penalised.act(data, logits, penalised.value(data.images), generator())
    plain = (rollout.actions == (data.images > 0.5)).float()
    assert torch.allclose(rollout.reward, plain - 0.4 * (rollout.log_prob - rollout.log_prob_ref), atol=1e-6)


def test_the_anchor_alone_learns_the_anchor() -> None:
    subject = learner(config("group", policy_weight=0))
    images = batch(1).images
    anchor = Anchor(images, (images[:, 0] > 0.5).long())
    losses = [subject.anchor_round([anchor])["anchor_loss"] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    assert accuracy(subject.policy) > 0.9


def test_verdict_reward_is_one_value_for_all_pixels() -> None:
    total, valid = mask_rewards(
        config("group", reward={"verdict": 0.7, "learned": 0}).reward,
        torch.zeros(2, 1, 8, 8),
        torch.zeros(2, 3, 8, 8).long(),
        RULES,
        [(1.0, 1.0)] * 2,
        None,
    )
    assert valid.tolist() == [[1.0] * 3] * 2  # no rule, nothing to break
    assert total.unique().tolist() == pytest.approx([0.7])


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing would be learned"):
        config("group", policy_weight=0, anchor_weight=0)
    with pytest.raises(ValueError, match="samples must be at least 2"):
        config("group", samples=1)


def test_the_policy_acts_on_a_worse_view_than_reward_and_reference_see() -> None:
    changed = config("group", act_degrade=DegradeConfig(share=1), updates=1, advantage_scale=1e-6)
    one = learner(changed)
    images = batch(0)
    seen: dict[str, list[torch.Tensor]] = {"policy": [], "reference": []}
    for name, network in (("policy", one.policy), ("reference", one.reference)):
        network.register_forward_hook(lambda _, given, __, name=name: seen[name].append(given[0].clone()))
    one.round(images, [], generator())
    assert torch.equal(seen["reference"][0], images.images)
    assert not torch.allclose(seen["policy"][0], images.images, atol=1e-2)
