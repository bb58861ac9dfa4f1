/* The config reader: values, defaults, every error with its exact line, overrides, the way back to YAML. */
#include "base/fs.h"
#include "base/str.h"
#include "tests/support/shared.h"
#include "trainer/config.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const char *const minimal = "model: {path: base}\n"
                                   "data: {train: rows.jsonl, format: alpaca}\n"
                                   "output: out\n";

static Status parse(TrainConfig *c, const char *text, int n, const char *const *overrides,
                    Problems *p)
{
    return config_parse(c, text, strlen(text), "c.yaml", overrides, n, p);
}

static void print_problems(const Problems *p)
{
    for (int i = 0; i < p->n; i++)
        fprintf(stderr, "  %s\n", p->lines[i]);
}

Test(config, minimal_file_has_documented_defaults)
{
    TrainConfig c;
    Problems p = {0};
    Status s = parse(&c, minimal, 0, NULL, &p);
    print_problems(&p);
    cr_assert_eq(s, OK);
    cr_assert_str_eq(c.model_path, "base");
    cr_assert_eq(c.method, METHOD_LORA);
    cr_assert_eq(c.lora.rank, 8);
    cr_assert_eq(c.lora.n_targets, 1);
    cr_assert_str_eq(c.lora.targets[0], "all-linear");
    cr_assert_eq(c.data.n_train, 1);
    cr_assert_str_eq(c.data.train[0].path, "rows.jsonl");
    cr_assert_eq(c.data.train[0].format, DATA_ALPACA);
    cr_assert_eq(c.data.train[0].line, 2);
    cr_assert_eq(c.data.train[0].weight, 1.0);
    cr_assert_eq(c.lr, 1e-4);
    cr_assert_eq(c.batch_global, 8);
    cr_assert_eq(c.batch_micro, 8);
    cr_assert_eq(c.data.shuffle, true);
    cr_assert_str_eq(c.data.cache_dir, "out/cache");
    cr_assert_str_eq(c.resume, "auto");
    cr_assert(!config_is_set(&c, "lora.rank"));
    cr_assert(config_is_set(&c, "output"));
    config_clear(&c);
}

Test(config, values_of_every_type)
{
    TrainConfig c;
    Problems p = {0};
    const char *good = "model:\n  path: base\n"
                       "lora: {rank: 16, targets: [q_proj, v_proj], layers: [0, 2], rslora: true}\n"
                       "data:\n"
                       "  format: samsum\n"
                       "  template: prompt\n"
                       "  prompt: \"Sum: {dialogue}\\n\"\n"
                       "  train:\n"
                       "    - a.jsonl\n"
                       "    - {path: b.jsonl, weight: 0.5, format: messages, template: chatml}\n"
                       "  fields: {summary: abstract}\n"
                       "  eval: {share: 0.1}\n"
                       "optim: {lr: 1e-3, schedule: wsd, warmup_ratio: 0.1}\n"
                       "train: {max_steps: 1e3}\n"
                       "output: out\n";
    Status s = parse(&c, good, 0, NULL, &p);
    print_problems(&p);
    cr_assert_eq(s, OK);
    cr_assert_eq(c.lora.rank, 16);
    cr_assert(c.lora.rslora);
    cr_assert_eq(c.lora.n_targets, 2);
    cr_assert_str_eq(c.lora.targets[1], "v_proj");
    cr_assert_eq(c.lora.n_layers, 2);
    cr_assert_eq(c.lora.layers[1], 2);
    cr_assert_eq(c.data.n_train, 2);
    cr_assert_eq(c.data.train[0].format, DATA_SAMSUM);
    cr_assert_eq(c.data.train[1].format, DATA_MESSAGES);
    cr_assert_eq(c.data.train[1].chat, TEMPLATE_CHATML);
    cr_assert_str_eq(c.data.train[0].prompt, "Sum: {dialogue}\n");
    cr_assert_null(c.data.train[1].prompt); /* its own template brings no prompt */
    cr_assert_eq(c.data.train[1].weight, 0.5);
    cr_assert_eq(c.data.train[1].n_fields, 1);
    cr_assert_str_eq(c.data.train[1].fields[0].to, "abstract");
    cr_assert_eq(c.data.eval_share, 0.1);
    cr_assert_eq(c.lr, 1e-3);
    cr_assert_eq(c.max_steps, 1000);
    cr_assert_eq(c.schedule, SCHEDULE_WSD);
    config_clear(&c);
}

typedef struct BadCase {
    const char *name, *text;
    const char *lines[6]; /* all of them, in order */
} BadCase;

