/* Rows that are tokens already: input_ids, labels. */
#include "data/formats_impl.h"

#include <stdlib.h>

static Status read_ids(const RowFormat *f, const Json *list, const char *name, int64_t *at,
                       int64_t *value, bool labels, Err *err)
{
    const Json *j = json_at(list, (size_t)*at);
    if (!json_int(j, value))
        return err_set(err, E_INPUT, "%s[%lld]: must be an integer, found %s", name, (long long)*at,
                       json_kind_name(j));
    if (labels && *value == UNTRAINED) return OK;
    if (*value < 0 || *value >= format_vocab_size(f->t))
        return err_set(err, E_INPUT, "%s[%lld]: %lld is no token: %s has 0 to %d%s", name,
                       (long long)*at, (long long)*value, f->t ? "the tokenizer" : "a vocabulary",
                       format_vocab_size(f->t) - 1, labels ? ", and -100 says not trained" : "");
    return OK;
}

Status format_tokens(const RowFormat *f, const Json *row, TokenRow *out, Err *err)
{
    const char *name = f->names[TOKENS_IDS], *label_name = f->names[TOKENS_LABELS];
    const Json *ids = json_get(row, name), *labels = json_get(row, label_name);
    if (!ids) return format_missing(row, "input_ids", name, err);
    if (json_kind(ids) != JK_ARRAY)
        return err_set(err, E_INPUT, "%s: must be an array of integers, found %s", name,
                       json_kind_name(ids));
    if (labels && json_kind(labels) != JK_NULL && json_kind(labels) != JK_ARRAY)
        return err_set(err, E_INPUT, "%s: must be an array of integers, found %s", label_name,
                       json_kind_name(labels));
    bool has_labels = labels && json_kind(labels) == JK_ARRAY;
    if (has_labels && json_size(labels) != json_size(ids))
        return err_set(err, E_INPUT, "%s: has %zu entries, %s has %zu; they must be as many",
                       label_name, json_size(labels), name, json_size(ids));
    if (json_size(ids) == 0) return err_set(err, E_INPUT, "%s: is empty", name);
    const Json *mask = json_get(row, "attention_mask");
    for (int64_t i = 0; i < (int64_t)json_size(ids); i++) {
        int64_t id, label, m;
        TRY(read_ids(f, ids, name, &i, &id, false, err));
        label = id;
        if (has_labels) TRY(read_ids(f, labels, label_name, &i, &label, true, err));
        if (json_int(json_at(mask, (size_t)i), &m) && m == 0)
            return err_set(
                err, E_INPUT,
                "attention_mask[%lld]: is 0, and rows are taken without padding; cut the "
                "padding off",
                (long long)i);
        token_row_push(out, (int32_t)id, (int32_t)label);
    }
    return OK;
}

Status format_tokens_prompt(const RowFormat *f, const Json *row, TokenRow *out, char **answer,
                            Err *err)
{
    TRY(format_tokens(f, row, out, err));
    int64_t n = 0;
    while (n < out->n && out->labels[n] == UNTRAINED)
        n++;
    if (n > 0 && n < out->n) {
        StrBuf b = {0};
        tokenizer_decode(f->t, &b, out->ids + n, out->n - n, true);
        *answer = strbuf_take(&b);
        out->n = n;
    }
    for (int64_t i = 0; i < out->n; i++)
        out->labels[i] = UNTRAINED;
    return OK;
}
