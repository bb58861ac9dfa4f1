/* SentencePiece's tokenizer.model: a protobuf message (sentencepiece_model.proto), of which a BPE model
 * with the identity as its character map can be run exactly.  The rest is refused by name. */
#include "data/tokenizer_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PIECES = 1 << 19 };

/* ---- protobuf ---- */

typedef struct Proto {
    const uint8_t *p, *end, *begin; /* begin: of the file, for messages */
    const char *path;
    Err *err;
} Proto;

typedef struct Field {
    uint32_t number;
    int wire;      /* 0 varint, 1 and 5 fixed, 2 bytes */
    uint64_t v;    /* varint, fixed */
    Proto message; /* bytes */
} Field;

static Status broken(const Proto *m, const char *what)
{
    return err_set(m->err, E_INPUT,
                   "%s: byte %td: %s: this is no SentencePiece model, or it is cut off", m->path,
                   m->p - m->begin, what);
}

static Status varint(Proto *m, uint64_t *v)
{
    *v = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        if (m->p == m->end) return broken(m, "a number that does not end");
        uint8_t b = *m->p++;
        *v |= (uint64_t)(b & 0x7F) << (shift > 63 ? 63 : shift);
        if (!(b & 0x80)) return OK;
    }
    return broken(m, "a number that is too long");
}

static Status fixed(Proto *m, int bytes, uint64_t *v)
{
    if (m->end - m->p < bytes) return broken(m, "a field that does not end");
    *v = 0;
    for (int i = 0; i < bytes; i++)
        *v |= (uint64_t)m->p[i] << (8 * i);
    m->p += bytes;
    return OK;
}

/* *more is false at the end of the message. */
static Status next_field(Proto *m, Field *f, bool *more)
{
    uint64_t tag, len;
    *more = m->p < m->end;
    if (!*more) return OK;
    TRY(varint(m, &tag));
    if (tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF) return broken(m, "an impossible field");
    *f = (Field){.number = (uint32_t)(tag >> 3), .wire = (int)(tag & 7)};
    switch (f->wire) {
    case 0:
        return varint(m, &f->v);
    case 1:
        return fixed(m, 8, &f->v);
    case 5:
        return fixed(m, 4, &f->v);
    case 2:
        TRY(varint(m, &len));
        if (len > (uint64_t)(m->end - m->p)) return broken(m, "a field that does not end");
        f->message = *m;
        f->message.end = m->p + len;
        m->p += len;
        return OK;
    default:
        return broken(m, "an unknown kind of field");
    }
}

static bool is_text(const Field *f)
{
    return f->wire == 2;
}

/* ---- the model ---- */

typedef enum PieceType {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN,
    PIECE_CONTROL,
    PIECE_USER_DEFINED,
    PIECE_UNUSED,
    PIECE_BYTE,
} PieceType;

typedef struct Piece {
    const char *s;
    size_t n;
    float score;
    int type;
    int id;
} Piece;

typedef struct Model {
    Piece *pieces;
    int n, cap;
    int model_type;
    bool suffix, byte_fallback;
    bool dummy_prefix, remove_extra, escape, has_charsmap, has_denormalizer;
    char *norm_name, *bos_piece, *eos_piece, *pad_piece;
} Model;

static void set_text(char **to, const Field *f)
{
    free(*to);
    *to = xstrndup((const char *)f->message.p, (size_t)(f->message.end - f->message.p));
}

