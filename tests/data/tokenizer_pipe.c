/* tokenizer_pipe PATH: encodes and decodes what comes in on stdin, for tools/check_tokenizer.py.
 * In: flags, length (uint32 each, host order), the text.  Out: the number of ids, the ids, the starts
 * (int32), then length and text of the whole decoded, and of the stream's pieces together. */
#include "data/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

static void put(const void *data, size_t size)
{
    if (size) fwrite(data, 1, size, stdout);
}

static void put_u32(size_t v)
{
    uint32_t u = (uint32_t)v;
    put(&u, sizeof u);
}

int main(int argc, char **argv)
{
    Err err = {0};
    Tokenizer *t;
    if (argc != 2 || tokenizer_load(&t, argv[1], &err) != OK) {
        fprintf(stderr, "%s\n", argc == 2 ? err.line : "usage: tokenizer_pipe PATH");
        return 2;
    }
    uint32_t head[2];
    TokenBuf b = {0};
    StrBuf text = {0}, out = {0};
    while (fread(head, sizeof head, 1, stdin) == 1) {
        strbuf_reset(&text);
        char *in = xmalloc(head[1]);
        if (fread(in, 1, head[1], stdin) != head[1]) return 1;
        b.n = 0;
        tokenizer_encode(t, &b, in, head[1], (int)head[0]);
        put_u32((size_t)b.n);
        put(b.ids, (size_t)b.n * sizeof *b.ids);
        put(b.starts, (size_t)b.n * sizeof *b.starts);
        tokenizer_decode(t, &text, b.ids, b.n, false);
        put_u32(text.len);
        put(text.data, text.len);
        strbuf_reset(&out);
        DecodeStream s = {0};
        for (int64_t i = 0; i < b.n; i++)
            decode_stream_push(&s, t, &out, b.ids[i], false);
        decode_stream_end(&s, t, &out);
        put_u32(out.len);
        put(out.data, out.len);
        fflush(stdout);
        free(in);
    }
    tokenbuf_clear(&b);
    strbuf_clear(&text);
    strbuf_clear(&out);
    tokenizer_free(t);
    return 0;
}
