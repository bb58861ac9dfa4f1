/* Plain and gzip files as one stream of bytes, over zlib's inflate.  inflate instead of gzread, because
 * gzread takes a file that ends inside a member for a shorter file. */
#include "data/gzline.h"

#include "base/fs.h"
#include "base/str.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { IN_BYTES = 1 << 16 };

struct ByteSource {
    char *path;
    int fd;
    bool gzip;
    bool eof;       /* of the file */
    bool in_member; /* inflate has begun a member and not seen its end */
    z_stream z;
    unsigned char in[IN_BYTES];
    size_t n_in, at; /* in[at..n_in) is not yet used */
};

static Status fill(ByteSource *s, Err *err)
{
    s->at = s->n_in = 0;
    while (!s->eof && s->n_in == 0) {
        ssize_t n = read(s->fd, s->in, IN_BYTES);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return err_set(err, E_FAILED, "%s: cannot be read: %s", s->path, strerror(errno));
        if (n == 0) s->eof = true;
        s->n_in = (size_t)n;
    }
    return OK;
}

Status source_open(ByteSource **out, const char *path, Err *err)
{
    int fd;
    TRY(file_open(&fd, path, err));
    ByteSource *s = xcalloc(1, sizeof *s);
    s->path = xstrdup(path);
    s->fd = fd;
    Status status = fill(s, err);
    s->gzip = s->n_in >= 2 && s->in[0] == 0x1f && s->in[1] == 0x8b;
    /* 15 bits of window, 16: a gzip header and its checksum, nothing else. */
    if (status == OK && s->gzip && inflateInit2(&s->z, 15 + 16) != Z_OK)
        give_up("inflateInit2: out of memory");
    if (status != OK) {
        s->gzip = false;
        source_close(s);
        return status;
    }
    *out = s;
    return OK;
}

void source_close(ByteSource *s)
{
    if (!s) return;
    if (s->gzip) inflateEnd(&s->z);
    close(s->fd);
    free(s->path);
    free(s);
}

/* A member ended: another one follows, or padding with zeros (as tape archives leave it), or nothing. */
static Status next_member(ByteSource *s, bool *more, Err *err)
{
    for (;;) {
        while (s->at < s->n_in && s->in[s->at] == 0)
            s->at++;
        if (s->at < s->n_in) break;
        TRY(fill(s, err));
        if (s->n_in == 0) {
            *more = false;
            return OK;
        }
    }
    if (s->in[s->at] != 0x1f)
        return err_set(err, E_INPUT, "%s: bytes that are not gzip follow the compressed data",
                       s->path);
    inflateReset(&s->z);
    *more = true;
    return OK;
}

static Status read_gzip(ByteSource *s, char *buf, size_t cap, size_t *n, Err *err)
{
    s->z.next_out = (Bytef *)buf;
    s->z.avail_out = cap > UINT_MAX ? UINT_MAX : (uInt)cap;
    uInt asked = s->z.avail_out;
    while (s->z.avail_out == asked) {
        if (s->at == s->n_in) TRY(fill(s, err));
        if (!s->in_member) {
            bool more;
            TRY(next_member(s, &more, err));
            if (!more) break;
            s->in_member = true;
        }
        if (s->n_in == 0)
            return err_set(err, E_INPUT,
                           "%s: the gzip data is cut off; copy or download the file again",
                           s->path);
        s->z.next_in = s->in + s->at;
        s->z.avail_in = (uInt)(s->n_in - s->at);
        int rc = inflate(&s->z, Z_NO_FLUSH);
        s->at = s->n_in - s->z.avail_in;
        if (rc == Z_STREAM_END)
            s->in_member = false;
        else if (rc == Z_MEM_ERROR)
            give_up("inflate: out of memory");
        else if (rc != Z_OK && rc != Z_BUF_ERROR)
            return err_set(err, E_INPUT, "%s: the gzip data is damaged (%s)", s->path,
                           s->z.msg ? s->z.msg : "unknown form");
    }
    *n = asked - s->z.avail_out;
    return OK;
}

Status source_read(ByteSource *s, char *buf, size_t cap, size_t *n, Err *err)
{
    *n = 0;
    if (cap == 0) return OK;
    if (s->gzip) return read_gzip(s, buf, cap, n, err);
    if (s->at == s->n_in) TRY(fill(s, err));
    *n = s->n_in - s->at < cap ? s->n_in - s->at : cap;
    memcpy(buf, s->in + s->at, *n);
    s->at += *n;
    return OK;
}
