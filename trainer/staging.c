#include "trainer/staging.h"

#include "base/meminfo.h"

static const double GIB = 1024.0 * 1024.0 * 1024.0;
static const size_t MOST_SLOT = (size_t)16 << 20, LEAST_SLOT = (size_t)64 << 10;
/* Where no checkpoint is asked for, only a request to stop makes one. */
static const size_t MOST_WITHOUT = (size_t)256 << 20;

int64_t staging_fit(const ParamShard *sh, const ShardRange *r, SaveParts parts, int64_t n,
                    size_t room)
{
    if (save_piece_bytes(sh, r, parts, n) <= room) return n;
    int64_t some = (int64_t)(room / save_piece_bytes(sh, r, parts, SAVE_PIECE_LEAST));
    return some * SAVE_PIECE_LEAST;
}

typedef struct Count {
    size_t slot_bytes, used;
    int n;
} Count;

static int64_t count_piece(void *ud, const ParamShard *sh, const ShardRange *r, int64_t first,
                           int64_t n)
{
    Count *c = ud;
    (void)first;
    int64_t some = c->n ? staging_fit(sh, r, SAVE_ALL, n, c->slot_bytes - c->used) : 0;
    if (some == 0) {
        c->n++;
        c->used = 0;
        some = staging_fit(sh, r, SAVE_ALL, n, c->slot_bytes);
    }
    c->used += save_piece_bytes(sh, r, SAVE_ALL, some);
    return some;
}

Staging staging_of(const TrainConfig *c, const ShardSet *s)
{
    size_t most = (size_t)(c->save_staging * GIB), slot = most / 8;
    if (c->save_every == 0 && !c->save_best && most > MOST_WITHOUT) most = MOST_WITHOUT;
    if (slot > MOST_SLOT) slot = MOST_SLOT;
    slot = slot / LEAST_SLOT * LEAST_SLOT;
    if (slot < LEAST_SLOT) slot = LEAST_SLOT;
    Count count = {.slot_bytes = slot};
    save_pieces_each(s, count_piece, &count);
    size_t n = most / slot > 2 ? most / slot : 2; /* one is written while the other is filled */
    return (Staging){
        .slot_bytes = slot, .n_needed = count.n, .n_slots = (size_t)count.n < n ? count.n : (int)n};
}

void staging_limit(Staging *g, const Session *s)
{
    int ranks = s->hosts->local_size > 0 ? s->hosts->local_size : 1;
    size_t available = meminfo_available("");
    if (available == 0) return; /* not known */
    size_t n = available / 2 / (size_t)ranks / g->slot_bytes;
    if (n < 2) n = 2;
    if ((size_t)g->n_slots <= n) return;
    g->n_slots = (int)n;
    log_info(s->log, "save.staging: this host's memory allows %.2f GiB a rank",
             (double)staging_bytes(g) / GIB);
}
