// A library that makes system calls fail. It is loaded before the C library, and chosen calls on paths below one folder
// return an error.
//
// `fault_set` chooses a call by its name, the errno, and which one fails: 1 for the first, or 0 for all of them.
// `fault_counts` returns how often each has been called since.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <dirent.h>

#define CALLS(X)                                                                                                   \
    X(open) X(tmpfile) X(mkdir) X(rmdir) X(unlink) X(rename) X(exchange) X(link) X(chmod) X(flock) X(write) X(pwrite)  \
    X(statvfs) X(opendir) X(utime) X(ficlone) X(mmap) X(read)
enum {
#define X(name) call_##name,
    CALLS(X)
#undef X
    num_calls
};
static const char* const names[] = {
#define X(name) #name,
    CALLS(X)
#undef X
};

static char root[PATH_MAX];
static int failing = -1, number, which;
static int counts[num_calls];

void fault_set(const char* folder, const char* name, int error, int nth) {
    snprintf(root, sizeof root, "%s", folder);
    memset(counts, 0, sizeof counts);
    failing = -1;
    for (int i = 0; i < num_calls; ++i)
        if (strcmp(names[i], name) == 0) failing = i;
    number = error;
    which = nth;
}

const char* fault_counts(void) {
    static char text[1024];
    int length = 0;
    for (int i = 0; i < num_calls; ++i) length += sprintf(text + length, "%s %d\n", names[i], counts[i]);
    return text;
}

static int below(const char* path) { return root[0] != 0 && strncmp(path, root, strlen(root)) == 0; }

static int of_descriptor(int descriptor) {
    char link[64], path[PATH_MAX];
    if (root[0] == 0) return 0;
    sprintf(link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static int of_path(int folder, const char* path) {
    return path[0] == '/' || folder == AT_FDCWD ? below(path) : of_descriptor(folder);
}

static int fails(int call, int concerned) {
    if (!concerned) return 0;
    int count = __atomic_add_fetch(&counts[call], 1, __ATOMIC_RELAXED);
    if (call != failing || (which != 0 && count != which)) return 0;
    errno = number;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MODE                                  \
    mode_t mode = 0;                          \
    if (flags & (O_CREAT | O_TMPFILE)) {      \
        va_list arguments;                    \
        va_start(arguments, flags);           \
        mode = va_arg(arguments, mode_t);     \
        va_end(arguments);                    \
    }
#define OPENS (flags & O_TMPFILE & ~O_DIRECTORY ? call_tmpfile : call_open)

int open(const char* path, int flags, ...) {
    MODE
    return fails(OPENS, below(path)) ? -1 : REAL(open)(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
    MODE
    return fails(OPENS, below(path)) ? -1 : REAL(open64)(path, flags, mode);
}
int openat(int folder, const char* path, int flags, ...) {
    MODE
    return fails(OPENS, of_path(folder, path)) ? -1 : REAL(openat)(folder, path, flags, mode);
}
int openat64(int folder, const char* path, int flags, ...) {
    MODE
    return fails(OPENS, of_path(folder, path)) ? -1 : REAL(openat64)(folder, path, flags, mode);
}
int mkdir(const char* path, mode_t mode) { return fails(call_mkdir, below(path)) ? -1 : REAL(mkdir)(path, mode); }
int rmdir(const char* path) { return fails(call_rmdir, below(path)) ? -1 : REAL(rmdir)(path); }
int unlink(const char* path) { return fails(call_unlink, below(path)) ? -1 : REAL(unlink)(path); }
int unlinkat(int folder, const char* path, int flags) {
    int call = flags & AT_REMOVEDIR ? call_rmdir : call_unlink;
    return fails(call, of_path(folder, path)) ? -1 : REAL(unlinkat)(folder, path, flags);
}
int rename(const char* from, const char* to) { return fails(call_rename, below(to)) ? -1 : REAL(rename)(from, to); }
int renameat(int from_folder, const char* from, int to_folder, const char* to) {
    int failed = fails(call_rename, of_path(to_folder, to));
    return failed ? -1 : REAL(renameat)(from_folder, from, to_folder, to);
}
int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
    int failed = fails(call_exchange, of_path(to_folder, to));
    return failed ? -1 : REAL(renameat2)(from_folder, from, to_folder, to, flags);
}
int link(const char* from, const char* to) { return fails(call_link, below(to)) ? -1 : REAL(link)(from, to); }
int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) {
    int failed = fails(call_link, of_path(to_folder, to));
    return failed ? -1 : REAL(linkat)(from_folder, from, to_folder, to, flags);
}
int chmod(const char* path, mode_t mode) { return fails(call_chmod, below(path)) ? -1 : REAL(chmod)(path, mode); }
int fchmod(int file, mode_t mode) { return fails(call_chmod, of_descriptor(file)) ? -1 : REAL(fchmod)(file, mode); }
int fchmodat(int folder, const char* path, mode_t mode, int flags) {
    return fails(call_chmod, of_path(folder, path)) ? -1 : REAL(fchmodat)(folder, path, mode, flags);
}
int flock(int file, int operation) {
    return fails(call_flock, of_descriptor(file)) ? -1 : REAL(flock)(file, operation);
}
ssize_t read(int file, void* data, size_t size) {
    return fails(call_read, of_descriptor(file)) ? -1 : REAL(read)(file, data, size);
}
ssize_t write(int file, const void* data, size_t size) {
    return fails(call_write, of_descriptor(file)) ? -1 : REAL(write)(file, data, size);
}
ssize_t pwrite(int file, const void* data, size_t size, off_t offset) {
    return fails(call_pwrite, of_descriptor(file)) ? -1 : REAL(pwrite)(file, data, size, offset);
}
ssize_t pwrite64(int file, const void* data, size_t size, off64_t offset) {
    return fails(call_pwrite, of_descriptor(file)) ? -1 : REAL(pwrite64)(file, data, size, offset);
}
int statvfs(const char* path, struct statvfs* status) {
    return fails(call_statvfs, below(path)) ? -1 : REAL(statvfs)(path, status);
}
int statvfs64(const char* path, struct statvfs64* status) {
    return fails(call_statvfs, below(path)) ? -1 : REAL(statvfs64)(path, status);
}
DIR* opendir(const char* path) { return fails(call_opendir, below(path)) ? NULL : REAL(opendir)(path); }
DIR* fdopendir(int file) { return fails(call_opendir, of_descriptor(file)) ? NULL : REAL(fdopendir)(file); }
int utimensat(int folder, const char* path, const struct timespec times[2], int flags) {
    return fails(call_utime, of_path(folder, path)) ? -1 : REAL(utimensat)(folder, path, times, flags);
}
int ioctl(int file, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void* argument = va_arg(arguments, void*);
    va_end(arguments);
    return fails(call_ficlone, of_descriptor(file)) ? -1 : REAL(ioctl)(file, request, argument);
}
void* mmap(void* at, size_t size, int protection, int flags, int file, off_t offset) {
    int failed = file >= 0 && fails(call_mmap, of_descriptor(file));
    return failed ? MAP_FAILED : REAL(mmap)(at, size, protection, flags, file, offset);
}
void* mmap64(void* at, size_t size, int protection, int flags, int file, off64_t offset) {
    int failed = file >= 0 && fails(call_mmap, of_descriptor(file));
    return failed ? MAP_FAILED : REAL(mmap64)(at, size, protection, flags, file, offset);
}
