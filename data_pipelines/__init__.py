"""A stream of documents, from piles of files to packed batches. Empty so far; `text.document` has the Document."""
