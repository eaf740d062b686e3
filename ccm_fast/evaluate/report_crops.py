"""Crops in the report: a slider between two codecs for every window, and all of them below it."""

from __future__ import annotations

from html import escape

__all__ = ["SCRIPT", "STYLE", "TEXT", "crops"]

TEXT = (
    "Windows of each image, from files of equal size: where a model of ours was measured, its file sets the size, and"
    " each codec gets the highest quality whose file is no larger (the smallest that it can make, where none is)."
    " Figures are of the whole image. The slider shows the left codec left of it, and the right one right of it."
)

STYLE = """
.crops { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 256px), 1fr)); gap: 1rem; }
.crops img { width: 256px; max-width: 100%; display: block; image-rendering: pixelated; background: var(--band); }
.compare { display: none; max-width: 512px; margin: .5rem 0 1rem; }
.compare.ready { display: block; }
.compare .pair { display: flex; justify-content: space-between; gap: .5rem; font-size: .9rem; }
.compare select { max-width: 49%; }
.stage { position: relative; }
.stage img { width: 100%; display: block; image-rendering: pixelated; }
.stage img + img { position: absolute; inset: 0; }
.stage hr { position: absolute; top: 0; bottom: 0; width: 0; margin: 0; border: 0; border-left: 2px solid #fff;
            mix-blend-mode: difference; }
.compare input { width: 100%; margin: .25rem 0; }
@media print { .compare.ready { display: none; } }
"""

SCRIPT = """
for (const box of document.querySelectorAll('.compare')) {
  const figures = [...box.nextElementSibling.querySelectorAll('figure')];
  const [left, right] = box.querySelectorAll('select'), [under, over] = box.querySelectorAll('img');
  const range = box.querySelector('input'), line = box.querySelector('hr');
  for (const select of [left, right])
    for (const f of figures) select.add(new Option(f.querySelector('b').textContent));
  left.selectedIndex = Math.min(1, figures.length - 1);
  right.selectedIndex = Math.min(2, figures.length - 1);
  const show = () => {
    under.src = figures[left.selectedIndex].querySelector('img').src;
    over.src = figures[right.selectedIndex].querySelector('img').src;
    over.style.clipPath = 'inset(0 0 0 ' + range.value + '%)';
    line.style.left = range.value + '%';
  };
  for (const part of [left, right, range]) part.addEventListener('input', show);
  box.querySelector('.stage').addEventListener('pointermove', (e) => {
    if (e.pointerType === 'mouse' && !e.buttons) return;
    const place = e.currentTarget.getBoundingClientRect();
    range.value = 100 * (e.clientX - place.left) / place.width;
    show();
  });
  box.classList.add('ready');
  show();
}
"""

_COMPARE = (
    '<div class="compare"><div class="pair"><select aria-label="Left"></select><select aria-label="Right"></select>'
    '</div><div class="stage"><img alt="Left of the slider" draggable="false"><img alt="Right of the slider"'
    ' draggable="false"><hr></div><input type="range" min="0" max="100" value="50" step="0.1"'
    ' aria-label="Where the two meet"></div>'
)


def crops(sheet: dict) -> str:
    """The part of one image, from :func:`ccm_fast.evaluate.crops.side_by_side`."""
    W, H = sheet["size"]
    about = f"{W}x{H}, {sheet['target']:,} bytes"
    parts = [f'<h3>{escape(sheet["image"])} <span class="faint">{about}</span></h3>']
    for window in sheet["windows"]:
        j, i = window["corner"]
        parts.append(f'<h4>{escape(window["name"])} <span class="faint">at ({j}, {i})</span></h4>')
        figures = [_figure(window["original"], "Original", "", sheet["image"])]
        for c, source in zip(sheet["crops"], window["crops"], strict=True):
            seen = "" if c["ms_ssim"] is None else f", MS-SSIM {c['ms_ssim']:.4f}"
            seen += "" if c.get("ssimulacra2") is None else f", SSIMULACRA2 {c['ssimulacra2']:.1f}"
            seen += "" if c.get("butteraugli") is None else f", Butteraugli {c['butteraugli']:.2f}"
            caption = f"<br>{c['bytes']:,} bytes, {c['bpp']:.3f} bpp<br>{c['psnr']:.2f} dB{seen}"
            figures.append(_figure(source, c["label"], caption, sheet["image"]))
        parts += [_COMPARE, '<div class="crops">' + "\n".join(figures) + "</div>"]
    return "\n".join(parts)


def _figure(source: str, title: str, caption: str, image: str) -> str:
    alt = escape(f"{title}, crop of {image}")
    return f'<figure><img src="{source}" alt="{alt}"><figcaption><b>{escape(title)}</b> {caption}</figcaption></figure>'
