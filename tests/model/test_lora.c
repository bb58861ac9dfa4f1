/* Adapters: which modules they sit on, what adapter_config.json may say, files that come back as they went. */
#include "base/fs.h"
#include "model/lora_plan.h"
#include "model/peft_config.h"
#include "tests/model/model_run.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static Status read_text(LoraOpts *o, const char *text, Err *err)
{
    Json *root = NULL;
    Status s = json_parse(&root, text, strlen(text), "adapter_config.json", 1, 0, err);
    if (s == OK) s = lora_opts_read(o, NULL, root, "adapter_config.json", err);
    json_free(root);
    return s;
}

/* "q k v o g u d e h" of each layer that carries an adapter, e for embedding, h for head; "n:" norms trained whole. */
static char *summary(const LoraPlan *p)
{
    StrBuf b = {0};
    int64_t layer = -1;
    for (int i = 0; i < p->n; i++) {
        const LoraModule *m = &p->items[i];
        if (m->role == ROLE_NONE) continue;
        if (m->layer != layer && m->layer >= 0) strbuf_printf(&b, " %lld:", (long long)m->layer);
        layer = m->layer;
        const char *name = strrchr(m->name, '.') ? strrchr(m->name, '.') + 1 : m->name;
        char c = str_starts(name, "lm_") ? 'h' : name[0];
        strbuf_putc(&b, m->role == ROLE_WHOLE ? (char)(c - 'a' + 'A') : c);
    }
    return strbuf_take(&b);
}

