"""The judge: unionfs beside every union filesystem found here, in one run.

``python -m benchmarks --help`` explains the command; ``docs/performance.md`` explains the method
and keeps a record for each version. Nothing is installed and no timing decides a test.
"""
