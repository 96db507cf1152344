"""Configuration files: what is read, what is refused and in which words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from flows import config_loader
from flows.config import AutoIterationConfig
from flows.config_loader import dump_config, json_schema, load_config
from reward_data.errors import ConfigError
from reward_data.types import Config


class Noise(Config):
    kind: Literal["noise"] = "noise"
    sigma: float = Field(default=0.1, ge=0, description="Noise level.")


class Swap(Config):
    kind: Literal["swap"] = "swap"
    other: str = "a"


class Rules(Config):
    name: str = "lv"
    limits: tuple[float, float] = (0.0, 1.0)


class PPO(Config):
    entropy: float = Field(default=0.005, ge=0, description="Entropy bonus.")
    clip: float = Field(default=0.2, gt=0, lt=1, description="eps of the clipped surrogate.")
    baseline: Literal["group", "critic"] = "group"
    samples: int = 4

    @model_validator(mode="after")
    def _enough(self) -> PPO:
        if self.samples < 2:
            raise ValueError("samples must be at least 2")
        return self


class Run(Config):
    name: str = "run"
    seed: int = 0
    ppo: PPO = PPO()
    shape: tuple[int, ...] = (64, 64)
    merge: dict[int, int] = Field(default_factory=dict)
    checkpoint: str | None = None
    rules: str | Rules = "lv_myo"
    damage: Annotated[Noise | Swap, Field(discriminator="kind")] = Noise()
    steps: list[Annotated[Noise | Swap, Field(discriminator="kind")]] = Field(default_factory=list)
    maybe: Noise | None = None


def load(tmp_path: Path, text: str = "", *overrides: str) -> Run:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(str(path), list(overrides), Run)


def problems(tmp_path: Path, text: str = "", *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path) == Run()


def test_yaml_and_overrides_later_wins(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "ppo: {entropy: 1e-3, clip: 0.1}\nshape: [8, 8]\nmaybe:",
        "ppo.entropy=2e-4",
        "ppo.entropy=3e-4",
        "shape=[32, 16]",
        "merge={3: 0}",
        "checkpoint=null",
        "name=1e-3x",
        "damage={kind: swap, other: b}",
        "maybe.sigma=1",
        "steps=[{kind: noise}]",
    )
    assert config.ppo == PPO(entropy=3e-4, clip=0.1)
    assert (config.shape, config.merge, config.checkpoint, config.name) == ((32, 16), {3: 0}, None, "1e-3x")
    assert (config.damage, config.maybe, config.steps) == (Swap(other="b"), Noise(sigma=1), [Noise()])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),  # YAML 1.1 would read a string
        ("-1.5E+2", -150.0),
        (".5", 0.5),
        ("1_0", "1_0"),  # YAML 1.1 would read 10
        ("010", 10),  # YAML 1.1 would read octal 8
        ("1:30", "1:30"),  # YAML 1.1 would read 90
        ("off", "off"),  # YAML 1.1 would read false
        ("2024-01-01", "2024-01-01"),  # YAML 1.1 would read a date
        ("true", True),
        ("~", None),
        ("''", ""),
        ("'1'", "1"),
        ("*.png", "*.png"),  # an alias to YAML
        ("a: b", "a: b"),  # a mapping to YAML
        ("../x/Dataset101_A4C", "../x/Dataset101_A4C"),
        (r"^(patient\d+)_", r"^(patient\d+)_"),
        ("a=b", "a=b"),
    ],
)
def test_override_values(text: str, value: object) -> None:
    data: dict[str, object] = {}
    config_loader._override(data, f"key={text}")
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


def test_override_into_list_and_integer_key(tmp_path: Path) -> None:
    text = "merge: {3: 0}\nsteps: [{kind: noise}, {kind: swap}]"
    config = load(tmp_path, text, "merge.3=1", "merge.4=0", "steps.1.other=z")
    assert config.merge == {3: 1, 4: 0}
    assert config.steps == [Noise(), Swap(other="z")]


def test_unknown_key_names_path_closest_match_and_allowed(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "ppo: {entrpy: 0.1}")
    assert line == (
        "unknown key ppo.entrpy; did you mean ppo.entropy? allowed in ppo: baseline, clip, entropy, samples"
    )


def test_unknown_key_of_an_override_that_lives_elsewhere(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "", "entropy=0.1")
    assert line.startswith("unknown key entropy; did you mean ppo.entropy? allowed: checkpoint, damage,")


def test_unknown_keys_in_unions_have_no_tags_in_their_path(tmp_path: Path) -> None:
    lines = problems(
        tmp_path,
        "damage: {kind: noise, sigm: 1}\nrules: {nme: x}\nsteps: [{kind: swap, othr: c}]\nmaybe: {sigmaa: 1}",
    )
    assert [line.split("? ")[0] for line in lines] == [
        "unknown key rules.nme; did you mean rules.name",
        "unknown key damage.sigm; did you mean damage.sigma",
        "unknown key steps.0.othr; did you mean steps.0.other",
        "unknown key maybe.sigmaa; did you mean maybe.sigma",
    ]


def test_all_problems_at_once_with_got_and_wanted(tmp_path: Path) -> None:
    lines = problems(
        tmp_path,
        "ppo: {clip: 1.5, baseline: grup}\nshape: [8, x]\nseed: 1\nmerge: {a: 0}\nseed: 2",
        "ppo.entropy=-1",
        "nonsense",
        "name.first=x",
        "damage.kind=nose",
        "seed=1.5",
    )
    text = "\n".join(lines)
    assert "key seed is given twice, on lines 3 and 5; keep one of them" in text
    assert "override 'nonsense': wanted key.sub=value" in text
    assert "ppo.entropy: got -1, wanted greater than or equal to 0 (Entropy bonus.)" in lines
    assert "ppo.clip: got 1.5, wanted less than 1 (eps of the clipped surrogate.)" in lines
    assert "ppo.baseline: got 'grup', wanted 'group' or 'critic'; did you mean group?" in lines
    assert any(line.startswith("shape.1: got 'x', wanted a valid integer") for line in lines)
    assert any(line.startswith("merge.a: got 'a', wanted a valid integer") for line in lines)
    assert "damage.kind: got nose, wanted one of noise, swap; did you mean noise?" in lines
    assert any(line.startswith("name: got {'first': 'x'}, wanted a valid string") for line in lines)
    assert any(line.startswith("seed: got 1.5, wanted a valid integer") for line in lines)
    assert len(lines) == 10


def test_rule_between_keys_names_the_section(tmp_path: Path) -> None:
    assert problems(tmp_path, "ppo: {samples: 1}") == ["ppo: samples must be at least 2"]


def test_missing_key_and_missing_kind(tmp_path: Path) -> None:
    class Needs(Config):
        path: str = Field(description="Folder of the cases.")
        damage: Annotated[Noise | Swap, Field(discriminator="kind")]

    path = tmp_path / "a.yaml"
    path.write_text("damage: {sigma: 1}")
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), [], Needs)
    assert "path: missing (Folder of the cases.); add it" in str(caught.value)
    assert "damage.kind: got nothing, wanted one of noise, swap" in str(caught.value)


def test_override_below_a_value_is_refused(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "name: abc", "name.x=1")
    assert line == "override 'name.x=1': name is 'abc', which has no name.x"


def test_override_list_index_out_of_range(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "steps: [{kind: noise}]", "steps.1.sigma=1")
    assert "list index '1', wanted 0..0" in line


def test_repeated_nested_key_has_its_path(tmp_path: Path) -> None:
    assert (
        "key ppo.clip is given twice, on lines 2 and 3"
        in problems(tmp_path, "ppo:\n  clip: 0.1\n  clip: 0.2\n")[0]
    )


def test_merge_keys_may_be_overridden_without_being_repeats(tmp_path: Path) -> None:
    text = "damage: &d {kind: noise, sigma: 1}\nmaybe: {<<: *d, sigma: 2}\nsteps: [*d]"
    assert load(tmp_path, text).maybe == Noise(sigma=2)


def test_base_is_merged_deeply(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "root.yaml").write_text("seed: 7\ndamage: {kind: noise, sigma: 3}")
    (tmp_path / "sub" / "middle.yaml").write_text(
        "base: root.yaml\nppo: {clip: 0.1, entropy: 1}\nshape: [4, 4]"
    )
    config = load(tmp_path, "base: sub/middle.yaml\nppo: {entropy: 2}\nshape: [9]\ndamage: {kind: swap}")
    assert config == Run(seed=7, ppo=PPO(clip=0.1, entropy=2), shape=(9,), damage=Swap())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: gone.yaml", "no such file"),
        ("base: run.yaml", "inherits from itself"),
        ("[1, 2]", "got a list, wanted a mapping"),
        ("a: [", "not readable as YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not readable as YAML"),
        ("a: 1\n---\nb: 2", "not readable as YAML"),
    ],
)
def test_unusable_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
        load_config(str(tmp_path / "run.yaml"), [], Run)


def test_presets_by_name_and_closest_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "demo.yaml").write_text("seed: 5")
    monkeypatch.setattr(config_loader, "ROOTS", (tmp_path, tmp_path / "absent"))
    assert load_config("loop/demo", ["seed=6"], Run).seed == 6
    assert load_config("loop/demo.yaml", [], Run).seed == 5
    for wrong in ("loop/demmo", "demo"):
        with pytest.raises(ConfigError, match=rf"no configuration '{wrong}'.*did you mean loop/demo\?"):
            load_config(wrong, [], Run)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12) | st.sampled_from(
    [
        "1e-3",
        "010",
        "off",
        "null",
        "",
        "~",
        "1_0",
        ".5",
        "a: b",
        "#",
        "[x",
        "0x1F",
        "<<",
        "2024-01-01",
        "1e5",
        "5e-05",
    ]
)


@given(
    name=texts,
    checkpoint=st.none() | texts,
    entropy=st.floats(min_value=0, allow_nan=False),
    shape=st.lists(st.integers(), max_size=3),
    merge=st.dictionaries(st.integers(), st.integers(), max_size=3),
    damage=st.builds(Noise, sigma=st.floats(0, 10)) | st.builds(Swap, other=texts),
)
def test_dump_round_trips(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    checkpoint: str | None,
    entropy: float,
    shape: list[int],
    merge: dict[int, int],
    damage: Noise | Swap,
) -> None:
    config = Run(
        name=name,
        checkpoint=checkpoint,
        ppo=PPO(entropy=entropy),
        shape=tuple(shape),
        merge=merge,
        damage=damage,
        steps=[damage, damage],
        rules=Rules(name=name),
    )
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    text = dump_config(config)
    path.write_text(text, encoding="utf-8")
    assert load_config(str(path), [], Run) == config
    assert dump_config(load_config(str(path), [], Run)) == text


def test_dump_is_readable() -> None:
    text = dump_config(Run(merge={3: 0}))
    assert "shape: [64, 64]\n" in text
    assert "merge:\n  3: 0\n" in text
    assert yaml.safe_load(text)["ppo"]["clip"] == 0.2


def test_schema_has_descriptions() -> None:
    assert (
        json_schema(Run)["$defs"]["PPO"]["properties"]["clip"]["description"]
        == "eps of the clipped surrogate."
    )


def test_import_needs_no_heavy_library() -> None:
    code = "import sys, flows.config_loader; print(' '.join(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "torch" not in out
    assert "prefect" not in out
    assert "matplotlib" not in out


def test_an_override_of_an_alias_changes_one_place() -> None:
    config = load_config("auto_iteration/paper", ["policy.network.fold=2"], AutoIterationConfig)
    assert (config.policy.network.fold, config.reward_net.network.fold, config.ppo.critic.fold) == (2, 1, 1)
