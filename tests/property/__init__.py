"""unionfs compared with kernel overlayfs, and with the plain tree a union stands for.

`trees` draws and builds branches, `steps` draws operations, `operations` performs them on a mount
and `unmounted` on the union itself, `unions` mounts what is compared, `comparison` takes two of
them through a script in lock step, `machine` draws scripts and `minimise` cuts what fails.
"""
