/* Writing files so that a crash or a full disk never leaves half of one under its final name. */
#define _GNU_SOURCE /* fallocate */
#include "base/fs.h"
#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUF_BYTES = 1 << 20 };

Status file_out_open(FileOut *f, const char *path, Err *err)
{
    *f = (FileOut){.fd = -1};
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_set(err, E_FAILED, "%s: cannot open for writing: %s", path, strerror(errno));
    f->fd = fd;
    f->path = xstrdup(path);
    f->buf = xmalloc(BUF_BYTES);
    return OK;
}

static void write_through(FileOut *f, const uint8_t *p, size_t n)
{
    while (n > 0 && !f->error) {
        ssize_t done = write(f->fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) {
            f->error = errno;
            return;
        }
        p += done;
        n -= (size_t)done;
    }
}

void file_out_write(FileOut *f, const void *data, size_t len)
{
    if (f->error || len == 0) return;
    f->crc = crc32c(f->crc, data, len);
    f->total += len;
    if (f->n_buf + len > BUF_BYTES) {
        write_through(f, f->buf, f->n_buf);
        f->n_buf = 0;
    }
    if (len >= BUF_BYTES) {
        write_through(f, data, len);
        return;
    }
    memcpy(f->buf + f->n_buf, data, len);
    f->n_buf += len;
}

static void file_out_clear(FileOut *f)
{
    free(f->path);
    free(f->buf);
    *f = (FileOut){.fd = -1};
}

Status file_out_close(FileOut *f, Err *err)
{
    write_through(f, f->buf, f->n_buf);
    /* EINVAL: /dev/stdout and pipes, which have nothing to sync */
    if (!f->error && fsync(f->fd) != 0 && errno != EINVAL) f->error = errno;
    if (close(f->fd) != 0 && !f->error) f->error = errno;
    Status s = OK;
    if (f->error) {
        s = err_set(err, E_FAILED, "%s: cannot write: %s", f->path, strerror(f->error));
    }
    file_out_clear(f);
    return s;
}

void file_out_abort(FileOut *f)
{
    if (!f->path) return;
    struct stat st;
    bool regular = fstat(f->fd, &st) == 0 && S_ISREG(st.st_mode);
    close(f->fd);
    if (regular) unlink(f->path);
    file_out_clear(f);
}

char *file_place(const char *path, bool *in_place)
{
    struct stat st;
    char *real = realpath(path, NULL);
    *in_place = stat(path, &st) == 0 && !S_ISREG(st.st_mode);
    return real ? real : xstrdup(path);
}

Status file_check_writable(const char *path, Err *err)
{
    bool in_place;
    char *place = file_place(path, &in_place),
         *tmp = str_format("%s.tmp.%ld", place, (long)getpid());
    Status s = in_place ? OK : path_check_writable(tmp, err);
    free(tmp);
    free(place);
    return s;
}

Status file_rename(const char *from, const char *to, Err *err)
{
    if (rename(from, to) != 0)
        return err_set(err, E_FAILED, "%s: cannot rename to %s: %s", from, to, strerror(errno));
    const char *name = path_base(to);
    char *dir = name == to ? xstrdup(".") : xstrndup(to, (size_t)(name - to));
    Status s = dir_sync(dir, err);
    free(dir);
    return s;
}

Status file_write_atomic(const char *path, const void *data, size_t len, Err *err)
{
    bool in_place;
    char *place = file_place(path, &in_place);
    char *tmp = in_place ? xstrdup(place) : str_format("%s.tmp.%ld", place, (long)getpid());
    FileOut f;
    Status s = file_out_open(&f, tmp, err);
    if (s == OK) {
        file_out_write(&f, data, len);
        s = file_out_close(&f, err);
        if (s == OK && !in_place) s = file_rename(tmp, place, err);
        if (s != OK && !in_place) unlink(tmp);
    }
    free(tmp);
    free(place);
    return s;
}

Status file_write_at(int fd, const void *data, size_t n, uint64_t at, const char *path, Err *err)
{
    for (const char *from = data; n > 0;) {
        ssize_t k = pwrite(fd, from, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return err_set(err, E_FAILED, "%s: cannot write: %s", path,
                           strerror(k < 0 ? errno : ENOSPC));
        from += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return OK;
}

Status file_create_sized(int *fd, const char *path, uint64_t bytes, Err *err)
{
    *fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (*fd < 0)
        return err_set(err, E_FAILED, "%s: cannot open for writing: %s", path, strerror(errno));
    int failed = ftruncate(*fd, (off_t)bytes) != 0 ? errno : 0;
    /* other reasons than a full disk: a file system without */
    if (!failed && bytes > 0 && fallocate(*fd, 0, 0, (off_t)bytes) != 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
        failed = errno;
    if (!failed) return OK;
    close(*fd);
    *fd = -1;
    return err_set(err, E_FAILED, "%s: no room for %llu bytes: %s", path, (unsigned long long)bytes,
                   strerror(failed));
}

Status file_copy(const char *from, const char *to, Err *err)
{
    int fd;
    TRY(file_open(&fd, from, err));
    struct stat st, there;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(err, E_INPUT, "%s: cannot copy: not a regular file", from);
    }
    if (stat(to, &there) == 0 && there.st_dev == st.st_dev && there.st_ino == st.st_ino) {
        close(fd); /* opening it for writing would empty it */
        return err_set(err, E_INPUT, "%s: cannot copy onto itself (%s)", from, to);
    }
    FileOut f;
    Status s = file_out_open(&f, to, err);
    if (s != OK) {
        close(fd);
        return s;
    }
    uint8_t *chunk = xmalloc(BUF_BYTES);
    ssize_t n;
    while ((n = read(fd, chunk, BUF_BYTES)) != 0) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) break;
        file_out_write(&f, chunk, (size_t)n);
    }
    int read_error = n < 0 ? errno : 0;
    (void)!fchmod(f.fd, st.st_mode &
                            0777); /* the bytes are what matters: some file systems have no modes */
    free(chunk);
    close(fd);
    if (read_error) {
        file_out_abort(&f);
        return err_set(err, E_FAILED, "%s: cannot read: %s", from, strerror(read_error));
    }
    return file_out_close(&f, err);
}
