/* The merge engine.  Short words are merged in a flat array, which a scan for the lowest rank beats any
 * heap at; long ones (a whole text is one word where "▁" does not cut) with a heap, O(n log n). */
#include "data/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    FLAT_MAX = 40, /* symbols in a word that is merged in the flat array */
    CACHE_KEY = 22,
    CACHE_IDS = 8,
    CACHE_FIRST = 256, /* entries; grows as words miss, up to CACHE_LAST */
    CACHE_LAST = 16384,
    NO_ID = -1,
};

typedef struct Symbol {
    int32_t id;  /* NO_ID: a character that no token knows */
    int32_t at;  /* byte in the word */
    int32_t len; /* bytes; 0: merged into the one before (a byte token has its character's share) */
    int32_t prev, next;
} Symbol;

typedef struct HeapItem {
    uint64_t key; /* rank << 32 | position, so that the leftmost of equals comes first */
    int32_t id;
} HeapItem;

typedef struct CacheEntry {
    uint32_t hash;
    uint8_t n_key; /* 0: empty */
    uint8_t n_ids;
    uint8_t at[CACHE_IDS];
    char key[CACHE_KEY];
    int32_t ids[CACHE_IDS];
} CacheEntry;

struct BpeScratch {
    Symbol *sym;
    size_t n, cap;
    HeapItem *heap;
    size_t n_heap, cap_heap;
    int32_t (*made_of)[2]; /* of unused pieces: the pair that was last seen to make each */
    StrBuf spelled;        /* a word in the byte alphabet */
    CacheEntry *cache;
    uint32_t n_cache, n_missed;
};

/* ---- the table of pairs ---- */

static uint64_t pair_key(int left, int right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static uint32_t pair_hash(uint64_t key)
{
    return (uint32_t)((key * 0x9E3779B97F4A7C15ull) >> 32) ^ (uint32_t)(key >> 15);
}

static const PairSlot *find_pair(const Bpe *b, int left, int right)
{
    if (!b->n_pairs || (left | right) < 0) return NULL;
    uint64_t key = pair_key(left, right);
    uint32_t i = pair_hash(key) & (b->n_slots - 1);
    for (; b->pairs[i].key != UINT64_MAX; i = (i + 1) & (b->n_slots - 1))
        if (b->pairs[i].key == key) return &b->pairs[i];
    return NULL;
}

static PairSlot *slot_for(PairSlot *slots, uint32_t n, uint64_t key)
{
    uint32_t i = pair_hash(key) & (n - 1);
    while (slots[i].key != UINT64_MAX && slots[i].key != key)
        i = (i + 1) & (n - 1);
    return &slots[i];
}

static void grow_pairs(Bpe *b, uint32_t n)
{
    PairSlot *slots = xmalloc(n * sizeof *slots);
    memset(slots, 0xFF, n * sizeof *slots);
    for (uint32_t i = 0; i < b->n_slots; i++)
        if (b->pairs[i].key != UINT64_MAX) *slot_for(slots, n, b->pairs[i].key) = b->pairs[i];
    free(b->pairs);
    b->pairs = slots;
    b->n_slots = n;
}

void bpe_reserve(Bpe *b, size_t n_pairs)
{
    uint32_t want = b->n_slots ? b->n_slots : 1024;
    while (3 * (uint64_t)want < 5 * (uint64_t)n_pairs && want < (uint32_t)1 << 30)
        want *= 2;
    if (want > b->n_slots) grow_pairs(b, want);
}

void bpe_add_pair(Bpe *b, int left, int right, int rank, int id)
{
    bpe_reserve(b, (size_t)b->n_pairs + 1);
    uint64_t key = pair_key(left, right);
    PairSlot *slot = slot_for(b->pairs, b->n_slots, key);
    if (slot->key != key) b->n_pairs++;
    *slot = (PairSlot){key, rank, id};
}

static int find_symbol(const Bpe *b, const char *s, size_t n)
{
    int id = vocab_find(b->vocab, s, n);
    return id >= 0 ? id : vocab_find(&b->loose, s, n);
}

void bpe_add_splits(Bpe *b, int id, int rank)
{
    size_t n;
    const char *s = vocab_piece(b->vocab, id, &n);
    for (size_t i = char_len(s); i < n; i += char_len(s + i)) {
        int left = find_symbol(b, s, i);
        int right = left < 0 ? -1 : find_symbol(b, s + i, n - i);
        if (right >= 0) bpe_add_pair(b, left, right, rank, id);
    }
}

/* Whether "▁" stands behind another character somewhere in the token. */
static bool has_inner_space(const char *s, size_t n)
{
    const char *at = s, *end = s + n;
    while ((at = bytes_find(at, (size_t)(end - at), "\xE2\x96\x81", 3))) {
        if (at != s && (at - s < 3 || memcmp(at - 3, "\xE2\x96\x81", 3) != 0)) return true;
        at += 3;
    }
    return false;
}

void bpe_finish(Bpe *b)
{
    if (!b->n_model) b->n_model = b->vocab->n;
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        b->byte_ids[i] = vocab_find(b->vocab, name, 6);
        char unit[4];
        int n = b->byte_level ? utf8_encode(byte_to_alphabet((uint8_t)i), unit) : 1;
        if (!b->byte_level) unit[0] = (char)i;
        b->unit_ids[i] = b->byte_level || i < 128 ? find_symbol(b, unit, (size_t)n) : NO_ID;
    }
    bool all_bytes = b->byte_fallback;
    for (int i = 0; i < 256 && !b->bytes_last; i++)
        all_bytes &= b->byte_ids[i] >= 0;
    /* Characters that vanish would let "▁" meet what stood before them. */
    bool none_vanish = b->unk_id >= 0 || all_bytes;
    b->cut_at_space = none_vanish && !b->byte_level && !b->ignore_merges && !b->unused &&
                      vocab_find(b->vocab, "\xE2\x96\x81", 3) >= 0;
    for (int id = 0; id < b->vocab->n; id++) {
        size_t n;
        const char *s = vocab_piece(b->vocab, id, &n);
        if (s && n > b->longest) b->longest = n;
        if (s && b->cut_at_space && has_inner_space(s, n)) b->cut_at_space = false;
    }
}

