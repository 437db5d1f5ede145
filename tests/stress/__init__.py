"""A mixed load of many processes on one tree, and a check of the tree afterwards.

In the manner of fsstress (SGI, 1995), written for this project. Run it on any directory:

    python -m tests.stress DIRECTORY --processes 100 --seconds 3600 --seed 7
"""
