"""The one error that reaches a person: what is wrong and where, and what to do about it."""


class InputError(Exception):
    """Bad input from outside: a file, a recipe, a command line, a model folder.

    `what` is one sentence saying what is wrong and where; `do` is one sentence saying what to do.
    The command line prints both and exits with code 2, without a traceback.
    """

    def __init__(self, what: str, do: str):
        super().__init__(what, do)
        self.what = what
        self.do = do

    def __str__(self) -> str:
        return f"{self.what} {self.do}"
