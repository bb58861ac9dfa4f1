/* Runs one fuzz target over files and a few hundred fixed changes of each, so that the ordinary suite
 * shows a regression where there is no clang.
 *     replay_NAME FILE-OR-FOLDER...
 * A crash names the file last printed; --verbose prints them. */
#include "base/fs.h"
#include "base/rng.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CUTS = 32, CHANGES = 96 };

/* In memory of exactly this size, so that the address sanitizer sees the first byte behind it. */
static void run(const uint8_t *data, size_t n)
{
    uint8_t *copy = xmalloc(n);
    if (n) memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

/* The i-th change: one to four bytes replaced by another value, another byte of the file or a digit. */
static void change(uint8_t *data, size_t n, uint64_t key)
{
    uint64_t edits = 1 + rng_below(key, 0, 4);
    for (uint64_t e = 0; e < edits; e++) {
        size_t at = rng_below(key, 4 * e + 1, n);
        uint64_t how = rng_below(key, 4 * e + 2, 3), value = rng_below(key, 4 * e + 3, 256);
        data[at] = how == 0   ? (uint8_t)value
                   : how == 1 ? data[rng_below(key, 4 * e + 4, n)]
                              : (uint8_t)('0' + value % 10);
    }
}

static int replay_file(const char *path)
{
    Err err = {0};
    FileMap m;
    if (file_map(&m, path, &err) != OK) {
        fprintf(stderr, "%s\n", err.line);
        return 1;
    }
    run(m.data, m.len);
    for (size_t i = 0; i < CUTS && m.len; i++)
        run(m.data, m.len <= CUTS ? i % m.len : i * m.len / CUTS);
    uint8_t *copy = xmalloc(m.len);
    for (uint64_t i = 0; i < CHANGES && m.len; i++) {
        memcpy(copy, m.data, m.len);
        change(copy, m.len, i);
        run(copy, m.len);
    }
    free(copy);
    file_unmap(&m);
    return 0;
}

/* Returns the files run, or -1. */
static int replay(const char *path, bool verbose)
{
    if (!path_is_dir(path)) {
        if (verbose) fprintf(stderr, "%s\n", path);
        return replay_file(path) ? -1 : 1;
    }
    char **names;
    int n, total = 0;
    Err err = {0};
    if (dir_list(&names, &n, path, &err) != OK) {
        fprintf(stderr, "%s\n", err.line);
        return -1;
    }
    for (int i = 0; i < n && total >= 0; i++) {
        if (str_starts(names[i], "LICENSE")) continue;
        char *child = path_join(path, names[i]);
        int done = replay(child, verbose);
        total = done < 0 ? -1 : total + done;
        free(child);
    }
    dir_list_free(names, n);
    return total;
}

int main(int argc, char **argv)
{
    bool verbose = argc > 1 && str_eq(argv[1], "--verbose");
    for (int i = 1 + verbose; i < argc; i++) {
        int n = replay(argv[i], verbose);
        if (n < 0) return 1;
        if (n == 0) { /* an empty corpus would pass for ever */
            fprintf(stderr, "%s: no files\n", argv[i]);
            return 1;
        }
        printf("%s: %d files\n", argv[i], n);
    }
    return 0;
}
