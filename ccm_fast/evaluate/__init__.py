"""Rate and distortion of our models and of the codecs that a user would otherwise take: ``ccm-fast eval``.

    codecs.py    one interface to all of them: bytes from pixels, pixels from bytes
    metrics.py   PSNR, MS-SSIM, SSIMULACRA2, Butteraugli, with their conventions
    measure.py   every codec, image and setting, once: a cache that survives interruptions
    curves.py    averages, CompressAI's result format, published curves, BD-rates
    plots.py     curves as PNG and SVG
    report.py    one HTML file with everything, crops at equal size included

Needs the ``eval`` extra; the codecs outside of Pillow need the ``codecs`` extra too, and are left out without it.
"""
