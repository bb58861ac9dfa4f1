/* Quantised checkpoints read back to the numbers that independent code decodes: layouts built with numpy (tools/make_quantised_models.py) and
 * folders that transformers and bitsandbytes wrote, whole or with a module that stayed plain.  And what is refused. */
#include "base/fs.h"
#include "base/str.h"
#include "model/hf_files.h"
#include "model/quant_write.h"
#include "tests/model/model_run.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

typedef struct Loaded {
    LlamaConfig cfg;
    Device dev;
    Llama m;
    Err err;
    Status status;
} Loaded;

static void load(Loaded *l, const char *dir)
{
    *l = (Loaded){0};
    cr_assert_eq(llama_config_load(&l->cfg, dir, &l->err), OK, "%s", l->err.line);
    DeviceOpts opts = {.threads = 1, .region_bytes = (size_t)64 << 20};
    cr_assert_eq(device_open(&l->dev, backend_find("cpu"), &opts, DT_F32, &l->err), OK);
    llama_init(&l->m, &l->cfg, &l->dev, 16);
    l->status = llama_quantize_as(&l->m, dir, &l->err);
    if (l->status != OK) return;
    llama_alloc(&l->m);
    Log log = {.to = stderr, .level = LOG_WARN};
    l->status = model_load_weights(&l->m, dir, &log, &l->err);
}

static void unload(Loaded *l)
{
    llama_clear(&l->m);
    device_close(&l->dev);
}

static void check_values(Loaded *l, const char *name, const char *dir)
{
    char *path = path_join(dir, "values.safetensors");
    SafeTensors *values;
    cr_assert_eq(safetensors_open(&values, path, &l->err), OK, "%s", l->err.line);
    cr_assert_geq(safetensors_count(values), 2);
    for (int i = 0; i < safetensors_count(values); i++) {
        const SafeTensor *t = safetensors_at(values, i);
        int slice;
        Param *p = paramset_find(&l->m.params, t->name, &slice);
        cr_assert(p, "%s", t->name);
        float *got = xmalloc(t->bytes);
        param_read(&l->dev, p, slice, got);
        cr_expect_eq(memcmp(got, t->data, t->bytes), 0, "%s: %s", name, t->name);
        free(got);
    }
    safetensors_close(values);
    free(path);
}

static const char *const layouts[] = {"gptq-4bit-g32",
                                      "gptq-4bit-g64-order",
                                      "gptq-4bit-g-1-v2",
                                      "gptq-8bit-g32-order-v2",
                                      "gptq-3bit-g64",
                                      "gptq-2bit-g32-v2",
                                      "gptq-4bit-g128-order",
                                      "awq-g128",
                                      "awq-g32",
                                      "bnb-nf4",
                                      "bnb-nf4-128",
                                      "bnb-nf4-bf16-storage",
                                      "bnb-fp4-double",
                                      "bnb-int8"};

Test(quant_file, reads_every_layout_to_the_same_numbers)
{
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        char *rel = str_format("tests/fixtures/quant/%s", layouts[i]), *dir = source_path(rel);
        Loaded l;
        load(&l, dir);
        cr_assert_eq(l.status, OK, "%s", l.err.line);
        check_values(&l, layouts[i], dir);
        QuantReport r;
        quant_report(&r, &l.m);
        cr_expect_eq(r.n_matrices, 7);
        cr_expect(r.classes[0].error < 0, "%s: nobody knows what quantising lost", layouts[i]);
        unload(&l);
        free(rel), free(dir);
    }
}

/* The folder of a layout with its config.json changed. */
static char *changed_copy(const char *layout, const char *from, const char *to)
{
    char *rel = str_format("tests/fixtures/quant/%s", layout), *dir = source_path(rel),
         *out = tmp_dir();
    Err err = {0};
    char *data, *a = path_join(dir, "config.json"), *b = path_join(out, "config.json");
    char *c = path_join(dir, "model.safetensors"), *d = path_join(out, "model.safetensors");
    size_t len;
    cr_assert_eq(file_read(&data, &len, a, &err), OK);
    char *at = strstr(data, from);
    cr_assert(at, "%s", from);
    StrBuf text = {0};
    strbuf_append(&text, data, (size_t)(at - data));
    strbuf_puts(&text, to);
    strbuf_puts(&text, at + strlen(from));
    cr_assert_eq(file_write_atomic(b, text.data, text.len, &err), OK);
    cr_assert_eq(file_copy(c, d, &err), OK);
    strbuf_clear(&text);
    free(data), free(a), free(b), free(c), free(d), free(rel), free(dir);
    return out;
}