static Status read_piece(Model *m, Proto msg)
{
    if (m->n == MAX_PIECES) return broken(&msg, "more pieces than any model has");
    if (m->n == m->cap) {
        m->cap = m->cap ? 2 * m->cap : 1024;
        m->pieces = xrealloc(m->pieces, (size_t)m->cap * sizeof *m->pieces);
    }
    Piece *p = &m->pieces[m->n];
    *p = (Piece){.type = PIECE_NORMAL, .id = m->n++};
    Field f;
    for (bool more;;) {
        TRY(next_field(&msg, &f, &more));
        if (!more) break;
        if (f.number == 1 && is_text(&f)) {
            p->s = (const char *)f.message.p;
            p->n = (size_t)(f.message.end - f.message.p);
        } else if (f.number == 2 && f.wire == 5) {
            uint32_t bits = (uint32_t)f.v;
            memcpy(&p->score, &bits, 4);
        } else if (f.number == 3 && f.wire == 0) {
            p->type = f.v <= PIECE_BYTE ? (int)f.v : 0;
        }
    }
    if (!p->n || !utf8_valid(p->s, p->n)) return broken(&msg, "a piece without text");
    if (!p->type || !isfinite(p->score)) return broken(&msg, "a piece of an unknown type or score");
    return OK;
}

static Status read_trainer(Model *m, Proto msg)
{
    Field f;
    for (bool more;;) {
        TRY(next_field(&msg, &f, &more));
        if (!more) return OK;
        if (f.wire == 0 && f.number == 3) m->model_type = f.v < 100 ? (int)f.v : 0;
        if (f.wire == 0 && f.number == 24) m->suffix = f.v;
        if (f.wire == 0 && f.number == 35) m->byte_fallback = f.v;
        if (is_text(&f) && f.number == 46) set_text(&m->bos_piece, &f);
        if (is_text(&f) && f.number == 47) set_text(&m->eos_piece, &f);
        if (is_text(&f) && f.number == 48) set_text(&m->pad_piece, &f);
    }
}

static Status read_normalizer_spec(Model *m, Proto msg)
{
    Field f;
    for (bool more;;) {
        TRY(next_field(&msg, &f, &more));
        if (!more) return OK;
        if (is_text(&f) && f.number == 1) set_text(&m->norm_name, &f);
        if (is_text(&f) && f.number == 2) m->has_charsmap = f.message.p < f.message.end;
        if (f.wire == 0 && f.number == 3) m->dummy_prefix = f.v;
        if (f.wire == 0 && f.number == 4) m->remove_extra = f.v;
        if (f.wire == 0 && f.number == 5) m->escape = f.v;
    }
}

static Status read_denormalizer(Model *m, Proto msg)
{
    Field f;
    for (bool more;;) {
        TRY(next_field(&msg, &f, &more));
        if (!more) return OK;
        if (is_text(&f) && f.number == 2 && f.message.p < f.message.end) m->has_denormalizer = true;
    }
}

static Status read_model(Model *m, Proto file)
{
    Field f;
    for (bool more;;) {
        TRY(next_field(&file, &f, &more));
        if (!more) return OK;
        if (!is_text(&f)) continue;
        if (f.number == 1) TRY(read_piece(m, f.message));
        if (f.number == 2) TRY(read_trainer(m, f.message));
        if (f.number == 3) TRY(read_normalizer_spec(m, f.message));
        if (f.number == 5) TRY(read_denormalizer(m, f.message));
    }
}

static Status check_model(const Model *m, const char *path, Err *err)
{
    static const char *const types[] = {"unknown", "Unigram", "BPE", "Word", "Char"};
    if (!m->n) return err_set(err, E_INPUT, "%s: no pieces: this is no SentencePiece model", path);
    if (m->model_type != 2)
        return err_set(err, E_INPUT,
                       "%s: trainer_spec.model_type: %s is not supported; lorac knows BPE", path,
                       types[m->model_type <= 4 ? m->model_type : 0]);
    if (m->has_charsmap || m->has_denormalizer)
        return err_set(
            err, E_INPUT,
            "%s: normalizer_spec: the character map of '%s' is not supported; lorac knows "
            "'identity'",
            path, m->norm_name ? m->norm_name : "");
    if (m->suffix)
        return err_set(err, E_INPUT,
                       "%s: trainer_spec.treat_whitespace_as_suffix: true is not supported", path);
    return OK;
}

