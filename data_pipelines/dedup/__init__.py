"""Duplicates, and documents that evaluation sets hold: found across shards, the first of each kept.

exact: one digest a document.   minhash: near-duplicate text.   perceptual: near-duplicate pictures.
evaluation: what evaluation sets hold.   signatures: all of these for a shard, on disk.
decisions: which documents go, and for which original.   deduplication: the passes over shards.
"""
