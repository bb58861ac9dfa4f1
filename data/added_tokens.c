/* A byte trie a pass: vocabularies have a few hundred added tokens, most of which start with '<'. */
#include "data/added_tokens.h"

#include <stdlib.h>
#include <string.h>

void added_put(AddedTokens *a, const AddedToken *token)
{
    int at = vocab_find(&a->index, token->content, token->n);
    if (at < 0) {
        if (a->n == a->cap) {
            a->cap = a->cap ? 2 * a->cap : 16;
            a->items = xrealloc(a->items, (size_t)a->cap * sizeof *a->items);
        }
        at = a->n++;
        bool fresh = vocab_add(&a->index, at, token->content, token->n);
        ASSERT(fresh, "added token %d", at);
        a->items[at] = (AddedToken){.content = bytes_dup(token->content, token->n)};
    }
    /* As in the reference the last entry of a content counts, but what was special once stays so. */
    AddedToken *kept = &a->items[at];
    char *content = kept->content;
    bool special = kept->special || token->special;
    *kept = *token;
    kept->content = content;
    kept->special = special;
}

const AddedToken *added_find(const AddedTokens *a, const char *content, size_t n)
{
    int at = vocab_find(&a->index, content, n);
    return at >= 0 ? &a->items[at] : NULL;
}

void added_clear(AddedTokens *a)
{
    for (int i = 0; i < a->n; i++)
        free(a->items[i].content);
    free(a->items);
    vocab_clear(&a->index);
    free(a->raw.nodes);
    free(a->normalized.nodes);
    free(a->special_ids);
    regex_free(a->word);
    *a = (AddedTokens){0};
}

static int32_t new_node(Trie *t, uint8_t byte)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 64;
        t->nodes = xrealloc(t->nodes, (size_t)t->cap * sizeof *t->nodes);
    }
    t->nodes[t->n] = (TrieNode){byte, -1, 0, 0};
    return t->n++;
}

static int32_t child_of(const Trie *t, int32_t node, uint8_t byte)
{
    int32_t c = t->nodes[node].child;
    while (c && t->nodes[c].byte != byte)
        c = t->nodes[c].sibling;
    return c;
}

static void trie_put(Trie *t, const char *s, size_t n, int32_t token)
{
    if (!n) return;
    if (!t->n) new_node(t, 0);
    t->starts[(uint8_t)s[0]] = true;
    int32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t next = child_of(t, at, (uint8_t)s[i]);
        if (!next) {
            next = new_node(t, (uint8_t)s[i]);
            t->nodes[next].sibling = t->nodes[at].child;
            t->nodes[at].child = next;
        }
        at = next;
    }
    t->nodes[at].token = token;
}

/* The longest token that s[0..n) starts with, or -1. */
static int32_t trie_longest(const Trie *t, const char *s, size_t n, size_t *len)
{
    int32_t at = 0, best = -1;
    for (size_t i = 0; i < n; i++) {
        at = child_of(t, at, (uint8_t)s[i]);
        if (!at) break;
        if (t->nodes[at].token >= 0) best = t->nodes[at].token, *len = i + 1;
    }
    return best;
}

void added_build(AddedTokens *a, char *const *forms, const size_t *n_forms)
{
    a->max_id = -1;
    for (int i = 0; i < a->n; i++)
        if (a->items[i].id > a->max_id) a->max_id = a->items[i].id;
    a->special_ids = xcalloc((size_t)a->max_id + 1, 1);
    for (int i = 0; i < a->n; i++) {
        const AddedToken *t = &a->items[i];
        if (t->special) a->special_ids[t->id] = 1;
        if (t->normalized)
            trie_put(&a->normalized, forms[i], n_forms[i], i);
        else
            trie_put(&a->raw, t->content, t->n, i);
        if (t->single_word && !a->word) {
            /* \w of Rust's regex crate. */
            static const char word[] = "\\A[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}]";
            Err err;
            Status s = regex_new(&a->word, word, sizeof word - 1, &err);
            ASSERT(s == OK, "%s", err.line);
        }
    }
}

bool added_is_special(const AddedTokens *a, int id)
{
    return id >= 0 && id <= a->max_id && a->special_ids[id];
}

static bool is_word_char(const AddedTokens *a, RegexScratch *scratch, const char *s)
{
    size_t b, e;
    return regex_next(&(RegexIter){0}, a->word, scratch, s, char_len(s), &b, &e);
}

static size_t char_before(const char *s, size_t i)
{
    do
        i--;
    while (i > 0 && !is_char_start(s[i]));
    return i;
}

static bool stands_alone(const AddedTokens *a, RegexScratch *scratch, const TextView *v,
                         size_t start, size_t stop)
{
    if (start > 0 && is_word_char(a, scratch, v->s + char_before(v->s, start))) return false;
    return stop == v->n || !is_word_char(a, scratch, v->s + stop);
}

static bool is_space_at(const char *s)
{
    uint32_t cp = 0;
    utf8_decode(s, char_len(s), &cp);
    return is_white_space(cp);
}

bool added_next(const AddedTokens *a, const Trie *trie, const TextView *v, RegexScratch *scratch,
                bool specials, size_t *pos, size_t done, AddedMatch *m)
{
    if (!trie->n) return false;
    for (size_t i = *pos, len; i < v->n; i++) {
        if (!trie->starts[(uint8_t)v->s[i]]) continue;
        int32_t hit = trie_longest(trie, v->s + i, v->n - i, &len);
        if (hit < 0) continue;
        const AddedToken *t = &a->items[hit];
        size_t start = i, stop = i + len;
        /* A hit that does not count still covers its text: the reference looks on behind it. */
        i = stop - 1;
        if (t->special && !specials) continue;
        if (t->single_word && !stands_alone(a, scratch, v, start, stop)) continue;
        *pos = stop;
        if (t->lstrip)
            while (start > done && is_space_at(v->s + char_before(v->s, start)))
                start = char_before(v->s, start);
        if (t->rstrip)
            while (stop < v->n && is_space_at(v->s + stop))
                stop += char_len(v->s + stop);
        *m = (AddedMatch){t->id, start, stop};
        return true;
    }
    return false;
}
