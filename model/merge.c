/* Merging, tensor by tensor: rows of a tensor are computed in parallel, written, forgotten. */
#include "model/merge.h"

#include "base/fs.h"
#include "base/json.h"
#include "base/str.h"
#include "model/folder.h"
#include "model/inspect.h"
#include "model/merge_plan.h"
#include "model/weights.h"
#include "tensor/convert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 64 }; /* a block's, for one thread */

/* --- one tensor --------------------------------------------------------------------------------------------- */

typedef struct Sums {
    double dot, delta2; /* <W' - W, delta>, <delta, delta> */
    int64_t n_bad;      /* finite weights that became infinite or NaN */
} Sums;

/* Of C = Q(W') - Q(W), what the change is once both are quantised. */
typedef struct AgainSums {
    double dot, change2, delta2; /* <C, delta>, <C, C>, <delta, delta> */
} AgainSums;

typedef struct Job {
    const MergeChange *c;
    DType dtype, source_dtype, whole_dtype;
    int64_t rows, cols, rank;
    const float *left, *right; /* delta = scale * left (rows, rank) right (rank, cols) */
    const float *magnitudes;   /* DoRA: rows of W + delta get this length; or NULL */
    uint8_t *out;
    Sums *blocks;
    const float *again,
        *before; /* Q(W') and Q(W), of a matrix whose quantising is measured: every step-th row */
    int64_t step, n_again;
    AgainSums *again_blocks;
} Job;

static void delta_row(const Job *j, int64_t row, const float *w, float *delta)
{
    if (j->c->whole) {
        size_t at = (size_t)(row * j->cols) * dtype_bytes(j->whole_dtype);
        convert_to_f32(delta, j->c->whole->data + at, j->whole_dtype, j->cols);
        for (int64_t i = 0; i < j->cols; i++)
            delta[i] -= w[i];
        return;
    }
    memset(delta, 0, (size_t)j->cols * sizeof *delta);
    for (int64_t k = 0; k < j->rank; k++) {
        float b = j->left[row * j->rank + k];
        const float *a = j->right + k * j->cols;
        for (int64_t i = 0; i < j->cols; i++)
            delta[i] += b * a[i];
    }
    for (int64_t i = 0; i < j->cols; i++)
        delta[i] *= j->c->scale;
    if (!j->magnitudes) return;
    double sum = 0;
    for (int64_t i = 0; i < j->cols; i++)
        sum += ((double)w[i] + (double)delta[i]) * ((double)w[i] + (double)delta[i]);
    float factor = (float)((double)j->magnitudes[row] / sqrt(sum));
    for (int64_t i = 0; i < j->cols; i++)
        delta[i] = factor * (w[i] + delta[i]) - w[i];
}

/* What replaces a tensor is taken as it is: w + (new - w) would round twice. */
static void new_row(const Job *j, int64_t row, const float *w, const float *delta, float *to)
{
    if (j->c->whole) {
        size_t at = (size_t)(row * j->cols) * dtype_bytes(j->whole_dtype);
        convert_to_f32(to, j->c->whole->data + at, j->whole_dtype, j->cols);
        return;
    }
    /* without a delta (a head untied from an embedding that changed) even the sign of zero stays */
    for (int64_t i = 0; i < j->cols; i++)
        to[i] = j->rank ? w[i] + delta[i] : w[i];
}

static void source_row(const Job *j, int64_t row, float *w)
{
    size_t bytes = (size_t)j->cols * dtype_bytes(j->source_dtype);
    convert_to_f32(w, j->c->source->data + (size_t)row * bytes, j->source_dtype, j->cols);
}

static int64_t block_end(const Job *j, int64_t block)
{
    return (block + 1) * ROWS < j->rows ? (block + 1) * ROWS : j->rows;
}

static void merge_block(void *ud, int64_t block)
{
    Job *j = ud;
    float *w = xmalloc(3 * (size_t)j->cols * sizeof *w), *delta = w + j->cols,
          *to = delta + j->cols;
    size_t row_bytes = (size_t)j->cols * dtype_bytes(j->dtype);
    Sums s = {0};
    for (int64_t row = block * ROWS; row < block_end(j, block); row++) {
        uint8_t *out = j->out + (size_t)row * row_bytes;
        source_row(j, row, w);
        delta_row(j, row, w, delta);
        new_row(j, row, w, delta, to);
        convert_from_f32(out, j->dtype, to, j->cols);
        convert_to_f32(to, out, j->dtype, j->cols);
        for (int64_t i = 0; i < j->cols; i++) {
            s.dot += ((double)to[i] - (double)w[i]) * (double)delta[i];
            s.delta2 += (double)delta[i] * (double)delta[i];
            s.n_bad += !isfinite(to[i]) && isfinite(w[i]);
        }
    }
    j->blocks[block] = s;
    free(w);
}