void bpe_clear(Bpe *b)
{
    free(b->pairs);
    free(b->unused);
    vocab_clear(&b->loose);
    *b = (Bpe){0};
}

/* ---- scratch ---- */

BpeScratch *bpe_scratch_new(void)
{
    return xcalloc(1, sizeof(BpeScratch));
}

void bpe_scratch_forget(BpeScratch *s)
{
    free(s->made_of);
    free(s->cache);
    s->made_of = NULL;
    s->cache = NULL;
    s->n_cache = s->n_missed = 0;
}

void bpe_scratch_free(BpeScratch *s)
{
    if (!s) return;
    bpe_scratch_forget(s);
    free(s->sym);
    free(s->heap);
    strbuf_clear(&s->spelled);
    free(s);
}

static void push_symbol(BpeScratch *s, int id, size_t at, size_t len)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 64;
        s->sym = xrealloc(s->sym, s->cap * sizeof *s->sym);
    }
    int32_t i = (int32_t)s->n++;
    s->sym[i] = (Symbol){id, (int32_t)at, (int32_t)len, i - 1, i + 1};
}

/* ---- a word's first symbols ---- */

/* Unknown characters that wait for their unk.  The reference puts them out before the next character
 * that is a token, but not before byte tokens: so do we. */
typedef struct Pending {
    bool any;
    size_t at, len;
} Pending;

static void flush_unk(const Bpe *b, BpeScratch *s, Pending *p)
{
    if (p->any) push_symbol(s, b->unk_id, p->at, p->len);
    p->any = false;
}

static bool push_bytes(const Bpe *b, BpeScratch *s, const char *c, size_t n, size_t at)
{
    for (size_t i = 0; i < n; i++)
        if (b->byte_ids[(uint8_t)c[i]] < 0) return false;
    for (size_t i = 0; i < n; i++)
        push_symbol(s, b->byte_ids[(uint8_t)c[i]], at, 1);
    return true;
}

static void start_word(const Bpe *b, BpeScratch *s, const char *w, size_t n)
{
    Pending unk = {0};
    s->n = 0;
    for (size_t i = 0; i < n;) {
        size_t len = b->byte_level ? 1 : char_len(w + i);
        uint8_t c = (uint8_t)w[i];
        int id = b->byte_level || c < 0x80 ? b->unit_ids[c] : find_symbol(b, w + i, len);
        if (id >= 0 || b->bytes_last) {
            flush_unk(b, s, &unk);
            push_symbol(s, id, i, len);
        } else {
            char unit[4];
            size_t n_unit = b->byte_level ? (size_t)utf8_encode(byte_to_alphabet(c), unit) : len;
            const char *u = b->byte_level ? unit : w + i;
            if (b->byte_fallback && push_bytes(b, s, u, n_unit, i)) {
                i += len;
                continue;
            }
            if (unk.any && !b->fuse_unk) flush_unk(b, s, &unk);
            if (b->unk_id >= 0 && !unk.any) unk = (Pending){true, i, 0};
            unk.len += len;
        }
        i += len;
    }
    flush_unk(b, s, &unk);
}

