"""A stream of documents. sources: formats of others, one file each; the shards and their loader are still to come."""
