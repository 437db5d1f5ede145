"""Container engines in namespaces of their own, for the tests and for the benchmarks.

`bed` makes the namespaces, `engines` puts podman and buildah over a storage driver into them,
`images` writes images from nothing. None of it needs a network or systemd; all of it needs root.
`memory` tells what a process holds.
"""
