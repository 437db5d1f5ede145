# cython: language_level=3
"""Directories whose lower content lies under another name (overlayfs.rst, "redirect_dir")."""
from libc.stdint cimport uint16_t

from unionfs._nodes cimport Node, Table

cdef enum:
    REDIRECT_SIZE = 4096

# The redirect of a directory into `value` (REDIRECT_SIZE bytes): its length, 0 without one, -errno.
cdef int redirect_read(Table *t, int dirfd, char *value) noexcept nogil
cdef int redirect_write(Table *t, int dirfd, const char *value) noexcept nogil
# Where an upper directory lies in the union of the lowers, as a redirect says it: "/PATH" into
# `path` (REDIRECT_SIZE bytes). Its length, or -errno.
cdef int redirect_place(Table *t, Node *n, char *path) noexcept nogil
# Appends to branch[*count], path[*count] the directories that `value` means, in the branches from
# `first` on (and, where it is relative, in those that hold `parent`). The paths are malloc()ed.
cdef int redirect_follow(Table *t, Node *parent, uint16_t first, const char *value,
                         uint16_t *branch, char **path, uint16_t *count) noexcept nogil
# Where a directory lies in a branch, relative to the branch's root: the length, or -errno.
cdef int redirect_location(Table *t, Node *n, uint16_t branch, char *path) noexcept nogil
# A descriptor of the data of a lower's metacopy, which fd is of; -EIO where there is none.
cdef int redirect_data(Table *t, Node *n, int fd) noexcept nogil
