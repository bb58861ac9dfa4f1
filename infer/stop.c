#include "infer/stop.h"

#include <string.h>

int64_t stop_find(const StopStrings *s, const char *text, size_t len, size_t scanned)
{
    int64_t best = -1;
    for (int i = 0; i < s->n; i++) {
        size_t n = strlen(s->items[i]);
        size_t from = scanned >= n ? scanned - n + 1 : 0;
        for (size_t at = from; at + n <= len && (best < 0 || at < (size_t)best); at++) {
            if (memcmp(text + at, s->items[i], n)) continue;
            best = (int64_t)at;
        }
    }
    return best;
}

size_t stop_held(const StopStrings *s, const char *text, size_t len)
{
    size_t held = 0;
    for (int i = 0; i < s->n; i++) {
        size_t n = strlen(s->items[i]);
        for (size_t k = n - 1 < len ? n - 1 : len; k > held; k--)
            if (memcmp(text + len - k, s->items[i], k) == 0) held = k;
    }
    return held;
}