static void again_block(void *ud, int64_t block)
{
    Job *j = ud;
    float *w = xmalloc(2 * (size_t)j->cols * sizeof *w), *delta = w + j->cols;
    AgainSums s = {0};
    int64_t end = (block + 1) * ROWS < j->n_again ? (block + 1) * ROWS : j->n_again;
    for (int64_t k = block * ROWS; k < end; k++) {
        const float *after = j->again + k * j->cols, *before = j->before + k * j->cols;
        source_row(j, k * j->step, w);
        delta_row(j, k * j->step, w, delta);
        for (int64_t i = 0; i < j->cols; i++) {
            double change = (double)after[i] - (double)before[i];
            s.dot += change * (double)delta[i];
            s.change2 += change * change;
            s.delta2 += (double)delta[i] * (double)delta[i];
        }
    }
    j->again_blocks[block] = s;
    free(w);
}

static float *transpose(float *m, int64_t rows, int64_t cols)
{
    float *t = xmalloc((size_t)(rows * cols) * sizeof *t);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            t[c * rows + r] = m[r * cols + c];
    free(m);
    return t;
}

typedef struct Merge {
    const MergePlan *plan;
    Pool *pool;
    const MergeAgain *again; /* NULL: not measured */
    MergeReport *report;
    double dot, delta2;
    AgainSums again_sums;
} Merge;

static void report_add(Merge *m, const MergeChange *c, int64_t rank, Sums s)
{
    MergeReport *r = m->report;
    r->items = xrealloc(r->items, (size_t)(r->n + 1) * sizeof *r->items);
    r->items[r->n++] = (MergedTensor){.name = xstrdup(c->name),
                                      .rank = rank,
                                      .delta_norm = sqrt(s.delta2),
                                      .kept = s.delta2 > 0 ? s.dot / s.delta2 : 1};
    r->n_merged += c->a != NULL;
    r->n_replaced += c->whole != NULL;
    m->dot += s.dot;
    m->delta2 += s.delta2;
}

/* What a quantised model keeps in codes: the matrices of its blocks.  Their norms are vectors. */
static bool is_quantised(const SafeTensor *t)
{
    return t->n_dims == 2 && str_starts(t->name, "model.layers.");
}

/* Of a large matrix some rows, evenly: encoding all twice would take minutes, and they say the same. */
static void measure_again(Merge *m, Job *j)
{
    enum { MOST_ROWS = 256 };
    j->step = (j->rows + MOST_ROWS - 1) / MOST_ROWS;
    j->n_again = (j->rows + j->step - 1) / j->step;
    const int64_t n = j->n_again * j->cols, n_blocks = (j->n_again + ROWS - 1) / ROWS;
    const size_t row_bytes = (size_t)j->cols * dtype_bytes(j->dtype);
    float *after = xmalloc(2 * (size_t)n * sizeof *after), *before = after + n;
    for (int64_t k = 0; k < j->n_again; k++) {
        const int64_t row = k * j->step;
        convert_to_f32(after + k * j->cols, j->out + (size_t)row * row_bytes, j->dtype, j->cols);
        source_row(j, row, before + k * j->cols);
    }
    quant_round(m->again->dev, &m->again->opts, after, j->n_again, j->cols);
    quant_round(m->again->dev, &m->again->opts, before, j->n_again, j->cols);
    j->again = after;
    j->before = before;
    j->again_blocks = xcalloc((size_t)n_blocks, sizeof *j->again_blocks);
    pool_run(m->pool, n_blocks, again_block, j);
    const double of_all = (double)j->rows / (double)j->n_again;
    for (int64_t i = 0; i < n_blocks; i++) {
        m->again_sums.dot += of_all * j->again_blocks[i].dot;
        m->again_sums.change2 += of_all * j->again_blocks[i].change2;
        m->again_sums.delta2 += of_all * j->again_blocks[i].delta2;
    }
    free(j->again_blocks);
    free(after);
}

