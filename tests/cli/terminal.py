"""Running the command line in this process, and what a refusal looks like."""

import sys

import pytest

from unlearn import cli

FAST = ["--scenario", "digits/class=3,epochs=2", "--metrics", "accuracy,mia"]


def call(capsys, monkeypatch, *argv):
    """Runs the command in this process; its exit code, output and error output."""
    monkeypatch.setattr(sys, "argv", ["unlearn", *map(str, argv)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def refused(result, *words):
    """Exit code 2, one line on standard error that holds these words, no traceback."""
    code, out, err = result
    assert code == 2, (out, err)
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert "Pydantic" not in err
    for word in words:
        assert word in err
