/* An open-addressing table over one pool of text. */
#include "data/vocab.h"

#include <stdlib.h>
#include <string.h>

/* Multiply and fold, 8 bytes at a time: tokens are short, so the loop rarely runs twice. */
uint32_t token_hash(const char *s, size_t n)
{
    uint64_t h = 0xCBF29CE484222325ull ^ n;
    for (; n >= 8; s += 8, n -= 8) {
        uint64_t w;
        memcpy(&w, s, 8);
        h = (h ^ w) * 0x9E3779B97F4A7C15ull;
        h ^= h >> 32;
    }
    uint64_t w = 0;
    memcpy(&w, s, n);
    h = (h ^ w) * 0x9E3779B97F4A7C15ull;
    return (uint32_t)(h >> 32) ^ (uint32_t)h;
}

void vocab_clear(Vocab *v)
{
    strbuf_clear(&v->pool);
    free(v->pieces);
    free(v->slots);
    *v = (Vocab){0};
}

/* The slot that holds the content, or the empty one where it would go. */
static VocabSlot *slot_of(const Vocab *v, uint32_t hash, const char *s, size_t n)
{
    for (uint32_t i = hash;; i++) {
        VocabSlot *slot = &v->slots[i & (v->n_slots - 1)];
        if (slot->id < 0) return slot;
        if (slot->hash != hash) continue;
        const VocabPiece *p = &v->pieces[slot->id];
        if ((size_t)p->len == n && memcmp(v->pool.data + p->at, s, n) == 0) return slot;
    }
}

static void grow_slots(Vocab *v, uint32_t n)
{
    VocabSlot *old = v->slots;
    uint32_t n_old = v->n_slots;
    v->n_slots = n;
    v->slots = xmalloc(n * sizeof *v->slots);
    memset(v->slots, 0xFF, n * sizeof *v->slots);
    for (uint32_t i = 0; i < n_old; i++) {
        if (old[i].id < 0) continue;
        uint32_t to = old[i].hash;
        while (v->slots[to & (n - 1)].id >= 0)
            to++;
        v->slots[to & (n - 1)] = old[i];
    }
    free(old);
}

void vocab_reserve(Vocab *v, size_t n)
{
    uint32_t want = v->n_slots ? v->n_slots : 1024;
    while (want < 2 * n && want < (uint32_t)1 << 24)
        want *= 2;
    if (want > v->n_slots) grow_slots(v, want);
}

static void ensure_id(Vocab *v, int id)
{
    ASSERT(id >= 0 && id <= VOCAB_MAX_ID, "id %d", id);
    if (id >= v->cap) {
        int cap = v->cap ? v->cap : 1024;
        while (cap <= id)
            cap *= 2;
        v->pieces = xrealloc(v->pieces, (size_t)cap * sizeof *v->pieces);
        v->cap = cap;
    }
    for (; v->n <= id; v->n++)
        v->pieces[v->n] = (VocabPiece){0, -1};
}

void vocab_name(Vocab *v, int id, const char *s, size_t n)
{
    ensure_id(v, id);
    if (v->pieces[id].len >= 0) return;
    v->pieces[id] = (VocabPiece){(uint32_t)v->pool.len, (int32_t)n};
    strbuf_append(&v->pool, s, n);
    strbuf_putc(&v->pool, '\0');
}

bool vocab_add(Vocab *v, int id, const char *s, size_t n)
{
    if (2 * (size_t)v->n_found >= v->n_slots) vocab_reserve(v, (size_t)v->n_found + 1);
    uint32_t hash = token_hash(s, n);
    VocabSlot *slot = slot_of(v, hash, s, n);
    if (slot->id >= 0 || vocab_piece(v, id, NULL)) return false;
    vocab_name(v, id, s, n);
    *slot = (VocabSlot){hash, id};
    v->n_found++;
    return true;
}

int vocab_find(const Vocab *v, const char *s, size_t n)
{
    return v->n_slots ? slot_of(v, token_hash(s, n), s, n)->id : -1;
}

const char *vocab_piece(const Vocab *v, int id, size_t *n)
{
    if (id < 0 || id >= v->n || v->pieces[id].len < 0) return NULL;
    if (n) *n = (size_t)v->pieces[id].len;
    return v->pool.data + v->pieces[id].at;
}