Test(lora, targets)
{
    static const struct {
        const char *name, *config, *want;
    } cases[] = {
        {"default", "", " 0:qv 1:qv"},
        {"list", "\"target_modules\": [\"q_proj\", \"down_proj\"]", " 0:qd 1:qd"},
        {"longer names do not match",
         "\"target_modules\": [\"proj\", \"_proj\", \"self_attn.k_proj\"]", " 0:k 1:k"},
        {"whole path", "\"target_modules\": [\"model.layers.1.mlp.up_proj\"]", " 1:u"},
        {"all-linear", "\"target_modules\": \"All-Linear\"", " 0:qkvogud 1:qkvogud"},
        {"pattern", "\"target_modules\": \".*\\\\.(q|v)_proj\"", " 0:qv 1:qv"},
        {"pattern must match all", "\"target_modules\": \"model.*0.*k_proj\"", " 0:k"},
        {"layers", "\"layers_to_transform\": [1], \"layers_pattern\": \"layers\"", " 1:qv"},
        {"one layer", "\"layers_to_transform\": 0", " 0:qv"},
        {"no layers named", "\"layers_to_transform\": []", " 0:qv 1:qv"},
        {"exclude",
         "\"target_modules\": \"all-linear\", \"exclude_modules\": [\"up_proj\", \"o_proj\"]",
         " 0:qkvgd 1:qkvgd"},
        {"exclude pattern", "\"exclude_modules\": \"model.layers.0.*\"", " 1:qv"},
        {"head and embedding", "\"target_modules\": [\"v_proj\", \"lm_head\", \"embed_tokens\"]",
         "e 0:v 1:vh"},
        {"saved modules leave the targets",
         "\"target_modules\": \"all-linear\", \"modules_to_save\": [\"mlp.down_proj\", "
         "\"lm_head\"]",
         " 0:qkvoguD 1:qkvoguDH"},
        {"norms by ending", "\"modules_to_save\": [\"norm\"]", " 0:IqvP 1:IqvPN"},
        {"somebody's long list", "\"target_modules\": [\"query_key_value\", \"o_proj\"]",
         " 0:o 1:o"},
    };
    LlamaConfig cfg;
    cr_assert(llama_config_preset(&cfg, "tiny"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Err err = {0};
        LoraOpts o;
        LoraPlan plan;
        char *text = str_format("{\"peft_type\": \"LORA\"%s%s}", cases[i].config[0] ? ", " : "",
                                cases[i].config);
        cr_assert_eq(read_text(&o, text, &err), OK, "%s: %s", cases[i].name, err.line);
        cr_assert_eq(lora_plan(&plan, &cfg, &o, &err), OK, "%s: %s", cases[i].name, err.line);
        char *got = summary(&plan);
        cr_expect_str_eq(got, cases[i].want, "%s: %s", cases[i].name, got);
        free(got);
        free(text);
        lora_plan_clear(&plan);
        lora_opts_clear(&o);
    }
}

Test(lora, rank_and_alpha_patterns)
{
    Err err = {0};
    LoraOpts o;
    cr_assert_eq(
        read_text(&o,
                  "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 16, "
                  "\"rank_pattern\": {\"layers.1.self_attn.q_proj\": 4, \"q_proj\": 2, "
                  "\"(k|v)_proj\": 32}, \"alpha_pattern\": {\"mlp.*\": 5, \"v_proj\": 0.5}, "
                  "\"use_rslora\": true}",
                  &err),
        OK, "%s", err.line);
    static const struct {
        const char *module;
        int64_t rank;
        double alpha;
    } cases[] = {
        {"model.layers.0.self_attn.q_proj", 2, 16},   {"model.layers.1.self_attn.q_proj", 4, 16},
        {"model.layers.11.self_attn.q_proj", 2, 16},  {"model.layers.0.self_attn.k_proj", 32, 16},
        {"model.layers.0.self_attn.v_proj", 32, 0.5}, {"model.layers.0.self_attn.o_proj", 8, 16},
        {"model.layers.0.mlp.up_proj", 8, 5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t rank;
        double alpha;
        cr_assert_eq(lora_module_size(&o, cases[i].module, &rank, &alpha, &err), OK, "%s",
                     err.line);
        cr_expect_eq(rank, cases[i].rank, "%s: %lld", cases[i].module, (long long)rank);
        cr_expect_eq(alpha, cases[i].alpha, "%s: %g", cases[i].module, alpha);
    }
    cr_expect_lt(fabs((double)lora_scale(&o, 16, 8) - 2), 1e-6);
    lora_opts_clear(&o);
}

Test(lora, what_is_refused_in_files)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"[]", "must hold a JSON object"},
        {"{}", "peft_type: is missing"},
        {"{\"peft_type\": \"IA3\"}", "peft_type: \"IA3\" is not supported"},
        {"{\"peft_type\": \"LORA\", \"task_type\": \"SEQ_CLS\"}", "task_type: \"SEQ_CLS\" is not"},
        {"{\"peft_type\": \"LORA\", \"use_qalora\": true}", "use_qalora: true is not supported"},
        {"{\"peft_type\": \"LORA\", \"use_qalora\": true}", "use_qalora: true is not supported"},
        {"{\"peft_type\": \"LORA\", \"use_nonsense\": 1}", "use_nonsense: 1 is not supported"},
        {"{\"peft_type\": \"LORA\", \"lora_bias\": true}", "lora_bias: true is not supported"},
        {"{\"peft_type\": \"LORA\", \"bias\": \"all\"}", "bias: \"all\" is not supported"},
        {"{\"peft_type\": \"LORA\", \"layer_replication\": [[0, 4]]}",
         "layer_replication: [[0,4]]"},
        {"{\"peft_type\": \"LORA\", \"trainable_token_indices\": [1]}",
         "trainable_token_indices: [1]"},
        {"{\"peft_type\": \"LORA\", \"target_parameters\": [\"a\"]}", "target_parameters: "},
        {"{\"peft_type\": \"LORA\", \"init_lora_weights\": \"pissa\"}",
         "init_lora_weights: \"pissa\""},
        {"{\"peft_type\": \"LORA\", \"init_lora_weights\": \"olora\"}", "the base was changed"},
        {"{\"peft_type\": \"LORA\", \"r\": 0}", "r: must be 1 to"},
        {"{\"peft_type\": \"LORA\", \"r\": 8.5}", "r: must be an integer"},
        {"{\"peft_type\": \"LORA\", \"lora_alpha\": \"16\"}", "lora_alpha: must be a number"},
        {"{\"peft_type\": \"LORA\", \"lora_alpha\": 0}",
         "lora_alpha: must be a finite number above"},
        {"{\"peft_type\": \"LORA\", \"lora_alpha\": -16}",
         "lora_alpha: must be a finite number ab"},
        {"{\"peft_type\": \"LORA\", \"lora_alpha\": 1e-400}",
         "lora_alpha: must be a finite number"},
        {"{\"peft_type\": \"LORA\", \"alpha_pattern\": {\"q_proj\": 0}}",
         "alpha_pattern: must be a finite number above 0, found 0"},
        {"{\"peft_type\": \"LORA\", \"lora_dropout\": 1}", "lora_dropout: must be below 1"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": [1]}",
         "target_modules: must be a list of str"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": {}}",
         "target_modules: must be a list or a"},
        {"{\"peft_type\": \"LORA\", \"modules_to_save\": \"lm_head\"}",
         "modules_to_save: must be a l"},
        {"{\"peft_type\": \"LORA\", \"modules_to_save\": [\"\"]}",
         "modules_to_save: holds an empty"},
        {"{\"peft_type\": \"LORA\", \"rank_pattern\": []}", "rank_pattern: must be an object"},
        {"{\"peft_type\": \"LORA\", \"rank_pattern\": {\"q\": \"x\"}}",
         "rank_pattern: must be an obj"},
        {"{\"peft_type\": \"LORA\", \"layers_to_transform\": \"1\"}",
         "layers_to_transform: must be"},
        {"{\"peft_type\": \"LORA\", \"layers_to_transform\": [1], \"layers_pattern\": \"blocks\"}",
         "layers_pattern: \"blocks\" is not supported"},
        {"{\"peft_type\": \"LORA\", \"layers_to_transform\": [1], \"target_modules\": "
         "\".*q_proj\"}",
         "layers_to_transform: needs target_modules as a list"},
        {"{\"peft_type\": \"LORA\", \"ensure_weight_tying\": true, \"modules_to_save\": "
         "[\"lm_head\"]}",
         "ensure_weight_tying: true is not supported"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        LoraOpts o;
        Err err = {0};
        cr_expect_eq(read_text(&o, cases[i].text, &err), E_INPUT, "accepted: %s", cases[i].text);
        cr_expect(strstr(err.line, cases[i].says) && str_starts(err.line, "adapter_config.json: "),
                  "%s\n  says: %s", cases[i].text, err.line);
    }
    /* what PEFT writes by default, and keys that nobody knows but that say nothing */
    static const char *const fine[] = {
        "{\"peft_type\": \"LORA\", \"use_dora\": false, \"loftq_config\": {}, \"eva_config\": "
        "null, "
        "\"megatron_core\": \"megatron.core\", \"qalora_group_size\": 16, \"new_key\": 3}",
        "{\"peft_type\": \"LORA\", \"init_lora_weights\": \"gaussian\", \"fan_in_fan_out\": true}",
    };
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        LoraOpts o;
        Err err = {0};
        cr_expect_eq(read_text(&o, fine[i], &err), OK, "%s", err.line);
        lora_opts_clear(&o);
    }
}

