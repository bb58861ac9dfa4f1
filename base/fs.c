/* Reading files, and folders.  Writing is in fileout.c. */
#include "base/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_named_pipe(const char *path)
{
    struct stat st;
    return !str_starts(path, "/dev/") && !str_starts(path, "/proc/") && stat(path, &st) == 0 &&
           S_ISFIFO(st.st_mode);
}

Status file_open(int *fd, const char *path, Err *err)
{
    if (is_named_pipe(path)) return err_set(err, E_INPUT, "%s: is a pipe, a file is needed", path);
    int opened = open(path, O_RDONLY | O_CLOEXEC);
    if (opened < 0) return err_set(err, E_INPUT, "%s: cannot open: %s", path, strerror(errno));
    struct stat st;
    Status s = OK;
    if (fstat(opened, &st) != 0)
        s = err_set(err, E_FAILED, "%s: cannot stat: %s", path, strerror(errno));
    else if (S_ISDIR(st.st_mode))
        s = err_set(err, E_INPUT, "%s: is a folder, a file is needed", path);
    if (s == OK)
        *fd = opened;
    else
        close(opened);
    return s;
}

/* Bytes that are read of what need not end. */
static size_t read_limit(int fd)
{
    struct stat st;
    bool ends = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > FILE_STREAM_MAX;
    return ends ? (size_t)st.st_size : FILE_STREAM_MAX;
}

/* Reads to the end whatever stat said: pipes and files of /proc have no size. */
static Status read_all(StrBuf *b, int fd, const char *path, Err *err)
{
    const size_t chunk = 256 << 10, limit = read_limit(fd);
    char *buf = xmalloc(chunk);
    Status s = OK;
    for (;;) {
        ssize_t n = read(fd, buf, chunk);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) s = err_set(err, E_FAILED, "%s: cannot read: %s", path, strerror(errno));
        if (n > 0 && b->len + (size_t)n > limit)
            s = err_set(err, E_INPUT,
                        "%s: does not end within %d MiB, the most that is read of what is no "
                        "regular file",
                        path, FILE_STREAM_MAX >> 20);
        if (n <= 0 || s != OK) break;
        strbuf_append(b, buf, (size_t)n);
    }
    free(buf);
    return s;
}

Status file_read(char **out, size_t *len, const char *path, Err *err)
{
    int fd;
    TRY(file_open(&fd, path, err));
    StrBuf b = {0};
    Status s = read_all(&b, fd, path, err);
    close(fd);
    if (s != OK) {
        strbuf_clear(&b);
        return s;
    }
    if (len) *len = b.len;
    *out = strbuf_take(&b);
    return OK;
}

Status file_map(FileMap *out, const char *path, Err *err)
{
    struct stat st;
    int fd;
    TRY(file_open(&fd, path, err));
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p != MAP_FAILED) {
            close(fd);
            *out = (FileMap){p, (size_t)st.st_size, true};
            return OK;
        }
    }
    StrBuf b = {0};
    Status s = read_all(&b, fd, path, err);
    close(fd);
    if (s != OK) {
        strbuf_clear(&b);
        return s;
    }
    size_t n = b.len;
    *out = (FileMap){(uint8_t *)strbuf_take(&b), n, false};
    return OK;
}

void file_unmap(FileMap *m)
{
    if (m->mapped)
        munmap((void *)(uintptr_t)m->data, m->len);
    else
        free((void *)(uintptr_t)m->data);
    *m = (FileMap){0};
}

bool path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *path_join(const char *dir, const char *name)
{
    if (name[0] == '/' || dir[0] == '\0') return xstrdup(name);
    return str_format("%s%s%s", dir, str_ends(dir, "/") ? "" : "/", name);
}

char *path_trim(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    return xstrndup(path, n);
}

const char *path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Where the first prefix longer than `from` ends: before a slash, or at the end; 0: there is none. */
static size_t next_prefix(const char *path, size_t from)
{
    size_t n = strlen(path);
    for (size_t i = from + 1; i <= n; i++)
        if (path[i] == '/' || i == n) return i;
    return 0;
}

bool path_lies_in(const char *path, const char *dir)
{
    char *above = xstrdup(path);
    while (!path_exists(above) && strrchr(above, '/') && strrchr(above, '/') != above)
        *strrchr(above, '/') = 0;
    char *real_dir = realpath(dir, NULL);
    char *real = realpath(path_exists(above) ? above : *path == '/' ? "/" : ".", NULL);
    size_t n = real_dir ? strlen(real_dir) : 0;
    bool inside = real_dir && real && strncmp(real_dir, real, n) == 0 &&
                  (real[n] == '/' || real[n] == 0 || n == 1);
    free(above);
    free(real_dir);
    free(real);
    return inside;
}

char *path_in_the_way(const char *path)
{
    struct stat st;
    for (size_t i = 0; (i = next_prefix(path, i)) > 0;) {
        char *p = xstrndup(path, i);
        if (lstat(p, &st) == 0 && !path_is_dir(p)) return p; /* or a link that leads nowhere */
        free(p);
    }
    return NULL;
}

