"""The web page: prompts from a browser, one after another before a generator.

  studio.py       the line of requests, and what became of them
  server.py       HTTP: who may ask, how much, and how
  connections.py  how many may be connected, and for how long
  page.py         what the browser shows
  assets.py       the page's style and script
"""
