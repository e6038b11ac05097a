"""The small library that the notebooks of the course grow out of.

One module per chapter, in the same order: ``episodes`` and ``evaluation`` (01), ``prototypes`` (02), and so on.
``encoders``, ``training`` and ``data`` are shared by all chapters; ``course`` is what only a notebook needs.
"""

__version__ = "0.1.0"