#define REST "data: {train: r.jsonl, format: text}\noutput: o\n"
#define BASE "model: {path: b}\n" REST

static const BadCase bad[] = {
    {"unknown key, near spelling",
     BASE "lora:\n  rnk: 4\n",
     {"c.yaml:5: lora.rnk: unknown key; did you mean 'lora.rank'?"}},
    {"known key in the wrong place",
     BASE "rank: 4\n",
     {"c.yaml:4: rank: unknown key; did you mean 'lora.rank'?"}},
    {"another trainer's name",
     BASE "lora:\n  target_modules: q_proj\nlearning_rate: 1\n",
     {"c.yaml:5: lora.target_modules: unknown key; did you mean 'lora.targets'?",
      "c.yaml:6: learning_rate: unknown key; did you mean 'optim.lr'?"}},
    {"nothing like it",
     BASE "zzzzzzzzz: 4\n",
     {"c.yaml:4: zzzzzzzzz: unknown key; `lorac check --explain` lists all"}},
    {"section as a scalar",
     BASE "optim: 3\n",
     {"c.yaml:4: optim: is a section; put its keys below it, indented"}},
    {"all errors at once",
     BASE "optim: {lr: fast, beta1: 1}\nbatch: {global: 0}\n",
     {"c.yaml:4: optim.lr: must be a number from 0 to 1000, is 'fast'",
      "c.yaml:4: optim.beta1: must be a number from 0 to below 1, is '1'",
      "c.yaml:5: batch.global: must be an integer from 1 to 16777216, is '0'"}},
    {"batch order",
     BASE "batch: {global: 8, micro: 3}\n",
     {"c.yaml:4: batch.micro: must divide batch.global, which is 8; is 3"}},
    {"text for a number",
     BASE "lora: {alpha: \"16\"}\n",
     {"c.yaml:4: lora.alpha: must be a number above 0, is the text '16'"}},
    {"enum",
     BASE "optim: {schedule: cosin}\n",
     {"c.yaml:4: optim.schedule: must be one of constant, linear, cosine, inverse_sqrt, wsd, step, "
      "is "
      "'cosin'; did you mean 'cosine'?"}},
    {"yes is no bool",
     BASE "lora: {rslora: yes}\n",
     {"c.yaml:4: lora.rslora: must be true or false, is 'yes'"}},
    {"missing",
     "model: {path: b}\n",
     {"c.yaml: output: missing; it must be given: folder for the result, checkpoints, "
      "metrics.jsonl and the "
      "resolved config.yaml",
      "c.yaml: data.train: missing; it must be given: training rows: a file or folder, or a list "
      "of {path, "
      "weight, format, ...}"}},
    {"no format",
     "model: {path: b}\noutput: o\ndata:\n  train:\n    - r.jsonl\n",
     {"c.yaml:5: data.train: the format is not said; set data.format to one of alpaca, samsum, "
      "messages, "
      "sharegpt, completion, text, tokens"}},
    {"two validations",
     "model: {path: b}\noutput: o\ndata:\n  train: r\n  format: text\n  eval:\n"
     "    share: 0.1\n    count: 5\n",
     {"c.yaml:8: data.eval.count: validation is asked for twice; give one of path, share, count"}},
    {"lora keys with full",
     BASE "method: full\nlora: {rank: 4}\n",
     {"c.yaml:5: lora.rank: only with method lora or qlora, and method is full"}},
    {"scratches of no quantised base",
     BASE "runtime: {scratches: 2, decode_ahead: true}\n",
     {"c.yaml:4: runtime.scratches: only with method qlora",
      "c.yaml:4: runtime.decode_ahead: only with method qlora"}},
    {"ahead without a second scratch",
     BASE "method: qlora\nruntime: {scratches: 1, decode_ahead: true}\n",
     {"c.yaml:5: runtime.decode_ahead: needs runtime.scratches of 2 or more"}},
    {"both warm-ups",
     BASE "optim: {warmup_steps: 3, warmup_ratio: 0.1}\n",
     {"c.yaml:4: optim.warmup_ratio: optim.warmup_steps is set too; give one of the two"}},
    {"no model", REST, {"c.yaml: model.path: missing; name the model's folder"}},
    {"evaluation of nothing",
     BASE "eval: {every: 5}\n",
     {"c.yaml:4: eval.every: there are no validation rows; set data.eval.path, share or count"}},
    {"epochs and steps",
     BASE "train: {epochs: 2, max_steps: 5}\n",
     {"c.yaml:4: train.epochs: train.max_steps is set too; give one of the two"}},
    {"source key",
     "model: {path: b}\noutput: o\ndata: {format: text, train: [{path: a, wieght: 2}]}\n",
     {"c.yaml:3: data.train.0.wieght: unknown key of a source; did you mean 'weight'?"}},
    {"source without path",
     "model: {path: b}\noutput: o\ndata: {format: text, train: [{weight: 2}]}\n",
     {"c.yaml:3: data.train.0: a source needs a path"}},
    {"list at the top", "- a\n", {"c.yaml:1: a config is a map of keys, this is a list"}},
    {"adapter brings its own rank",
     BASE "lora: {adapter: a, rank: 4}\n",
     {"c.yaml:4: lora.rank: comes from lora.adapter's own adapter_config.json; leave it out"}},
    {"wsd keys",
     BASE "optim: {decay_ratio: 0.2}\n",
     {"c.yaml:4: optim.decay_ratio: only with optim.schedule wsd"}},
    {"a path without text",
     "model: {path: \"\"}\ndata: {train: x, format: text}\noutput: o\n",
     {"c.yaml:1: model.path: must be text that is not empty, is the text ''"}},
    {"a preset without text",
     "model: {init: random, preset: \"\"}\ndata: {train: x, format: text}\noutput: o\n",
     {"c.yaml:1: model.preset: must be text that is not empty, is the text ''"}},
    {"a prompt without text",
     "model: {path: m}\ndata: {train: x, format: alpaca, template: prompt, prompt: \"\"}\n"
     "output: o\n",
     {"c.yaml:2: data.prompt: must be text that is not empty, is the text ''"}},
    {"a target without text",
     BASE "lora: {targets: [\"\"]}\n",
     {"c.yaml:4: lora.targets: must be text that is not empty, or a list of such, is the text ''"}},
    {"numbers too close to 0",
     BASE "optim: {lr: 1e-400, weight_decay: -1e-400, eps: 1e-310}\n",
     {"c.yaml:4: optim.lr: must be 0 or a number of at least 2.3e-308 in size, is '1e-400'",
      "c.yaml:4: optim.weight_decay: must be 0 or a number of at least 2.3e-308 in size, is "
      "'-1e-400'",
      "c.yaml:4: optim.eps: must be 0 or a number of at least 2.3e-308 in size, is '1e-310'"}},
    {"a number too large",
     BASE "optim: {lr: 1e400}\n",
     {"c.yaml:4: optim.lr: must be a number from 0 to 1000, is '1e400'"}},
    {"an integer too close to 0",
     BASE "train: {seed: 1e-400}\n",
     {"c.yaml:4: train.seed: must be an integer at least 0, is '1e-400'"}},
    {"constant down to a tenth",
     BASE "optim: {schedule: constant, min_lr_ratio: 0.1}\n",
     {"c.yaml:4: optim.min_lr_ratio: a constant schedule has no lower end; leave it out"}},
};

