/* The cache file: header, documents, ids, labels, checksum; little-endian, everything at a multiple of 8. */
#include "data/dataset_cache.h"

#include "base/hash.h"
#include "data/render.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* In the name and in the file: files of other versions lie unread beside ours.  Another one whenever the same rows become other
 * tokens, too (3: BOS and system message of ChatML; 4: a row's number). */
enum { VERSION = 4 };

typedef struct Header {
    char magic[8];
    uint32_t version, byte_order;
    CacheKey key;
    int64_t n_docs, n_tokens;
    StoreStats stats;
} Header;

static const char MAGIC[8] = {'L', 'O', 'R', 'A', 'C', 'T', 'O', 'K'};
static const char file_prefix[] = "tokens-v";
static const uint32_t BYTE_ORDER_MARK = 0x01020304;

static char *cache_path(const char *dir, CacheKey key)
{
    return str_format("%s/%s%d-%016llx%016llx.bin", dir, file_prefix, VERSION,
                      (unsigned long long)key.v[0], (unsigned long long)key.v[1]);
}

static size_t padded(int64_t n_tokens)
{
    return ((size_t)n_tokens * sizeof(int32_t) + 7) / 8 * 8;
}

static size_t body_bytes(const Header *h)
{
    return sizeof *h + (size_t)h->n_docs * sizeof(DocEntry) + 2 * padded(h->n_tokens);
}

/* A reason, or NULL. */
static const char *check_header(const Header *h, CacheKey key, size_t len)
{
    if (memcmp(h->magic, MAGIC, sizeof MAGIC) != 0) return "it is no cache file";
    if (h->version != VERSION || h->byte_order != BYTE_ORDER_MARK) return "it has another version";
    if (memcmp(&h->key, &key, sizeof key) != 0) return "it belongs to other data";
    int64_t most = (int64_t)(len / sizeof(int32_t));
    if (h->n_docs < 0 || h->n_tokens < 0 || h->n_docs > most || h->n_tokens > most ||
        body_bytes(h) + sizeof(uint64_t) != len)
        return "its length is wrong";
    return NULL;
}

static bool in_files(const TokenStore *s, const RowAt *at)
{
    return at->file >= 0 && at->file < s->n_files;
}

/* The checksum guards against damage; this against a file that somebody made. */
static const char *check_body(const TokenStore *s, int vocab_size)
{
    if (!in_files(s, &s->stats.first_untrained) || !in_files(s, &s->stats.first_spelled))
        return "a row lies outside";
    int64_t at = 0;
    for (int64_t i = 0; i < s->n_docs; i++) {
        const DocEntry *d = &s->docs[i];
        if (d->start != at || d->n < 1 || d->n > s->n_tokens - at || !in_files(s, &d->at) ||
            d->n_trained < 0 || d->n_trained >= d->n || d->dropped < 0 || d->piece < 0)
            return "a document lies outside";
        at += d->n;
    }
    if (at != s->n_tokens) return "tokens are left over";
    for (int64_t i = 0; i < s->n_tokens; i++) {
        int32_t id = s->ids[i], label = s->labels[i];
        bool ok = id >= 0 && id < vocab_size &&
                  ((label >= 0 && label < vocab_size) || label == UNTRAINED);
        if (!ok) return "a token is outside the vocabulary";
    }
    return NULL;
}

/* The time of a file's last change is that of its last use: who prunes goes by it. */
static void touch(const char *path)
{
    (void)!utimensat(AT_FDCWD, path, NULL, 0); /* a cache that may only be read is fine */
}

bool cache_load(TokenStore *s, const char *dir, CacheKey key, int vocab_size, Log *log)
{
    char *path = cache_path(dir, key);
    if (!path_exists(path)) {
        free(path);
        return false;
    }
    Err err = {0};
    FileMap m = {0};
    const char *why = NULL;
    TokenStore found = {.n_files = s->n_files};
    if (file_map(&m, path, &err) != OK) {
        why = err.line;
    } else if (m.len < sizeof(Header) + sizeof(uint64_t)) {
        why = "it is cut off";
    } else {
        Header h;
        memcpy(&h, m.data, sizeof h);
        why = check_header(&h, key, m.len);
        if (!why) {
            uint64_t sum;
            memcpy(&sum, m.data + body_bytes(&h), sizeof sum);
            if (sum != crc32c(0, m.data, body_bytes(&h))) why = "its checksum is wrong";
        }
        if (!why) {
            found.stats = h.stats;
            found.n_docs = h.n_docs;
            found.n_tokens = h.n_tokens;
            /* read-only pages: the arrays are never written through these pointers */
            uint8_t *at = (uint8_t *)(uintptr_t)m.data + sizeof h;
            found.docs = (DocEntry *)(void *)at;
            at += (size_t)h.n_docs * sizeof(DocEntry);
            found.ids = (int32_t *)(void *)at;
            found.labels = (int32_t *)(void *)(at + padded(h.n_tokens));
            why = check_body(&found, vocab_size);
        }
    }
    if (why) {
        log_warn(log, "%s: the cached tokens cannot be used (%s); they are made anew", path, why);
        if (m.data) file_unmap(&m);
    } else {
        found.files = s->files;
        found.map = m;
        found.from_cache = true;
        *s = found;
        touch(path);
    }
    free(path);
    return why == NULL;
}

static void write_padded(FileOut *f, const int32_t *v, int64_t n)
{
    static const char zeros[8] = {0};
    if (n) file_out_write(f, v, (size_t)n * sizeof *v);
    file_out_write(f, zeros, padded(n) - (size_t)n * sizeof *v);
}

typedef struct CacheFile {
    char *path;
    struct timespec used;
} CacheFile;

static int by_last_use(const void *a, const void *b)
{
    const struct timespec *x = &((const CacheFile *)a)->used, *y = &((const CacheFile *)b)->used;
    if (x->tv_sec != y->tv_sec) return x->tv_sec < y->tv_sec ? 1 : -1;
    return (x->tv_nsec < y->tv_nsec) - (x->tv_nsec > y->tv_nsec);
}

static bool is_cache_file(const char *name)
{
    return str_starts(name, file_prefix) && str_ends(name, ".bin");
}

/* A file that another run has mapped lives on for that run. */
static void prune(const char *dir)
{
    char **names;
    int n, n_files = 0;
    dir_sweep(dir, file_prefix);
    if (dir_list(&names, &n, dir, NULL) != OK) return;
    CacheFile *files = xcalloc((size_t)n, sizeof *files);
    for (int i = 0; i < n; i++) {
        struct stat st;
        char *path = path_join(dir, names[i]);
        if (is_cache_file(names[i]) && stat(path, &st) == 0)
            files[n_files++] = (CacheFile){path, st.st_mtim};
        else
            free(path);
    }
    qsort(files, (size_t)n_files, sizeof *files, by_last_use);
    for (int i = 0; i < n_files; i++) {
        if (i >= CACHE_KEPT) unlink(files[i].path);
        free(files[i].path);
    }
    free(files);
    dir_list_free(names, n);
}

void cache_save(const TokenStore *s, const char *dir, CacheKey key, Log *log)
{
    Header h = {.version = VERSION,
                .byte_order = BYTE_ORDER_MARK,
                .key = key,
                .n_docs = s->n_docs,
                .n_tokens = s->n_tokens,
                .stats = s->stats};
    memcpy(h.magic, MAGIC, sizeof MAGIC);
    Err err = {0};
    FileOut f = {0};
    char *path = cache_path(dir, key);
    /* ranks may be threads of one process: each writes a file of its own */
    char *beside =
        str_format("%s.tmp.%ld.%llx", path, (long)getpid(), (unsigned long long)(uintptr_t)s);
    Status status = dir_make(dir, &err);
    if (status == OK) status = file_out_open(&f, beside, &err);
    if (status == OK) {
        file_out_write(&f, &h, sizeof h);
        if (s->n_docs) file_out_write(&f, s->docs, (size_t)s->n_docs * sizeof *s->docs);
        write_padded(&f, s->ids, s->n_tokens);
        write_padded(&f, s->labels, s->n_tokens);
        uint64_t sum = f.crc;
        file_out_write(&f, &sum, sizeof sum);
        status = file_out_close(&f, &err);
        if (status == OK) status = file_rename(beside, path, &err);
        if (status != OK) unlink(beside);
    }
    if (status == OK) prune(dir);
    if (status != OK) log_warn(log, "the tokens could not be kept for the next run: %s", err.line);
    free(beside);
    free(path);
}
