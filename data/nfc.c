/* Canonical composition, UAX #15: decompose, sort marks by class, compose.  Text that has no character of
 * the `maybe` table is left as it is, so ordinary text pays one look per character. */
#include "data/normalize.h"

#include "data/nfc_tables.h"

#include <stdlib.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))

enum {
    S_BASE = 0xAC00, /* Hangul, by arithmetic */
    L_BASE = 0x1100,
    V_BASE = 0x1161,
    T_BASE = 0x11A7,
    L_COUNT = 19,
    V_COUNT = 21,
    T_COUNT = 28,
    S_COUNT = L_COUNT * V_COUNT * T_COUNT,
};

typedef struct Mark {
    uint32_t cp;
    uint8_t ccc;
    int32_t from;
} Mark;

typedef struct Marks {
    Mark *items;
    size_t n, cap;
} Marks;

static bool is_maybe(uint32_t cp)
{
    if (cp < 0x300) return false;
    size_t lo = 0, hi = COUNT(nfc_maybe);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp > nfc_maybe[mid][1])
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < COUNT(nfc_maybe) && cp >= nfc_maybe[lo][0];
}

static uint8_t class_of(uint32_t cp)
{
    size_t lo = 0, hi = COUNT(nfc_classes);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp > nfc_classes[mid].last)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < COUNT(nfc_classes) && cp >= nfc_classes[lo].first ? nfc_classes[lo].ccc : 0;
}

static void push(Marks *m, uint32_t cp, int32_t from)
{
    if (m->n == m->cap) {
        m->cap = m->cap ? 2 * m->cap : 256;
        m->items = xrealloc(m->items, m->cap * sizeof *m->items);
    }
    m->items[m->n++] = (Mark){cp, class_of(cp), from};
}

static void decompose(Marks *m, uint32_t cp, int32_t from)
{
    if (cp >= S_BASE && cp < S_BASE + S_COUNT) {
        uint32_t s = cp - S_BASE, t = s % T_COUNT;
        push(m, L_BASE + s / (V_COUNT * T_COUNT), from);
        push(m, V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT, from);
        if (t) push(m, T_BASE + t, from);
        return;
    }
    size_t lo = 0, hi = COUNT(nfc_decompositions);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (nfc_decompositions[mid].cp < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == COUNT(nfc_decompositions) || nfc_decompositions[lo].cp != cp) {
        push(m, cp, from);
        return;
    }
    decompose(m, nfc_decompositions[lo].a, from); /* the table is four steps deep at most */
    if (nfc_decompositions[lo].b) decompose(m, nfc_decompositions[lo].b, from);
}

/* 0: the two do not compose. */
static uint32_t compose(uint32_t a, uint32_t b)
{
    if (a >= L_BASE && a < L_BASE + L_COUNT && b >= V_BASE && b < V_BASE + V_COUNT)
        return S_BASE + ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT;
    if (a >= S_BASE && a < S_BASE + S_COUNT && (a - S_BASE) % T_COUNT == 0 && b > T_BASE &&
        b < T_BASE + T_COUNT)
        return a + (b - T_BASE);
    size_t lo = 0, hi = COUNT(nfc_compositions);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (nfc_compositions[mid].a < a ||
            (nfc_compositions[mid].a == a && nfc_compositions[mid].b < b))
            lo = mid + 1;
        else
            hi = mid;
    }
    bool hit =
        lo < COUNT(nfc_compositions) && nfc_compositions[lo].a == a && nfc_compositions[lo].b == b;
    return hit ? nfc_compositions[lo].cp : 0;
}

/* Stable.  Real text has a few marks in a row; a crafted run of many is counted instead. */
static void sort_marks(Mark *m, size_t n)
{
    if (n <= 32) {
        for (size_t i = 1; i < n; i++)
            for (size_t j = i; j > 0 && m[j].ccc < m[j - 1].ccc; j--) {
                Mark t = m[j];
                m[j] = m[j - 1];
                m[j - 1] = t;
            }
        return;
    }
    Mark *copy = xmalloc(n * sizeof *copy);
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++)
        at[m[i].ccc + 1]++;
    for (int c = 0; c < 256; c++)
        at[c + 1] += at[c];
    for (size_t i = 0; i < n; i++)
        copy[at[m[i].ccc]++] = m[i];
    for (size_t i = 0; i < n; i++)
        m[i] = copy[i];
    free(copy);
}

static void sort_all(Marks *m)
{
    for (size_t i = 0; i < m->n;) {
        if (m->items[i].ccc == 0) {
            i++;
            continue;
        }
        size_t j = i;
        while (j < m->n && m->items[j].ccc)
            j++;
        sort_marks(m->items + i, j - i);
        i = j;
    }
}

static void compose_all(Marks *m)
{
    size_t out = 0, starter = SIZE_MAX; /* where in the output the last starter stands */
    for (size_t i = 0; i < m->n; i++) {
        Mark c = m->items[i];
        /* Blocked: something of class 0 or of no lower class stands between. */
        bool adjacent = starter != SIZE_MAX && out == starter + 1;
        bool open = starter != SIZE_MAX && (adjacent || m->items[out - 1].ccc < c.ccc);
        uint32_t both = open ? compose(m->items[starter].cp, c.cp) : 0;
        if (both) {
            m->items[starter].cp = both;
            continue;
        }
        if (c.ccc == 0) starter = out;
        m->items[out++] = c;
    }
    m->n = out;
}

static bool needs_work(const TextView *v)
{
    for (size_t i = 0; i < v->n;) {
        if ((unsigned char)v->s[i] < 0xCC) { /* below U+0300 */
            i++;
            continue;
        }
        uint32_t cp = 0;
        int len = utf8_decode(v->s + i, v->n - i, &cp);
        if (is_maybe(cp)) return true;
        i += len > 0 ? (size_t)len : 1;
    }
    return false;
}

bool nfc_append(MappedText *out, const TextView *v)
{
    if (!needs_work(v)) return false;
    Marks m = {0};
    for (size_t i = 0; i < v->n;) {
        uint32_t cp = 0;
        int len = utf8_decode(v->s + i, v->n - i, &cp);
        decompose(&m, cp, view_from(v, i));
        i += len > 0 ? (size_t)len : 1;
    }
    sort_all(&m);
    compose_all(&m);
    for (size_t i = 0; i < m.n; i++) {
        char b[4];
        int len = utf8_encode(m.items[i].cp, b);
        mapped_text_append(out, b, (size_t)len, m.items[i].from);
    }
    free(m.items);
    return true;
}