static void refused(const char *layout, const char *from, const char *to, const char *says)
{
    char *dir = changed_copy(layout, from, to);
    LlamaConfig cfg;
    Err err = {0};
    if (llama_config_load(&cfg, dir, &err) == OK) {
        Loaded l;
        load(&l, dir);
        cr_expect_eq(l.status, E_INPUT, "%s", says);
        err = l.err;
        unload(&l);
    }
    cr_expect(strstr(err.line, says), "%s: %s", says, err.line);
    tmp_dir_remove(dir);
}

Test(quant_file, refuses_what_it_cannot_read_exactly)
{
    refused("awq-g32", "\"gemm\"", "\"gemv\"",
            "quantization_config.version: 'gemv' is not supported");
    refused("gptq-4bit-g32", "\"bits\": 4", "\"bits\": 5",
            "quantization_config.bits: must be 2, 3, 4 or 8");
    refused("gptq-4bit-g32", "\"gptq\",\n    \"bits\"", "\"exl2\",\n    \"bits\"",
            "quantization_config.quant_method: 'exl2' is not supported");
    refused("gptq-4bit-g32", "\"group_size\": 32", "\"group_size\": 16",
            "qzeros: has 64 bytes, the model needs 128");
    refused("gptq-4bit-g64-order", "\"desc_act\": true", "\"desc_act\": false",
            "the columns are permuted");
    refused("bnb-nf4", "\"bnb_4bit_quant_type\": \"nf4\"", "\"bnb_4bit_quant_type\": \"fp4\"",
            "quant_state.bitsandbytes__fp4 is missing");
    refused("bnb-nf4", "\"bnb_4bit_use_double_quant\": false",
            "\"bnb_4bit_use_double_quant\": true", "weight.absmax: has dtype F32, must be U8");
    refused("plain", "\"tie_word_embeddings\": true",
            "\"tie_word_embeddings\": true, \"quantization_config\": {\"quant_method\": \"awq\", "
            "\"bits\": 4}",
            "the model is said to be quantised by awq, but not one matrix of its files is; remove "
            "quantization_config from config.json, or quantize_config.json");
    refused(
        "gptq-4bit-g32-skip", "\"-:model.layers.0.mlp.down_proj\": {}",
        "\"+:.*down_proj\": {\"bits\": 8, \"group_size\": 32}",
        "quantization_config.dynamic.+:.*down_proj: bits 8 where others have 4; one setting for "
        "all quantised modules is supported");
}

/* ---- modules that stayed plain ------------------------------------------------------------------ */

#define WITHOUT_DOWN "not quantised in the files: down_proj of layer 0\n"
#define WITHOUT_V                                                                                  \
    "not quantised in the files: v_proj of layer 0\n"                                              \
    "      decoded, as one matrix with some of those: q_proj of layer 0; k_proj of layer 0\n"

static const struct {
    const char *layout;
    int n_matrices; /* quantised in memory */
    const char *
        decoded; /* the end of the first module that is not, though the file has it in codes; or NULL */
    const char *says; /* the report */
} skips[] = {
    {"bnb-nf4-skip", 6, NULL, WITHOUT_DOWN},
    {"bnb-int8-skip", 6, NULL, WITHOUT_DOWN},
    {"gptq-4bit-g32-skip", 6, NULL, WITHOUT_DOWN},
    {"awq-g32-skip", 6, NULL, WITHOUT_DOWN},
    {"gptq-4bit-g64-order-skip-v", 4, "q_proj", WITHOUT_V},
    {"bnb-int8-skip-v", 4, "q_proj", WITHOUT_V},
};

/* What the start of a run says. */
static char *reported(const QuantReport *r, const Llama *m)
{
    char *text = NULL;
    size_t len;
    FILE *to = open_memstream(&text, &len);
    Log log = {.to = to, .level = LOG_INFO};
    quant_report_log(r, m, &log);
    fclose(to);
    return text;
}

Test(quant_file, reads_modules_that_stayed_plain)
{
    for (size_t i = 0; i < sizeof skips / sizeof *skips; i++) {
        char *rel = str_format("tests/fixtures/quant/%s", skips[i].layout), *dir = source_path(rel);
        Loaded l;
        load(&l, dir);
        cr_assert_eq(l.status, OK, "%s", l.err.line);
        check_values(&l, skips[i].layout, dir);
        QuantReport r;
        quant_report(&r, &l.m);
        cr_expect_eq(r.n_matrices, skips[i].n_matrices, "%s: %d", skips[i].layout,
                     (int)r.n_matrices);
        const char *decoded = llama_decoded_module(&l.m);
        cr_expect_eq(!decoded, !skips[i].decoded, "%s", skips[i].layout);
        cr_expect(!decoded || str_ends(decoded, skips[i].decoded), "%s", decoded);
        char *said = reported(&r, &l.m);
        cr_expect(strstr(said, skips[i].says), "%s: %s", skips[i].layout, said);
        unload(&l);
        free(said), free(rel), free(dir);
    }
}

