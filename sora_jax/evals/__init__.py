"""What a model learnt.

  shapes_world.py    words, captions and geometry of moving shapes
  shapes_checker.py  reads color, shape and motion off a video
  reconstruction.py  PSNR, SSIM, flicker of a codec
  pca.py             the best linear codec, for comparison
  demo_report.py     gathers what a demo found
  report.py          the page
  html_page.py       safe HTML, and files inside it
  curve_plots.py     training curves, light and dark
"""
