/* What a run writes for others: which weights, and the files beside them. */
#include "base/fs.h"
#include "base/str.h"
#include "model/folder.h"
#include "model/hf_files.h"
#include "trainer/session.h"
#include "trainer/tokenizer_files.h"

#include <stdlib.h>

enum { MAX_SHARD_BYTES_GIB = 5 };

void session_list_weights(const Session *s, WeightList *out)
{
    if (s->has_lora)
        lora_list_weights(out, &s->model, config_save_dtype(s->cfg));
    else
        model_list_weights(out, &s->model, config_save_dtype(s->cfg));
}

Status session_lay_out_weights(const Session *s, const WeightList *list, SafeLayout *out, Err *err)
{
    static const char *const meta[] = {"format", "pt", NULL};
    if (s->has_lora)
        return safetensors_layout(out, lora_weights_name, list->items, list->n, meta, err);
    return safetensors_layout_model(out, list->items, list->n, (uint64_t)MAX_SHARD_BYTES_GIB << 30,
                                    err);
}

static const char *torch_dtype(DType t)
{
    return t == DT_F32 ? "\"float32\"" : t == DT_BF16 ? "\"bfloat16\"" : "\"float16\"";
}

/* The base folder's config.json is kept word for word, but for the dtype (which transformers 5 calls
 * `dtype`): it may hold keys that we do not know. */
static Status keep_config(const Session *s, const char *dir, Err *err)
{
    char *ours = path_join(dir, "config.json"),
         *theirs = path_join(s->cfg->model_path, "config.json");
    Json *root = NULL;
    Status status = json_parse_file(&root, theirs, err);
    if (status == OK) status = file_copy(theirs, ours, err);
    bool modern = status == OK && json_get(root, "dtype");
    json_free(root);
    free(ours);
    free(theirs);
    TRY(status);
    DType save = config_save_dtype(s->cfg);
    const char *dtype = torch_dtype(save == DT_N ? s->model.embed.slices[0].stored : save);
    return folder_edit_config(
        dir, (const char *const[]){modern ? "dtype" : "torch_dtype", dtype, NULL}, err);
}

static Status copy_if_there(const char *from_dir, const char *to_dir, const char *name, Err *err)
{
    char *from = path_join(from_dir, name), *to = path_join(to_dir, name);
    Status s = path_exists(from) ? file_copy(from, to, err) : OK;
    free(from);
    free(to);
    return s;
}

Status session_write_files(const Session *s, const char *dir, Err *err)
{
    const TrainConfig *c = s->cfg;
    if (s->has_lora) return lora_save_config(&s->lora, dir, c->model_path, err);
    TRY(model_save_config(&s->model, dir, config_save_dtype(c), err));
    if (c->tokenizer) TRY(tokenizer_files_copy(c->tokenizer, dir, err));
    if (!c->model_path || !path_is_dir(c->model_path)) return OK;
    if (!c->tokenizer) TRY(tokenizer_files_copy(c->model_path, dir, err));
    TRY(copy_if_there(c->model_path, dir, "generation_config.json", err));
    return keep_config(s, dir, err);
}
