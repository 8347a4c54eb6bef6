"""How fast and how large: every part a function from options to figures, each a ratio to a baseline of the same run."""
