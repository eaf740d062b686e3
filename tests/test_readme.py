"""README: its figures are those of the result files, and its Python example runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))


def test_figures_agree_with_the_result_files():
    result = subprocess.run(
        [sys.executable, "benchmarks/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def scaling_case(width, threads):
    times = {"median": width / 1e4, "best": 0.1, "spread": 0.0, "seconds": []}
    sizes = {"width": width, "height": width, "batch": 1, "threads": threads, "peak_bytes": 3 * 10**8}
    return {**sizes, "entropy": times, "decompress": times}


def test_sections_and_plots_come_with_their_results(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import figures
    import tables
    import tables_bench

    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    made = tables_bench
    sections = (made.coders, made.scaling, made.kernels, made.limits, made.plots)
    assert [make() for make in sections] == [""] * 5
    assert all(figures.agrees(file, tmp_path, tmp_path) for file in figures.TITLES)
    environment = {"cpu": "C", "cores": 1, "kernels": "avx2,scalar", "torch": "2"}
    result = {"environment": environment, "model": "m", "base_bytes": 10**8}
    result["cases"] = [scaling_case(w, t) for t in (1, 2) for w in (256, 512)]
    (tmp_path / "scaling_cpu.json").write_text(json.dumps(result))
    assert "| 512x512 | 1 | 2 | 51 | 51 | 195 | 300 | 200 |" in made.scaling()
    assert "scaling.svg" in made.plots() and not figures.agrees("scaling.svg", tmp_path, tmp_path)
    figures.write("scaling.svg", tmp_path, tmp_path)
    assert figures.agrees("scaling.svg", tmp_path, tmp_path)
    result["cases"][0]["entropy"]["median"] = 1.0
    (tmp_path / "scaling_cpu.json").write_text(json.dumps(result))
    assert not figures.agrees("scaling.svg", tmp_path, tmp_path)


def test_python_example():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    scope = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["x_hat"].shape == scope["x"].shape


@pytest.mark.parametrize("file", ["README.md", *(f"docs/{p.relative_to(ROOT / 'docs')}" for p in DOCS)])
def test_links_lead_somewhere(file):
    for link in re.findall(r"\]\(([^)#\s]+)", (ROOT / file).read_text()):
        if not link.startswith("https://"):
            assert (ROOT / file).parent.joinpath(link).exists(), f"{file}: {link}"


def test_readme_is_one_screen_and_leads_to_every_document():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) < 120
    shown = set(re.findall(r"\]\(docs/([^)#]+)", readme))
    linked = {link for p in DOCS for link in re.findall(r"\]\(([^)#/]+\.md)", p.read_text())}
    assert {p.name for p in DOCS if p.parent.name == "docs"} <= shown | linked
