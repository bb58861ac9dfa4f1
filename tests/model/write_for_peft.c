/* Writes adapters and model folders of ours, each with the logits that we compute from it, for tools/check_peft.py to
 * load with PEFT and transformers.  usage: write_for_peft FIXTURES OUT
 * write_for_peft --logits BASE ADAPTER writes those of an adapter folder that is there already, into it. */
#include "base/fs.h"
#include "base/str.h"
#include "model/merge.h"
#include "tests/model/model_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Case {
    const char *name, *base;
    const char *config; /* adapter_config.json's part; NULL: a saved model */
    DType dtype;
    uint64_t shard;
} Case;

static const Case cases[] = {
    {"lora-list", "golden/llama2-tiny", "\"target_modules\": [\"q_proj\", \"v_proj\"]", DT_F32, 0},
    {"lora-bf16", "golden/llama2-tiny", "\"target_modules\": [\"o_proj\"]", DT_BF16, 0},
    {"lora-all", "golden/llama3-tiny", "\"target_modules\": \"all-linear\", \"use_rslora\": true",
     DT_F32, 0},
    {"lora-layers", "golden/llama3-tiny",
     "\"target_modules\": [\"up_proj\", \"k_proj\"], \"layers_to_transform\": [0, 2]", DT_F32, 0},
    {"lora-exclude", "golden/qwen2-tiny",
     "\"target_modules\": \"all-linear\", \"exclude_modules\": [\"o_proj\"]", DT_F32, 0},
    {"lora-pattern", "golden/qwen2-tiny", "\"target_modules\": \".*\\\\.1\\\\..*(q|down)_proj\"",
     DT_F32, 0},
    {"lora-ranks", "models/mistral-d64",
     "\"target_modules\": [\"q_proj\", \"v_proj\", \"up_proj\"], \"rank_pattern\": {\"q_proj\": 2, "
     "\"layers.1.mlp.*\": 5}, \"alpha_pattern\": {\"v_proj\": 3, \"^model.layers.0.*up_proj\": 1}",
     DT_F32, 0},
    {"save-head", "models/qwen2-d64", "\"modules_to_save\": [\"lm_head\"]", DT_F32, 0},
    {"save-both", "golden/llama2-tiny", "\"modules_to_save\": [\"lm_head\", \"embed_tokens\"]",
     DT_F32, 0},
    {"save-norms", "models/qwen3-d64", "\"modules_to_save\": [\"norm\"]", DT_F32, 0},
    {"save-linear", "models/qwen2-d64",
     "\"modules_to_save\": [\"o_proj\", \"k_proj\", \"q_proj\", \"v_proj\"], \"target_modules\": "
     "[\"down_proj\"]",
     DT_F32, 0},
    {"tied-embed", "golden/llama3-tiny", "\"modules_to_save\": [\"embed_tokens\"]", DT_F32, 0},
    {"tied-head", "golden/llama3-tiny", "\"modules_to_save\": [\"lm_head\"]", DT_F32, 0},
    {"tied-both", "models/llama3-d64", "\"modules_to_save\": [\"lm_head\", \"embed_tokens\"]",
     DT_F32, 0},
    {"model-llama2", "golden/llama2-tiny", NULL, DT_F32, 1 << 30},
    {"model-llama3", "models/llama3-d128", NULL, DT_F32, 30000},
    {"model-mistral", "models/mistral-d64", NULL, DT_F32, 1 << 30},
    {"model-qwen2", "models/qwen2-d64", NULL, DT_F32, 20000},
    {"model-qwen3", "models/qwen3-d128", NULL, DT_F32, 1 << 30},
};

static void die_unless(Status s, const Err *err)
{
    if (s == OK) return;
    fprintf(stderr, "write_for_peft: %s\n", err->line);
    exit(1);
}

