"""Claims of the papers, tested again at a size that a small machine can bear; each is one file.

claims: name -> claim.  runs: a folder of runs that are done once.  language: small language models on real text.
report: tables and intervals.  plot: their curves.  stability, extrapolation, resolution, experts, translation: claims.
"""
