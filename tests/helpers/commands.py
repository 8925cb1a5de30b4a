"""Run the command line inside a test."""

import pytest

from equipoise.cli.main import main


def run(*arguments) -> None:
    """Run ``equipoise`` with these arguments."""
    main([str(argument) for argument in arguments])


def output(capsys) -> str:
    """Everything printed since the last call, on one line and without table borders."""
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).replace("│", " ").split())


def refused(capsys, *arguments, status: int = 2) -> str:
    """Run a command that must end with this exit status, and return what it printed."""
    with pytest.raises(SystemExit) as exit_info:
        run(*arguments)
    printed = output(capsys)
    assert exit_info.value.code == status
    assert "Traceback" not in printed
    return printed


def shown_help(capsys, *arguments) -> str:
    """Print a help text, and return it."""
    with pytest.raises(SystemExit) as exit_info:
        run(*arguments)
    assert exit_info.value.code == 0
    return capsys.readouterr().out
