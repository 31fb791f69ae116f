"""The one error a user can cause."""


class SaeError(Exception):
    """Bad input or a missing file, told in one sentence: what is wrong and what to do.

    The command line prints the sentence and exits with status 2. Any other
    exception is a bug and keeps its traceback.
    """
