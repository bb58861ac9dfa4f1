#include "trainer/saver.h"

#include "base/fs.h"
#include "base/str.h"
#include "base/tasks.h"
#include "trainer/save_piece.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 4 };

/* A part of the staging memory: pieces that are read together and written by one thread. */
typedef struct Slot {
    Saver *saver;
    char *data;
    size_t used;
    SavePiece *pieces;
    int n, cap;
    int64_t copied; /* event: data are there; once Saver.came is set it may be another's */
    struct Slot *next;
} Slot;

struct Saver {
    Session *s;
    Staging staging;
    char *memory; /* staging_bytes of it */
    SaveFiles files;
    Slot *slots;
    Tasks *tasks;
    SaveParts parts;
    char *dir;
    Slot *filling;    /* the one that is being filled, or NULL */
    atomic_bool came; /* all data of this save are there */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    Slot *free;
    int left; /* tasks under way, and one for adding them */
    bool failed, cancelled;
    Status status; /* where it failed */
    Err err;
};

/* ---- slots ----------------------------------------------------------------------------------- */

static void take_slots(Saver *v)
{
    Device *d = &v->s->dev;
    size_t bytes = staging_bytes(&v->staging);
    v->slots = xcalloc((size_t)v->staging.n_slots, sizeof *v->slots);
    if (bytes == 0) return; /* this rank has nothing to save */
    v->memory = d->backend->host_alloc ? d->backend->host_alloc(d, bytes) : xmalloc(bytes);
    for (int i = 0; i < v->staging.n_slots; i++) {
        char *data = v->memory + (size_t)i * v->staging.slot_bytes;
        v->slots[i] = (Slot){.saver = v, .data = data, .next = v->free};
        v->free = &v->slots[i];
    }
}

static void give_slots(Saver *v)
{
    Device *d = &v->s->dev;
    for (int i = 0; i < v->staging.n_slots; i++)
        free(v->slots[i].pieces);
    free(v->slots);
    if (v->memory && d->backend->host_free)
        d->backend->host_free(d, v->memory);
    else
        free(v->memory);
}

