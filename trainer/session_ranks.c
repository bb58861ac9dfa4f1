/* What the ranks of a run must have in common, and agree on. */
#include "base/fs.h"
#include "base/hash.h"
#include "base/str.h"
#include "trainer/session.h"

#include <stdlib.h>
#include <string.h>

void session_alone(Session *s)
{
    s->alone = comm_self();
    s->hosts = &s->alone;
}

bool session_leads(const Session *s)
{
    return s->hosts->rank == 0;
}

Status session_agree(Session *s, Status status, Problems *problems)
{
    return comm_agree_problems(s->hosts, status, problems);
}

static uint64_t hash_program(void)
{
    FileMap m;
    Err ignored = {0};
    if (file_map(&m, "/proc/self/exe", &ignored) != OK) return 0;
    uint64_t h = hash64(m.data, m.len, 0);
    file_unmap(&m);
    return h;
}

/* `mine` must be the same on every rank. */
static Status compare_number(Session *s, uint64_t mine, const char *what, Problems *problems)
{
    int n = s->hosts->size, other = 0;
    uint64_t *all = xcalloc((size_t)n, sizeof *all);
    comm_exchange(s->hosts, all, &mine, sizeof mine);
    for (int i = n - 1; i > 0; i--)
        if (all[i] != all[0]) other = i;
    free(all);
    if (other == 0) return OK;
    problems_add(problems,
                 "rank %d of %d has another %s than rank 0; start every rank with the same one",
                 other, n, what);
    return E_INPUT;
}

/* ---- the config: rank 0 says its own, the others compare -------------------------------------------- */

/* "key: value" on a line of its own, behind a line's end. */
static void add_key(void *ud, const char *key, const char *value)
{
    strbuf_printf(ud, "\n%s: %s", key, value);
}

typedef struct Difference {
    const char *first; /* rank 0's, as add_key writes it */
    StrBuf text;       /* the first key that is another here; empty: none */
} Difference;

/* A key that one of the two does not have follows from another that differs. */
static void find_difference(void *ud, const char *key, const char *value)
{
    enum { MOST = 200 }; /* characters of a value that are shown */
    Difference *d = ud;
    char *line = str_format("\n%s: ", key);
    const char *there = strstr(d->first, line);
    if (there) there += strlen(line);
    free(line);
    size_t n = there ? strcspn(there, "\n") : 0;
    if (!there || d->text.len || (strlen(value) == n && strncmp(there, value, n) == 0)) return;
    strbuf_printf(&d->text, "%s is %.*s, rank 0 has %.*s; ", key, MOST, value,
                  n < MOST ? (int)n : MOST, there);
}

static Status compare_config(Session *s, Problems *problems)
{
    StrBuf mine = {0};
    config_visit(s->cfg, add_key, &mine);
    char *first = xstrdup(mine.data);
    comm_say(s->hosts, &first);
    Difference d = {.first = first};
    config_visit(s->cfg, find_difference, &d);
    bool same = str_eq(first, mine.data);
    if (!same)
        problems_add(problems, "another config than rank 0: %sstart every rank with the same one",
                     d.text.len ? d.text.data : "");
    strbuf_clear(&d.text);
    strbuf_clear(&mine);
    free(first);
    return session_agree(s, same ? OK : E_INPUT, problems);
}
Status session_compare(Session *s, Problems *problems)
{
    if (s->hosts->size == 1) return OK;
    TRY(compare_number(s, hash_program(), "program", problems));
    TRY(compare_config(s, problems));
    TRY(compare_number(s, s->data_hash, "training data", problems));
    return compare_number(s, s->eval_hash, "validation data", problems);
}