/* ---- into a Tokenizer ---- */

static int control(const Model *m, const char *name)
{
    for (int i = 0; i < m->n; i++)
        if (m->pieces[i].type == PIECE_CONTROL && m->pieces[i].n == strlen(name) &&
            memcmp(m->pieces[i].s, name, m->pieces[i].n) == 0)
            return i;
    return -1;
}

static int by_score(const void *a, const void *b)
{
    const Piece *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id - y->id;
}

/* Pairs are ranked by the score of the piece that they make; equal scores are one rank. */
static void add_pairs(Tokenizer *t, const Model *m)
{
    Piece *sorted = xmalloc((size_t)m->n * sizeof *sorted);
    memcpy(sorted, m->pieces, (size_t)m->n * sizeof *sorted);
    qsort(sorted, (size_t)m->n, sizeof *sorted, by_score);
    int rank = 0;
    for (int i = 0; i < m->n; i++) {
        if (i && sorted[i].score != sorted[i - 1].score) rank++;
        if (sorted[i].type == PIECE_NORMAL || sorted[i].type == PIECE_USER_DEFINED ||
            sorted[i].type == PIECE_UNUSED)
            bpe_add_splits(&t->bpe, sorted[i].id, rank);
    }
    free(sorted);
}

static void add_loose_chars(Tokenizer *t, const char *s, size_t n)
{
    for (size_t i = 0, len; i < n; i += len) {
        len = char_len(s + i);
        if (vocab_find(&t->vocab, s + i, len) >= 0) continue;
        /* False where it is known already. */
        bool fresh = vocab_add(&t->bpe.loose, t->bpe.n_model + t->bpe.loose.n_found, s + i, len);
        (void)fresh;
    }
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static Status add_piece(Tokenizer *t, const Piece *p, int32_t byte_ids[256], const char *path,
                        Err *err)
{
    Bpe *b = &t->bpe;
    char content[64];
    snprintf(content, sizeof content, "%.*s", (int)(p->n < 60 ? p->n : 60), p->s);
    AddedToken token = {(char *)(uintptr_t)p->s, p->n, p->id, .special = true};
    switch (p->type) {
    case PIECE_UNKNOWN:
        if (b->unk_id >= 0) return err_set(err, E_INPUT, "%s: two unknown pieces", path);
        b->unk_id = p->id;
        /* fall through */
    case PIECE_CONTROL:
        if (added_find(&t->added, p->s, p->n))
            return err_set(err, E_INPUT, "%s: piece %d: '%s' is there twice", path, p->id, content);
        tokenizer_put_added(t, &token);
        return OK;
    case PIECE_BYTE: {
        int high = p->n == 6 ? hex(p->s[3]) : -1, low = p->n == 6 ? hex(p->s[4]) : -1;
        if (high < 0 || low < 0 || memcmp(p->s, "<0x", 3) != 0 || p->s[5] != '>')
            return err_set(err, E_INPUT, "%s: piece %d: '%s' is no byte", path, p->id, content);
        vocab_name(&t->vocab, p->id, p->s, p->n);
        byte_ids[16 * high + low] = p->id;
        t->dec.bytes[p->id] = 16 * high + low;
        return OK;
    }
    default:
        if (!vocab_add(&t->vocab, p->id, p->s, p->n))
            return err_set(err, E_INPUT, "%s: piece %d: '%s' is there twice", path, p->id, content);
        if (p->type == PIECE_USER_DEFINED) {
            token.special = false;
            token.normalized = true; /* matched in the normalized text, and never merged */
            tokenizer_put_added(t, &token);
        }
        if (p->type == PIECE_UNUSED) b->unused[p->id] = 1;
        return OK;
    }
}

/* Tokens that only tokenizer_config.json has: behind the pieces, or pieces themselves. */
static Status add_config_tokens(Tokenizer *t, const TokenizerConfig *c, Err *err)
{
    for (int i = 0; i < c->added.n; i++) {
        AddedToken token = c->added.items[i];
        int known = token_id(t, token.content, token.n);
        const char *there = vocab_piece(&t->vocab, token.id, NULL);
        if (known >= 0 ? known != token.id : there != NULL)
            return err_set(err, E_INPUT,
                           "%s: added_tokens_decoder.%d: '%.80s': the model has %s there", c->path,
                           token.id, token.content, there ? there : "nothing");
        token.normalized = false;
        const AddedToken *old = added_find(&t->added, token.content, token.n);
        if (!old || !old->normalized) tokenizer_put_added(t, &token);
    }
    return OK;
}

static Status build(Tokenizer *t, const Model *m, const TokenizerConfig *c, const char *path,
                    Err *err)
{
    Bpe *b = &t->bpe;
    int32_t byte_ids[256];
    memset(byte_ids, 0xFF, sizeof byte_ids);
    t->kind = xstrdup("SentencePiece BPE");
    t->dec.kind = DECODE_SPM;
    t->dec.dummy_prefix = m->dummy_prefix;
    t->dec.remove_extra = m->remove_extra;
    t->dec.n_bytes = m->n;
    t->dec.bytes = xmalloc((size_t)m->n * sizeof *t->dec.bytes);
    memset(t->dec.bytes, 0xFF, (size_t)m->n * sizeof *t->dec.bytes);
    b->bytes_last = true;
    b->byte_fallback = m->byte_fallback;
    b->n_model = m->n;
    bool any_unused = false;
    for (int i = 0; i < m->n; i++)
        any_unused |= m->pieces[i].type == PIECE_UNUSED;
    if (any_unused) b->unused = xcalloc((size_t)m->n, 1);
    for (int i = 0; i < m->n; i++)
        TRY(add_piece(t, &m->pieces[i], byte_ids, path, err));
    if (b->unk_id < 0) return err_set(err, E_INPUT, "%s: no unknown piece", path);
    for (int i = 0; i < 256; i++)
        if (m->byte_fallback && byte_ids[i] < 0)
            return err_set(err, E_INPUT, "%s: byte_fallback without the piece <0x%02X>", path, i);
    for (int i = 0; i < m->n; i++)
        if (vocab_find(&t->vocab, m->pieces[i].s, m->pieces[i].n) == i)
            add_loose_chars(t, m->pieces[i].s, m->pieces[i].n);
    add_pairs(t, m);
    bpe_finish(b);
    memcpy(b->byte_ids, byte_ids, sizeof byte_ids);
    NormStep *st = normalizer_add(&t->norm, NORM_SPM);
    st->dummy_prefix = m->dummy_prefix;
    st->remove_extra = m->remove_extra;
    st->escape = m->escape;
    t->prefix_once = c->not_legacy;
    t->bos = control(m, m->bos_piece ? m->bos_piece : "<s>");
    t->eos = control(m, m->eos_piece ? m->eos_piece : "</s>");
    t->pad = control(m, m->pad_piece ? m->pad_piece : "<pad>");
    t->adds_bos = c->add_bos != 0;
    t->adds_eos = c->add_eos == 1;
    return add_config_tokens(t, c, err);
}

Status tokenizer_read_spm(Tokenizer *t, const TokenizerConfig *c, const char *path,
                          const uint8_t *data, size_t len, Err *err)
{
    Model m = {.model_type = 1, .dummy_prefix = true, .remove_extra = true, .escape = true};
    Status s = read_model(&m, (Proto){data, data + len, data, path, err});
    if (s == OK) s = check_model(&m, path, err);
    if (s == OK) s = build(t, &m, c, path, err);
    free(m.pieces);
    free(m.norm_name);
    free(m.bos_piece);
    free(m.eos_piece);
    free(m.pad_piece);
    return s;
}
