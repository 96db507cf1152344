"""(placeholder while the phantom is being written)"""

from reward_data.types import Case, Config


class PhantomConfig(Config):
    cases: int = 1


def phantom_case(config: PhantomConfig, index: int) -> Case:
    raise NotImplementedError