/* The folder, decoded, as one without codes. */
static char *decoded_folder(const char *dir)
{
    char *out = tmp_dir();
    Loaded l;
    load(&l, dir);
    cr_assert_eq(l.status, OK, "%s", l.err.line);
    cr_assert_eq(model_save(&l.m, out, DT_F32, 1u << 30, &l.err), OK, "%s", l.err.line);
    unload(&l);
    return out;
}

/* A loss is of something trained. */
static void train_norm(Llama *m)
{
    param_set_trained(&m->norm, true);
    llama_collect_params(m);
}

Test(quant_file, plain_modules_run_as_in_the_decoded_model)
{
    int32_t ids[24], cu[3] = {0, 13, 24};
    for (int i = 0; i < 24; i++)
        ids[i] = (i * 29 + 7) % 64;
    const Tokens tokens = {.n = 24, .ids = ids, .labels = ids, .cu = cu, .n_docs = 2};
    for (size_t i = 0; i < sizeof skips / sizeof *skips; i++) {
        char *rel = str_format("tests/fixtures/quant/%s", skips[i].layout), *dir = source_path(rel),
             *plain = decoded_folder(dir);
        ModelRun a, b;
        model_open(&a, dir, NULL, NULL);
        model_open(&b, plain, NULL, NULL);
        cr_assert(llama_quant_part(&a.m) && !llama_quant_part(&b.m));
        float *x = model_logits(&a, &tokens), *y = model_logits(&b, &tokens);
        double off = relative_difference(x, y, 24 * 64);
        cr_expect_leq(off, 1e-6, "%s: logits off by %g", skips[i].layout, off);
        train_norm(&a.m);
        train_norm(&b.m);
        double loss = model_backward(&a, &tokens), want = model_backward(&b, &tokens);
        cr_expect_float_eq(loss, want, 1e-6 * want, "%s: loss %.9g, not %.9g", skips[i].layout,
                           loss, want);
        model_close(&a);
        model_close(&b);
        tmp_dir_remove(plain);
        free(x), free(y), free(rel), free(dir);
    }
}

/* GPTQ's older place. */
Test(quant_file, quantize_config_json)
{
    char *dir = changed_copy("gptq-4bit-g32", "\"quantization_config\"", "\"was\"");
    char *path = path_join(dir, "quantize_config.json");
    Err err = {0};
    const char *text = "{\"bits\": 4, \"group_size\": 32, \"desc_act\": false, \"sym\": true}";
    cr_assert_eq(file_write_atomic(path, text, strlen(text), &err), OK);
    Loaded l;
    load(&l, dir);
    cr_assert_eq(l.status, OK, "%s", l.err.line);
    char *golden = source_path("tests/fixtures/quant/gptq-4bit-g32");
    check_values(&l, "quantize_config.json", golden);
    unload(&l);
    free(path), free(golden);
    tmp_dir_remove(dir);
}

/* What is written has the package's own tensors, byte for byte, but for the spaces behind quant_state's JSON. */
static void check_written(const char *golden, const QuantOpts *o)
{
    char *plain = source_path("tests/fixtures/quant/plain"), *out = tmp_dir();
    char *rel = str_format("tests/fixtures/quant/%s", golden), *dir = source_path(rel);
    Err err = {0};
    Device d;
    Log log = {0};
    QuantReport report;
    DeviceOpts opts = {.threads = 2, .region_bytes = (size_t)64 << 20};
    cr_assert_eq(device_open(&d, backend_find("cpu"), &opts, DT_F32, &err), OK);
    cr_assert_eq(quant_write_folder(plain, out, o, &d, &log, &report, &err), OK, "%s", err.line);
    device_close(&d);
    cr_expect_eq(report.n_matrices, 7);
    SafeTensors *want, *got;
    cr_assert_eq(safetensors_open(&want, dir, &err), OK, "%s", err.line);
    cr_assert_eq(safetensors_open(&got, out, &err), OK, "%s", err.line);
    cr_expect_eq(safetensors_count(got), safetensors_count(want));
    for (int i = 0; i < safetensors_count(want); i++) {
        const SafeTensor *w = safetensors_at(want, i), *g = safetensors_find(got, w->name);
        cr_assert(g, "%s: no %s", golden, w->name);
        cr_expect_eq(g->dtype, w->dtype, "%s: %s", golden, w->name);
        bool state = strstr(w->name, "quant_state") != NULL;
        cr_expect(state || (g->bytes == w->bytes && memcmp(g->data, w->data, w->bytes) == 0),
                  "%s: %s", golden, w->name);
        cr_expect(!state || g->bytes >= w->bytes, "%s", w->name);
    }
    safetensors_close(want);
    safetensors_close(got);
    Loaded l;
    load(&l, out);
    cr_assert_eq(l.status, OK, "%s", l.err.line);
    check_values(&l, golden, dir);
    unload(&l);
    tmp_dir_remove(out);
    free(plain), free(rel), free(dir);
}

