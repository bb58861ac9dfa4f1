/* The config reader: whatever the text, one line a problem or a config that is written and read back to itself. */
#include "base/str.h"
#include "tests/fuzz/fuzz.h"
#include "trainer/config.h"

#include <stdlib.h>
#include <string.h>

static void check_problems(const Problems *p)
{
    ASSERT(p->n > 0, "refused without a reason");
    for (int i = 0; i < p->n; i++)
        ASSERT(!strchr(p->lines[i], '\n') &&
                   (str_starts(p->lines[i], "f:") || str_starts(p->lines[i], "command line: ")),
               "%s", p->lines[i]);
}

static void ignore_key(void *ud, const char *key, const char *value)
{
    *(size_t *)ud += strlen(key) + strlen(value);
}

/* What was accepted is written as YAML that is accepted and means the same. */
static void check_round_trip(const TrainConfig *c)
{
    StrBuf first = {0}, second = {0};
    Problems p = {0};
    TrainConfig again;
    size_t n = 0;
    config_write(&first, c);
    config_visit_math(c, ignore_key, &n);
    Status s = config_parse(&again, first.data, first.len, "f", NULL, 0, &p);
    ASSERT(s == OK, "%s\n%s", p.lines[0], first.data);
    config_write(&second, &again);
    ASSERT(str_eq(first.data, second.data), "%s\n%s", first.data, second.data);
    config_clear(&again);
    strbuf_clear(&first);
    strbuf_clear(&second);
}

/* The text behind a line "%%" is an override a line. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = xstrndup((const char *)data, size), *rest = strstr(text, "\n%%\n");
    const char *overrides[16];
    int n = 0;
    size_t len = rest ? (size_t)(rest - text) + 1 : strlen(text);
    if (rest)
        for (char *line = strtok(rest + 4, "\n"); line && n < 16; line = strtok(NULL, "\n"))
            overrides[n++] = line;
    TrainConfig c;
    Problems p = {0};
    if (config_parse(&c, text, len, "f", overrides, n, &p) == OK) {
        check_round_trip(&c);
        config_clear(&c);
    } else {
        check_problems(&p);
    }
    problems_clear(&p);
    free(text);
    return 0;
}
