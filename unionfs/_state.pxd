# cython: language_level=3
"""What a later mount needs: directories of records in the work directory."""
from unionfs._nodes cimport Table

# A descriptor of directory `name`, which stays in *slot; -ENOENT when there is none.
cdef int state_open(Table *t, const char *name, int *slot) noexcept nogil
# The same, made at the first need.
cdef int state_directory(Table *t, const char *name, int *slot) noexcept nogil
# Writes a record, or another one in its place.
cdef int state_write(Table *t, int directory, const char *name, const char *value) noexcept nogil
