"""The expression language: CEL's syntax over JSON values. `statechart.expressions` is its public face.

Read in this order: `errors` (where and why), `syntax` (text to nodes), `values` (what equality, order and number
mean), `meter` (what an evaluation may cost), `times`, `functions` (the closed list), `compiler` (nodes to closures).
"""
