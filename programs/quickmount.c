/* unionfs-quickmount: unionfs-mount, by a process that has started already.
 *
 * Asks unionfs-mountd (unionfs/mountd.py) to mount; where none listens, or it declines, runs the
 * unionfs-mount beside this program. The arguments and what is printed are unionfs-mount's.
 *
 * The request is one packet: the version and the arguments, each ended by a zero byte, and the
 * descriptors of `take_along`. The answer is one byte: an exit status, or DECLINED.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "beside.h"

#ifndef VERSION
#error "setup.py defines VERSION"
#endif

enum {
    DECLINED = 255,
    START_FAILED = 44,  /* StartFailed in unionfs/errors.py */
    DESCRIPTORS = 6,
};

/* What a mount depends on besides its arguments: where paths begin, where its messages go, and
 * whose mounts and users it is about. False if one of them cannot be had. */
static int take_along(int fds[DESCRIPTORS])
{
    fds[0] = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    fds[1] = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    fds[2] = STDOUT_FILENO;
    fds[3] = STDERR_FILENO;
    fds[4] = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
    fds[5] = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    for (int i = 0; i < DESCRIPTORS; i++)
        if (fds[i] < 0 || fcntl(fds[i], F_GETFD) < 0)
            return 0;
    return 1;
}

static int send_request(int fd, int argc, char **argv)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(DESCRIPTORS * sizeof(int))];
    } control = {.room = {0}};
    int fds[DESCRIPTORS];
    struct msghdr message = {.msg_control = &control, .msg_controllen = sizeof(control.room)};
    struct iovec *parts = calloc(argc, sizeof(*parts));
    ssize_t sent;

    if (!parts || !take_along(fds)) {
        free(parts);
        return 0;
    }
    parts[0].iov_base = VERSION;
    parts[0].iov_len = sizeof(VERSION);
    for (int i = 1; i < argc; i++) {
        parts[i].iov_base = argv[i];
        parts[i].iov_len = strlen(argv[i]) + 1;
    }
    message.msg_iov = parts;
    message.msg_iovlen = argc;
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(fds));
    memcpy(CMSG_DATA(&control.header), fds, sizeof(fds));
    sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    free(parts);
    return sent >= 0;
}

/* A mountd serves its own user alone, so another user's has nothing to give, and is not to have
 * this process's directories and output: sudo -E and su leave root that user's XDG_RUNTIME_DIR. */
static int is_ours(int fd)
{
    struct ucred listener;
    socklen_t size = sizeof(listener);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &listener, &size) == 0
        && listener.uid == geteuid();
}

/* The exit status of a mount by whoever listens at `path`; DECLINED if nobody mounted. */
static int ask(const char *path, int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    unsigned char status = DECLINED;
    ssize_t got;
    int fd;

    if (strlen(path) >= sizeof(address.sun_path))
        return DECLINED;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return DECLINED;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0
        || !is_ours(fd) || !send_request(fd, argc, argv)) {
        close(fd);
        return DECLINED;
    }
    do
        got = recv(fd, &status, 1, 0);
    while (got < 0 && errno == EINTR);
    close(fd);
    if (got == 1)
        return status;
    fprintf(stderr, "unionfs-quickmount: unionfs-mountd ended before it answered: look whether the "
                    "union is mounted\n");
    return START_FAILED;
}

/* Where unionfs-mountd listens: see socket_path() in unionfs/mountd.py. */
static int ask_around(int argc, char **argv)
{
    const char *named = getenv("UNIONFS_MOUNTD"), *runtime = getenv("XDG_RUNTIME_DIR");
    char path[PATH_MAX];
    int status = DECLINED;

    if (named)
        return ask(named, argc, argv);
    if (runtime && snprintf(path, sizeof(path), "%s/unionfs-mountd", runtime) < (int)sizeof(path))
        status = ask(path, argc, argv);
    return status == DECLINED ? ask("/run/unionfs-mountd", argc, argv) : status;
}

static int mount_myself(char **argv)
{
    static const char name[] = "unionfs-mount";
    char path[PATH_MAX];

    if (!beside(path, name))
        return say_proc_is_missing("unionfs-quickmount");
    argv[0] = path;
    execv(path, argv);
    fprintf(stderr, "unionfs-quickmount: cannot run %s: %s\n", path, strerror(errno));
    return START_FAILED;
}

int main(int argc, char **argv)
{
    int status = argc > 1 ? ask_around(argc, argv) : DECLINED;

    return status == DECLINED ? mount_myself(argv) : status;
}
