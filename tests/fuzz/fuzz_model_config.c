/* config.json: what is accepted is a model whose sizes can be multiplied, and text of ours that reads back. */
#include "model/llama.h"
#include "tests/fuzz/fuzz.h"

static void check(const LlamaConfig *c)
{
    ASSERT(llama_n_params(c) > 0 && c->n_heads % c->n_kv_heads == 0 && c->head_dim % 2 == 0, "%lld",
           (long long)llama_n_params(c));
    float inv_freq[2048];
    llama_rope_frequencies(c, inv_freq);
    StrBuf text = {0};
    Json *again;
    LlamaConfig back;
    Err err = {0};
    llama_config_write(&text, c, DT_F32);
    ASSERT(json_parse(&again, text.data, text.len, "again", 1, 0, &err) == OK, "%s", err.line);
    ASSERT(llama_config_read(&back, again, "again", &err) == OK, "%s", err.line);
    ASSERT(llama_n_params(&back) == llama_n_params(c), "%s", text.data);
    json_free(again);
    strbuf_clear(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Json *j;
    LlamaConfig c;
    Err err = {0};
    if (json_parse(&j, (const char *)data, size, "f", 1, 0, &err) != OK) return 0;
    if (llama_config_read(&c, j, "f", &err) == OK)
        check(&c);
    else
        ASSERT(err.line[0] == 'f' && err.line[1] == ':', "%s", err.line);
    json_free(j);
    return 0;
}
