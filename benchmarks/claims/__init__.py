"""The claims of the papers that fit small data, one command each: `python -m benchmarks.claims NAME…`.

`contents.py` is the table of contents. A claim says which configurations are compared, by which number, and which way the
difference must go (`claim.py`); the claims themselves are in `instance.py`, `nat.py`, `deepcluster.py`, `thesis.py` and
`few_labels.py`. `runner.py` trains every configuration and seed as an ordinary run, `measures.py` scores it,
`verdict.py` says what came of it, `table.py` writes that down. `table1.py` is the one whole table of the papers that a
single GPU can repeat.
"""
