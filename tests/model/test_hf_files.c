/* Weights in and out: what is saved loads again to the same bits, in every dtype and in shards; what does not fit is
 * named; random weights depend on nothing but seed, name and index. */
#include "base/fs.h"
#include "tests/model/model_run.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static char *fixture(const char *rel)
{
    char *text = str_format("tests/fixtures/%s", rel), *path = source_path(text);
    free(text);
    return path;
}

static float *param_values(ModelRun *r, int i, int64_t *n)
{
    const Tensor *t = &r->m.params.items[i]->t;
    *n = tensor_numel(t);
    float *v = xmalloc((size_t)*n * sizeof *v);
    tensor_read_f32(&r->dev, t, v);
    return v;
}

Test(hf_files, save_and_load)
{
    static const char *const folders[] = {"golden/llama3-tiny", "golden/qwen2-tiny",
                                          "models/qwen3-d64"};
    static const struct {
        DType dtype;
        uint64_t shard;
        double tolerance; /* of one rounding, relative */
    } forms[] = {{DT_F32, 1 << 30, 0},
                 {DT_F32, 50000, 0},
                 {DT_BF16, 1 << 30, 1.0 / 256},
                 {DT_F16, 40000, 1.0 / 2048}};
    for (int i = 0; i < 3; i++)
        for (size_t k = 0; k < sizeof forms / sizeof *forms; k++) {
            char *dir = fixture(folders[i]), *tmp = tmp_dir();
            ModelRun a, b;
            Err err = {0};
            model_open(&a, dir, NULL, NULL);
            cr_assert_eq(model_save(&a.m, tmp, forms[k].dtype, forms[k].shard, &err), OK, "%s",
                         err.line);
            char *index = path_join(tmp, "model.safetensors.index.json");
            cr_expect_eq(path_exists(index), forms[k].shard < 1 << 20);
            model_open(&b, tmp, NULL, NULL);
            cr_assert_eq(a.m.params.n, b.m.params.n);
            for (int p = 0; p < a.m.params.n; p++) {
                int64_t n;
                float *va = param_values(&a, p, &n), *vb = param_values(&b, p, &n);
                for (int64_t j = 0; j < n; j++) {
                    double d = fabs((double)va[j] - (double)vb[j]);
                    /* below the smallest normal of F16 (6e-5) the step is fixed */
                    double allowed = forms[k].tolerance * fabs((double)va[j]) +
                                     (forms[k].dtype == DT_F16 ? 6e-8 : 0);
                    cr_assert(d <= allowed, "%s: %g became %g", a.m.params.items[p]->name,
                              (double)va[j], (double)vb[j]);
                }
                free(va);
                free(vb);
            }
            model_close(&a);
            model_close(&b);
            free(index);
            free(dir);
            tmp_dir_remove(tmp);
        }
}

