/*
 * Stands between a program and its C library, and does to calls what a kernel may do to them at any time.
 *
 * PGBAK_TEST_CALLS names a directory. Its file `orders` is read when a program begins, and without it nothing is done:
 *
 *     PROGRAM shorten SEED ONE_IN      one in so many calls that move bytes moves a part of them, or is interrupted
 *     PROGRAM shorten-files SEED ONE_IN
 *     PROGRAM fail CALL NTH ERRNO      the nth CALL on a file fails, without having been tried
 *     PROGRAM die END                  it is killed when it is about to sync a directory that holds a file whose path
 *                                      ends so
 *     PROGRAM count                    nothing is changed
 *
 * At its end a program appends to the file `calls` what it did, as lines `NAME COUNT`: its calls on files, and the
 * calls that were `shortened` or `interrupted`.
 */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

enum { IDLE, SHORTEN, SHORTEN_FILES, FAIL, DIE, COUNT };
static int order = IDLE;
static char victim[4096];
static unsigned victim_nth, one_in;
static int victim_errno;
static atomic_uint_fast64_t state;

/* Names are those of string constants; a free place has none. */
static struct { _Atomic(const char *) name; atomic_uint count; } counts[64];

static unsigned count(const char *name) {
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const char *none = NULL;
        if (atomic_compare_exchange_strong(&counts[i].name, &none, name) || strcmp(none, name) == 0)
            return atomic_fetch_add(&counts[i].count, 1) + 1;
    }
    abort();
}

/* SplitMix64, whoever comes next taking the next number. */
static uint64_t draw(void) {
    uint64_t mixed = atomic_fetch_add(&state, 0x9E3779B97F4A7C15) + 0x9E3779B97F4A7C15;
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB;
    return mixed ^ mixed >> 31;
}

static int fails(const char *name) {
    if (order == IDLE || count(name) != victim_nth || order != FAIL || strcmp(name, victim) != 0)
        return 0;
    errno = victim_errno;
    return 1;
}

/* An edge-triggered epoll may take a short read for the end of what is there (epoll(7)), as tokio does. */
static atomic_bool is_watched[1024];

/* Files, sockets and pipes; an eventfd has its eight bytes or none. */
static int is_divisible(int fd) {
    struct stat found;
    if (fd >= 0 && fd < 1024 && is_watched[fd])
        return 0;
    return fstatat(fd, "", &found, AT_EMPTY_PATH) == 0
        && (S_ISREG(found.st_mode)
            || (order == SHORTEN && (S_ISSOCK(found.st_mode) || S_ISFIFO(found.st_mode))));
}

/* Whether a call that moves `*size` bytes fails; it may be left fewer bytes to move. */
static int fails_to_move(const char *name, int fd, size_t *size) {
    if (order != SHORTEN && order != SHORTEN_FILES)
        return fd > STDERR_FILENO && fails(name);
    if (*size == 0 || !is_divisible(fd) || draw() % one_in != 0)
        return 0;
    if (*size == 1 || draw() % 4 == 0) {
        count("interrupted");
        errno = EINTR;
        return 1;
    }
    /* Now and then a few bytes only. */
    size_t most = draw() % 4 == 0 && *size > 16 ? 16 : *size - 1;
    *size = 1 + draw() % most;
    count("shortened");
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    char path[4096], program[64], what[16], argument[sizeof victim] = "";
    unsigned long long seed = 0;
    const char *directory = getenv("PGBAK_TEST_CALLS");
    if (directory == NULL)
        return;
    snprintf(path, sizeof path, "%s/orders", directory);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return;
    unsigned number = 0;
    int words = fscanf(file, "%63s %15s %4095s %u %d", program, what, argument, &number, &victim_errno);
    fclose(file);
    if (words < 2 || strcmp(program, program_invocation_short_name) != 0)
        return;
    int is_to_shorten = words == 4 && number > 0 && sscanf(argument, "%llu", &seed) == 1;
    if (strcmp(what, "shorten") == 0 && is_to_shorten)
        order = SHORTEN;
    else if (strcmp(what, "shorten-files") == 0 && is_to_shorten)
        order = SHORTEN_FILES;
    else if (strcmp(what, "fail") == 0 && words == 5)
        order = FAIL;
    else if (strcmp(what, "die") == 0 && words == 3)
        order = DIE;
    else if (strcmp(what, "count") == 0)
        order = COUNT;
    else
        abort();
    atomic_store(&state, seed);
    victim_nth = one_in = number;
    strcpy(victim, argument);
}

