/* tiktoken's rank files: a line for each token, its bytes in base64 and its rank, which is its id.  Two
 * symbols are merged in the order of the rank of their concatenation. */
#include "data/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

enum { LLAMA3_RANKS = 128000, LLAMA3_SPECIALS = 256 };

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Appends the bytes of s[0..n) in GPT-2's alphabet; returns how many, -1 when it is no base64. */
static int append_token(StrBuf *out, const char *s, size_t n)
{
    size_t pad = 0;
    while (pad < 2 && pad < n && s[n - 1 - pad] == '=')
        pad++;
    if (n % 4 || n == pad) return -1;
    uint32_t bits = 0;
    int n_bits = 0, n_bytes = 0;
    for (size_t i = 0; i < n - pad; i++) {
        int d = base64_digit(s[i]);
        if (d < 0) return -1;
        bits = bits << 6 | (uint32_t)d;
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        char unit[4];
        strbuf_append(out, unit,
                      (size_t)utf8_encode(byte_to_alphabet((uint8_t)(bits >> n_bits)), unit));
        n_bytes++;
    }
    return n_bytes ? n_bytes : -1;
}

static Status read_line(Tokenizer *t, StrBuf *token, const char *s, size_t n, const char *path,
                        int line, Err *err)
{
    const char *space = memchr(s, ' ', n);
    size_t n_token = space ? (size_t)(space - s) : n;
    strbuf_reset(token);
    if (!space || append_token(token, s, n_token) < 0)
        return err_set(err, E_INPUT, "%s:%d: must be a token in base64, a space and its rank", path,
                       line);
    int64_t rank = 0;
    size_t i = n_token + 1;
    for (; i < n && s[i] >= '0' && s[i] <= '9' && rank <= VOCAB_MAX_ID; i++)
        rank = 10 * rank + (s[i] - '0');
    if (i != n || i == n_token + 1 || rank > VOCAB_MAX_ID)
        return err_set(err, E_INPUT, "%s:%d: the rank must be a number from 0 to %d", path, line,
                       VOCAB_MAX_ID);
    if (!vocab_add(&t->vocab, (int)rank, token->data, token->len))
        return err_set(err, E_INPUT, "%s:%d: the token or rank %d was there before", path, line,
                       (int)rank);
    return OK;
}

static Status read_ranks(Tokenizer *t, const char *path, const char *data, size_t len, Err *err)
{
    StrBuf token = {0};
    Status s = OK;
    int line = 0;
    for (size_t at = 0; at < len && s == OK;) {
        const char *end = memchr(data + at, '\n', len - at);
        size_t to = end ? (size_t)(end - data) : len, n = to - at;
        line++;
        if (n && data[to - 1] == '\r') n--;
        if (n) s = read_line(t, &token, data + at, n, path, line, err);
        at = to + 1;
    }
    strbuf_clear(&token);
    return s;
}

/* Llama 3's list, as Hugging Face names it from 3.1 on. */
static void add_llama3_specials(Tokenizer *t)
{
    static const char *const named[] = {"<|begin_of_text|>",
                                        "<|end_of_text|>",
                                        NULL,
                                        NULL,
                                        "<|finetune_right_pad_id|>",
                                        NULL,
                                        "<|start_header_id|>",
                                        "<|end_header_id|>",
                                        "<|eom_id|>",
                                        "<|eot_id|>",
                                        "<|python_tag|>"};
    int reserved = 0;
    for (int i = 0; i < LLAMA3_SPECIALS; i++) {
        bool has = (size_t)i < sizeof named / sizeof *named && named[i];
        char *content =
            has ? xstrdup(named[i]) : str_format("<|reserved_special_token_%d|>", reserved++);
        AddedToken token = {content, strlen(content), LLAMA3_RANKS + i, .special = true};
        tokenizer_put_added(t, &token);
        free(content);
    }
}

static Status add_specials(Tokenizer *t, const TokenizerConfig *c, Err *err)
{
    for (int i = 0; i < c->added.n; i++) {
        AddedToken token = c->added.items[i];
        token.normalized = false;
        if (vocab_piece(&t->vocab, token.id, NULL) &&
            token_id(t, token.content, token.n) != token.id)
            return err_set(
                err, E_INPUT,
                "%s: added_tokens_decoder.%d: '%.80s': the model has another token there", c->path,
                token.id, token.content);
        tokenizer_put_added(t, &token);
    }
    if (!c->added.n && t->vocab.n == LLAMA3_RANKS) add_llama3_specials(t);
    return OK;
}

Status tokenizer_read_tiktoken(Tokenizer *t, const TokenizerConfig *c, const char *path,
                               const char *data, size_t len, Err *err)
{
    TRY(read_ranks(t, path, data, len, err));
    Bpe *b = &t->bpe;
    b->byte_level = true;
    b->ignore_merges = true; /* tiktoken looks the whole word up first */
    for (int id = 0; id < t->vocab.n; id++)
        if (vocab_piece(&t->vocab, id, NULL)) bpe_add_splits(b, id, id);
    bpe_finish(b);
    for (int i = 0; i < 256; i++)
        if (b->unit_ids[i] < 0)
            return err_set(err, E_INPUT, "%s: no token for byte 0x%02X: the file is cut off", path,
                           i);
    PreStep *st = pretok_add(&t->pre, PRE_SPLIT);
    st->behavior = SPLIT_ISOLATED;
    TRY(regex_new(&st->regex, LLAMA3_PATTERN, strlen(LLAMA3_PATTERN), err));
    t->kind = xstrdup("tiktoken");
    t->dec.kind = DECODE_BYTE_LEVEL;
    TRY(add_specials(t, c, err));
    int bos = tokenizer_id(t, "<|begin_of_text|>");
    t->adds_bos = bos >= 0 && c->add_bos != 0;
    t->adds_eos = c->add_eos == 1;
    return OK;
}
