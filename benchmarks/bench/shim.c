/* Counts the calls that wait for the disk, and makes each of them last at least so long.

   Loaded into every process of a measurement (LD_PRELOAD).  BENCH_SYNCS names a file of one u64, which all of
   them count in; BENCH_SYNC_MICROSECONDS is how long a call lasts at least, as on a slower disk.

   fsync, fdatasync, syncfs, msync with MS_SYNC, sync_file_range that waits, and writes to a file that was
   opened with O_SYNC or O_DSYNC. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FILES 65536
static unsigned char synchronous[FILES]; /* by descriptor: opened with O_SYNC or O_DSYNC */
static uint64_t *count;
static int64_t least_ns;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("BENCH_SYNCS"), *least = getenv("BENCH_SYNC_MICROSECONDS");
    if (least) least_ns = 1000 * atoll(least);
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) count = page;
    close(fd);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* The disk has done its work since *began*: count it, and wait until it has lasted long enough. */
static void synced(int64_t began) {
    if (count) __atomic_add_fetch(count, 1, __ATOMIC_RELAXED);
    if (!least_ns) return;
    int64_t until = began + least_ns;
    struct timespec at = {until / 1000000000LL, until % 1000000000LL};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) {}
}

static int waits(int fd) { return fd >= 0 && fd < FILES && synchronous[fd]; }

static int opened(int fd, int flags) {
    if (fd >= 0 && fd < FILES) synchronous[fd] = (flags & O_DSYNC) != 0; /* O_SYNC has that bit too */
    return fd;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define TIMED(type, condition, call) \
    int timed = (condition); \
    int64_t began = timed && least_ns ? now_ns() : 0; \
    type result = (call); \
    if (timed) { \
        int error = errno; \
        synced(began); \
        errno = error; \
    } \
    return result

int fsync(int fd) { REAL(fsync); TIMED(int, 1, real(fd)); }
int fdatasync(int fd) { REAL(fdatasync); TIMED(int, 1, real(fd)); }
int syncfs(int fd) { REAL(syncfs); TIMED(int, 1, real(fd)); }
int msync(void *at, size_t size, int flags) { REAL(msync); TIMED(int, flags & MS_SYNC, real(at, size, flags)); }

int sync_file_range(int fd, off64_t at, off64_t size, unsigned flags) {
    REAL(sync_file_range);
    TIMED(int, flags & (SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER), real(fd, at, size, flags));
}

ssize_t write(int fd, const void *data, size_t size) { REAL(write); TIMED(ssize_t, waits(fd), real(fd, data, size)); }

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    TIMED(ssize_t, waits(fd), real(fd, data, size, at));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    TIMED(ssize_t, waits(fd), real(fd, data, size, at));
}

ssize_t writev(int fd, const struct iovec *data, int size) {
    REAL(writev);
    TIMED(ssize_t, waits(fd), real(fd, data, size));
}

ssize_t pwritev(int fd, const struct iovec *data, int size, off_t at) {
    REAL(pwritev);
    TIMED(ssize_t, waits(fd), real(fd, data, size, at));
}

ssize_t pwritev64(int fd, const struct iovec *data, int size, off64_t at) {
    REAL(pwritev64);
    TIMED(ssize_t, waits(fd), real(fd, data, size, at));
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *path, int flags, ...) { REAL(open); MODE(flags) return opened(real(path, flags, mode), flags); }
int open64(const char *path, int flags, ...) { REAL(open64); MODE(flags) return opened(real(path, flags, mode), flags); }

int openat(int at, const char *path, int flags, ...) {
    REAL(openat);
    MODE(flags)
    return opened(real(at, path, flags, mode), flags);
}

int openat64(int at, const char *path, int flags, ...) {
    REAL(openat64);
    MODE(flags)
    return opened(real(at, path, flags, mode), flags);
}

int close(int fd) {
    REAL(close);
    if (fd >= 0 && fd < FILES) synchronous[fd] = 0;
    return real(fd);
}