/* --- a model on a device -------------------------------------------------------------------------------- */

typedef struct Fixture {
    Device dev;
    Llama m;
} Fixture;

static void open_preset(Fixture *f, const char *preset)
{
    Err err = {0};
    DeviceOpts opts = {.region_bytes = (size_t)64 << 20, .threads = 1};
    *f = (Fixture){0};
    cr_assert_eq(device_open(&f->dev, backend_find("cpu"), &opts, DT_F32, &err), OK, "%s",
                 err.line);
    LlamaConfig cfg;
    cr_assert(llama_config_preset(&cfg, preset));
    llama_init(&f->m, &cfg, &f->dev, 16);
}

static void close_preset(Fixture *f)
{
    llama_clear(&f->m);
    device_close(&f->dev);
}

static char *words[] = {(char *)(uintptr_t) "q_proj",     (char *)(uintptr_t) "qproj",
                        (char *)(uintptr_t) "lm_head",    (char *)(uintptr_t) "embed_tokens",
                        (char *)(uintptr_t) "k_proj",     (char *)(uintptr_t) "nothing",
                        (char *)(uintptr_t) "all-linear", (char *)(uintptr_t) "_proj"};
enum { Q, QPROJ, HEAD, EMBED, K, NOTHING, ALL, ENDS };