/* ---- merging ---- */

static const PairSlot *look_up(const Bpe *b, BpeScratch *s, int left, int right)
{
    const PairSlot *p = find_pair(b, left, right);
    if (p && b->unused && b->unused[p->id]) {
        s->made_of[p->id][0] = left;
        s->made_of[p->id][1] = right;
    }
    return p;
}

static void merge_flat(const Bpe *b, BpeScratch *s)
{
    const PairSlot *pair[FLAT_MAX];
    size_t n = s->n;
    for (size_t i = 0; i + 1 < n; i++)
        pair[i] = look_up(b, s, s->sym[i].id, s->sym[i + 1].id);
    for (;;) {
        size_t best = n;
        int32_t rank = INT32_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            if (pair[i] && pair[i]->rank < rank) rank = pair[i]->rank, best = i;
        if (best == n) break;
        s->sym[best].id = pair[best]->id;
        s->sym[best].len += s->sym[best + 1].len;
        memmove(&s->sym[best + 1], &s->sym[best + 2], (n - best - 2) * sizeof *s->sym);
        if (best + 2 < n) memmove(&pair[best + 1], &pair[best + 2], (n - best - 2) * sizeof *pair);
        n--;
        if (best > 0) pair[best - 1] = look_up(b, s, s->sym[best - 1].id, s->sym[best].id);
        if (best + 1 < n) pair[best] = look_up(b, s, s->sym[best].id, s->sym[best + 1].id);
    }
    s->n = n;
}

