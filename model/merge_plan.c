/* Pairs the tensors of an adapter file with those of its base. */
#include "model/merge_plan.h"

#include "base/fs.h"
#include "base/str.h"
#include "model/names.h"
#include "model/weights.h"

#include <stdlib.h>
#include <string.h>

static const char prefix[] = "base_model.model.";
static const char head_name[] = "lm_head.weight", embed_name[] = "model.embed_tokens.weight";

typedef struct Builder {
    MergePlan plan;
    const LlamaConfig *cfg;
    const SafeTensors *base, *adapter;
    const char *base_path;
    bool *used; /* by index in the adapter */
    NameList missing;
    Err *err;
} Builder;

/* The adapter's tensor of this name, marked as used; NULL when absent (and, if `needed`, remembered). */
static const SafeTensor *take(Builder *b, const char *module, const char *what, bool needed)
{
    char *name = str_format("%s%s.%s", prefix, module, what);
    const SafeTensor *t = NULL;
    for (int i = 0; i < safetensors_count(b->adapter) && !t; i++) {
        if (!str_eq(safetensors_at(b->adapter, i)->name, name)) continue;
        t = safetensors_at(b->adapter, i);
        b->used[i] = true;
    }
    if (!t && needed) names_add(&b->missing, name);
    free(name);
    return t;
}

static Status check_matrix(const SafeTensor *t, int64_t rows, int64_t cols, Err *err)
{
    Param p = {.t = tensor_shape(DT_F32, cols ? 2 : 1, (int64_t[]){rows, cols}),
               .n_slices = 1,
               .slices = {{.rows = rows}}};
    return weight_check(t, &p, 0, err);
}

static MergeChange *add(Builder *b, const char *name, const SafeTensor *source)
{
    MergePlan *p = &b->plan;
    p->items = xrealloc(p->items, (size_t)(p->n + 1) * sizeof *p->items);
    p->items[p->n] = (MergeChange){.name = xstrdup(name), .source = source};
    return &p->items[p->n++];
}

/* A tied head has no tensor of its own, or one that nobody reads. */
static const SafeTensor *base_tensor(const Builder *b, const char *name)
{
    bool tied_head = b->cfg->tie_word_embeddings && str_eq(name, head_name);
    return safetensors_find(b->base, tied_head ? embed_name : name);
}

static Status source_of(const Builder *b, const LoraModule *x, const char *name,
                        const SafeTensor **out)
{
    *out = base_tensor(b, name);
    if (!*out) return err_set(b->err, E_INPUT, "%s: has no tensor %s", b->base_path, name);
    return check_matrix(*out, x->rows, x->in, b->err);
}

static Status plan_adapter(Builder *b, const LoraModule *x, const LoraOpts *opts, const char *name)
{
    bool embedding = str_eq(x->name, "model.embed_tokens");
    const SafeTensor *a = take(b, x->name, embedding ? "lora_embedding_A" : "lora_A.weight", true);
    const SafeTensor *bb = take(b, x->name, embedding ? "lora_embedding_B" : "lora_B.weight", true);
    const SafeTensor *m = opts->dora ? take(b, x->name, "lora_magnitude_vector", true) : NULL;
    if (opts->dora && embedding)
        return err_set(b->err, E_INPUT, "%s: DoRA on the embedding is not supported", x->name);
    const SafeTensor *copy = take(b, x->name, "base_layer.weight", false), *source;
    TRY(source_of(b, x, name, &source));
    if (!a || !bb || (opts->dora && !m)) return OK; /* told with the other missing ones */
    if (copy) TRY(check_matrix(copy, x->rows, x->in, b->err));
    TRY(check_matrix(a, x->rank, embedding ? x->rows : x->in, b->err));
    TRY(check_matrix(bb, embedding ? x->in : x->rows, x->rank, b->err));
    if (m) TRY(check_matrix(m, x->rows, 0, b->err));
    MergeChange *c = add(b, name, copy ? copy : source);
    c->m = m;
    c->a = a;
    c->b = bb;
    c->transposed = embedding;
    c->scale = lora_scale(opts, x->rank, x->alpha);
    return OK;
}

/* PEFT takes over a base tensor that lies in the adapter's file even where modules_to_save does not name it (it
 * writes both embeddings when the vocabulary grew). */
