"""Hooks of `make docs`: pages that lie outside of docs/, and the reference of the Python interface.

README.md becomes the first page. Links that lead out of the site, to source files, become the name of the file.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("FORMAT.md", "CHANGELOG.md")
_REFERENCE = """# Python interface

Every public name. `import ccm_fast` imports nothing else; each name is loaded at its first use.
"""


def reference() -> str:
    """The page of the Python interface: every name that the package exports, and the rANS coder."""
    from ccm_fast import _EXPORTS

    names = [f"::: {module}.{name}" for name, module in _EXPORTS.items()]
    return "\n\n".join([_REFERENCE, *names, "::: ccm_fast.rans", ""])


def relinked(markdown: str, of_readme: bool) -> str:
    """Links as they are in the site, whose pages lie in one folder.

    Args:
        markdown: the text of a page.
        of_readme: it is README.md or another file above docs/, else one in docs/.
    """

    def link(match: re.Match) -> str:
        text, target = match[1], match[2]
        path, hash_, anchor = target.partition("#")
        inside = re.sub(r"^docs/", "", path) if of_readme else re.sub(r"^\.\./", "", path)
        if not path or path.startswith("https://"):
            return match[0]
        if inside in OUTSIDE or (ROOT / "docs" / inside).exists():
            return f"[{text}]({inside}{hash_}{anchor})"
        if not (ROOT / ("" if of_readme else "docs") / path).exists():
            return match[0]  # a dead link: mkdocs says so
        return text if inside in text else f"{text} (`{inside}`)"

    return re.sub(r"\[([^\]\n]+)\]\(([^)\s]+)\)", link, markdown)


def on_files(files, config):
    """Adds README.md as the first page, FORMAT.md, CHANGELOG.md and the reference."""
    pages = {name: (ROOT / name).read_text(encoding="utf-8") for name in OUTSIDE}
    pages["index.md"] = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, text in pages.items():
        files.append(File.generated(config, name, content=relinked(text, True)))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links of pages in docs/; those of added pages are right already."""
    return markdown if page.file.generated_by else relinked(markdown, False)
