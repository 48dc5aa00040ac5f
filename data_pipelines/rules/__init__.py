"""Rules of `kosmos data filter`: each a small function that keeps, changes or drops a document; `table` lists them all.

rule: what a rule is.   pictures: size, shape, plainness, damage.   interleaved: Kosmos-1's rules for pages.
spam: meaningless pieces of text.   captions: pairs of picture and words.   language: which one a text is in.
quality, repetition: Gopher's rules for text.
"""