__attribute__((destructor)) static void end(void) {
    char path[4096], text[4096] = "";
    size_t length = 0;
    int fd;
    if (order == IDLE)
        return;
    for (size_t i = 0; i < sizeof counts / sizeof *counts && counts[i].name != NULL; i++)
        length += snprintf(text + length, sizeof text - length, "%s %u\n", counts[i].name, counts[i].count);
    order = IDLE;
    snprintf(path, sizeof path, "%s/calls", getenv("PGBAK_TEST_CALLS"));
    if ((fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) < 0 || write(fd, text, length) < 0)
        abort();
    close(fd);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define CALL(type, failed, name, parameters, ...) \
    type name parameters { REAL(name); return fails(#name) ? failed : real(__VA_ARGS__); }

/* `size` is the parameter that may shrink. */
#define MOVING(name, fd, size, parameters, ...) \
    ssize_t name parameters { REAL(name); return fails_to_move(#name, fd, &size) ? -1 : real(__VA_ARGS__); }

MOVING(read, fd, size, (int fd, void *bytes, size_t size), fd, bytes, size)
MOVING(write, fd, size, (int fd, const void *bytes, size_t size), fd, bytes, size)
MOVING(pread, fd, size, (int fd, void *bytes, size_t size, off_t at), fd, bytes, size, at)
MOVING(pread64, fd, size, (int fd, void *bytes, size_t size, off64_t at), fd, bytes, size, at)
MOVING(pwrite, fd, size, (int fd, const void *bytes, size_t size, off_t at), fd, bytes, size, at)
MOVING(pwrite64, fd, size, (int fd, const void *bytes, size_t size, off64_t at), fd, bytes, size, at)
MOVING(recv, fd, size, (int fd, void *bytes, size_t size, int flags), fd, bytes, size, flags)
MOVING(send, fd, size, (int fd, const void *bytes, size_t size, int flags), fd, bytes, size, flags)
MOVING(sendfile, to, size, (int to, int from, off_t *at, size_t size), to, from, at, size)
MOVING(sendfile64, to, size, (int to, int from, off64_t *at, size_t size), to, from, at, size)
MOVING(splice, to, size, (int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags),
       from, from_at, to, to_at, size, flags)
MOVING(copy_file_range, to, size,
       (int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags),
       from, from_at, to, to_at, size, flags)

/* Of several pieces, the first is the one that may shrink, and then the others are left out. */
#define MOVING_PIECES(name) \
    ssize_t name(int fd, const struct iovec *pieces, int piece_count) { \
        REAL(name); \
        size_t size = piece_count > 0 ? pieces->iov_len : 0; \
        if (fails_to_move(#name, fd, &size)) return -1; \
        if (piece_count == 0 || size == pieces->iov_len) return real(fd, pieces, piece_count); \
        struct iovec first = {pieces->iov_base, size}; \
        return real(fd, &first, 1); \
    }
MOVING_PIECES(readv)
MOVING_PIECES(writev)

/* What else sftp-server calls for its client. */
int open(const char *path, int flags, ...) {
    REAL(open);
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return strncmp(path, "/dev/", 5) != 0 && fails("open") ? -1 : real(path, flags, mode);
}
int close(int fd) {
    REAL(close);
    if (fails("close")) return -1;
    if (fd >= 0 && fd < 1024) is_watched[fd] = 0;
    return real(fd);
}
int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    REAL(epoll_ctl);
    if (fd >= 0 && fd < 1024 && operation != EPOLL_CTL_DEL && event->events & EPOLLET) is_watched[fd] = 1;
    return real(epoll, operation, fd, event);
}
static int holds_victim(int directory) {
    char path[2 * sizeof victim], link[64];
    const char *slash = strrchr(victim, '/'), *name = slash == NULL ? victim : slash + 1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, path, sizeof victim);
    if (length < 0 || faccessat(directory, name, F_OK, 0) != 0)
        return 0;
    size_t whole = length + snprintf(path + length, sizeof victim, "/%s", name);
    return whole >= strlen(victim) && strcmp(path + whole - strlen(victim), victim) == 0;
}
int fsync(int fd) {
    REAL(fsync);
    if (order == DIE && holds_victim(fd)) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    return fails("fsync") ? -1 : real(fd);
}
CALL(int, -1, ftruncate, (int fd, off_t size), fd, size)
CALL(off_t, -1, lseek, (int fd, off_t at, int whence), fd, at, whence)
CALL(int, -1, fchmod, (int fd, mode_t mode), fd, mode)
CALL(int, -1, chmod, (const char *path, mode_t mode), path, mode)
CALL(int, -1, futimes, (int fd, const struct timeval times[2]), fd, times)
CALL(int, -1, utimes, (const char *path, const struct timeval times[2]), path, times)
CALL(int, -1, link, (const char *from, const char *to), from, to)
CALL(int, -1, rename, (const char *from, const char *to), from, to)
CALL(int, -1, unlink, (const char *path), path)
CALL(int, -1, mkdir, (const char *path, mode_t mode), path, mode)
CALL(int, -1, rmdir, (const char *path), path)
CALL(DIR *, NULL, opendir, (const char *path), path)
CALL(struct dirent *, NULL, readdir, (DIR *directory), directory)
CALL(int, -1, stat, (const char *path, struct stat *found), path, found)
CALL(int, -1, lstat, (const char *path, struct stat *found), path, found)
CALL(int, -1, fstat, (int fd, struct stat *found), fd, found)
CALL(int, -1, statvfs, (const char *path, struct statvfs *found), path, found)
CALL(int, -1, fstatvfs, (int fd, struct statvfs *found), fd, found)

/* sftp-server ends with it, and no destructor is run. */
void _exit(int code) {
    end();
    REAL(_exit);
    real(code);
    __builtin_unreachable();
}
