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

/* One number a matter, the same on every rank. */
typedef struct Common {
    uint64_t program, config, data;
} Common;

static uint64_t hash_program(void)
{
    FileMap m;
    Err ignored = {0};
    if (file_map(&m, "/proc/self/exe", &ignored) != OK) return 0;
    uint64_t h = hash64(m.data, m.len, 0);
    file_unmap(&m);
    return h;
}

static uint64_t hash_config(const TrainConfig *c)
{
    StrBuf b = {0};
    config_write(&b, c);
    uint64_t h = hash64(b.data, b.len, 0);
    strbuf_clear(&b);
    return h;
}

Status session_compare(Session *s, Problems *problems)
{
    int n = s->hosts->size;
    if (n == 1) return OK;
    Common mine = {hash_program(), hash_config(s->cfg), s->data_hash};
    Common *all = xcalloc((size_t)n, sizeof *all);
    comm_exchange(s->hosts, all, &mine, sizeof mine);
    Status status = OK;
    for (int i = 1; i < n && status == OK; i++) {
        const char *what = all[i].program != all[0].program ? "program"
                           : all[i].config != all[0].config ? "config"
                           : all[i].data != all[0].data     ? "training data"
                                                            : NULL;
        if (!what) continue;
        problems_add(problems,
                     "rank %d of %d has another %s than rank 0; start every rank with the same one",
                     i, n, what);
        status = E_INPUT;
    }
    free(all);
    return status;
}