Status path_check_writable(const char *path, Err *err)
{
    char *deepest = xstrdup(path[0] == '/' ? "/" : "."); /* of what is there */
    struct stat st;
    size_t longest = 0; /* of the names that are not there */
    for (size_t i = 0, from = 0; (i = next_prefix(path, i)) > 0; from = i + 1) {
        char *p = xstrndup(path, i);
        if (longest == 0 && stat(p, &st) == 0) {
            free(deepest);
            deepest = p;
            continue;
        }
        if (i > from && i - from > longest) longest = i - from;
        free(p);
    }
    const long most = pathconf(deepest, _PC_NAME_MAX);
    Status s = OK;
    if ((most > 0 && longest > (size_t)most) || strlen(path) >= PATH_MAX)
        s = err_set(err, E_INPUT, "%s: %s", path, strerror(ENAMETOOLONG));
    else if (access(deepest, W_OK | X_OK) != 0)
        s = err_set(err, E_INPUT, "nothing can be written to %s: %s", deepest, strerror(errno));
    free(deepest);
    return s;
}

Status dir_make(const char *path, Err *err)
{
    Status s = OK;
    for (size_t i = 0; s == OK && (i = next_prefix(path, i)) > 0;) {
        char *p = xstrndup(path, i);
        if (mkdir(p, 0777) != 0) {
            int e = errno; /* mkdir says EROFS or EACCES too for a folder that is there */
            if (!path_is_dir(p))
                s = err_set(err, e == EEXIST ? E_INPUT : E_FAILED, "%s: cannot make the folder: %s",
                            p, e == EEXIST ? "a file has that name" : strerror(e));
        }
        free(p);
    }
    return s;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

Status dir_list(char ***names, int *n, const char *path, Err *err)
{
    DIR *d = opendir(path);
    if (!d) return err_set(err, E_INPUT, "%s: cannot list the folder: %s", path, strerror(errno));
    char **list = NULL;
    int count = 0, cap = 0;
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) break;
        if (str_eq(e->d_name, ".") || str_eq(e->d_name, "..")) continue;
        if (count == cap) {
            cap = cap ? 2 * cap : 16;
            list = xrealloc(list, (size_t)cap * sizeof *list);
        }
        list[count++] = xstrdup(e->d_name);
    }
    int e = errno;
    closedir(d);
    if (e) {
        dir_list_free(list, count);
        return err_set(err, E_FAILED, "%s: cannot list the folder: %s", path, strerror(e));
    }
    if (count) qsort(list, (size_t)count, sizeof *list, by_name);
    *names = list;
    *n = count;
    return OK;
}

void dir_list_free(char **names, int n)
{
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

/* Whether a folder that is there holds nothing. */
static Status check_empty(const char *path, Err *err)
{
    char **names;
    int n;
    TRY(dir_list(&names, &n, path, err));
    dir_list_free(names, n);
    return n == 0 ? OK : err_set(err, E_INPUT, "%s: is not empty; name a new folder", path);
}

Status dir_check_new(const char *path, const char *source, Err *err)
{
    if (!*path) return err_set(err, E_INPUT, "the folder to write has no name");
    char *file = path_in_the_way(path);
    Status s = file ? err_set(err, E_INPUT, "%s: is a file; name a new folder", file) : OK;
    free(file);
    TRY(s);
    if (source && path_lies_in(path, source))
        return err_set(err, E_INPUT, "%s: lies inside %s, which is read; name a folder elsewhere",
                       path, source);
    return path_exists(path) ? check_empty(path, err) : OK;
}

Status dir_remove(const char *path, Err *err)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        if (errno == ENOENT) return OK;
        return err_set(err, E_FAILED, "%s: cannot remove: %s", path, strerror(errno));
    }
    if (!S_ISDIR(st.st_mode)) { /* a link goes, what it points at stays */
        if (unlink(path) == 0 || errno == ENOENT) return OK;
        return err_set(err, E_FAILED, "%s: cannot remove: %s", path, strerror(errno));
    }
    char **names;
    int n;
    TRY(dir_list(&names, &n, path, err));
    Status s = OK;
    for (int i = 0; i < n && s == OK; i++) {
        char *child = path_join(path, names[i]);
        s = dir_remove(child, err);
        free(child);
    }
    dir_list_free(names, n);
    if (s == OK && rmdir(path) != 0 && errno != ENOENT)
        s = err_set(err, E_FAILED, "%s: cannot remove the folder: %s", path, strerror(errno));
    return s;
}

Status dir_sync(const char *path, Err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, E_FAILED, "%s: cannot open the folder: %s", path, strerror(errno));
    /* EINVAL, EROFS: a file system whose folders cannot be synced; nothing to do there */
    bool bad = fsync(fd) != 0 && errno != EINVAL && errno != EROFS;
    int e = errno;
    close(fd);
    if (bad) return err_set(err, E_FAILED, "%s: cannot sync the folder: %s", path, strerror(e));
    return OK;
}

Status dir_make_anew(const char *path, Err *err)
{
    TRY(dir_remove(path, err));
    return dir_make(path, err);
}
