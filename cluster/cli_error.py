"""What the launcher tells a person who can do something about it."""


class CliError(Exception):
    """Something that stops the launcher. The message names cause and remedy; it is printed without a stack trace."""
