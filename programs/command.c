/* What is installed as unionfs-mount and the other commands: starts Python on one of them.
 *
 * A mount serves others than its caller, so nothing that the caller has set for himself may
 * reach it: PYTHONPATH and its like end the daemon at once or change what it does, LD_PRELOAD
 * changes what its system calls do.  A Python that has started already cannot undo that.  What it
 * can undo is left to unionfs/surroundings.py, which is there for every mount, also for one that
 * no command has started; done here is what the interpreter itself depends on.
 *
 * setup.py defines COMMAND, the name it installs this as; VERB, the module of unionfs.cli;
 * and where it has found Python: PYTHON, its path; PYTHON_NAME, such as python3.11, the only
 * one that the compiled modules work with; LIBRARY_PATH, what the dynamic linker needed for it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "beside.h"

enum {
    INTERPRETER_MISSING = 47,  /* InterpreterMissing in unionfs/errors.py */
};

static const char CODE[] = "from unionfs.__main__ import installed; installed('" VERB "')";

/* The same where the interpreter may not know the package's directory: `pip install --user` and
 * `--prefix`.  -I leaves out the user's own, which depends on HOME. */
static const char CODE_ELSEWHERE[] =
    "import os, site, sys; up = os.path.dirname; "
    "lib = os.path.join(up(up(sys.argv[1])), 'lib', '" PYTHON_NAME "'); "
    "found = [os.path.join(lib, name) for name in ('site-packages', 'dist-packages')]; "
    "[site.addsitedir(path) for path in found if os.path.isdir(path) and path not in sys.path]; "
    "from unionfs.__main__ import installed; installed('" VERB "')";

/* What the commands read of the environment, and the programs that they start. */
static const char *const KEPT[] = {
    "PATH", "TZ", "COLUMNS", "XDG_RUNTIME_DIR", "UNIONFS_MOUNTD",
};

static void clear_environment(void)
{
    enum { COUNT = sizeof(KEPT) / sizeof(KEPT[0]) };
    const char *values[COUNT];

    for (int i = 0; i < COUNT; i++)
        values[i] = getenv(KEPT[i]);  /* clearenv() leaves the strings where they are */
    clearenv();
    for (int i = 0; i < COUNT; i++)
        if (values[i])
            setenv(KEPT[i], values[i], 1);
    if (LIBRARY_PATH[0])
        setenv("LD_LIBRARY_PATH", LIBRARY_PATH, 1);
}

/* Signals do what they do in a new process.  nohup(1) is meant for whoever it starts. */
static void reset_signals(void)
{
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        if (number != SIGHUP)
            signal(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* What the interpreter would not start with, and the size of its threads' stacks. */
static void raise_limits(void)
{
    static const int raised[] = {RLIMIT_AS, RLIMIT_DATA, RLIMIT_CPU, RLIMIT_NOFILE};
    struct rlimit limit;

    for (size_t i = 0; i < sizeof(raised) / sizeof(raised[0]); i++)
        if (getrlimit(raised[i], &limit) == 0) {
            limit.rlim_cur = limit.rlim_max;
            setrlimit(raised[i], &limit);
        }
    if (getrlimit(RLIMIT_STACK, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max < (8 << 20) ? limit.rlim_max : 8 << 20;
        setrlimit(RLIMIT_STACK, &limit);
    }
}

static int is_there_beside(const char *name)
{
    char path[PATH_MAX];
    struct stat status;

    return beside(path, name) && stat(path, &status) == 0;
}

/* Does not return if it succeeds.  Python takes its name for where it is, and finds by it that it
 * belongs to an environment. */
static void run(const char *interpreter, char **words)
{
    words[0] = (char *)interpreter;
    execv(interpreter, words);
}

static void run_beside(const char *name, char **words)
{
    char interpreter[PATH_MAX];

    if (beside(interpreter, name))
        run(interpreter, words);
}

/* Does not return if it succeeds. */
static void run_the_right_one(char **words)
{
    if (is_there_beside("../pyvenv.cfg")) {  /* wherever the environment is now */
        run_beside("python3", words);
        return;
    }
    if (is_there_beside("../lib/" PYTHON_NAME "/site-packages/unionfs")) {
        run_beside(PYTHON_NAME, words);
        words[5] = (char *)CODE_ELSEWHERE;
    } else if (is_there_beside("../lib/" PYTHON_NAME "/dist-packages/unionfs")) {
        words[5] = (char *)CODE_ELSEWHERE;  /* Debian's name for what is not its own */
    }
    run(PYTHON, words);
    /* Built on another machine. */
    run_beside(PYTHON_NAME, words);
    run("/usr/local/bin/" PYTHON_NAME, words);
    run("/usr/bin/" PYTHON_NAME, words);
}

int main(int argc, char **argv)
{
    char *fixed[] = {NULL, "-I", "-X", "utf8", "-c", (char *)CODE};
    enum { FIXED = sizeof(fixed) / sizeof(fixed[0]) };
    char **words = calloc((size_t)argc + FIXED + 2, sizeof(*words));
    char self[PATH_MAX];

    if (!beside(self, COMMAND))
        return say_proc_is_missing(COMMAND);
    if (!words) {
        fprintf(stderr, "%s: %s\n", COMMAND, strerror(errno));
        return INTERPRETER_MISSING;
    }
    memcpy(words, fixed, sizeof(fixed));
    words[FIXED] = self;
    for (int i = 1; i < argc; i++)
        words[FIXED + i] = argv[i];
    clear_environment();
    reset_signals();
    raise_limits();
    run_the_right_one(words);
    fprintf(stderr, "%s: no %s was found beside it, as %s, nor in /usr/bin: install unionfs again "
                    "with the Python that is to run it\n", COMMAND, PYTHON_NAME, PYTHON);
    return INTERPRETER_MISSING;
}
