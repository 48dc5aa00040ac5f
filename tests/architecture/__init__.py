"""The house keeps its own rules: sizes, names, directions of imports, locks, papers, the wheel."""
