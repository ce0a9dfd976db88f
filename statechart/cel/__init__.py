"""The expression language: CEL's syntax over JSON values. `statechart.expressions` is its public face.

Read in this order: `errors` (where and why), `syntax` (text to nodes), `values` (what equality, order and number
mean), `meter` (what an evaluation may cost), `scope` (what it may read), `functions` with `times` and `patterns` (the
closed list), `compiler` with `members`, `arithmetic` and `macros` (nodes to closures).
"""
