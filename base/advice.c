#include "base/advice.h"

#include "base/err.h"

#include <stdio.h>

const char *advice_text(char *out, const Advice *all, size_t n)
{
    const char *first = NULL, *second = NULL;
    for (size_t i = 0; i < n && !second; i++) {
        if (!all[i].helps) continue;
        if (first)
            second = all[i].setting;
        else
            first = all[i].setting;
    }
    ASSERT(first, "nothing helps");
    snprintf(out, ADVICE_MAX, "%s%s%s", first, second ? " or " : "", second ? second : "");
    return out;
}
