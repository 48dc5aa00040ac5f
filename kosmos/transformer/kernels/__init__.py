"""Compiled kernels for x86 processors with AVX2 or AVX-512, built on first use.

native/: their C++. build: sources -> library in the user's cache. products, paged_attention: tensors -> kernel calls.
plan, fp32: which product for how many rows. quantized: 8- and 4-bit layers. memory: weights in large pages, pages kept.
training: what a training step does between its products.
"""
