"""The launcher's error, for the person at the command line."""


class CliError(Exception):
    """Something that stops the launcher. The message names cause and remedy; it is printed without a stack trace."""