Test(hf_files, what_does_not_fit_is_named)
{
    char *llama2 = fixture("golden/llama2-tiny"), *llama3 = fixture("golden/llama3-tiny");
    char *qwen3 = fixture("models/qwen3-d64");
    char *qwen2 = fixture("models/qwen2-d64"), *tmp = tmp_dir();
    const struct {
        const char *config, *weights, *says;
    } cases[] = {
        {llama3, llama2, "has shape [512, 64], the model needs [640, 96]"},
        {qwen3, qwen2, "tensor model.layers.0.self_attn.q_norm.weight is missing"},
        {llama2, tmp, "neither model.safetensors nor"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Device d;
        DeviceOpts opts = {.region_bytes = (size_t)64 << 20, .threads = 1};
        Err err = {0};
        LlamaConfig cfg;
        Llama m;
        cr_assert_eq(device_open(&d, backend_find("cpu"), &opts, DT_F32, &err), OK);
        cr_assert_eq(llama_config_load(&cfg, cases[i].config, &err), OK, "%s", err.line);
        llama_init(&m, &cfg, &d, 8);
        llama_alloc(&m);
        cr_expect_eq(model_load_weights(&m, cases[i].weights, NULL, &err), E_INPUT);
        cr_expect(strstr(err.line, cases[i].says), "%s", err.line);
        llama_clear(&m);
        device_close(&d);
    }
    free(llama2);
    free(llama3);
    free(qwen3);
    free(qwen2);
    tmp_dir_remove(tmp);
}

/* A tied pair may lie in a file under either name; a head that differs is told and ignored. */
Test(hf_files, tied_pairs)
{
    static const struct {
        bool embed, head, differs;
    } cases[] = {
        {true, false, false}, {false, true, false}, {true, true, false}, {true, true, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *from = fixture("models/qwen3-d64"), *dir = tmp_dir();
        char *config = path_join(from, "config.json"),
             *weights = path_join(dir, "model.safetensors");
        char *copy = path_join(dir, "config.json");
        Err err = {0};
        SafeTensors *f;
        cr_assert_eq(file_copy(config, copy, &err), OK);
        cr_assert_eq(safetensors_open(&f, from, &err), OK, "%s", err.line);
        int n = 0, count = safetensors_count(f);
        SafeTensor *t = xcalloc((size_t)count + 1, sizeof *t);
        float *other = NULL;
        for (int k = 0; k < count; k++) {
            const SafeTensor *it = safetensors_at(f, k);
            bool embed = str_eq(it->name, "model.embed_tokens.weight");
            if (!embed || cases[i].embed) t[n++] = *it;
            if (!embed || !cases[i].head) continue;
            other = xmalloc(it->bytes);
            memcpy(other, it->data, it->bytes);
            other[0] += cases[i].differs;
            t[n] = *it;
            t[n].name = "lm_head.weight";
            t[n++].data = (const uint8_t *)other;
        }
        cr_assert_eq(safetensors_write(weights, t, n, NULL, NULL, NULL, &err), OK, "%s", err.line);

        ModelRun a, b;
        model_open(&a, from, NULL, NULL);
        model_open(&b, dir, NULL, NULL);
        int64_t m;
        float *va = param_values(&a, 0, &m), *vb = param_values(&b, 0, &m);
        cr_expect(str_eq(a.m.params.items[0]->name, "model.embed_tokens.weight"));
        cr_expect_eq(memcmp(va, vb, (size_t)m * sizeof *va), 0, "case %zu", i);

        char *text = NULL;
        size_t len;
        char *log_path = path_join(dir, "log");
        Log log = {.to = fopen(log_path, "w"), .level = LOG_WARN};
        cr_assert_eq(model_load_weights(&b.m, dir, &log, &err), OK, "%s", err.line);
        fclose(log.to);
        cr_assert_eq(file_read(&text, &len, log_path, &err), OK);
        cr_expect_eq(strstr(text, "tie_word_embeddings") != NULL, cases[i].differs, "%s", text);
        free(text);
        free(log_path);
        free(va);
        free(vb);
        model_close(&a);
        model_close(&b);
        safetensors_close(f);
        free(t);
        free(other);
        free(from);
        free(config);
        free(weights);
        free(copy);
        tmp_dir_remove(dir);
    }
}

Test(hf_files, random_weights)
{
    ModelRun r;
    char *dir = fixture("golden/qwen2-tiny");
    model_open(&r, dir, NULL, NULL);
    for (int i = 0; i < r.m.params.n; i++) {
        Param *p = r.m.params.items[i];
        int64_t n;
        model_init_random(&r.m, 5);
        float *first = param_values(&r, i, &n);
        model_init_random(&r.m, 5);
        float *again = param_values(&r, i, &n);
        cr_expect_eq(memcmp(first, again, (size_t)n * sizeof *first), 0, "%s", p->name);
        model_init_random(&r.m, 6);
        float *other = param_values(&r, i, &n);
        bool matrix = p->t.n_dims == 2, bias = str_ends(p->name, ".bias");
        cr_expect_eq(memcmp(first, other, (size_t)n * sizeof *first) != 0, matrix, "%s", p->name);
        double sum = 0, squares = 0;
        for (int64_t j = 0; j < n; j++) {
            if (!matrix) cr_assert_eq(first[j], bias ? 0.0f : 1.0f);
            sum += (double)first[j];
            squares += (double)first[j] * (double)first[j];
        }
        if (matrix) {
            cr_expect_lt(fabs(sum / (double)n), 5 * 0.02 / sqrt((double)n), "%s", p->name);
            cr_expect_lt(fabs(sqrt(squares / (double)n) / 0.02 - 1), 0.05, "%s", p->name);
        }
        free(first);
        free(again);
        free(other);
    }
    model_close(&r);
    free(dir);
}

/* A trained model of 260 thousand parameters: logits that somebody computed in float64 at some places. */
Test(hf_files, stories260k)
{
    char *dir = shared_or_skip("data/stories260k"), *file = path_join(dir, "reference.json");
    Json *root;
    Err err = {0};
    cr_assert_eq(json_parse_file(&root, file, &err), OK, "%s", err.line);
    const Json *ids = json_get(root, "greedy_ids"), *at = json_get(root, "logits_at");
    Tokens t = {.n = (int64_t)json_size(ids), .n_docs = 1};
    t.ids = xmalloc((size_t)t.n * sizeof *t.ids);
    t.cu = xmalloc(2 * sizeof *t.cu);
    t.cu[0] = 0;
    t.cu[1] = (int32_t)t.n;
    for (int64_t i = 0; i < t.n; i++) {
        int64_t id = 0;
        cr_assert(json_int(json_at(ids, (size_t)i), &id));
        t.ids[i] = (int32_t)id;
    }
    ModelRun r;
    model_open(&r, dir, NULL, NULL);
    float *logits = model_logits(&r, &t);
    int64_t V = r.m.cfg.vocab_size;
    int n_places = 0;
    for (void *it = json_first(at); it; it = json_next(at, it), n_places++) {
        int64_t position = strtoll(json_iter_key(it), NULL, 10);
        cr_assert(position >= 0 && position < t.n);
        double worst = 0, largest = 0;
        for (int64_t v = 0; v < V; v++) {
            double want = 0;
            cr_assert(json_number(json_at(json_iter_value(it), (size_t)v), &want));
            worst = fmax(worst, fabs((double)logits[position * V + v] - want));
            largest = fmax(largest, fabs(want));
        }
        cr_expect_leq(worst, 1e-5 * largest, "position %lld: %g", (long long)position, worst);
    }
    cr_expect_gt(n_places, 2);
    /* the text that they call greedy is: each id is the largest logit before it */
    for (int64_t i = 0; i + 1 < t.n; i++) {
        int64_t best = 0;
        for (int64_t v = 1; v < V; v++)
            if (logits[i * V + v] > logits[i * V + best]) best = v;
        cr_expect_eq(best, t.ids[i + 1], "position %lld", (long long)i);
    }
    free(logits);
    tokens_free(&t);
    model_close(&r);
    json_free(root);
    free(file);
    free(dir);
}
