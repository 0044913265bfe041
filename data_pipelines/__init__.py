"""Clips and latents: made, read, packed. Above sora_jax, which never imports it.

  schema.py            what every dataset of clips holds
  datasets.py          datasets written whole or not at all
  shards.py            the same by many workers, shard by shard, resumed
  moving_shapes.py     the procedural world with its truth
  captioned_files.py   a user's folder: files and their captions
  media.py             one file of video or image -> clips, whatever is wrong with it
  limits.py            what clips look like, and what a file may cost
  shots.py             windows that do not cross cuts
  filters.py           which clips are worth training on
  spool.py             the clips of one file on disk
  isolated.py          calls that may hang or crash, in processes of their own
  ingest_report.py     what became of every file and clip
  ingest_page.py       what was kept and dropped, to look at
  pixels.py            decoded frames -> upright RGB
  rows.py              the order of the data: a stream per row
  records.py           records read with patience, bad ones left out and told of
  checks.py            what makes a record unusable
  ledger.py            was every clip given once in every epoch?
  crops.py             batches of crops, for the codec
  loader.py            latents -> PackedTokens, on Grain
  mixture.py           several datasets in one run, each at its own place
  builders/            TFDS builders
  jobs/                commands that make datasets, or look at them
"""
