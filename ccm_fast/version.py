"""The one place that holds the version; read by the package, by pyproject.toml and by bug reports."""

__version__ = "0.1.0.dev0"
