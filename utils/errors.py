"""The one base class of errors that a user can do something about."""


class UserError(Exception):
    """Wrong input: the message says in one sentence what was wrong, what was found and what to do."""
