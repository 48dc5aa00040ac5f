"""Shards to packed batches, deterministic and resumable: one file a stage, data flowing down this list.

documents: the documents of a component by number.   order: which number comes n-th in a lane.
blend: which component comes next.   reading: samples to rows, bad ones counted.   packing: rows into a budget.
lane: these stages in a row, and their state of a few integers.   dealing: which lane gives which batch to whom.
workers: lanes in processes of their own.   loader: the whole.   encoder: what the model's side hands in.
"""