/* Logits of the fixture's first batch, beside what gives them. */
static void write_logits(ModelRun *r, const char *base, const char *dir)
{
    Err err = {0};
    SafeTensors *f;
    char *io = path_join(base, "io.safetensors"), *path = path_join(dir, "logits.safetensors");
    die_unless(safetensors_open(&f, io, &err), &err);
    Tokens t = tokens_from_rows(f, 0, 2);
    float *logits = model_logits(r, &t);
    int64_t shape[3] = {2, t.n / 2, r->m.cfg.vocab_size};
    SafeTensor out = {.name = "logits",
                      .dtype = ST_F32,
                      .n_dims = 3,
                      .shape = shape,
                      .data = (const uint8_t *)logits,
                      .bytes = (size_t)(t.n * shape[2]) * sizeof *logits};
    die_unless(safetensors_write(path, &out, 1, NULL, NULL, NULL, &err), &err);
    free(logits);
    tokens_free(&t);
    safetensors_close(f);
    free(io);
    free(path);
}

static void write_adapter_logits(const char *base, const char *dir)
{
    ModelRun r;
    model_open(&r, base, NULL, dir);
    write_logits(&r, base, dir);
    model_close(&r);
}

/* Away from B = 0 and from the base, by the same amounts every time. */
static void move_weights(ModelRun *r)
{
    for (int i = 0; i < r->m.params.n; i++) {
        Param *p = r->m.params.items[i];
        if (!p->trained) continue;
        int64_t n = tensor_numel(&p->t);
        float *w = xmalloc((size_t)n * sizeof *w);
        tensor_read_f32(&r->dev, &p->t, w);
        for (int64_t j = 0; j < n; j++)
            w[j] += 0.02f * (float)(j * 7 % 11 - 5) + 0.003f * (float)(i % 3);
        tensor_write_f32(&r->dev, &p->t, w);
        free(w);
    }
}

static void write_adapter(const Case *c, const char *base, const char *dir)
{
    Err err = {0};
    Json *root;
    LoraOpts o;
    char *text =
        str_format("{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 6, %s}", c->config);
    die_unless(json_parse(&root, text, strlen(text), c->name, 1, 0, &err), &err);
    die_unless(lora_opts_read(&o, NULL, root, c->name, &err), &err);
    ModelRun r;
    model_open(&r, base, NULL, NULL);
    die_unless(lora_attach(&r.lora, &r.m, &o, &err), &err);
    r.has_lora = true;
    llama_alloc(&r.m);
    lora_init_weights(&r.lora, &r.dev, 3);
    move_weights(&r);
    die_unless(lora_save(&r.lora, &r.m, dir, base, c->dtype, &err), &err);
    model_close(&r);
    write_adapter_logits(base, dir); /* as rounded to the file's dtype */

    char *merged = str_format("%s-merged", dir);
    MergeReport report;
    die_unless(merge_adapter(base, dir, merged, NULL, NULL, NULL, &report, &err), &err);
    merge_report_clear(&report);
    json_free(root);
    lora_opts_clear(&o);
    free(text);
    free(merged);
}

static void write_model(const Case *c, const char *base, const char *dir)
{
    Err err = {0};
    ModelRun r;
    model_open(&r, base, NULL, NULL);
    die_unless(model_save(&r.m, dir, c->dtype, c->shard, &err), &err);
    write_logits(&r, base, dir);
    model_close(&r);
}

int main(int argc, char **argv)
{
    if (argc == 4 && str_eq(argv[1], "--logits")) {
        write_adapter_logits(argv[2], argv[3]);
        return 0;
    }
    if (argc != 3) {
        fprintf(stderr, "usage: write_for_peft FIXTURES OUT | --logits BASE ADAPTER\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const Case *c = &cases[i];
        Err err = {0};
        char *base = path_join(argv[1], c->base), *dir = path_join(argv[2], c->name);
        die_unless(dir_make(dir, &err), &err);
        if (c->config)
            write_adapter(c, base, dir);
        else
            write_model(c, base, dir);
        printf("%s\t%s\t%s\n", c->config ? "adapter" : "model", c->name, c->base);
        free(base);
        free(dir);
    }
    return 0;
}