Test(lora, what_cannot_be_attached_is_named)
{
    static LoraPattern ranks[] = {{"q_proj", 0.5}}, unread[] = {{"q_proj(", 2}};
    static LoraPattern unused[] = {{"q_proj", 2}, {"k_proj", 2}},
                       infinite[] = {{"q_proj", INFINITY}};
    static int64_t layer_two[] = {2}, layer_one[] = {1};
    const struct {
        LoraOpts o;
        const char *says, *key;
    } cases[] = {
        {{.rank = 8, .targets = &words[QPROJ], .n_targets = 1},
         "LoRA target 'qproj' matches no",
         "targets"},
        {{.rank = 8, .targets = &words[Q], .n_targets = 2},
         "LoRA target 'qproj' matches no module",
         "targets"},
        {{.rank = 8, .targets = &words[Q], .n_targets = 1, .layers = layer_two, .n_layers = 1},
         "LoRA layer 2: the model has none of this number",
         "layers"},
        {{.rank = 8, .targets = &words[ALL], .n_targets = 1, .layers = layer_two, .n_layers = 1},
         "LoRA layer 2: the model has none of this number",
         "layers"},
        {{.rank = 8, .targets = &words[HEAD], .n_targets = 1},
         "lm_head: adapters on the embedding",
         "targets"},
        {{.rank = 8, .targets = &words[EMBED], .n_targets = 1},
         "model.embed_tokens: adapters on",
         "targets"},
        {{.rank = 8,
          .targets = &words[Q],
          .n_targets = 1,
          .save_modules = &words[NOTHING],
          .n_save_modules = 1},
         "'nothing' matches no module",
         "save_modules"},
        {{.rank = 8,
          .targets = &words[Q],
          .n_targets = 1,
          .save_modules = &words[K],
          .n_save_modules = 1},
         "are one matrix in memory",
         "save_modules"},
        {{.rank = 0, .targets = &words[Q], .n_targets = 1}, "must be an integer from 1", "rank"},
        {{.rank = 1 << 20, .targets = &words[Q], .n_targets = 1},
         "must be an integer from 1",
         "rank"},
        {{.rank = 8, .targets = &words[Q], .n_targets = 1, .ranks = ranks, .n_ranks = 1},
         "found 0.5",
         "rank_pattern"},
        {{.rank = 8, .targets = &words[Q], .n_targets = 1, .ranks = unread, .n_ranks = 1},
         "q_proj(",
         "rank_pattern"},
        {{.rank = 8, .targets = &words[Q], .n_targets = 1, .ranks = unused, .n_ranks = 2},
         "'k_proj' matches no adapter's",
         "rank_pattern"},
        {{.rank = 8, .targets = &words[Q], .n_targets = 1, .alphas = unused, .n_alphas = 2},
         "'k_proj' matches no adapter's",
         "alpha_pattern"},
        {{.rank = 8, .targets = &words[Q], .n_targets = 1, .alphas = infinite, .n_alphas = 1},
         "must be finite",
         "alpha_pattern"},
        {{.rank = 8,
          .targets = &words[Q],
          .n_targets = 1,
          .save_modules = &words[ENDS],
          .n_save_modules = 1},
         "in one of the two lists",
         "save_modules"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Fixture f;
        LoraSet set;
        Err err = {0};
        open_preset(&f, "tiny");
        int n = f.m.params.n;
        cr_expect_eq(lora_attach(&set, &f.m, &cases[i].o, &err), E_INPUT, "case %zu", i);
        cr_expect(strstr(err.line, cases[i].says), "case %zu: %s", i, err.line);
        cr_expect_str_eq(err.key, cases[i].key, "case %zu: %s", i, err.line);
        cr_expect(f.m.params.n == n || !f.m.tied, "case %zu: adapters stayed", i);
        close_preset(&f);
    }
    Fixture f;
    LoraSet set;
    Err err = {0};
    open_preset(&f, "tiny");
    LoraOpts ok = {
        .rank = 2, .targets = &words[Q], .n_targets = 1, .layers = layer_one, .n_layers = 1};
    cr_assert_eq(lora_attach(&set, &f.m, &ok, &err), OK, "%s", err.line);
    cr_expect_eq(set.n, 1);
    cr_expect_str_eq(set.items[0]->module, "model.layers.1.self_attn.q_proj");
    cr_expect(f.m.segments[1].trained && !f.m.segments[0].trained && !f.m.embed_segment.trained);
    /* A and B stand right behind their matrix */
    int slice;
    Param *a = paramset_find(&f.m.params, "model.layers.1.self_attn.q_proj.lora_A.weight", &slice);
    int at = 0;
    while (f.m.params.items[at] != a)
        at++;
    cr_expect_str_eq(f.m.params.items[at - 1]->name, "model.layers.1.self_attn.qkv.weight");
    cr_expect(a->trained && a->adapter && a->decay && !f.m.params.items[at - 1]->trained);
    lora_detach(&set, &f.m);
    close_preset(&f);
}

/* A is uniform in +-1/sqrt(in) (or normal with 1/r), B zero; nothing but seed and name decides. */
Test(lora, initialisation)
{
    for (int gaussian = 0; gaussian < 2; gaussian++) {
        Fixture f;
        LoraSet set;
        Err err = {0};
        open_preset(&f, "tiny");
        LoraOpts o = {.rank = 16,
                      .alpha = 32,
                      .targets = &words[ALL],
                      .n_targets = 1,
                      .gaussian_init = gaussian};
        cr_assert_eq(lora_attach(&set, &f.m, &o, &err), OK, "%s", err.line);
        llama_alloc(&f.m);
        float first[2][16 * 172], b[172 * 16];
        for (int seed = 0; seed < 2; seed++)
            for (int again = 0; again < 2; again++) {
                lora_init_weights(&set, &f.dev, (uint64_t)seed);
                Lora *x = set.items[set.n - 1]; /* down_proj */
                float values[16 * 172];
                cr_assert_eq(tensor_numel(&x->a.t), 16 * 172);
                tensor_read_f32(&f.dev, &x->a.t, values);
                tensor_read_f32(&f.dev, &x->b.t, b);
                if (again) cr_expect_eq(memcmp(values, first[seed], sizeof values), 0);
                memcpy(first[seed], values, sizeof values);
            }
        cr_expect_neq(memcmp(first[0], first[1], sizeof first[0]), 0);
        double sum = 0, squares = 0, largest = 0;
        for (int i = 0; i < 16 * 172; i++) {
            double v = (double)first[0][i];
            sum += v;
            squares += v * v;
            if (fabs(v) > largest) largest = fabs(v);
        }
        double n = 16 * 172, bound = 1 / sqrt(172.0),
               sigma = gaussian ? 1.0 / 16 : bound / sqrt(3.0);
        cr_expect_lt(fabs(sum / n), 4 * sigma / sqrt(n));
        cr_expect_lt(fabs(sqrt(squares / n) / sigma - 1), 0.05);
        if (!gaussian) cr_expect(largest < bound && largest > 0.99 * bound);
        for (int i = 0; i < 64 * 16; i++)
            cr_expect_eq(b[i], 0);
        lora_detach(&set, &f.m);
        close_preset(&f);
    }
}

/* --- files ------------------------------------------------------------------------------------------------- */

Test(lora, files_of_peft_come_back)
{
    static const char *const folders[] = {"golden/llama3-tiny/rslora_final",
                                          "models/qwen3-d64/lora_final"};
    static const char *const bases[] = {"golden/llama3-tiny", "models/qwen3-d64"};
    for (int i = 0; i < 2; i++) {
        char *rel = str_format("tests/fixtures/%s", folders[i]), *adapter = source_path(rel);
        free(rel);
        rel = str_format("tests/fixtures/%s", bases[i]);
        char *base = source_path(rel), *tmp = tmp_dir();
        ModelRun r;
        Err err = {0};
        model_open(&r, base, NULL, adapter);
        cr_assert_eq(lora_save(&r.lora, &r.m, tmp, "some/base", DT_F32, &err), OK, "%s", err.line);

        /* the same tensors bit for bit, and the same metadata */
        char *a = path_join(adapter, "adapter_model.safetensors");
        char *b = path_join(tmp, "adapter_model.safetensors"), *ta, *tb;
        size_t na, nb;
        cr_assert_eq(file_read(&ta, &na, a, &err), OK);
        cr_assert_eq(file_read(&tb, &nb, b, &err), OK);
        cr_expect(na == nb && memcmp(ta, tb, na) == 0, "%s: other bytes than PEFT's", folders[i]);
        LoraOpts o;
        char *name;
        cr_assert_eq(lora_opts_load(&o, &name, tmp, &err), OK, "%s", err.line);
        cr_expect_str_eq(name, "some/base");
        cr_expect_eq(o.rank, r.lora.opts.rank);
        cr_expect_eq(o.alpha, r.lora.opts.alpha);
        cr_expect_eq(o.rslora, r.lora.opts.rslora);
        cr_expect_eq(o.n_targets, r.lora.opts.n_targets);
        lora_opts_clear(&o);
        free(name);
        free(ta);
        free(tb);
        free(a);
        free(b);
        model_close(&r);
        free(rel);
        free(adapter);
        free(base);
        tmp_dir_remove(tmp);
    }
}

/* What is written says all that was set. */
Test(lora, config_text_reads_back)
{
    static int64_t layers[] = {0, 1};
    static char *save[] = {(char *)(uintptr_t) "embed_tokens", (char *)(uintptr_t) "norm"};
    LoraPattern ranks[] = {{(char *)(uintptr_t) "layers.0.*q_proj", 4},
                           {(char *)(uintptr_t) "k_proj", 2}};
    LoraPattern alphas[] = {{(char *)(uintptr_t) "v_proj", 2.5}};
    LoraSet s = {.opts = {.rank = 12,
                          .alpha = 24.5,
                          .dropout = 0.05,
                          .rslora = true,
                          .dora = true,
                          .targets = words,
                          .n_targets = 1,
                          .exclude = &words[K],
                          .n_exclude = 1,
                          .layers = layers,
                          .n_layers = 2,
                          .save_modules = save,
                          .n_save_modules = 2,
                          .ranks = ranks,
                          .n_ranks = 2,
                          .alphas = alphas,
                          .n_alphas = 1,
                          .gaussian_init = true}};
    StrBuf text = {0};
    peft_config_write(&text, &s, "a \"base\"");
    LoraOpts o;
    Err err = {0};
    cr_assert_eq(read_text(&o, text.data, &err), OK, "%s: %s", err.line, text.data);
    cr_expect_eq(o.rank, 12);
    cr_expect_eq(o.alpha, 24.5);
    cr_expect_eq(o.dropout, 0.05);
    cr_expect(o.rslora && o.dora && o.gaussian_init);
    cr_expect(o.n_targets == 1 && str_eq(o.targets[0], "q_proj"));
    cr_expect(o.n_exclude == 1 && str_eq(o.exclude[0], "k_proj"));
    cr_expect(o.n_layers == 2 && o.layers[1] == 1);
    cr_expect(o.n_save_modules == 2 && str_eq(o.save_modules[1], "norm"));
    cr_expect(o.n_ranks == 2 && str_eq(o.ranks[0].key, "layers.0.*q_proj") &&
              o.ranks[1].value == 2);
    cr_expect(o.n_alphas == 1 && o.alphas[0].value == 2.5);
    lora_opts_clear(&o);
    strbuf_clear(&text);
}

/* Adapters that other people trained: their names and shapes are those of the models they say. */
Test(lora, real_adapters_fit_their_models)
{
    static const struct {
        const char *folder, *preset;
        int n;
    } cases[] = {{"llama-3.2-1b-r8", "llama-3.2-1b", 64},
                 {"tinyllama-1.1b-r4", "tinyllama-1.1b", 88}};
    char *root = shared_or_skip("data/lora");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *dir = path_join(root, cases[i].folder);
        char *file = path_join(dir, "adapter_model.safetensors");
        LlamaConfig cfg;
        LoraOpts o;
        LoraPlan plan;
        SafeTensors *f;
        Err err = {0};
        cr_assert(llama_config_preset(&cfg, cases[i].preset));
        cr_assert_eq(lora_opts_load(&o, NULL, dir, &err), OK, "%s", err.line);
        cr_assert_eq(lora_plan(&plan, &cfg, &o, &err), OK, "%s", err.line);
        cr_assert_eq(safetensors_open(&f, file, &err), OK, "%s", err.line);
        int n = 0;
        for (int m = 0; m < plan.n; m++) {
            const LoraModule *x = &plan.items[m];
            if (x->role != ROLE_ADAPTER) continue;
            for (int half = 0; half < 2; half++) {
                char *name = str_format("base_model.model.%s.lora_%c.weight", x->name, "AB"[half]);
                const SafeTensor *t = safetensors_find(f, name);
                cr_assert(t, "%s", name);
                cr_expect_eq(t->shape[0], half ? x->rows : x->rank, "%s", name);
                cr_expect_eq(t->shape[1], half ? x->rank : x->in, "%s", name);
                free(name);
                n++;
            }
        }
        cr_expect_eq(n, cases[i].n);
        cr_expect_eq(n, safetensors_count(f));
        safetensors_close(f);
        lora_plan_clear(&plan);
        lora_opts_clear(&o);
        free(dir);
        free(file);
    }
    free(root);
}
