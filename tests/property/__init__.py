"""unionfs compared with kernel overlayfs, operation by operation.

`trees` draws and builds branches, `operations` draws and performs single steps, `unions` mounts
what is compared, `comparison` runs a script of steps on two mounts in lock step.
"""
