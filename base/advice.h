/* Advice: which settings a message tells the user to try.  Whoever writes the message knows what is set already and what
 * would help no more. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef struct Advice {
    bool helps;
    const char *setting; /* a noun: "a smaller --batch" */
} Advice;

enum { ADVICE_MAX = 128 };

/* The first two that help, "A or B", into out[ADVICE_MAX]; returns it.  One of all[n] must help. */
const char *advice_text(char *out, const Advice *all, size_t n);
#define ADVICE_TEXT(out, all) advice_text(out, all, sizeof(all) / sizeof *(all))
