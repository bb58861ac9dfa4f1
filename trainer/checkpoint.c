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

/* A folder cannot be renamed over another, and one that is removed piece by piece must not look whole:
 * it is renamed away first. */
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
    char *beside = checkpoint_path_beside(c, step), *path = checkpoint_path(c, step);
    Status s = dir_sync(beside, err);
    if (s == OK) s = retire(c, step, err);
    if (s == OK) s = file_rename(beside, path, err);
    free(beside);
    free(path);
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
        free(path);
    }
    dir_list_free(names, n);
    return s;
}

/* ---- reading ---------------------------------------------------------------------------------- */

/* Of steps[n], the newest first: the index of the first whole one; n: there is none, and *why tells what is wrong with the
 * newest. */
static int first_whole(const int64_t *steps, int n, const TrainConfig *c, Log *log, Err *why)
{
    for (int i = 0; i < n; i++) {
        char *dir = checkpoint_path(c, steps[i]);
        Json *manifest = NULL;
        Err wrong = {0};
        Status s = manifest_verify(&manifest, dir, 0, 1, &wrong);
        if (s != OK) log_warn(log, "%s is not whole and passed over: %s", dir, wrong.line);
        if (i == 0) *why = wrong;
        json_free(manifest);
        free(dir);
        if (s == OK) return i;
    }
    return n;
}

Status checkpoint_find(char **path, const TrainConfig *c, Log *log, Err *err)
{
    int64_t *steps;
    int n;
    Err why = {0};
    *path = NULL;
    TRY(list_steps(&steps, &n, c, err));
    int found = first_whole(steps, n, c, log, &why);
    Status s = OK;
    if (found < n)
        *path = checkpoint_path(c, steps[found]);
    else if (n > 0)
        s = err_set(
            err, E_INPUT,
            "%s holds checkpoint-%lld and none that is whole, and a run from the start would "
            "write over what is there; bring one back, choose another output folder, or "
            "remove them (%s)",
            c->output, (long long)steps[0], why.line);
    free(steps);
    return s;
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

Status checkpoint_choose(char **path, const TrainConfig *c, Log *log, Err *err)
{
    *path = NULL;
    if (str_eq(c->resume, "auto")) return checkpoint_find(path, c, log, err);
    int64_t highest = checkpoint_highest(c);
    if (!str_eq(c->resume, "never"))
        *path = xstrdup(c->resume);
    else if (highest >= 0)
        return err_set(err, E_INPUT,
                       "is never, and %s holds checkpoint-%lld; choose another output folder, "
                       "remove it, or set auto",
                       c->output, (long long)highest);
    return OK;
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
    Status status = manifest_verify(&manifest, path, s->hosts->rank, s->hosts->size, &err);
    status = comm_agree(s->hosts, status, &err);
    if (status == OK) {
        manifest_compare(s, manifest, path, problems);
        if (problems->n == before) status = manifest_run(run, manifest, path, &err);
        if (problems->n == before && status == OK) check_beyond(s->cfg, run, path, problems);
    }
    if (status != OK) config_problem(s->cfg, problems, "resume", "%s", err.line);
    json_free(manifest);
    return status == OK && problems->n > before ? E_INPUT : status;
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
    Json *manifest = NULL;
    Status status = manifest_verify(&manifest, path, s->hosts->rank, s->hosts->size, err);
    TRY(comm_agree(s->hosts, status, err));
    json_free(manifest);
    return state_file_read(s, path, STATE_WEIGHTS, err);
}
