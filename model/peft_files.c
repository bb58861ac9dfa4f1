/* adapter_model.safetensors, both ways, with PEFT's names: "base_model.model." and the module's path; modules
 * trained whole under their plain names (peft utils/save_and_load.py). */
#include "base/fs.h"
#include "model/lora.h"
#include "model/names.h"
#include "model/peft_config.h"
#include "model/weights.h"

#include <stdlib.h>
#include <string.h>

static const char prefix[] = "base_model.model.";
const char lora_weights_name[] = "adapter_model.safetensors";

static char *weights_path(const char *dir)
{
    return path_is_dir(dir) ? path_join(dir, lora_weights_name) : xstrdup(dir);
}

/* PEFT writes embedding and head whenever the vocabulary grew, asked or not, and takes over whatever base tensor
 * is in the file; so do we.  A tied head may only repeat the embedding. */
static Param *find_param(const Llama *m, const char *name, int *slice)
{
    if (!str_starts(name, prefix)) return NULL;
    name += strlen(prefix);
    if (m->tied && str_eq(name, "lm_head.weight")) name = "model.embed_tokens.weight";
    return paramset_find(&m->params, name, slice);
}

static Status check_tied_pair(const Llama *m, const SafeTensors *f, Err *err)
{
    const SafeTensor *head = safetensors_find(f, "base_model.model.lm_head.weight");
    const SafeTensor *embed = safetensors_find(f, "base_model.model.model.embed_tokens.weight");
    if (!m->tied || !head) return OK;
    if (embed && embed->bytes == head->bytes && memcmp(embed->data, head->data, head->bytes) == 0)
        return OK;
    return err_set(err, E_INPUT,
                   "%s: %s: the model's head is tied to its embedding, and modules_to_save names "
                   "neither",
                   head->file, head->name);
}

static Status check_names(const Llama *m, const SafeTensors *f, const char *path, Err *err)
{
    NameList unknown = {0}, missing = {0};
    for (int i = 0, slice; i < safetensors_count(f); i++)
        if (!find_param(m, safetensors_at(f, i)->name, &slice))
            names_add(&unknown, safetensors_at(f, i)->name);
    for (int i = 0; i < m->params.n; i++) {
        const Param *p = m->params.items[i];
        if (!p->adapter && !p->trained) continue;
        for (int j = 0; j < p->n_slices; j++) {
            char *name = str_format("%s%s", prefix, p->slices[j].name);
            if (!safetensors_find(f, name)) names_add(&missing, name);
            free(name);
        }
    }
    Status status = names_tell(&unknown, path, "tensors that match nothing in the model", err);
    if (status == OK)
        status = names_tell(&missing, path,
                            "tensors that adapter_config.json calls for are missing", err);
    names_clear(&unknown);
    names_clear(&missing);
    return status;
}

Status lora_load(LoraSet *s, Llama *m, const char *dir, Err *err)
{
    char *path = weights_path(dir);
    SafeTensors *f = NULL;
    Status status = path_is_dir(path) /* which safetensors_open would take for a model's */
                        ? err_set(err, E_INPUT, "%s: is a folder, a file is needed", path)
                        : safetensors_open(&f, path, err);
    if (status == OK) status = check_names(m, f, path, err);
    if (status == OK) status = check_tied_pair(m, f, err);
    Upload *u = upload_open(m->dev);
    for (int i = 0; status == OK && i < safetensors_count(f); i++) {
        const SafeTensor *t = safetensors_at(f, i);
        int slice;
        Param *p = find_param(m, t->name, &slice);
        status = weight_check(t, p, slice, err);
        if (status == OK && (p->t.storage || p->home)) {
            weight_write(t, m->dev, u, p, slice);
            param_changed(p);
        }
    }
    upload_close(u);
    safetensors_close(f);
    free(path);
    return status;
}

void lora_list_weights(WeightList *out, const Llama *m, DType dtype)
{
    WeightSource source = {m->dev, &m->params, dtype, prefix};
    for (int i = 0; i < m->params.n; i++) {
        const Param *p = m->params.items[i];
        for (int j = 0; j < p->n_slices && (p->adapter || p->trained); j++)
            weight_list_add(out, &source, p, j);
    }
}

Status lora_save_config(const LoraSet *s, const char *dir, const char *base, Err *err)
{
    StrBuf text = {0};
    peft_config_write(&text, s, base);
    char *path = path_join(dir, "adapter_config.json");
    Status status = file_write_atomic(path, text.data, text.len, err);
    free(path);
    strbuf_clear(&text);
    return status;
}

Status lora_save(const LoraSet *s, const Llama *m, const char *dir, const char *base, DType dtype,
                 Err *err)
{
    WeightSource source = {m->dev, &m->params, dtype, prefix};
    WeightList list = {0};
    lora_list_weights(&list, m, dtype);
    char *path = path_join(dir, lora_weights_name);
    Status status = safetensors_write(path, list.items, list.n, NULL, weight_source, &source, err);
    free(path);
    weight_list_clear(&list);
    return status == OK ? lora_save_config(s, dir, base, err) : status;
}