Test(quant_file, writes_what_bitsandbytes_writes)
{
    check_written("bnb-nf4", &(QuantOpts){.type = QUANT_NF4});
    check_written("bnb-fp4-double", &(QuantOpts){.type = QUANT_FP4, .nested = true});
    check_written("bnb-int8", &(QuantOpts){.type = QUANT_INT8});
}

/* ---- what is not quantised ---------------------------------------------------------------------- */

/* In the header, which is text behind its length and keeps that. */
static void replace_after(char *bytes, const char *name, const char *from, const char *to)
{
    cr_assert_eq(strlen(from), strlen(to));
    char *at = strstr(bytes + sizeof(uint64_t), name);
    cr_assert_not_null(at, "no %s", name);
    at = strstr(at, from);
    cr_assert_not_null(at, "no %s behind %s", from, name);
    memcpy(at, to, strlen(to));
}

/* A folder whose weights' header says something else of one tensor. */
static char *changed_folder(const char *rel, const char *name, const char *from, const char *to)
{
    char *model = source_path(rel), *dir = tmp_dir(), *bytes;
    static const char *const files[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        size_t len;
        Err err = {0};
        char *path = path_join(model, files[i]), *copy = path_join(dir, files[i]);
        cr_assert_eq(file_read(&bytes, &len, path, &err), OK, "%s", err.line);
        if (i == 1) replace_after(bytes, name, from, to);
        cr_assert_eq(file_write_atomic(copy, bytes, len, &err), OK, "%s", err.line);
        free(bytes), free(path), free(copy);
    }
    free(model);
    return dir;
}

Test(quant_file, what_is_copied_must_fit_too)
{
    static const char llama[] = "tests/fixtures/golden/llama2-tiny",
                      qwen[] = "tests/fixtures/golden/qwen2-tiny";
    static const struct {
        const char *model, *name, *from, *to, *says;
    } cases[] = {
        {llama, "\"lm_head.weight\"", "[512,64]", "[64,512]",
         "lm_head.weight: has shape [64, 512], the model needs [512, 64]"},
        {llama, "\"model.embed_tokens.weight\"", "[512,64]", "[64,512]",
         "model.embed_tokens.weight: has shape [64, 512], the model needs [512, 64]"},
        {llama, "\"model.norm.weight\"", "\"F32\"", "\"I32\"",
         "model.norm.weight: has dtype I32; weights must be F32, BF16 or F16"},
        {qwen, "\"model.layers.0.self_attn.q_proj.bias\"", "\"F32\"", "\"U32\"",
         "model.layers.0.self_attn.q_proj.bias: has dtype U32; weights must be F32, BF16 or F16"},
        {llama, "\"model.norm.weight\"", "norm", "morn", "tensor model.norm.weight is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *from = changed_folder(cases[i].model, cases[i].name, cases[i].from, cases[i].to);
        char *home = tmp_dir(), *out = path_join(home, "out");
        Err err = {0};
        Device d;
        Log log = {0};
        QuantReport report;
        DeviceOpts opts = {.threads = 1, .region_bytes = (size_t)64 << 20};
        cr_assert_eq(device_open(&d, backend_find("cpu"), &opts, DT_F32, &err), OK);
        cr_expect_eq(
            quant_write_folder(from, out, &(QuantOpts){.type = QUANT_NF4}, &d, &log, &report, &err),
            E_INPUT, "%s", cases[i].says);
        cr_expect(str_ends(err.line, cases[i].says), "%s", err.line);
        cr_expect(!path_exists(out), "%s: something was written", cases[i].says);
        device_close(&d);
        free(out);
        tmp_dir_remove(from);
        tmp_dir_remove(home);
    }
}
