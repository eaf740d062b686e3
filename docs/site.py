"""Hooks of `make docs`: pages that lie outside of docs/, and the reference of the Python interface.

README.md becomes the first page. Links that lead out of the site, to source files, become the name of the file.
"""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("FORMAT.md", "SECURITY.md", "CHANGELOG.md")
_REFERENCE = """# Python interface

Every public name. `import ccm_fast` imports nothing else; each name is loaded at its first use.
"""


def reference() -> str:
    """The page of the Python interface: every name that the package exports, the rANS coder, and rectangles."""
    from ccm_fast import _EXPORTS

    names = [f"::: {module}.{name}" for name, module in _EXPORTS.items()]
    return "\n\n".join([_REFERENCE, *names, "::: ccm_fast.rans", "::: ccm_fast.region", ""])


def relinked(markdown: str, source: Path) -> str:
    """A page's links as they are in the site, which has README.md's and FORMAT.md's pages beside those of docs/.

    Args:
        markdown: the text of the page.
        source: its file in the repository.
    """
    docs = ROOT / "docs"
    page = docs if source.parent == ROOT else source.parent

    def link(match: re.Match) -> str:
        text, target = match[1], match[2]
        path, hash_, anchor = target.partition("#")
        to = (source.parent / path).resolve()
        if not path or path.startswith("https://") or not to.exists():
            return match[0]  # of a dead link mkdocs says so
        if to.parent == ROOT and to.name in OUTSIDE:
            to = docs / to.name
        if to.is_relative_to(docs):
            return f"[{text}]({os.path.relpath(to, page)}{hash_}{anchor})"
        name = to.relative_to(ROOT).as_posix()
        return text if name in text else f"{text} (`{name}`)"

    return re.sub(r"\[([^\]\n]+)\]\(([^)\s]+)\)", link, markdown)


def on_files(files, config):
    """Adds README.md as the first page, FORMAT.md, SECURITY.md, CHANGELOG.md and the reference."""
    for name, source in {"index.md": "README.md", **{name: name for name in OUTSIDE}}.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=relinked(text, ROOT / source)))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links of pages in docs/; those of added pages are right already."""
    return markdown if page.file.generated_by else relinked(markdown, Path(page.file.abs_src_path))