/* A SafeSource. */
static Status write_merged(void *ud, const SafeTensor *t, FileOut *f, Err *err)
{
    Merge *m = ud;
    const MergeChange *c = merge_plan_find(m->plan, t->name);
    Job j = {.c = c, .rows = t->shape[0], .cols = t->n_dims == 2 ? t->shape[1] : 1};
    safe_dtype_to_tensor(t->dtype, &j.dtype);
    safe_dtype_to_tensor(c->source->dtype, &j.source_dtype);
    if (c->whole) safe_dtype_to_tensor(c->whole->dtype, &j.whole_dtype);
    float *a = NULL, *b = NULL, *magnitudes = NULL;
    if (c->a) {
        a = weight_read_f32(c->a, m->pool);
        b = weight_read_f32(c->b, m->pool);
        if (c->m) magnitudes = weight_read_f32(c->m, m->pool);
        j.rank = c->a->shape[0];
        if (c->transposed) { /* (B A)^T = A^T B^T */
            float *at = transpose(a, j.rank, j.rows);
            a = transpose(b, j.cols, j.rank);
            b = at;
        }
    }
    j.left = b;
    j.right = a;
    j.magnitudes = magnitudes;
    int64_t n_blocks = (j.rows + ROWS - 1) / ROWS;
    j.out = xmalloc(t->bytes);
    j.blocks = xcalloc((size_t)n_blocks, sizeof *j.blocks);
    pool_run(m->pool, n_blocks, merge_block, &j);
    Sums s = {0};
    for (int64_t i = 0; i < n_blocks; i++) {
        s.dot += j.blocks[i].dot;
        s.delta2 += j.blocks[i].delta2;
        s.n_bad += j.blocks[i].n_bad;
    }
    if (s.n_bad == 0) {
        file_out_write(f, j.out, t->bytes);
        if (c->a || c->whole) report_add(m, c, j.rank, s);
        if (m->again && is_quantised(t) && s.delta2 > 0) measure_again(m, &j);
    }
    free(a);
    free(b);
    free(magnitudes);
    free(j.out);
    free(j.blocks);
    if (s.n_bad == 0) return OK;
    const SafeTensor *const from[] = {c->a, c->b, c->m, c->whole}; /* the adapter's */
    for (size_t i = 0; i < sizeof from / sizeof *from; i++)
        if (from[i]) TRY(inspect_finite_tensor(from[i], m->pool, err));
    return err_set(err, E_INPUT, "%s: %s: merged, %lld numbers are infinite or NaN in %s",
                   c->source->file, t->name, (long long)s.n_bad, safe_dtype_name(t->dtype));
}

/* --- the files ---------------------------------------------------------------------------------------------- */

/* The base's tensors that lie in `file`, those that change without data; a new head goes beside the embedding. */
static int shard_tensors(const Merge *m, const SafeTensors *base, const char *file, SafeTensor *out)
{
    int n = 0;
    for (int i = 0; i < safetensors_count(base); i++) {
        const SafeTensor *t = safetensors_at(base, i);
        if (!str_eq(t->file, file)) continue;
        const MergeChange *c = merge_plan_find(m->plan, t->name);
        out[n] = *t;
        if (c) out[n].data = NULL;
        n++;
        if (!m->plan->adds_head || !str_eq(t->name, "model.embed_tokens.weight")) continue;
        out[n] = *t;
        out[n].name = "lm_head.weight";
        out[n++].data = NULL;
    }
    return n;
}

static Status write_shards(Merge *m, const SafeTensors *base, const char *out, Err *err)
{
    int count = safetensors_count(base);
    SafeTensor *tensors = xmalloc(((size_t)count + 1) * sizeof *tensors);
    bool *done = xcalloc((size_t)count, sizeof *done);
    Status s = OK;
    for (int i = 0; i < count && s == OK; i++) {
        const char *file = safetensors_at(base, i)->file;
        if (done[i]) continue;
        for (int k = i; k < count; k++)
            done[k] |= str_eq(safetensors_at(base, k)->file, file);
        int n = shard_tensors(m, base, file, tensors);
        char *path = path_join(out, path_base(file));
        s = safetensors_write(path, tensors, n, NULL, write_merged, m, err);
        free(path);
    }
    free(tensors);
    free(done);
    return s;
}

