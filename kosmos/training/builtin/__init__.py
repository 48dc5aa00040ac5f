"""The built-in model `tiny`: its corpus, the stored features of its eye, its words, its two stages, its card."""
