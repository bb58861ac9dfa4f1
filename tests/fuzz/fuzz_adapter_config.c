/* adapter_config.json, and what its patterns and lists mean for a small model. */
#include "model/lora_plan.h"
#include "model/peft_config.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

static void check(LoraOpts *o)
{
    LlamaConfig cfg;
    LoraPlan plan;
    Err err = {0};
    ASSERT(llama_config_preset(&cfg, "tiny-qwen3"), "no preset");
    if (lora_plan(&plan, &cfg, o, &err) == OK)
        lora_plan_clear(&plan);
    else
        ASSERT(err.line[0], "no message");

    LoraSet set = {.opts = *o};
    StrBuf text = {0};
    Json *again;
    LoraOpts back;
    peft_config_write(&text, &set, NULL);
    ASSERT(json_parse(&again, text.data, text.len, "again", 1, 0, &err) == OK, "%s", err.line);
    bool all_linear =
        o->n_targets == 1 && (o->targets[0][0] | 32) == 'a'; /* written as its modules */
    if (lora_opts_read(&back, NULL, again, "again", &err) == OK) {
        ASSERT(back.rank == o->rank && (all_linear || back.n_targets == o->n_targets ||
                                        (o->n_targets == 0 && !o->target_pattern)),
               "%s", text.data);
        lora_opts_clear(&back);
    } else {
        ASSERT(false, "%s: %s", err.line, text.data);
    }
    json_free(again);
    strbuf_clear(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Json *j;
    LoraOpts o;
    char *base = NULL;
    Err err = {0};
    if (json_parse(&j, (const char *)data, size, "f", 1, 0, &err) != OK) return 0;
    if (lora_opts_read(&o, &base, j, "f", &err) == OK) {
        check(&o);
        lora_opts_clear(&o);
        free(base);
    } else {
        ASSERT(err.line[0] == 'f' && err.line[1] == ':', "%s", err.line);
    }
    json_free(j);
    return 0;
}
