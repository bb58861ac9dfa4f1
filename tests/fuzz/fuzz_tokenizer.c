/* Tokenizers: tokenizer.json where the bytes start with '{', else tokenizer.model of either kind.  What
 * loads must encode and decode odd text without surprise. */
#include "data/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void try_text(const Tokenizer *t, const char *text, size_t len, int flags)
{
    TokenBuf b = {0};
    StrBuf whole = {0}, pieces = {0};
    DecodeStream s = {0};
    tokenizer_encode(t, &b, text, len, flags);
    for (int64_t i = 0; i < b.n; i++) {
        ASSERT(b.ids[i] >= 0 && b.ids[i] < tokenizer_vocab_size(t), "id %d", (int)b.ids[i]);
        ASSERT(b.starts[i] >= 0 && (size_t)b.starts[i] <= len, "start %d", (int)b.starts[i]);
        decode_stream_push(&s, t, &pieces, b.ids[i], false);
    }
    decode_stream_end(&s, t, &pieces);
    tokenizer_decode(t, &whole, b.ids, b.n, false);
    ASSERT(whole.len == pieces.len &&
               (!whole.len || memcmp(whole.data, pieces.data, whole.len) == 0),
           "'%s' is not '%s'", whole.data, pieces.data);
    ASSERT(utf8_valid(whole.len ? whole.data : "", whole.len), "'%s'", whole.data);
    tokenbuf_clear(&b);
    strbuf_clear(&whole);
    strbuf_clear(&pieces);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        " Hello  world's\r\n\t\xFF\xE2\x82 caf\xC3\xA9 e\xCC\x81 <s>ab</s> \xE2\x96\x81x 123 "
        "\xF0\x9F\x99\x82 a b aa\0b";
    Tokenizer *t;
    Err err = {0};
    const char *name = size && data[0] == '{' ? "f.json" : "f";
    if (tokenizer_load_bytes(&t, name, data, size, &err) != OK) {
        ASSERT(str_starts(err.line, name) && !strchr(err.line, '\n'), "%s", err.line);
        return 0;
    }
    for (int flags = 0; flags <= 3; flags++)
        try_text(t, text, sizeof text - 1, flags);
    try_text(t, (const char *)data, size < 256 ? size : 256, ENCODE_SPECIALS);
    tokenizer_free(t);
    return 0;
}
