"""The one exception that stands for a mistake of the user's rather than a fault of the program."""


class UserError(Exception):
    """Something the user gave cannot be used.

    The message is one line: what was wrong, where, and what to do. The command line prints it and exits with 2;
    a program may catch it like any other exception.
    """
