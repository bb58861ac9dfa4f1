/* Stop strings in a growing text: where one begins, and how much of the end may still become one. */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef struct StopStrings {
    const char *const *items; /* borrowed, none empty */
    int n;
} StopStrings;

/* The earliest byte at which a stop string begins in text[0..len), or -1.  Text before `scanned` was looked at in
 * an earlier call with a shorter text: only matches that end behind it are searched. */
int64_t stop_find(const StopStrings *s, const char *text, size_t len, size_t scanned);
/* How many bytes at the end are the beginning of some stop string and so must not be shown yet. */
size_t stop_held(const StopStrings *s, const char *text, size_t len);