static void heap_push(BpeScratch *s, const PairSlot *p, int32_t at)
{
    if (!p) return;
    if (s->n_heap == s->cap_heap) {
        s->cap_heap = s->cap_heap ? 2 * s->cap_heap : 256;
        s->heap = xrealloc(s->heap, s->cap_heap * sizeof *s->heap);
    }
    HeapItem it = {(uint64_t)(uint32_t)p->rank << 32 | (uint32_t)at, p->id};
    size_t i = s->n_heap++;
    for (; i > 0 && s->heap[(i - 1) / 2].key > it.key; i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = it;
}

static HeapItem heap_pop(BpeScratch *s)
{
    HeapItem top = s->heap[0], it = s->heap[--s->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= s->n_heap) break;
        if (child + 1 < s->n_heap && s->heap[child + 1].key < s->heap[child].key) child++;
        if (s->heap[child].key >= it.key) break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = it;
    return top;
}

static void merge_heap(const Bpe *b, BpeScratch *s)
{
    Symbol *sym = s->sym;
    int32_t n = (int32_t)s->n;
    s->n_heap = 0;
    for (int32_t i = 0; i + 1 < n; i++)
        heap_push(s, look_up(b, s, sym[i].id, sym[i + 1].id), i);
    while (s->n_heap) {
        HeapItem top = heap_pop(s);
        int32_t l = (int32_t)(uint32_t)top.key;
        if (!sym[l].len || sym[l].next >= n) continue;
        int32_t r = sym[l].next;
        const PairSlot *now = find_pair(b, sym[l].id, sym[r].id);
        if (!now || now->id != top.id) continue; /* one of the two has been merged since */
        sym[l].id = top.id;
        sym[l].len += sym[r].len;
        sym[r].len = 0;
        sym[l].next = sym[r].next;
        if (sym[l].next < n) sym[sym[l].next].prev = l;
        if (sym[l].prev >= 0)
            heap_push(s, look_up(b, s, sym[sym[l].prev].id, sym[l].id), sym[l].prev);
        if (sym[l].next < n) heap_push(s, look_up(b, s, sym[l].id, sym[sym[l].next].id), l);
    }
    size_t kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (sym[i].len) sym[kept++] = sym[i];
    s->n = kept;
}

/* ---- SentencePiece's last step: unknown characters and unused pieces ---- */

static size_t symbol_len(const Bpe *b, int id)
{
    size_t n = 0;
    vocab_piece(id < b->n_model ? b->vocab : &b->loose, id, &n);
    return n;
}

typedef struct Sink {
    const Bpe *b;
    BpeScratch *s;
    const TextView *v;
    TokenBuf *out;
    size_t base; /* of the word in v */
    bool was_unk;
} Sink;

static void put(Sink *k, int id, size_t at)
{
    tokenbuf_push(k->out, id, view_from(k->v, k->base + at));
}

static void put_symbol(Sink *k, int id, size_t at, size_t len)
{
    const Bpe *b = k->b;
    if (id >= 0 && id < b->n_model) {
        int32_t *parts = b->unused && b->unused[id] ? k->s->made_of[id] : NULL;
        if (parts && parts[0] >= 0) {
            size_t n_left = symbol_len(b, parts[0]);
            int right = parts[1];
            put_symbol(k, parts[0], at, n_left);
            put_symbol(k, right, at + n_left, len - n_left);
        } else {
            put(k, id, at);
            k->was_unk = false;
        }
        return;
    }
    if (b->byte_fallback) {
        for (size_t i = 0; i < len; i++)
            put(k, b->byte_ids[(uint8_t)k->v->s[k->base + at + i]], at);
        k->was_unk = false;
    } else {
        if (!k->was_unk) put(k, b->unk_id, at);
        k->was_unk = true;
    }
}

static void put_word(const Bpe *b, BpeScratch *s, const TextView *v, size_t base, TokenBuf *out)
{
    Sink k = {b, s, v, out, base, false};
    for (size_t i = 0; i < s->n; i++) {
        const Symbol *y = &s->sym[i];
        if (b->bytes_last)
            put_symbol(&k, y->id, (size_t)y->at, (size_t)y->len);
        else
            put(&k, y->id, (size_t)y->at);
    }
}

/* ---- the cache ---- */

static CacheEntry *cache_entry(BpeScratch *s, uint32_t hash)
{
    if (!s->cache || (s->n_missed > s->n_cache && s->n_cache < CACHE_LAST)) {
        s->n_cache = s->cache ? 4 * s->n_cache : CACHE_FIRST;
        free(s->cache);
        s->cache = xcalloc(s->n_cache, sizeof *s->cache);
        s->n_missed = 0;
    }
    return &s->cache[hash & (s->n_cache - 1)];
}

/* Only words that need no look at their text again. */
static void cache_fill(const Bpe *b, CacheEntry *e, uint32_t hash, const char *w, size_t n,
                       const BpeScratch *s)
{
    if (s->n > CACHE_IDS) return;
    for (size_t i = 0; i < s->n; i++)
        if (s->sym[i].id < 0 || s->sym[i].id >= b->n_model) return;
    e->hash = hash;
    e->n_key = (uint8_t)n;
    e->n_ids = (uint8_t)s->n;
    memcpy(e->key, w, n);
    for (size_t i = 0; i < s->n; i++) {
        e->ids[i] = s->sym[i].id;
        e->at[i] = (uint8_t)s->sym[i].at;
    }
}

static bool whole_word(const Bpe *b, BpeScratch *s, const char *w, size_t n)
{
    if (n > b->longest) return false;
    int id;
    if (b->byte_level) {
        strbuf_reset(&s->spelled);
        for (size_t i = 0; i < n; i++) {
            char unit[4];
            strbuf_append(&s->spelled, unit,
                          (size_t)utf8_encode(byte_to_alphabet((uint8_t)w[i]), unit));
        }
        id = vocab_find(b->vocab, s->spelled.data, s->spelled.len);
    } else {
        id = vocab_find(b->vocab, w, n);
    }
    if (id < 0) return false;
    s->n = 0;
    push_symbol(s, id, 0, n);
    return true;
}

void bpe_encode(const Bpe *b, BpeScratch *s, const TextView *v, Span word, TokenBuf *out)
{
    const char *w = v->s + word.a;
    size_t n = (size_t)(word.b - word.a);
    CacheEntry *e = NULL;
    uint32_t hash = 0;
    if (n <= CACHE_KEY && !b->unused) {
        hash = token_hash(w, n);
        e = cache_entry(s, hash);
        if (e->hash == hash && e->n_key == n && memcmp(e->key, w, n) == 0) {
            for (int i = 0; i < e->n_ids; i++)
                tokenbuf_push(out, e->ids[i], view_from(v, (size_t)word.a + e->at[i]));
            return;
        }
        s->n_missed++;
    }
    if (b->unused) {
        size_t bytes = (size_t)b->n_model * sizeof *s->made_of;
        if (!s->made_of) s->made_of = xmalloc(bytes);
        memset(s->made_of, 0xFF, bytes);
    }
    if (!b->ignore_merges || !whole_word(b, s, w, n)) {
        start_word(b, s, w, n);
        if (s->n <= FLAT_MAX)
            merge_flat(b, s);
        else
            merge_heap(b, s);
    }
    if (e) cache_fill(b, e, hash, w, n, s);
    put_word(b, s, v, (size_t)word.a, out);
}
