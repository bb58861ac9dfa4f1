/* safetensors: what was accepted lies inside the file without holes, and its header can be written. */
#include "tensor/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

static void check(const SafeTensors *s, const uint8_t *data, size_t size)
{
    int n = safetensors_count(s);
    size_t total = 0, sum = 0;
    SafeTensor *all = xcalloc((size_t)n, sizeof *all);
    for (int i = 0; i < n; i++) {
        const SafeTensor *t = safetensors_at(s, i);
        ASSERT(safetensors_find(s, t->name) == t, "'%s' is not found", t->name);
        ASSERT(t->data >= data && t->bytes <= size && t->data + t->bytes <= data + size,
               "'%s' lies outside", t->name);
        for (size_t k = 0; k < t->bytes; k++)
            sum += t->data[k];
        total += t->bytes;
        all[i] = *t;
    }
    ASSERT(total <= size && sum <= 255 * total, "%zu bytes in a file of %zu", total, size);

    int *order = xcalloc((size_t)n, sizeof *order);
    StrBuf header = {0};
    Err err = {0};
    Status status = safetensors_header(&header, order, all, n, NULL, &err);
    ASSERT(status == OK && header.len % 8 == 0, "%s", err.line);
    strbuf_clear(&header);
    free(order);
    free(all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    SafeTensors *s;
    Err err = {0};
    if (safetensors_parse(&s, data, size, "f", &err) == OK) {
        check(s, data, size);
        safetensors_close(s);
    } else {
        ASSERT(str_starts(err.line, "f: ") && str_ends(err.line, ")"), "%s", err.line);
    }
    return 0;
}
