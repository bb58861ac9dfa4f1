/* Merging: equal to what PEFT merged, files around the weights untouched, tied pairs, shards, bf16, refusals. */
#include "base/fs.h"
#include "model/folder.h"
#include "model/merge.h"
#include "tensor/convert.h"
#include "tests/model/model_run.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static char *fixture(const char *folder, const char *file)
{
    char *rel = str_format("tests/fixtures/%s%s%s", folder, file[0] ? "/" : "", file);
    char *path = source_path(rel);
    free(rel);
    return path;
}

static SafeTensors *open_weights(const char *dir, const char *file)
{
    Err err = {0};
    SafeTensors *f;
    char *path = path_join(dir, file);
    cr_assert_eq(safetensors_open(&f, path, &err), OK, "%s", err.line);
    free(path);
    return f;
}

static bool same_file(const char *dir_a, const char *dir_b, const char *name)
{
    char *a = path_join(dir_a, name), *b = path_join(dir_b, name), *ta = NULL, *tb = NULL;
    size_t na = 0, nb = 0;
    Err err = {0};
    bool same = file_read(&ta, &na, a, &err) == OK && file_read(&tb, &nb, b, &err) == OK &&
                na == nb && memcmp(ta, tb, na) == 0;
    free(a);
    free(b);
    free(ta);
    free(tb);
    return same;
}

static void merge(const char *base, const char *adapter, const char *out, MergeReport *report)
{
    Err err = {0};
    Log log = {.to = stderr, .level = LOG_WARN};
    Pool *pool = pool_new(2);
    cr_assert_eq(merge_adapter(base, adapter, out, NULL, pool, &log, report, &err), OK, "%s",
                 err.line);
    pool_free(pool);
}

Test(merge, equals_peft)
{
    static const char *const folders[] = {"golden/llama2-tiny", "golden/llama3-tiny",
                                          "golden/qwen2-tiny"};
    static const char *const kinds[] = {"lora", "rslora", "dora"};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) {
            char *dir = fixture(folders[i], ""), *tmp = tmp_dir(), *out = path_join(tmp, "merged");
            char *final = str_format("%s/%s_final", dir, kinds[k]);
            char *merged = str_format("%s_merged.safetensors", kinds[k]);
            char *logits_file = str_format("%s_logits.safetensors", kinds[k]);
            MergeReport report;
            merge(dir, final, out, &report);

            SafeTensors *want = open_weights(dir, merged);
            SafeTensors *got = open_weights(out, "model.safetensors");
            cr_assert_eq(safetensors_count(got), safetensors_count(want));
            for (int t = 0; t < safetensors_count(want); t++) {
                const char *name = safetensors_at(want, t)->name;
                int64_t n;
                const float *w = floats_of(want, name, &n), *g = floats_of(got, name, &n);
                cr_expect_leq(relative_difference(g, w, n), 1e-6, "%s %s: %s", folders[i], kinds[k],
                              name);
            }
            int64_t layers = report.n / 7;
            cr_expect_eq(report.n_merged, 7 * layers);
            cr_expect_eq(report.n_replaced, 0);
            cr_expect_not(report.untied);
            cr_expect_lt(fabs(report.kept - 1), 1e-3);
            cr_expect_gt(report.delta_norm, 0);
            cr_expect(same_file(dir, out, "config.json"));
            cr_expect(same_file(dir, out, "generation_config.json"));
            cr_expect(same_file(dir, out, "batches.jsonl"));

            ModelRun r;
            model_open(&r, out, NULL, NULL);
            SafeTensors *io = open_weights(dir, "io.safetensors");
            SafeTensors *f = open_weights(dir, logits_file);
            Tokens tokens = tokens_from_rows(io, 0, 2);
            float *logits = model_logits(&r, &tokens);
            int64_t n;
            const float *merged_logits = floats_of(f, "merged_logits", &n);
            cr_expect_leq(relative_difference(logits, merged_logits, n), 1e-5);
            const float *unmerged = floats_of(f, "logits", &n);
            cr_expect_leq(relative_difference(logits, unmerged, n), 1e-5);
            free(logits);
            tokens_free(&tokens);
            model_close(&r);
            safetensors_close(io);
            safetensors_close(f);
            safetensors_close(want);
            safetensors_close(got);
            merge_report_clear(&report);
            free(dir);
            free(out);
            free(final);
            free(merged);
            free(logits_file);
            tmp_dir_remove(tmp);
        }
}

