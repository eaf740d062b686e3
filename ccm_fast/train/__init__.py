"""Training of the float models (extra: ``pip install ccm-fast[train]``)."""
