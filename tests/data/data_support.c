/* Makes files and renders documents for the tests of data sets. */
#include "tests/data/data_support.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

Tokenizer *byte_tokenizer(const char *dir, int flags)
{
    Err err = {0};
    Tokenizer *t = NULL;
    cr_assert(byte_tokenizer_make(&t, dir, flags, &err) == OK, "%s", err.line);
    return t;
}

char *put_file(const char *dir, const char *name, const char *text)
{
    char *path = path_join(dir, name);
    Err err = {0};
    cr_assert(file_write_atomic(path, text, strlen(text), &err) == OK, "%s", err.line);
    return path;
}

char *put_gzip(const char *dir, const char *name, const char *text)
{
    char *path = path_join(dir, name);
    gzFile f = gzopen(path, "wb");
    cr_assert(f && gzwrite(f, text, (unsigned)strlen(text)) == (int)strlen(text));
    gzclose(f);
    return path;
}

char *marked(const Tokenizer *t, const int32_t *ids, const int32_t *labels, int64_t n)
{
    StrBuf b = {0};
    for (int64_t i = 0; i < n;) {
        bool trained = labels[i] != -100;
        int64_t to = i;
        while (to < n && (labels[to] != -100) == trained)
            to++;
        if (trained) strbuf_puts(&b, "«");
        for (; i < to; i++) {
            if (tokenizer_is_special(t, ids[i]))
                strbuf_puts(&b, tokenizer_piece(t, ids[i]));
            else if (ids[i] < 256)
                strbuf_putc(&b, (char)ids[i]);
            else
                strbuf_puts(&b, ids[i] == BYTE_NEWLINES ? "\n\n" : ":A");
        }
        if (trained) strbuf_puts(&b, "»");
    }
    return strbuf_take(&b);
}

char *marked_set(const Tokenizer *t, const Dataset *d)
{
    StrBuf b = {0};
    for (int64_t i = 0; i < dataset_size(d); i++) {
        Document doc = dataset_document(d, i);
        char *s = marked(t, doc.ids, doc.labels, doc.n);
        strbuf_printf(&b, "%s\n", s);
        free(s);
    }
    return strbuf_take(&b);
}

char *problem_lines(const Problems *p, const char *dir)
{
    StrBuf b = {0};
    char *prefix = str_format("%s/", dir);
    for (int i = 0; i < p->n; i++) {
        const char *s = p->lines[i], *at;
        while ((at = strstr(s, prefix)) != NULL) {
            strbuf_append(&b, s, (size_t)(at - s));
            s = at + strlen(prefix);
        }
        strbuf_printf(&b, "%s\n", s);
    }
    free(prefix);
    return strbuf_take(&b);
}
