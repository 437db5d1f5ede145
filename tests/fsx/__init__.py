"""A file exerciser: random operations on one file, compared with a model in memory.

After the idea of fsx by Avadis Tevanian (Apple, 1991), written anew. Run it on any directory:

    python -m tests.fsx DIRECTORY --ops 1000000 --seed 7
"""
