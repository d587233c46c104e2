"""`scaling COMMAND`: the front doors under one name."""

import pytest

from scaling.cli import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_its_module(command: str, capsys) -> None:
    try:
        code = main([command, "--no_such_flag"])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert "no_such_flag" in capsys.readouterr().err


def test_help_lists_the_commands_and_a_wrong_one_is_told_the_right_one(capsys) -> None:
    assert main([]) == main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
    assert main(["swep"]) == 2
    assert "did you mean sweep?" in capsys.readouterr().err
