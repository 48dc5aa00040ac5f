"""Words in, ids out, and back.

document: the one currency of the house, words and pictures in reading order.
specials: the printed names of the special tokens.
tokenizer: SentencePiece words and named special tokens.
"""