/* Of a base in shards: its own index, or one that knows the new head. */
static Status write_index(const Merge *m, const SafeTensors *base, const char *dir, const char *out,
                          Err *err)
{
    char *from = path_join(dir, "model.safetensors.index.json");
    char *single = path_join(dir, "model.safetensors"), *to = path_join(out, path_base(from));
    Status s = OK;
    if (path_exists(from) && !path_exists(single)) {
        if (!m->plan->adds_head) {
            s = file_copy(from, to, err);
        } else {
            StrBuf map = {0};
            uint64_t total = 0;
            for (int i = 0; i < safetensors_count(base); i++) {
                const SafeTensor *t = safetensors_at(base, i);
                bool embed = str_eq(t->name, "model.embed_tokens.weight");
                for (int k = 0; k < 1 + embed; k++) {
                    const char *name = k ? "lm_head.weight" : t->name, *file = path_base(t->file);
                    strbuf_puts(&map, map.len ? ",\n    " : "\n    ");
                    json_write_string(&map, name, strlen(name));
                    strbuf_puts(&map, ": ");
                    json_write_string(&map, file, strlen(file));
                    total += t->bytes;
                }
            }
            char *text = str_format("{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n"
                                    "  \"weight_map\": {%s\n  }\n}\n",
                                    (unsigned long long)total, map.data);
            s = file_write_atomic(to, text, strlen(text), err);
            free(text);
            strbuf_clear(&map);
        }
    }
    free(from);
    free(single);
    free(to);
    return s;
}

static Status write_folder(Merge *m, const SafeTensors *base, const char *dir, const char *out,
                           Log *log, Err *err)
{
    TRY(dir_make(out, err));
    TRY(write_shards(m, base, out, err));
    TRY(write_index(m, base, dir, out, err));
    TRY(folder_copy_rest(dir, out, log, err));
    if (m->plan->untied)
        TRY(folder_edit_config(out, (const char *const[]){"tie_word_embeddings", "false", NULL},
                               err));
    return dir_sync(out, err);
}

/* --- the whole ---------------------------------------------------------------------------------------------- */

/* Folders that killed merges to the same place left beside it. */
static void sweep_beside(const char *place)
{
    const char *name = path_base(place);
    char *dir = name == place ? xstrdup(".") : xstrndup(place, (size_t)(name - place));
    dir_sweep(dir, name);
    free(dir);
}

/* survived and noise of what was measured; nothing changed: all of it survives. */
static void report_again(MergeReport *r, AgainSums s)
{
    if (s.delta2 > 0) {
        r->again.survived = s.dot / s.delta2;
        double rest = s.change2 / s.delta2 - r->again.survived * r->again.survived;
        r->again.noise = sqrt(fmax(rest, 0));
    } else {
        r->again.survived = 1;
        r->again.noise = 0;
    }
}

static Status merge_into(const char *base_dir, const char *out, const MergePlan *plan,
                         const SafeTensors *base, const MergeAgain *again, Pool *pool, Log *log,
                         MergeReport *report, Err *err)
{
    Merge m = {.plan = plan, .pool = pool, .again = again, .report = report};
    bool in_place; /* an empty folder may be there, by way of a link */
    char *trimmed = path_trim(out), *place = file_place(trimmed, &in_place),
         *tmp = str_format("%s.tmp.%ld", place, (long)getpid());
    sweep_beside(place);
    Status s = write_folder(&m, base, base_dir, tmp, log, err);
    if (s == OK) s = file_rename(tmp, place, err);
    if (s != OK) (void)!dir_remove(tmp, NULL);
    free(tmp);
    free(place);
    free(trimmed);
    report->n_tensors = safetensors_count(base);
    report->untied = plan->untied;
    report->delta_norm = sqrt(m.delta2);
    report->kept = m.delta2 > 0 ? m.dot / m.delta2 : 1;
    report_again(report, m.again_sums);
    return s;
}

Status merge_adapter(const char *base, const char *adapter, const char *out,
                     const MergeAgain *again, Pool *pool, Log *log, MergeReport *report, Err *err)
{
    *report = (MergeReport){0};
    TRY(dir_check_new(out, base, err));
    LlamaConfig cfg;
    LoraOpts opts;
    TRY(llama_config_load(&cfg, base, err));
    TRY(lora_opts_load(&opts, NULL, adapter, err));
    SafeTensors *weights = NULL, *deltas = NULL;
    MergePlan plan = {0};
    char *path = path_join(adapter, "adapter_model.safetensors");
    Status s = safetensors_open(&deltas, path, err);
    if (s == OK) s = safetensors_open(&weights, base, err);
    if (s == OK) s = merge_plan(&plan, &cfg, &opts, weights, base, deltas, path, err);
    if (s == OK) s = merge_into(base, out, &plan, weights, again, pool, log, report, err);
    merge_plan_clear(&plan);
    safetensors_close(weights);
    safetensors_close(deltas);
    lora_opts_clear(&opts);
    free(path);
    return s;
}

void merge_report_clear(MergeReport *r)
{
    for (int i = 0; i < r->n; i++)
        free(r->items[i].name);
    free(r->items);
    *r = (MergeReport){0};
}
