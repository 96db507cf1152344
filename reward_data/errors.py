"""Errors that a user can act on.

Rl4SegError                 one clear message: what was got, what was wanted, what to do next
├── DataError               input files or arrays that cannot be used
├── ConfigError             a configuration that cannot be run
└── ArtifactError           a stored artifact that is missing, broken or of another kind
"""

import errno

REFUSALS = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST,
    errno.EISDIR,
})  # fmt: skip
"""Error numbers by which the system refuses to write: a full disk, a missing permission, a file in the way."""


class Rl4SegError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""


class DataError(Rl4SegError):
    """Input files or arrays that cannot be used."""


class ConfigError(Rl4SegError):
    """A configuration that cannot be run."""


class ArtifactError(Rl4SegError):
    """A stored artifact that is missing, broken or of another kind."""
