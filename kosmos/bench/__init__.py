"""Speed, measured beside peers and the machine's limits in the same run.

figure: one result and how it is printed. timing: contestants in turn. floors: what the machine could do at best.
random_weights: models of any preset without a file. peer: Kosmos-2 of transformers. decode: the bench `decode`.
"""
