"""The Foundation Transformer (Magneto) with xPos, usable alone.

config: shapes. positions: sinusoids and xPos. linear: the one matrix product. feedforward, block, stack: the decoder.
initialisation: the paper's gains and the released code's. attention: how rows attend (packed, cross, paged), with
groups (what attends together), tiles (the bit-equal way) and cache (pages, allocator, fork).
"""
