#include "tests/infer/model_support.h"

#include "model/hf_files.h"
#include "tests/support/test_device.h"

#include <criterion/criterion.h>

void test_model_open(TestModel *m, const char *dir, int64_t positions)
{
    test_model_open_as(m, dir, positions, &(QuantOpts){.type = QUANT_NONE});
}

void test_model_open_as(TestModel *m, const char *dir, int64_t positions, const QuantOpts *quant)
{
    Err err = {0};
    LlamaConfig cfg;
    *m = (TestModel){0};
    cr_assert_eq(llama_config_load(&cfg, dir, &err), OK, "%s", err.line);
    test_device_open(&m->dev, (size_t)1 << 30, 1);
    llama_init(&m->llama, &cfg, &m->dev, positions ? positions : cfg.max_position_embeddings);
    llama_quantize(&m->llama, quant);
    llama_alloc(&m->llama);
    Log log = {.to = stderr, .level = LOG_WARN};
    cr_assert_eq(model_load_weights(&m->llama, dir, &log, &err), OK, "%s", err.line);
}

void test_model_close(TestModel *m)
{
    llama_clear(&m->llama);
    device_close(&m->dev);
}
