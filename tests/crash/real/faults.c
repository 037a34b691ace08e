/* Before the C library: a chosen call fails, writes less than it was given, or is the process's last.

   mq_fault("pwrite", "/log/", 3, 1, EIO)    the third pwrite to a path with "/log/" in it fails with EIO
   mq_fault("*", "", 17, 1, KILL)            the 17th call that changes anything never happens: SIGKILL
   mq_fault("pwrite", "", 1, 99, SHORT)      99 pwrites write half of what they are given
   mq_fault("pwrite", "", 5, 1, CUT)         SIGKILL in the fifth pwrite, half of which is done: Linux looks for
                                             one between two pages
   mq_fault("*", "", 0, 0, 0)                nothing any more; only counts

   mq_seen() is how many calls there were since.  "open", "unlink" and "rename" mean openat, unlinkat
   and renameat, too: a name below a directory's descriptor is made the whole path first.  */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define KILL -1
#define SHORT -2
#define CUT -3

static char chosen[32], where[256];
static long first, count, seen;
static int what, armed;

void mq_fault(const char *call, const char *path, long from, long times, int error)
{
    snprintf(chosen, sizeof chosen, "%s", call);
    snprintf(where, sizeof where, "%s", path);
    first = from, count = times, what = error, seen = 0, armed = 1;
}

long mq_seen(void) { return seen; }

/* What is to happen to this call: 0, an errno, SHORT or CUT. */
static int fate(const char *call, const char *path)
{
    if (!armed || (strcmp(chosen, "*") && strcmp(chosen, call)) || (where[0] && !strstr(path, where)))
        return 0;
    long number = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (number < first || number >= first + count)
        return 0;
    if (what == KILL)
        kill(getpid(), SIGKILL), pause();
    return what;
}

/* What *fd* was opened on; "" if it is no file. */
static void path_of(int fd, char path[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    path[size < 0 ? 0 : size] = 0;
    if (path[0] != '/') /* pipes and the like are none of ours */
        path[0] = 0;
}

static int fate_of(const char *call, int fd)
{
    if (!armed)
        return 0;
    char path[PATH_MAX];
    path_of(fd, path);
    return path[0] ? fate(call, path) : 0;
}

/* Of a name below a directory's descriptor. */
static int fate_at(const char *call, int fd, const char *name)
{
    if (!armed)
        return 0;
    if (fd == AT_FDCWD || name[0] == '/')
        return fate(call, name);
    char above[PATH_MAX], path[2 * PATH_MAX];
    path_of(fd, above);
    snprintf(path, sizeof path, strcmp(name, ".") ? "%s/%s" : "%s", above, name);
    return fate(call, path);
}

#define REAL(name, type, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))
#define FAIL(error) do { errno = (error); return -1; } while (0)

static ssize_t write_at(const char *name, int fd, const void *data, size_t size, off_t offset)
{
    int error = fate_of("pwrite", fd);
    if (error > 0)
        FAIL(error);
    if ((error == SHORT || error == CUT) && size > 1)
        size /= 2;
    ssize_t done = REAL(name, ssize_t, int, const void *, size_t, off_t)(fd, data, size, offset);
    if (error == CUT)
        kill(getpid(), SIGKILL), pause();
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return write_at("pwrite", fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { return write_at("pwrite64", fd, data, size, at); }

static ssize_t read_at(const char *name, int fd, void *data, size_t size, off_t offset)
{
    int error = strcmp(chosen, "pread") ? 0 : fate_of("pread", fd); /* changes nothing: not one of "*" */
    if (error > 0)
        FAIL(error);
    return REAL(name, ssize_t, int, void *, size_t, off_t)(fd, data, size, offset);
}
ssize_t pread(int fd, void *data, size_t size, off_t at) { return read_at("pread", fd, data, size, at); }
ssize_t pread64(int fd, void *data, size_t size, off_t at) { return read_at("pread64", fd, data, size, at); }

int fdatasync(int fd)
{
    int error = fate_of("fdatasync", fd);
    if (error > 0)
        FAIL(error);
    return REAL("fdatasync", int, int)(fd);
}

int fsync(int fd)
{
    int error = fate_of("fsync", fd);
    if (error > 0)
        FAIL(error);
    return REAL("fsync", int, int)(fd);
}

static int allocate(const char *name, int fd, off_t offset, off_t size)
{
    int error = fate_of("posix_fallocate", fd); /* returns the errno, does not set it */
    return error > 0 ? error : REAL(name, int, int, off_t, off_t)(fd, offset, size);
}
int posix_fallocate(int fd, off_t at, off_t size) { return allocate("posix_fallocate", fd, at, size); }
int posix_fallocate64(int fd, off_t at, off_t size) { return allocate("posix_fallocate64", fd, at, size); }

#define MODE(flags) ({ mode_t m = 0; if ((flags) & O_CREAT) { va_list v; va_start(v, flags); \
                       m = va_arg(v, mode_t); va_end(v); } m; })

static int open_as(const char *name, const char *path, int flags, mode_t mode)
{
    int error = fate("open", path);
    if (error > 0)
        FAIL(error);
    return REAL(name, int, const char *, int, ...)(path, flags, mode);
}
int open(const char *path, int flags, ...) { return open_as("open", path, flags, MODE(flags)); }
int open64(const char *path, int flags, ...) { return open_as("open64", path, flags, MODE(flags)); }

static int open_at(const char *name, int at, const char *path, int flags, mode_t mode)
{
    int error = fate_at("open", at, path);
    if (error > 0)
        FAIL(error);
    return REAL(name, int, int, const char *, int, ...)(at, path, flags, mode);
}
int openat(int at, const char *path, int flags, ...) { return open_at("openat", at, path, flags, MODE(flags)); }
int openat64(int at, const char *path, int flags, ...) { return open_at("openat64", at, path, flags, MODE(flags)); }

int unlink(const char *path)
{
    int error = fate("unlink", path);
    if (error > 0)
        FAIL(error);
    return REAL("unlink", int, const char *)(path);
}

int unlinkat(int at, const char *path, int flags)
{
    int error = fate_at("unlink", at, path);
    if (error > 0)
        FAIL(error);
    return REAL("unlinkat", int, int, const char *, int)(at, path, flags);
}

int rename(const char *old, const char *new)
{
    int error = fate("rename", new);
    if (error > 0)
        FAIL(error);
    return REAL("rename", int, const char *, const char *)(old, new);
}

int renameat(int from, const char *old, int to, const char *new)
{
    int error = fate_at("rename", to, new);
    if (error > 0)
        FAIL(error);
    return REAL("renameat", int, int, const char *, int, const char *)(from, old, to, new);
}
