#include "trainer/saving.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/str.h"
#include "trainer/manifest.h"

#include <stdlib.h>
#include <string.h>

/* Of the save under way. */
typedef enum Phase {
    NOTHING,
    PARTS,
    WHOLE
} Phase; /* ranks write their parts; rank 0 makes a checkpoint of them */

struct Saving {
    Session *s;
    Saver *saver;
    SaveTold *told;
    void *ud;
    Phase phase;
    ManifestHead head;
    ManifestFile *files; /* of all ranks' parts */
    int n_files;
    uint32_t *sums; /* theirs */
    double began;
    SaveRecord record;
};

Status saving_new(Saving **out, Session *s, SaveTold *told, void *ud, Err *err)
{
    Saving *v = *out = xcalloc(1, sizeof *v);
    *v = (Saving){.s = s, .told = told, .ud = ud};
    TRY(saver_new(&v->saver, s, err));
    v->head = (ManifestHead){.session = s, .base_hash = manifest_base_hash(s)};
    const SaveFiles *f = saver_files(v->saver);
    v->sums = xcalloc(f->n_sums, sizeof *v->sums);
    v->files = xcalloc((size_t)f->n, sizeof *v->files);
    v->n_files = f->n;
    for (int i = 0; i < f->n; i++)
        v->files[i] = (ManifestFile){f->items[i].file->name, f->items[i].file->bytes,
                                     v->sums + f->items[i].first_sum};
    return OK;
}

void saving_free(Saving *v)
{
    if (!v) return;
    saver_free(v->saver);
    free(v->files);
    free(v->sums);
    free(v);
}

Saver *saving_saver(Saving *v)
{
    return v->saver;
}

/* ---- parts ------------------------------------------------------------------------------------ */

static Status failed(Saving *v, Status status, Err *err)
{
    Err ignored = {0};
    v->phase = NOTHING;
    if (session_leads(v->s) && checkpoint_drop(v->s->cfg, v->head.run.step, &ignored) != OK)
        log_warn(v->s->log, "%s", ignored.line);
    return err_wrap(err, status, "checkpoint at step %lld", (long long)v->head.run.step);
}

Status saving_start(Saving *v, const RunState *run, Err *err)
{
    double began = seconds_monotonic();
    TRY(saving_finish(v, err));
    char *dir = checkpoint_path_beside(v->s->cfg, run->step);
    v->head.run = *run;
    v->began = began;
    Status status = saver_begin(v->saver, dir, SAVE_ALL, err);
    free(dir);
    if (status != OK) return failed(v, status, err);
    v->phase = PARTS;
    v->record = (SaveRecord){.step = run->step,
                             .stall = seconds_monotonic() - began,
                             .streamed = saver_streams(v->saver)};
    return OK;
}

/* Every rank's parts: what lies where nobody wrote would be in no sum. */
static Status combine(Saving *v, Err *err)
{
    const SaveFiles *f = saver_files(v->saver);
    Comm *ranks = v->s->hosts;
    size_t n = f->n_sums + 2; /* and how many bytes */
    uint32_t *mine = xcalloc(n, sizeof *mine), *all = xcalloc(n * (size_t)ranks->size, sizeof *all);
    uint64_t written = f->n_written, sum = 0;
    for (size_t i = 0; i < f->n_sums; i++)
        mine[i] = f->sums[i];
    memcpy(mine + f->n_sums, &written, sizeof written);
    comm_exchange(ranks, all, mine, n * sizeof *mine);
    memset(v->sums, 0, f->n_sums * sizeof *v->sums);
    for (int r = 0; r < ranks->size; r++) {
        const uint32_t *theirs = all + (size_t)r * n;
        for (size_t i = 0; i < f->n_sums; i++)
            v->sums[i] ^= theirs[i];
        memcpy(&written, theirs + f->n_sums, sizeof written);
        sum += written;
    }
    free(mine);
    free(all);
    uint64_t bytes = save_files_bytes(f);
    return sum == bytes ? OK
                        : err_set(err, E_FAILED, "%llu bytes of %llu were written",
                                  (unsigned long long)sum, (unsigned long long)bytes);
}

/* ---- the whole -------------------------------------------------------------------------------- */

/* In the background, on rank 0. */
static Status make_checkpoint(void *ud, Err *err)
{
    Saving *v = ud;
    const TrainConfig *c = v->s->cfg;
    const RunState *run = &v->head.run;
    char *dir = checkpoint_path_beside(c, run->step);
    /* small, and nobody has it twice: read back before it takes the place of another */
    Status s = v->s->has_lora ? manifest_check_file(dir, &v->files[0], err) : OK;
    if (s == OK) s = manifest_write(&v->head, v->files, v->n_files, dir, err);
    free(dir);
    if (s == OK) s = checkpoint_put_in_place(c, run->step, err);
    return s == OK ? checkpoint_prune(c, run, err) : s;
}

static Status parts_done(Saving *v, Err *err)
{
    Status status = comm_agree(v->s->hosts, saver_end(v->saver, err), err);
    if (status == OK) status = combine(v, err);
    if (status != OK) return failed(v, status, err);
    if (session_leads(v->s)) saver_run(v->saver, make_checkpoint, v);
    v->phase = WHOLE;
    return OK;
}

static Status whole_done(Saving *v, Err *err)
{
    Status status = session_leads(v->s) ? saver_end(v->saver, err) : OK;
    status = comm_agree(v->s->hosts, status, err);
    if (status != OK) return failed(v, status, err);
    v->phase = NOTHING;
    v->record.time = seconds_monotonic() - v->began;
    v->told(v->ud, &v->record);
    return OK;
}

/* ---- together --------------------------------------------------------------------------------- */

SavingStage saving_stage(Saving *v)
{
    if (v->phase == NOTHING) return SAVING_NOTHING;
    if (v->phase == WHOLE && !session_leads(v->s)) return SAVING_READY;
    return saver_failed(v->saver) ? SAVING_FAILED
           : saver_done(v->saver) ? SAVING_READY
                                  : SAVING_BUSY;
}

/* One that failed ends it for all. */
bool saving_can_go_on(const char *stages, int n)
{
    int ready = 0;
    for (int i = 0; i < n; i++) {
        if (stages[i] == SAVING_FAILED) return true;
        ready += stages[i] == SAVING_READY;
    }
    return ready == n;
}

Status saving_go_on(Saving *v, Err *err)
{
    if (saving_stage(v) == SAVING_BUSY) saver_cancel(v->saver);
    return v->phase == PARTS ? parts_done(v, err) : whole_done(v, err);
}

/* Ranks ask each other every second, so that none waits in one exchange for as long as another one writes. */
Status saving_finish(Saving *v, Err *err)
{
    Comm *ranks = v->s->hosts;
    char *stages = xmalloc((size_t)ranks->size);
    Status s = OK;
    while (v->phase != NOTHING && s == OK) {
        if (saving_stage(v) == SAVING_BUSY) saver_wait(v->saver, 1);
        char mine = (char)saving_stage(v);
        comm_exchange(ranks, stages, &mine, 1);
        if (saving_can_go_on(stages, ranks->size)) s = saving_go_on(v, err);
    }
    free(stages);
    return s;
}
