#include "tests/trainer/training.h"

#include "base/fs.h"
#include "base/str.h"
#include "tests/support/ranks.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static void read_lines(Training *t, const char *output)
{
    char *path = path_join(output, "metrics.jsonl"), *text;
    size_t len;
    Err err = {0};
    if (file_read(&text, &len, path, &err) == OK) {
        for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
            Json *j;
            Status s = json_parse(&j, line, (size_t)(end - line), path, 1, 0, &err);
            cr_assert_eq(s, OK, "%s", err.line);
            t->lines = xrealloc(t->lines, ((size_t)t->n_lines + 1) * sizeof *t->lines);
            t->lines[t->n_lines++] = j;
        }
        free(text);
    }
    free(path);
}

/* On one rank. */
static Training run_on(Comm *hosts, const char *config, const char *const *overrides,
                       TrainingLook *each, void *ud)
{
    Training t = {0};
    Log log = {0};
    TrainConfig c;
    Session s = {.hosts = hosts};
    int n = 0;
    while (overrides && overrides[n])
        n++;
    t.status = config_parse(&c, config, strlen(config), "test.yaml", overrides, n, &t.problems);
    if (t.status != OK) return t;
    t.status = session_open_data(&s, &c, &log, &t.problems);
    if (t.status == OK) t.status = session_open_model(&s, &c, &log, &t.problems);
    if (t.status == OK) t.status = trainer_run(&s, false, &t.result, &t.problems, &t.err);
    if (t.status == OK && each) each(&s, ud);
    session_close(&s); /* dies when device memory leaked */
    if (!hosts || hosts->rank == 0) read_lines(&t, c.output);
    config_clear(&c);
    return t;
}

Training training_run(const char *config, const char *const *overrides)
{
    return run_on(NULL, config, overrides, NULL, NULL);
}

typedef struct OnRanks {
    const char *config;
    const char *const *overrides;
    TrainingLook *each;
    void *ud;
    Training first;
    Status worst;
    pthread_mutex_t lock;
} OnRanks;

static void run_rank(Comm *c, void *ud)
{
    OnRanks *o = ud;
    Training t = run_on(c, o->config, o->overrides, o->each, o->ud);
    pthread_mutex_lock(&o->lock);
    if (t.status != OK) o->worst = t.status;
    if (c->rank == 0) o->first = t;
    pthread_mutex_unlock(&o->lock);
    if (c->rank > 0) training_clear(&t);
}

Training training_run_ranks(const char *config, const char *const *overrides, int n,
                            TrainingLook *each, void *ud)
{
    OnRanks o = {.config = config,
                 .overrides = overrides,
                 .each = each,
                 .ud = ud,
                 .lock = PTHREAD_MUTEX_INITIALIZER};
    ranks_run(n, run_rank, &o);
    if (o.first.status == OK) o.first.status = o.worst;
    return o.first;
}

void training_clear(Training *t)
{
    for (int i = 0; i < t->n_lines; i++)
        json_free(t->lines[i]);
    free(t->lines);
    problems_clear(&t->problems);
    *t = (Training){0};
}

void training_print(const Training *t)
{
    for (int i = 0; i < t->problems.n; i++)
        fprintf(stderr, "  %s\n", t->problems.lines[i]);
    if (t->err.line[0]) fprintf(stderr, "  %s\n", t->err.line);
}

static const Json *step_line(const Training *t, int step)
{
    for (int i = 0; i < t->n_lines; i++)
        if (json_get(t->lines[i], "loss") && step-- == 0) return t->lines[i];
    return NULL;
}

double training_value(const Training *t, int step, const char *key)
{
    double v = 0;
    bool ok = json_number(json_get(step_line(t, step), key), &v);
    cr_assert(ok, "step %d has no %s", step, key);
    return v;
}

int training_steps(const Training *t)
{
    int n = 0;
    while (step_line(t, n))
        n++;
    return n;
}

bool same_file(const char *dir_a, const char *dir_b, const char *name)
{
    char *a = path_join(dir_a, name), *b = path_join(dir_b, name);
    FileMap x, y;
    Err err = {0};
    cr_assert_eq(file_map(&x, a, &err), OK, "%s", err.line);
    cr_assert_eq(file_map(&y, b, &err), OK, "%s", err.line);
    bool same = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
    if (!same) fprintf(stderr, "%s and %s differ\n", a, b);
    file_unmap(&x);
    file_unmap(&y);
    free(a);
    free(b);
    return same;
}
