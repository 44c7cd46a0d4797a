"""Cases for scripts/benchmarks/kernels.py, one file a family.

A file has a table ``CASES`` of functions by name. Such a function takes the name of a library and
returns two functions without arguments, one that computes the kernel and one that computes it with
its gradients; or None where the library has no such kernel.
"""
