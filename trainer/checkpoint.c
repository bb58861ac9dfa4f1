/* Folders of checkpoints: written beside and renamed, found, pruned. */
#include "trainer/checkpoint.h"

#include "base/fs.h"
#include "base/str.h"
#include "trainer/manifest.h"
#include "trainer/state_file.h"

#include <stdlib.h>
#include <string.h>

char *checkpoint_path(const TrainConfig *c, int64_t step)
{
    return str_format("%s/checkpoint-%lld", c->output, (long long)step);
}

/* N of "checkpoint-N", -1 for other names. */
static int64_t step_of(const char *name)
{
    if (!str_starts(name, "checkpoint-")) return -1;
    const char *digits = name + strlen("checkpoint-");
    long long n = strtoll(digits, NULL, 10);
    char again[32];
    snprintf(again, sizeof again, "%lld", n);
    return n >= 0 && str_eq(again, digits) ? n : -1;
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* Steps of the checkpoints in OUTPUT, the newest first; the caller frees. */
static Status list_steps(int64_t **steps, int *n, const TrainConfig *c, Err *err)
{
    char **names;
    int n_names;
    *steps = NULL;
    *n = 0;
    if (!path_is_dir(c->output)) return OK;
    TRY(dir_list(&names, &n_names, c->output, err));
    *steps = xcalloc((size_t)n_names, sizeof **steps);
    for (int i = 0; i < n_names; i++)
        if (step_of(names[i]) >= 0) (*steps)[(*n)++] = step_of(names[i]);
    dir_list_free(names, n_names);
    qsort(*steps, (size_t)*n, sizeof **steps, descending);
    return OK;
}

/* ---- writing ---------------------------------------------------------------------------------- */

char *checkpoint_path_beside(const TrainConfig *c, int64_t step)
{
    return str_format("%s/.checkpoint-%lld.tmp", c->output, (long long)step);
}

/* Where the one that a new one of the same step replaces waits until that is in its place; whole. */
static char *path_before(const TrainConfig *c, int64_t step)
{
    return str_format("%s/.checkpoint-%lld.before", c->output, (long long)step);
}

/* One that is removed piece by piece must not look whole: it is renamed away first. */
static Status retire(const TrainConfig *c, int64_t step, Err *err)
{
    char *path = checkpoint_path(c, step);
    char *old = str_format("%s/.checkpoint-%lld.old", c->output, (long long)step);
    Status s = OK;
    if (path_exists(path)) {
        s = dir_remove(old, err);
        if (s == OK) s = file_rename(path, old, err);
        if (s == OK) s = dir_remove(old, err);
    }
    free(path);
    free(old);
    return s;
}

Status checkpoint_put_in_place(const TrainConfig *c, int64_t step, Err *err)
{
    char *beside = checkpoint_path_beside(c, step), *path = checkpoint_path(c, step),
         *before = path_before(c, step);
    Status s = dir_sync(beside, err);
    if (s == OK && path_exists(path)) { /* a folder cannot be renamed over another */
        s = dir_remove(before, err);
        if (s == OK) s = file_rename(path, before, err);
    }
    if (s == OK) s = file_rename(beside, path, err);
    if (s == OK) s = dir_remove(before, err);
    free(beside);
    free(path);
    free(before);
    return s;
}

Status checkpoint_drop(const TrainConfig *c, int64_t step, Err *err)
{
    char *beside = checkpoint_path_beside(c, step);
    Status s = dir_remove(beside, err);
    free(beside);
    return s;
}

Status checkpoint_prune(const TrainConfig *c, const RunState *run, Err *err)
{
    int64_t *steps;
    int n;
    TRY(list_steps(&steps, &n, c, err));
    Status s = OK;
    int64_t kept = 0;
    for (int i = 0; i < n && s == OK; i++) {
        if (c->save_best && steps[i] == run->best_step) continue;
        if (kept++ >= c->save_keep) s = retire(c, steps[i], err);
    }
    free(steps);
    return s;
}

/* Back into its place where nothing took that; else it goes. */
static Status put_back(const TrainConfig *c, const char *name, Err *err)
{
    const char *step = name + strlen(".checkpoint-");
    char *path = path_join(c->output, name),
         *place = str_format("%s/checkpoint-%.*s", c->output,
                             (int)(strlen(step) - strlen(".before")), step);
    Status s = path_exists(place) ? dir_remove(path, err) : file_rename(path, place, err);
    free(path);
    free(place);
    return s;
}

Status checkpoint_clean(const TrainConfig *c, Err *err)
{
    char **names;
    int n;
    if (!path_is_dir(c->output)) return OK;
    TRY(dir_list(&names, &n, c->output, err));
    Status s = OK;
    for (int i = 0; i < n && s == OK; i++) {
        bool left = (str_starts(names[i], ".checkpoint-") &&
                     (str_ends(names[i], ".tmp") || str_ends(names[i], ".old"))) ||
                    str_starts(names[i], "config.yaml.tmp.") ||
                    str_starts(names[i], "metrics.jsonl.tmp.") || str_eq(names[i], ".result.tmp");
        char *path = path_join(c->output, names[i]);
        if (left) s = dir_remove(path, err);
        if (str_starts(names[i], ".checkpoint-") && str_ends(names[i], ".before"))
            s = put_back(c, names[i], err);
        free(path);
    }
    dir_list_free(names, n);
    return s;
}

/* ---- reading ---------------------------------------------------------------------------------- */

/* All ranks: each reads its share. */
static Status verify(Comm *hosts, const char *dir, Err *err)
{
    return comm_agree(hosts, manifest_verify(dir, hosts->rank, hosts->size, err), err);
}

/* Of steps[n] of the rank that leads, the newest first: the first whole one, NULL where there is none; *why: what is wrong
 * with the newest. */
static char *first_whole(Session *s, const int64_t *steps, int n, Err *why)
{
    for (int i = 0;; i++) {
        char *dir = i < n ? checkpoint_path(s->cfg, steps[i]) : NULL;
        comm_say(s->hosts, &dir);
        if (!dir) return NULL;
        Err wrong = {0};
        if (verify(s->hosts, dir, &wrong) == OK) return dir;
        log_warn(s->log, "%s is not whole and passed over: %s", dir, wrong.line);
        if (i == 0) *why = wrong;
        free(dir);
    }
}

/* The newest whole checkpoint of OUTPUT.  E_INPUT: there are some, and none is whole. */
static Status find_newest(char **path, Session *s, Err *err)
{
    const TrainConfig *c = s->cfg;
    int64_t *steps = NULL;
    int n = 0;
    Err why = {0};
    Status status = session_leads(s) ? list_steps(&steps, &n, c, err) : OK;
    TRY(comm_agree(s->hosts, status, err));
    *path = first_whole(s, steps, n, &why);
    char *none =
        !*path && n > 0
            ? str_format("%s holds checkpoint-%lld and none that is whole, and a run from the "
                         "start would write over what is there; bring one back, choose another "
                         "output folder, or remove them (%s)",
                         c->output, (long long)steps[0], why.line)
            : NULL;
    comm_say(s->hosts, &none);
    if (none) status = err_set(err, E_INPUT, "%s", none);
    free(none);
    free(steps);
    return status;
}

/* "OUTPUT/checkpoint-STEP.damaged", or with a number behind it where that is taken; in fresh memory. */
static char *path_aside(const TrainConfig *c, int64_t step)
{
    char *path = str_format("%s/checkpoint-%lld.damaged", c->output, (long long)step);
    for (int i = 2; path_exists(path); i++) {
        free(path);
        path = str_format("%s/checkpoint-%lld.damaged.%d", c->output, (long long)step, i);
    }
    return path;
}

Status checkpoint_set_aside(const TrainConfig *c, int64_t step, Log *log, Err *err)
{
    int64_t *steps;
    int n;
    TRY(list_steps(&steps, &n, c, err));
    Status s = OK;
    for (int i = 0; i < n && steps[i] > step && s == OK; i++) {
        char *from = checkpoint_path(c, steps[i]), *to = path_aside(c, steps[i]);
        s = file_rename(from, to, err);
        if (s == OK) log_warn(log, "%s is kept as %s", from, to);
        free(from);
        free(to);
    }
    free(steps);
    return s;
}

int64_t checkpoint_highest(const TrainConfig *c)
{
    int64_t *steps;
    int n;
    Err ignored = {0};
    if (list_steps(&steps, &n, c, &ignored) != OK) return -1;
    int64_t highest = n > 0 ? steps[0] : -1;
    free(steps);
    return highest;
}

/* No checkpoint in OUTPUT, as a rank that leads sees it. */
static Status check_none(const TrainConfig *c, Err *err)
{
    int64_t highest = checkpoint_highest(c);
    if (highest < 0) return OK;
    return err_set(err, E_INPUT,
                   "is never, and %s holds checkpoint-%lld; choose another output folder, "
                   "remove it, or set auto",
                   c->output, (long long)highest);
}

Status checkpoint_choose(char **path, Session *s, Err *err)
{
    const TrainConfig *c = s->cfg;
    *path = NULL;
    if (str_eq(c->resume, "auto")) return find_newest(path, s, err);
    if (str_eq(c->resume, "never"))
        return comm_agree(s->hosts, session_leads(s) ? check_none(c, err) : OK, err);
    *path = xstrdup(c->resume);
    Status status = verify(s->hosts, *path, err);
    if (status == OK) return OK;
    free(*path);
    *path = NULL;
    return status;
}

/* What is found by itself is the newest; later ones are damaged, and set aside. */
static void check_beyond(const TrainConfig *c, const RunState *run, const char *path,
                         Problems *problems)
{
    int64_t highest = checkpoint_highest(c);
    if (str_eq(c->resume, "auto") || highest <= run->step) return;
    config_problem(c, problems, "resume",
                   "%s is at step %lld, and %s goes on to checkpoint-%lld; choose another output "
                   "folder or remove what lies beyond",
                   path, (long long)run->step, c->output, (long long)highest);
}

Status checkpoint_check(Session *s, RunState *run, const char *path, Problems *problems)
{
    Json *manifest = NULL;
    Err err = {0};
    int before = problems->n;
    Status status = comm_agree(s->hosts, manifest_read(&manifest, path, &err), &err);
    if (status == OK) {
        manifest_compare(s, manifest, path, problems);
        if (problems->n == before) status = manifest_run(run, manifest, path, &err);
        if (problems->n == before && status == OK) check_beyond(s->cfg, run, path, problems);
    }
    if (status != OK) config_problem(s->cfg, problems, "resume", "%s", err.line);
    json_free(manifest);
    /* folders and what is compared may differ from host to host */
    return session_agree(s, status == OK && problems->n > before ? E_INPUT : status, problems);
}

Status checkpoint_load(Session *s, RunState *run, const char *path, Problems *problems)
{
    Err err = {0};
    TRY(checkpoint_check(s, run, path, problems));
    Status status = state_file_read(s, path, STATE_ALL, &err);
    if (status != OK) config_problem(s->cfg, problems, "resume", "%s", err.line);
    return status;
}

Status checkpoint_load_weights(Session *s, const char *path, Err *err)
{
    TRY(verify(s->hosts, path, err));
    return state_file_read(s, path, STATE_WEIGHTS, err);
}
