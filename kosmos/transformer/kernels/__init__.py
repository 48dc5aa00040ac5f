"""Compiled matrix products for x86 processors with AVX-512, built on first use.

products.cpp: the kernels. build: source -> library in the user's cache. products: tensors -> kernel calls.
"""