/* An adapter of our own with modules trained whole, its numbers moved away from their start. */
static void make_adapter(const char *base, const char *dir, char **save_modules, int n_save)
{
    ModelRun r;
    Err err = {0};
    model_open(&r, base, NULL, NULL);
    char *targets[] = {(char *)(uintptr_t) "q_proj", (char *)(uintptr_t) "down_proj"};
    LoraOpts o = {.rank = 4,
                  .alpha = 8,
                  .targets = targets,
                  .n_targets = 2,
                  .save_modules = save_modules,
                  .n_save_modules = n_save};
    cr_assert_eq(lora_attach(&r.lora, &r.m, &o, &err), OK, "%s", err.line);
    r.has_lora = true;
    llama_alloc(&r.m);
    lora_init_weights(&r.lora, &r.dev, 1);
    for (int i = 0; i < r.m.params.n; i++) {
        Param *p = r.m.params.items[i];
        if (!p->trained) continue;
        int64_t n = tensor_numel(&p->t);
        float *w = xmalloc((size_t)n * sizeof *w);
        tensor_read_f32(&r.dev, &p->t, w);
        for (int64_t j = 0; j < n; j++)
            w[j] += 0.02f * (float)(j % 7 - 3) + 0.001f * (float)(i % 3);
        tensor_write_f32(&r.dev, &p->t, w);
        free(w);
    }
    cr_assert_eq(dir_make(dir, &err), OK);
    cr_assert_eq(lora_save(&r.lora, &r.m, dir, "base", DT_F32, &err), OK, "%s", err.line);
    model_close(&r);
}

