/* JSON: what was read is written, and reads back to the same text. */
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void round_trip(const Json *j)
{
    StrBuf first = {0}, second = {0};
    Json *again;
    Err err = {0};
    json_write(&first, j, 0);
    Status s = json_parse(&again, first.data, first.len, "again", 1, 0, &err);
    ASSERT(s == OK, "%s: %s", err.line, first.data);
    json_write(&second, again, 0);
    ASSERT(str_eq(first.data, second.data), "%s became %s", first.data, second.data);
    json_free(again);
    strbuf_clear(&first);
    strbuf_clear(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int flags = 0; flags <= JSON_REFUSE_DUPLICATES; flags += JSON_REFUSE_DUPLICATES) {
        Json *j;
        Err err = {0};
        if (json_parse(&j, (const char *)data, size, "f", 1, flags, &err) == OK) {
            round_trip(j);
            json_free(j);
        } else {
            ASSERT(str_starts(err.line, "f:"), "%s", err.line);
        }
    }
    return 0;
}
