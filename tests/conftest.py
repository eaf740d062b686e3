"""Fixtures of several test files."""

import pytest
import tiny
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    """A folder of two pictures of different sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for k, size in enumerate(((168, 176), (171, 165))):
        Image.fromarray(tiny.photo(*size, k)).save(folder / f"{k}.png")
    return folder
