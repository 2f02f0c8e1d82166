"""A tenth of what corrupt_inputs.py tries when it is run by hand."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_damaged_input_is_refused() -> None:
    """In a process of its own: it forks, which is not for one with pytest's threads."""
    script = str(ROOT / "tests" / "corrupt_inputs.py")
    argv = [sys.executable, script, "--cases", "195", "--commands", "5"]
    end = subprocess.run(argv, capture_output=True, text=True)
    assert end.returncode == 0, end.stdout + end.stderr
    refused = re.search(r"refused: (\d+)", end.stdout)
    assert refused and int(refused[1]) >= 100, end.stdout  # not everything was harmless