static Status plan_whole(Builder *b, const LoraModule *x, const char *name)
{
    const SafeTensor *whole = take(b, x->name, "weight", x->role == ROLE_WHOLE), *source;
    if (whole) {
        TRY(source_of(b, x, name, &source));
        TRY(check_matrix(whole, x->rows, x->in, b->err));
        add(b, name, source)->whole = whole;
    }
    char *bias_name = str_format("%s.bias", x->name);
    source = safetensors_find(b->base, bias_name);
    const SafeTensor *bias = take(b, x->name, "bias", source && x->role == ROLE_WHOLE);
    Status s = OK;
    if (bias && !source)
        s = err_set(b->err, E_INPUT, "%s: has no tensor %s", b->base_path, bias_name);
    else if (bias && (s = check_matrix(bias, x->rows, 0, b->err)) == OK)
        add(b, bias_name, source)->whole = bias;
    free(bias_name);
    return s;
}

/* Which of the two matrices of a tied model end up different (formats of the two tensors: one file's truth).
 * A replacement that no config asked for goes to the shared tensor, as PEFT loads it. */
static Status plan_tied(Builder *b, const LoraPlan *roles)
{
    MergePlan *p = &b->plan;
    if (!b->cfg->tie_word_embeddings) return OK;
    bool apart = lora_plan_find(roles, "model.embed_tokens")->role != ROLE_NONE ||
                 lora_plan_find(roles, "lm_head")->role != ROLE_NONE;
    bool has_head = safetensors_find(b->base, head_name) != NULL;
    const MergeChange *embed = merge_plan_find(p, embed_name),
                      *head = merge_plan_find(p, head_name);
    p->untied = apart;
    p->adds_head = apart && !has_head;
    if (apart) {
        if (!head) add(b, head_name, base_tensor(b, head_name)); /* the embedding as it was */
        return OK;
    }
    const SafeTensor *new_head = head ? head->whole : NULL,
                     *new_embed = embed ? embed->whole : NULL;
    if (new_head && (!new_embed || new_head->bytes != new_embed->bytes ||
                     memcmp(new_head->data, new_embed->data, new_head->bytes) != 0))
        return err_set(
            b->err, E_INPUT,
            "%s: %s: the base's head is tied to its embedding, and modules_to_save names "
            "neither",
            new_head->file, new_head->name);
    if (new_embed && has_head && !head)
        add(b, head_name, base_tensor(b, head_name))->whole = new_embed;
    return OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const MergeChange *)a)->name, ((const MergeChange *)b)->name);
}

static Status build(Builder *b, const LoraPlan *roles, const LoraOpts *opts, const char *path)
{
    for (int i = 0; i < roles->n; i++) {
        const LoraModule *x = &roles->items[i];
        char *name = str_format("%s.weight", x->name);
        Status s =
            x->role == ROLE_ADAPTER ? plan_adapter(b, x, opts, name) : plan_whole(b, x, name);
        free(name);
        TRY(s);
    }
    NameList unknown = {0};
    for (int i = 0; i < safetensors_count(b->adapter); i++)
        if (!b->used[i]) names_add(&unknown, safetensors_at(b->adapter, i)->name);
    Status s = names_tell(&unknown, path, "tensors that match nothing in the base", b->err);
    names_clear(&unknown);
    TRY(s);
    TRY(names_tell(&b->missing, path, "tensors that adapter_config.json calls for are missing",
                   b->err));
    return plan_tied(b, roles);
}

Status merge_plan(MergePlan *out, const LlamaConfig *cfg, const LoraOpts *opts,
                  const SafeTensors *base, const char *base_path, const SafeTensors *adapter,
                  const char *adapter_path, Err *err)
{
    LoraPlan roles = {0};
    Status s = lora_plan(&roles, cfg, opts, err);
    if (s != OK) {
        char *dir = xstrndup(adapter_path, (size_t)(path_base(adapter_path) - adapter_path)),
             *trimmed = path_trim(dir);
        lora_error_in_file(err, s, trimmed);
        free(trimmed), free(dir);
        return s;
    }
    Builder b = {.cfg = cfg, .base = base, .base_path = base_path, .adapter = adapter, .err = err};
    b.used = xcalloc((size_t)safetensors_count(adapter), sizeof *b.used);
    s = build(&b, &roles, opts, adapter_path);
    lora_plan_clear(&roles);
    names_clear(&b.missing);
    free(b.used);
    if (s != OK) {
        merge_plan_clear(&b.plan);
        return s;
    }
    qsort(b.plan.items, (size_t)b.plan.n, sizeof *b.plan.items, by_name);
    *out = b.plan;
    return OK;
}

void merge_plan_clear(MergePlan *p)
{
    for (int i = 0; i < p->n; i++)
        free(p->items[i].name);
    free(p->items);
    *p = (MergePlan){0};
}

const MergeChange *merge_plan_find(const MergePlan *p, const char *name)
{
    for (int i = 0; i < p->n; i++)
        if (str_eq(p->items[i].name, name)) return &p->items[i];
    return NULL;
}
