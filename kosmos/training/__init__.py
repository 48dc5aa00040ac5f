"""Training: recipes, the loop and what it trains; `planning` reckons a run, `builtin` is that of `tiny`."""
