/* The directory that the running program is in, through which it finds what was installed with
 * it.  argv[0] does not tell: it may be a link's name, or anything else. */
#ifndef UNIONFS_BESIDE_H
#define UNIONFS_BESIDE_H

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    PROC_MISSING = 45,  /* ProcMissing in unionfs/errors.py */
};

/* Write the path of `name` in the program's directory.  False without /proc, or if it is too
 * long. */
static inline int beside(char path[PATH_MAX], const char *name)
{
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);
    char *slash;

    if (length <= 0)
        return 0;
    path[length] = '\0';
    slash = strrchr(path, '/');
    if (!slash || (size_t)(slash + 1 - path) + strlen(name) >= PATH_MAX)
        return 0;
    strcpy(slash + 1, name);
    return 1;
}

static inline int say_proc_is_missing(const char *program)
{
    fprintf(stderr, "%s: /proc is not mounted: mount it (mount -t proc proc /proc)\n", program);
    return PROC_MISSING;
}

#endif
