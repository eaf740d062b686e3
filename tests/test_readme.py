"""README: its figures are those of the result files, and its Python example runs."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_figures_agree_with_the_result_files():
    result = subprocess.run(
        [sys.executable, "benchmarks/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_python_example():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    scope = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["x_hat"].shape == scope["x"].shape


def test_links_lead_somewhere():
    for file in ("README.md", "docs/model_card.md", "docs/architecture.md"):
        for link in re.findall(r"\]\(([^)#]+)", (ROOT / file).read_text()):
            assert (ROOT / file).parent.joinpath(link).exists(), f"{file}: {link}"
