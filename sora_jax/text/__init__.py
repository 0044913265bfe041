"""Captions -> embeddings.

  tokenizers.py   words or bytes -> ids, nothing to download
  encoder.py      the small encoder that is trained along
  pretrained.py   T5, UMT5 and CLIP, to embed captions beforehand
  stored.py       captions that were embedded beforehand
"""