Status saver_new(Saver **out, Session *s, Err *err)
{
    Saver *v = *out = xcalloc(1, sizeof *v);
    v->s = s;
    pthread_mutex_init(&v->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&v->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    v->staging = staging_of(s->cfg, &s->shards);
    staging_limit(&v->staging, s);
    take_slots(v);
    v->tasks = tasks_new(THREADS);
    return save_files_init(&v->files, s, err);
}

void saver_free(Saver *v)
{
    if (!v) return;
    tasks_free(v->tasks);
    give_slots(v);
    free(v->dir);
    save_files_clear(&v->files);
    pthread_cond_destroy(&v->changed);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

/* ---- what is under way ------------------------------------------------------------------------ */

static void note(Saver *v, Status s, const Err *err)
{
    if (s == OK) return;
    pthread_mutex_lock(&v->lock);
    if (!v->failed) {
        v->failed = true;
        v->status = s;
        v->err = *err;
    }
    pthread_mutex_unlock(&v->lock);
}

static void begin(Saver *v)
{
    ASSERT(saver_done(v), "a save is under way");
    v->failed = v->cancelled = false;
    v->left = 1;
}

static void add_task(Saver *v, TaskFn *fn, void *ud)
{
    pthread_mutex_lock(&v->lock);
    v->left++;
    pthread_mutex_unlock(&v->lock);
    tasks_add(v->tasks, fn, ud);
}

/* Of one task.  Whoever is the last closes the files: that takes as long as the disk does. */
static void end_task(Saver *v)
{
    pthread_mutex_lock(&v->lock);
    bool last = v->left == 1;
    if (!last) v->left--;
    pthread_mutex_unlock(&v->lock);
    if (!last) return;
    Err err = {0};
    note(v, save_files_close(&v->files, &err), &err);
    pthread_mutex_lock(&v->lock);
    v->left = 0;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
}

/* All were added.  Whoever did that must not be the one who closes. */
static void end_adding(void *ud)
{
    end_task(ud);
}

bool saver_done(Saver *v)
{
    return saver_wait(v, 0);
}

bool saver_failed(Saver *v)
{
    pthread_mutex_lock(&v->lock);
    bool failed = v->failed;
    pthread_mutex_unlock(&v->lock);
    return failed;
}

bool saver_wait(Saver *v, double seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double end = (double)until.tv_nsec / 1e9 + (seconds > 0 ? seconds : 0);
    until.tv_sec += (time_t)end;
    until.tv_nsec = (long)((end - (double)(time_t)end) * 1e9);
    bool late = seconds == 0;
    pthread_mutex_lock(&v->lock);
    while (v->left > 0 && !late)
        if (seconds < 0)
            pthread_cond_wait(&v->changed, &v->lock);
        else
            late = pthread_cond_timedwait(&v->changed, &v->lock, &until) == ETIMEDOUT;
    bool done = v->left == 0;
    pthread_mutex_unlock(&v->lock);
    return done;
}

void saver_cancel(Saver *v)
{
    pthread_mutex_lock(&v->lock);
    v->cancelled = true;
    pthread_mutex_unlock(&v->lock);
}

Status saver_end(Saver *v, Err *err)
{
    saver_wait(v, -1);
    return v->failed ? err_set(err, v->status, "%s", v->err.line) : OK;
}

bool saver_streams(const Saver *v)
{
    return v->staging.n_slots < v->staging.n_needed;
}

SaveFiles *saver_files(Saver *v)
{
    return &v->files;
}

/* ---- in the background ------------------------------------------------------------------------ */

/* A device that failed never gets there; whoever waits for it next tells why, and ends the process. */
static void await_copies(const Slot *slot)
{
    const Saver *v = slot->saver;
    while (!atomic_load(&v->came) && !device_happened(&v->s->dev, slot->copied))
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

static void give_slot(Saver *v, Slot *slot)
{
    slot->n = 0;
    slot->used = 0;
    pthread_mutex_lock(&v->lock);
    slot->next = v->free;
    v->free = slot;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
}

static bool given_up(Saver *v)
{
    pthread_mutex_lock(&v->lock);
    bool yes = v->failed || v->cancelled;
    pthread_mutex_unlock(&v->lock);
    return yes;
}

static void write_slot(void *ud)
{
    Slot *slot = ud;
    Saver *v = slot->saver;
    Err err = {0};
    await_copies(slot);
    for (int i = 0; i < slot->n && !given_up(v); i++)
        note(v, save_piece_write(&slot->pieces[i], &v->files, v->parts, &err), &err);
    give_slot(v, slot);
    end_task(v);
}

/* All small files; rank 0. */
static void write_others(void *ud)
{
    Saver *v = ud;
    const StrBuf *index = &v->files.weights.index;
    Err err = {0};
    Status s = session_write_files(v->s, v->dir, &err);
    if (s == OK && index->len > 0) {
        char *path = path_join(v->dir, "model.safetensors.index.json");
        s = file_write_atomic(path, index->data, index->len, &err);
        free(path);
    }
    note(v, s, &err);
    end_task(v);
}

typedef struct Job {
    Saver *saver;
    SaverJob *fn;
    void *ud;
} Job;

static void run_job(void *ud)
{
    Job *job = ud;
    Err err = {0};
    note(job->saver, job->fn(job->ud, &err), &err);
    end_task(job->saver);
    free(job);
}

void saver_run(Saver *v, SaverJob *fn, void *ud)
{
    Job *job = xmalloc(sizeof *job);
    *job = (Job){v, fn, ud};
    begin(v);
    add_task(v, run_job, job);
    tasks_add(v->tasks, end_adding, v);
}

/* ---- reading ---------------------------------------------------------------------------------- */

static Slot *take_slot(Saver *v)
{
    pthread_mutex_lock(&v->lock);
    while (!v->free)
        pthread_cond_wait(&v->changed, &v->lock);
    Slot *slot = v->free;
    v->free = slot->next;
    pthread_mutex_unlock(&v->lock);
    return slot;
}

static void hand_on(Saver *v)
{
    Slot *slot = v->filling;
    if (!slot) return;
    slot->copied = device_record(&v->s->dev);
    v->filling = NULL;
    add_task(v, write_slot, slot);
}

static int64_t read_piece(void *ud, const ParamShard *sh, const ShardRange *r, int64_t first,
                          int64_t n)
{
    Saver *v = ud;
    size_t room = v->filling ? v->staging.slot_bytes - v->filling->used : 0;
    int64_t some = staging_fit(sh, r, v->parts, n, room);
    if (some == 0) {
        hand_on(v);
        v->filling = take_slot(v);
        some = staging_fit(sh, r, v->parts, n, v->staging.slot_bytes);
    }
    Slot *slot = v->filling;
    if (slot->n == slot->cap) {
        slot->cap = slot->cap ? 2 * slot->cap : 16;
        slot->pieces = xrealloc(slot->pieces, (size_t)slot->cap * sizeof *slot->pieces);
    }
    SavePiece p = {sh, r, first, some, slot->data + slot->used};
    slot->pieces[slot->n++] = p;
    slot->used += save_piece_bytes(sh, r, v->parts, some);
    save_piece_read(&v->s->dev, &p, v->parts);
    return some;
}

static Status make_files(Saver *v, Err *err)
{
    TRY(dir_make_anew(v->dir, err));
    return save_files_create(&v->files, err);
}

Status saver_begin(Saver *v, const char *dir, SaveParts parts, Err *err)
{
    Session *s = v->s;
    ASSERT(saver_done(v), "a save is under way");
    free(v->dir);
    v->dir = xstrdup(dir);
    v->parts = parts;
    save_files_begin(&v->files, dir, parts);
    Status status = comm_agree(s->hosts, session_leads(s) ? make_files(v, err) : OK, err);
    if (status == OK) status = comm_agree(s->hosts, save_files_open(&v->files, err), err);
    if (status != OK) {
        Err ignored = {0};
        Status closed = save_files_close(&v->files, &ignored);
        (void)closed;
        return status;
    }
    atomic_store(&v->came, false);
    begin(v);
    if (session_leads(s)) add_task(v, write_others, v);
    shards_end_pass(&s->shards);
    save_pieces_each(&s->shards, read_piece, v);
    hand_on(v);
    s->dev.backend->sync(&s->dev); /* the stall that is told has the copies in it */
    atomic_store(&v->came, true);
    tasks_add(v->tasks, end_adding, v);
    return OK;
}
