"""Configs of comparisons and ablations: seeds, rivals, variants, names, and which pipeline a config is for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from flows.ablation_config import AblateConfig, folder_name, load_study
from flows.ablation_config import check as check_ablation
from flows.command_line import as_ablation, as_comparison, load
from flows.compare_config import CompareConfig, check
from flows.config import AutoIterationConfig
from flows.config_loader import dump_config, load_config
from flows.pipelines import PIPELINES, pipeline_named, pipeline_of
from flows.presets import ROOTS
from reward_data.errors import ConfigError
from tests.flows import tiny

DEMO = "auto_iteration/demo"
STUDIES = sorted(path.stem for path in (ROOTS[0] / "ablation").glob("*.yaml"))


def comparison(*overrides: str) -> CompareConfig:
    config = as_comparison(DEMO, list(overrides))
    assert isinstance(config, CompareConfig)
    return config


def ablation(study: str, *overrides: str) -> AblateConfig:
    config = as_ablation(DEMO, study, list(overrides))
    assert isinstance(config, AblateConfig)
    return config


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_every_rival_runs_unless_it_is_switched_off() -> None:
    rivals = comparison("rivals.tent=false").rivals
    assert not rivals.tent
    assert rivals.mean_teacher
    assert rivals.self_training
    assert rivals.ppo_off
    assert rivals.upper_bound
    assert rivals.tent_training == AutoIterationConfig.model_fields["rivals"].default.tent_training


@pytest.mark.parametrize(
    ("given", "wanted"), [("0,1,2", (0, 1, 2)), ("7", (7,)), ("[3, 1]", (3, 1)), ("0, 1,", (0, 1))]
)
def test_seeds_as_the_command_line_has_them(given: str, wanted: tuple[int, ...]) -> None:
    assert comparison(f"seeds={given}").seeds == wanted


@pytest.mark.parametrize("given", ["1,1", "-1", "[]", "a", "2147483648"])
def test_other_seeds_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="seeds"):
        comparison(f"seeds={given}")


def test_a_seed_beside_the_seeds_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed=3, but compare runs the seeds of seeds=0,1,2"):
        comparison("seed=3")


def test_every_seed_is_a_plain_run_in_a_folder_of_its_own_with_the_same_store() -> None:
    parts = comparison("seeds=4,5", "output=here").parts()
    assert [part.seed for part in parts] == [4, 5]
    assert [part.run_folder for part in parts] == [
        Path("here/demo-compare/seed-4"),
        Path("here/demo-compare/seed-5"),
    ]
    assert all(type(part) is AutoIterationConfig and part.store == "here/store" for part in parts)
    assert parts[0].pipeline == "auto-iteration"
    plain = load_config(DEMO, ["seed=4"], AutoIterationConfig)
    same = set(AutoIterationConfig.model_fields) - {"name", "output", "store", "rivals"}
    assert all(getattr(parts[0], name) == getattr(plain, name) for name in same)


def test_the_upper_bound_is_left_out_without_target_labels(tmp_path: Path) -> None:
    config = tiny.write_config(tmp_path)
    made = as_comparison(str(config), ["seeds=0"])
    assert isinstance(made, CompareConfig)
    check(made)
    assert made.parts()[0].rivals.upper_bound
    shutil.rmtree(tmp_path / "target" / "labelsTr")
    check(made)
    assert not made.parts()[0].rivals.upper_bound


def test_a_comparison_has_a_name_of_its_own() -> None:
    assert comparison().name == "demo-compare"
    assert comparison("name=mine").name == "mine"
    assert as_comparison("compare/demo", []).name == "demo-compare"


# --- ablations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_can_run_and_says_what_it_asks(name: str) -> None:
    config = ablation(name, "seeds=0,1")
    assert config.study.name == name
    assert config.name == f"demo-{name}"
    check_ablation(config)
    parts = config.parts()
    assert [part.seed for part in parts] == sorted([0, 1] * len(config.study.variants))
    assert len({part.config.run_folder for part in parts}) == len(parts)
    changed = [
        part.config.model_dump(exclude={"name", "output"}) for part in parts[: len(config.study.variants)]
    ]
    assert all(a != b for i, a in enumerate(changed) for b in changed[:i]), "two variants are the same run"
    header = (ROOTS[0] / "ablation" / f"{name}.yaml").read_text().partition("name:")[0]
    for entry in ("# Question", f"# Command   rl4seg ablate auto_iteration/demo {name}", "# Gave"):
        assert entry in header


def study_file(folder: Path, **variants: object) -> str:
    path = folder / "study.yaml"
    path.write_text(
        yaml.safe_dump({"name": "mine", "question": "Why?", "variants": variants}, sort_keys=False)
    )
    return str(path)


def test_a_study_is_read_from_a_file_and_its_values_are_set(tmp_path: Path) -> None:
    changes = {"ppo.entropy": 0.5, "ppo.reward": {"learned": 0.25}}
    config = ablation(study_file(tmp_path, base={}, other=changes))
    base, other = (part.config for part in config.parts()[:2])
    assert (other.ppo.entropy, other.ppo.reward.learned, other.ppo.reward.verdict) == (
        0.5,
        0.25,
        base.ppo.reward.verdict,
    )
    assert base.ppo == load_config(DEMO, [], AutoIterationConfig).ppo
    assert not any(value for value in base.rivals.model_dump().values() if isinstance(value, bool))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ppo.entropi": 1}, "variant 'bad': unknown key ppo.entropi; did you mean ppo.entropy?"),
        ({"ppo.clip": 7}, "variant 'bad': ppo.clip: got 7"),
        ({"target.path": "x"}, "variant 'bad': target.path is the same for all variants"),
        ({"seed": 3}, "variant 'bad': seed is the same for all variants"),
    ],
)
def test_a_variant_that_cannot_run_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ablation(study_file(tmp_path, base={}, bad=changes))
    assert message in str(refused.value)


def test_one_variant_is_no_study_and_two_of_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="variants"):
        ablation(study_file(tmp_path, base={}))
    with pytest.raises(ConfigError, match="different names"):
        ablation(study_file(tmp_path, **{"no PPO": {}, "no-ppo": {"ppo.policy_weight": 0.0}}))
    with pytest.raises(ConfigError, match="no shipped config 'ablation/nothing'"):
        load_study("nothing")


def test_numbers_may_be_labels(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: n\nquestion: q\nvariants: {16: {}, 0.5: {ppo.entropy: 0.5}}\n")
    assert list(load_study(str(path)).variants) == ["16", "0.5"]
    assert folder_name("no critic (paper)") == "no-critic-paper"


def test_a_fifth_of_the_target_is_held_back_where_nothing_is() -> None:
    assert ablation("critic", "target.validation_fraction=0").target.validation_fraction == 0.2
    assert ablation("critic", "target.validation_fraction=0.3").target.validation_fraction == 0.3


def test_an_ablation_without_held_back_images_is_refused() -> None:
    config = load_config("ablate/demo", ["target.validation_fraction=0", "study=critic"], AblateConfig)
    with pytest.raises(ConfigError, match=r"holds no image back.*target.validation_fraction=0.2"):
        check_ablation(config)


# --- which pipeline --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_a_preset_and_a_run_folder_know_their_pipeline(pipeline, tmp_path: Path) -> None:
    config = load(pipeline.preset, [])
    assert type(config) is pipeline.config()
    assert pipeline_of(config) == pipeline
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(config))
    assert load(str(saved), []) == config


def test_the_folder_of_a_shipped_config_names_its_pipeline() -> None:
    text = (ROOTS[0] / "auto_iteration" / "demo.yaml").read_text()
    assert "pipeline" not in text
    assert load(DEMO, []).pipeline == "auto-iteration"
    with pytest.raises(ConfigError, match=r"is a study, not a run.*rl4seg ablate auto_iteration/demo critic"):
        load("ablation/critic", [])


def test_a_config_of_an_older_run_loads(tmp_path: Path) -> None:
    values = yaml.safe_load(dump_config(load_config(DEMO, [], AutoIterationConfig)))
    del values["pipeline"], values["rivals"]
    values["controls"] = {"ppo_off": False, "logit_bias": True, "upper_bound": True}
    folder = tmp_path / "compare"  # a user's folder says nothing
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    config = load(str(folder / "config.yaml"), [])
    assert type(config) is AutoIterationConfig
    assert (config.rivals.ppo_off, config.rivals.upper_bound, config.rivals.tent) == (False, True, False)


def test_an_unknown_pipeline_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 'compar', wanted one of .*did you mean compare\?"):
        load(DEMO, ["pipeline=compar"])
    with pytest.raises(ConfigError, match="read as a config of the pipeline auto-iteration"):
        load_config("compare/demo", [], AutoIterationConfig)
    assert pipeline_named("compare", "").config() is CompareConfig