Test(config, each_error_has_its_line)
{
    int failed = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        TrainConfig c;
        Problems p = {0};
        Status s = parse(&c, bad[i].text, 0, NULL, &p);
        bool ok = s == E_INPUT;
        for (int k = 0; k < 6 && bad[i].lines[k]; k++) {
            bool found = false;
            for (int j = 0; j < p.n; j++)
                found |= str_eq(p.lines[j], bad[i].lines[k]);
            if (!found) fprintf(stderr, "%s: not told: %s\n", bad[i].name, bad[i].lines[k]);
            ok &= found;
        }
        if (!str_eq(bad[i].name, "list at the top")) {
            int wanted = 0;
            while (wanted < 6 && bad[i].lines[wanted])
                wanted++;
            ok &= p.n == wanted;
        }
        if (!ok) {
            fprintf(stderr, "%s: got\n", bad[i].name);
            print_problems(&p);
            failed++;
        }
        problems_clear(&p);
    }
    cr_assert_eq(failed, 0);
}

Test(config, overrides)
{
    TrainConfig c;
    Problems p = {0};
    const char *text = "model: {path: base}\n"
                       "optim: {lr: 1}\n"
                       "data: {format: text, train: [{path: a}, {path: b}]}\n"
                       "output: out\n";
    const char *const good[] = {"optim.lr=1e-4",         "data.train.1.weight=2",
                                "lora.targets=[q_proj]", "output=elsewhere",
                                "optim={clip: 0.5}",     "data.eval=held.jsonl"};
    Status s = parse(&c, text, 6, good, &p);
    print_problems(&p);
    cr_assert_eq(s, OK);
    cr_assert_eq(c.lr, 1e-4);
    cr_assert_eq(c.clip, 0.5);
    cr_assert_eq(c.data.train[1].weight, 2.0);
    cr_assert_eq(c.data.train[0].weight, 1.0);
    cr_assert_str_eq(c.lora.targets[0], "q_proj");
    cr_assert_str_eq(c.output, "elsewhere");
    cr_assert_eq(c.data.n_eval, 1);
    cr_assert_str_eq(c.data.eval[0].path, "held.jsonl");
    char *lr = config_where(&c, "optim.lr"), *model = config_where(&c, "model.path");
    cr_assert_str_eq(lr, "command line");
    cr_assert_str_eq(model, "c.yaml:1");
    free(lr), free(model);
    config_clear(&c);

    const char *const wrong[] = {
        "lora.rnk=3",   "optim.lr", "optim.lr=x", "data.train.2.weight=1", "data.train.0.weigth=1",
        "optim.clip=[", "output="};
    const char *const lines[] = {
        "command line: lora.rnk: unknown key; did you mean 'lora.rank'?",
        "command line: optim.lr: is no key=value",
        "command line: optim.lr: must be a number from 0 to 1000, is 'x'",
        "command line: data.train.2.weight: data.train has 2 sources in a list, counted from 0",
        "command line: data.train.0.weigth: unknown key of a source; did you mean 'weight'?",
        NULL,
        "command line: output: has no value; it must be given: folder for the result, checkpoints, "
        "metrics.jsonl and the resolved config.yaml",
    };
    cr_assert_eq(parse(&c, text, 7, wrong, &p), E_INPUT);
    cr_expect_eq(p.n, 7);
    print_problems(&p);
    for (int i = 0; i < 7; i++) {
        bool found = !lines[i];
        for (int j = 0; j < p.n; j++)
            found |= str_eq(p.lines[j], lines[i]);
        cr_expect(found, "%s", lines[i]);
    }
    problems_clear(&p);
}

