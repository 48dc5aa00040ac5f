"""Compiled matrix products for x86 processors with AVX-512, built on first use.

products.cpp: the kernels. build: source -> library in the user's cache. products: tensors -> kernel calls.
plan: which product for how many rows. quantized: 8- and 4-bit layers. memory: weights in large pages.
"""