/* Merged and unmerged give the same logits, whichever of the tied pair was trained. */
Test(merge, modules_trained_whole)
{
    static const struct {
        const char *folder;
        const char *save[2];
        int n;
        bool untied;
    } cases[] = {
        {"golden/llama3-tiny", {"embed_tokens"}, 1, true},
        {"golden/llama3-tiny", {"lm_head"}, 1, true},
        {"golden/llama3-tiny", {"lm_head", "embed_tokens"}, 2, true},
        {"golden/llama3-tiny", {"norm"}, 1, false},
        {"golden/llama2-tiny", {"embed_tokens", "lm_head"}, 2, false},
        {"golden/qwen2-tiny", {"o_proj", "input_layernorm"}, 2, false},
        {"golden/qwen2-tiny", {"norm"}, 1, false},
        {"models/qwen3-d64", {"k_norm"}, 1, false},
        {"models/qwen3-d64", {"lm_head"}, 1, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *base = fixture(cases[i].folder, ""), *tmp = tmp_dir();
        char *adapter = path_join(tmp, "adapter"), *out = path_join(tmp, "merged");
        char *save[2] = {(char *)(uintptr_t)cases[i].save[0], (char *)(uintptr_t)cases[i].save[1]};
        make_adapter(base, adapter, save, cases[i].n);
        MergeReport report;
        merge(base, adapter, out, &report);
        cr_expect_eq(report.untied, cases[i].untied, "case %zu", i);
        cr_expect_gt(report.n_replaced, 0);
        merge_report_clear(&report);
        cr_expect_eq(same_file(base, out, "config.json"), !cases[i].untied);

        ModelRun a, b;
        model_open(&a, base, NULL, adapter);
        model_open(&b, out, NULL, NULL);
        cr_expect_eq(b.m.tied, a.m.tied);
        SafeTensors *io = open_weights(base, "io.safetensors");
        Tokens t = tokens_from_rows(io, 0, 2);
        float *la = model_logits(&a, &t), *lb = model_logits(&b, &t);
        cr_expect_leq(relative_difference(la, lb, t.n * a.m.cfg.vocab_size), 1e-5, "case %zu", i);
        int64_t n;
        const float *plain = floats_of(io, "logits", &n);
        cr_expect_gt(relative_difference(la, plain, n), 1e-2, "case %zu", i);
        free(la);
        free(lb);
        tokens_free(&t);
        safetensors_close(io);
        model_close(&a);
        model_close(&b);
        free(base);
        free(adapter);
        free(out);
        tmp_dir_remove(tmp);
    }
}

/* A base in bf16 and in shards: each merged number is the fp32 sum rounded once, the shards keep their names. */
Test(merge, bf16_shards)
{
    char *base = fixture("golden/llama3-tiny", ""), *tmp = tmp_dir();
    char *sharded = path_join(tmp, "base"), *adapter = path_join(tmp, "adapter");
    char *out = path_join(tmp, "merged");
    Err err = {0};
    ModelRun r;
    model_open(&r, base, NULL, NULL);
    cr_assert_eq(dir_make(sharded, &err), OK);
    cr_assert_eq(model_save(&r.m, sharded, DT_BF16, 100000, &err), OK, "%s", err.line);
    model_close(&r);
    char *stray = path_join(sharded, "notes.txt");
    cr_assert_eq(file_write_atomic(stray, "hello", 5, &err), OK);
    char *save[] = {(char *)(uintptr_t) "embed_tokens"};
    make_adapter(sharded, adapter, save, 1);
    MergeReport report;
    merge(sharded, adapter, out, &report);
    cr_expect(report.untied);
    cr_expect(report.kept > 0.9 && report.kept < 1.1, "kept %g", report.kept);
    cr_expect(same_file(sharded, out, "notes.txt"));
    char *index = path_join(sharded, "model.safetensors.index.json");
    cr_assert(path_exists(index));

    SafeTensors *wf, *gf, *af = open_weights(adapter, "adapter_model.safetensors");
    cr_assert_eq(safetensors_open(&wf, sharded, &err), OK, "%s", err.line);
    cr_assert_eq(safetensors_open(&gf, out, &err), OK, "%s", err.line);
    cr_assert_eq(safetensors_count(gf), safetensors_count(wf) + 1);
    const char *module = "model.layers.1.mlp.down_proj";
    char *name = str_format("%s.weight", module);
    char *a_name = str_format("base_model.model.%s.lora_A.weight", module);
    char *b_name = str_format("base_model.model.%s.lora_B.weight", module);
    const SafeTensor *w = safetensors_find(wf, name), *g = safetensors_find(gf, name);
    int64_t n;
    const float *a = floats_of(af, a_name, &n), *b = floats_of(af, b_name, &n);
    int n_wrong = 0;
    for (int64_t row = 0; row < w->shape[0]; row++)
        for (int64_t col = 0; col < w->shape[1]; col++) {
            uint16_t wh, gh;
            memcpy(&wh, w->data + 2 * (row * w->shape[1] + col), 2);
            memcpy(&gh, g->data + 2 * (row * w->shape[1] + col), 2);
            float sum = 0;
            for (int k = 0; k < 4; k++)
                sum += b[row * 4 + k] * a[k * w->shape[1] + col];
            n_wrong += gh != bf16_from_f32(bf16_to_f32(wh) + 2 * sum);
        }
    /* a compiler may contract the sum's products differently here and there */
    cr_expect_leq(n_wrong, 2, "%d of %lld", n_wrong, (long long)safe_numel(w));
    const SafeTensor *head = safetensors_find(gf, "lm_head.weight");
    const SafeTensor *old = safetensors_find(wf, "model.embed_tokens.weight");
    cr_assert(head);
    cr_expect_eq(memcmp(head->data, old->data, head->bytes), 0);
    LlamaConfig cfg;
    cr_assert_eq(llama_config_load(&cfg, out, &err), OK, "%s", err.line);
    cr_expect_not(cfg.tie_word_embeddings);
    safetensors_close(wf);
    safetensors_close(gf);
    safetensors_close(af);
    merge_report_clear(&report);
    free(name);
    free(a_name);
    free(b_name);
    free(stray);
    free(index);
    free(base);
    free(sharded);
    free(adapter);
    free(out);
    tmp_dir_remove(tmp);
}

/* int8 by rows, written out: what each weight is after quantising. */
static double as_int8(const float *row, int64_t cols, int64_t i)
{
    float most = 0;
    for (int64_t k = 0; k < cols; k++)
        most = fmaxf(most, fabsf(row[k]));
    return rint(127.0 * (double)row[i] / (double)most) * (double)most / 127;
}

/* Survived and errors from the files alone. */
static MergeLoss loss_of(const SafeTensors *base, const SafeTensors *merged)
{
    double dot = 0, change2 = 0, delta2 = 0;
    for (int t = 0; t < safetensors_count(base); t++) {
        const SafeTensor *w = safetensors_at(base, t);
        if (w->n_dims != 2 || !str_starts(w->name, "model.layers.")) continue;
        int64_t n, cols = w->shape[1];
        const float *before = floats_of(base, w->name, &n), *after = floats_of(merged, w->name, &n);
        for (int64_t i = 0; i < n; i++) {
            int64_t row = i / cols * cols;
            double delta = (double)after[i] - (double)before[i];
            double c = as_int8(after + row, cols, i - row) - as_int8(before + row, cols, i - row);
            dot += c * delta;
            change2 += c * c;
            delta2 += delta * delta;
        }
    }
    double s = dot / delta2;
    return (MergeLoss){s, sqrt(change2 / delta2 - s * s)};
}

Test(merge, what_quantising_again_keeps)
{
    char *dir = fixture("golden/llama2-tiny", ""),
         *adapter = fixture("golden/llama2-tiny", "lora_final");
    char *tmp = tmp_dir(), *out = path_join(tmp, "merged");
    Err err = {0};
    Device dev;
    DeviceOpts opts = {.threads = 2, .region_bytes = (size_t)64 << 20};
    cr_assert_eq(device_open(&dev, backend_find("cpu"), &opts, DT_F32, &err), OK);
    MergeAgain again = {.opts = {.type = QUANT_INT8}, .dev = &dev};
    MergeReport r;
    cr_assert_eq(merge_adapter(dir, adapter, out, &again, dev.pool, NULL, &r, &err), OK, "%s",
                 err.line);
    SafeTensors *base = open_weights(dir, "model.safetensors");
    SafeTensors *merged = open_weights(out, "model.safetensors");
    MergeLoss want = loss_of(base, merged);
    cr_expect_gt(want.noise, 0.01);
    cr_expect_lt(fabs(r.again.survived - want.survived), 1e-3, "%g, not %g", r.again.survived,
                 want.survived);
    cr_expect_lt(fabs(r.again.noise - want.noise), 1e-2 * want.noise, "%g, not %g", r.again.noise,
                 want.noise);
    safetensors_close(base);
    safetensors_close(merged);
    merge_report_clear(&r);
    device_close(&dev);
    free(dir);
    free(adapter);
    free(out);
    tmp_dir_remove(tmp);
}

Test(merge, refusals)
{
    char *llama2 = fixture("golden/llama2-tiny", ""), *llama3 = fixture("golden/llama3-tiny", "");
    char *lora2 = fixture("golden/llama2-tiny", "lora_final");
    char *tmp = tmp_dir(), *full = path_join(tmp, "full"), *out = path_join(tmp, "out");
    char *file = path_join(full, "x"), *config_only = path_join(tmp, "config_only");
    Err err = {0};
    cr_assert_eq(dir_make(full, &err), OK);
    cr_assert_eq(file_write_atomic(file, "x", 1, &err), OK);
    /* a config that calls for more than the file holds */
    cr_assert_eq(dir_make(config_only, &err), OK);
    char *from = path_join(lora2, "adapter_model.safetensors");
    char *to = path_join(config_only, "adapter_model.safetensors");
    cr_assert_eq(file_copy(from, to, &err), OK);
    free(to);
    to = path_join(config_only, "adapter_config.json");
    const char *text = "{\"peft_type\": \"LORA\", \"r\": 8, \"target_modules\": \"all-linear\", "
                       "\"modules_to_save\": [\"lm_head\"]}";
    cr_assert_eq(file_write_atomic(to, text, strlen(text), &err), OK);

    const struct {
        const char *base, *adapter, *out, *says;
    } cases[] = {
        {llama2, lora2, full, "is not empty"},
        {llama2, lora2, llama2, "lies inside"},
        {llama2, lora2, file, "is a file; name a new folder"},
        {llama3, lora2, out, "has shape [8, 64], the model needs [8, 96]"},
        {llama2, tmp, out, "adapter_config.json"},
        {llama2, config_only, out, "are missing: base_model.model.lm_head.weight"},
        {full, lora2, out, "config.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        MergeReport report;
        err.line[0] = 0;
        cr_expect_eq(merge_adapter(cases[i].base, cases[i].adapter, cases[i].out, NULL, NULL, NULL,
                                   &report, &err),
                     E_INPUT, "case %zu", i);
        cr_expect(strstr(err.line, cases[i].says), "case %zu: %s", i, err.line);
        merge_report_clear(&report);
        cr_expect_not(path_exists(out));
    }
    char **names;
    int n;
    cr_assert_eq(dir_list(&names, &n, tmp, &err), OK);
    cr_expect_eq(n, 2, "nothing half-written is left");
    dir_list_free(names, n);
    free(llama2);
    free(llama3);
    free(lora2);
    free(full);
    free(out);
    free(file);
    free(from);
    free(to);
    free(config_only);
    tmp_dir_remove(tmp);
}

Test(merge, json_text_keeps_every_other_byte)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"{\"a\": 1, \"k\" : true ,\"b\":[1,{\"k\":2}]}",
         "{\"a\": 1, \"k\" : false ,\"b\":[1,{\"k\":2}]}"},
        {"{\n  \"x\": {\"k\": 1}\n}\n", "{\n  \"k\": false,\n  \"x\": {\"k\": 1}\n}\n"},
        {"{}", "{\n  \"k\": false\n}"},
        {" {\"a\":\"\\\"k\\\": }\",\"k\":[1, 2]}", " {\"a\":\"\\\"k\\\": }\",\"k\":false}"},
        {"{\"k\":\"v\"}", "{\"k\":false}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        StrBuf b = {0};
        strbuf_puts(&b, cases[i].text);
        json_text_set(&b, "k", "false");
        cr_expect_str_eq(b.data, cases[i].want);
        strbuf_clear(&b);
    }
}