Test(config, command_line_wins_over_what_excludes_it)
{
    TrainConfig c;
    Problems p = {0};
    const char *text = "model: {path: base}\ndata: {format: text, train: a, eval: {count: 5}}\n"
                       "optim: {warmup_steps: 5}\ntrain: {epochs: 3}\noutput: out\n";
    const char *const ways[] = {"train.max_steps=10", "optim.warmup_ratio=0.1", "data.eval=held"};
    Status s = parse(&c, text, 3, ways, &p);
    print_problems(&p);
    cr_assert_eq(s, OK);
    cr_assert_eq(c.max_steps, 10);
    cr_assert_eq(c.warmup_steps, 0);
    cr_assert_eq(c.warmup_ratio, 0.1);
    cr_assert_eq(c.data.n_eval, 1);
    cr_assert_eq(c.data.eval_count, 0);
    config_clear(&c);
    const char *const both[] = {"train.max_steps=10", "train.epochs=2"};
    cr_assert_eq(parse(&c, text, 2, both, &p), E_INPUT);
    problems_clear(&p);
}

Test(config, resolved_file_reads_back_to_itself)
{
    const char *const texts[] = {
        minimal,
        "model: {path: \"a: 'b'\\n\"}\nmethod: full\noptim: {schedule: constant, lr: 0.1, "
        "min_lr_ratio: 0}\n"
        "data: {train: [x, {path: y, weight: 3}], format: tokens, eval: {count: 3}}\n"
        "train: {max_steps: 7, recompute: full, recompute_layers: [1]}\nsave: {every: 3, best: "
        "true}\n"
        "output: o\n",
        "model: {path: m}\nlora: {adapter: a}\ndata: {train: x, format: samsum, cache: "
        "off}\noutput: o\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        TrainConfig a, b;
        Problems p = {0};
        StrBuf first = {0}, second = {0};
        cr_assert_eq(parse(&a, texts[i], 0, NULL, &p), OK);
        config_write(&first, &a);
        Status s = parse(&b, first.data, 0, NULL, &p);
        print_problems(&p);
        cr_assert_eq(s, OK, "%s", first.data);
        config_write(&second, &b);
        cr_assert_str_eq(first.data, second.data);
        strbuf_clear(&first);
        strbuf_clear(&second);
        config_clear(&a);
        config_clear(&b);
    }
}

Test(config, reference_in_docs_is_up_to_date)
{
    char *path = source_path("docs/config.md");
    char *text = NULL;
    Err err = {0};
    cr_assert_eq(file_read(&text, NULL, path, &err), OK, "%s", err.line);
    StrBuf now = {0};
    config_explain(&now);
    cr_assert_str_eq(text, now.data, "run: lorac check --explain > docs/config.md");
    strbuf_clear(&now);
    free(text);
    free(path);
}
