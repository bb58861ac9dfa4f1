/* Finding the files of a model, an adapter or a trace. */
#include "model/inspect_source.h"

#include "base/fs.h"
#include "base/str.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static size_t skip_zeros(const char **s)
{
    size_t zeros = strspn(*s, "0");
    *s += zeros;
    return zeros;
}

int weight_name_order(const char *a, const char *b)
{
    const char *whole_a = a, *whole_b = b;
    while (*a && *b) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            skip_zeros(&a);
            skip_zeros(&b);
            size_t na = strspn(a, "0123456789"), nb = strspn(b, "0123456789");
            if (na != nb) return na < nb ? -1 : 1;
            int order = strncmp(a, b, na);
            if (order) return order;
            a += na;
            b += nb;
        } else {
            if (*a != *b) return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
            a++;
            b++;
        }
    }
    if (*a || *b) return *a ? 1 : -1;
    return strcmp(whole_a, whole_b); /* 01 and 1 */
}

static int by_name(const void *a, const void *b)
{
    return weight_name_order(((const NamedTensor *)a)->name, ((const NamedTensor *)b)->name);
}

/* Adds one file's tensors; `as` replaces the name of a trace's only tensor. */
static Status add_file(WeightFiles *w, const char *path, const char *as, Err *err)
{
    SafeTensors *f;
    TRY(safetensors_open(&f, path, err));
    w->files = xrealloc(w->files, (size_t)(w->n_files + 1) * sizeof(SafeTensors *));
    w->files[w->n_files++] = f;
    int n = safetensors_count(f);
    w->items = xrealloc(w->items, (size_t)(w->n + n) * sizeof *w->items);
    for (int i = 0; i < n; i++) {
        const SafeTensor *t = safetensors_at(f, i);
        w->items[w->n++] = (NamedTensor){xstrdup(as ? as : t->name), t};
    }
    return OK;
}

/* "000012.rmsnorm.safetensors" */
static bool is_trace_file(const char *name)
{
    return strspn(name, "0123456789") >= 6 && str_ends(name, ".safetensors");
}

static Status add_trace(WeightFiles *w, const char *dir, char **names, int n, Err *err)
{
    for (int i = 0; i < n; i++) {
        if (!is_trace_file(names[i])) continue;
        char *path = path_join(dir, names[i]);
        char *as = xstrndup(names[i], strlen(names[i]) - strlen(".safetensors"));
        Status s = add_file(w, path, as, err);
        free(path);
        free(as);
        TRY(s);
    }
    return OK;
}

static bool holds(char **names, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (str_eq(names[i], name)) return true;
    return false;
}

static Status open_folder(WeightFiles *w, const char *dir, Err *err)
{
    char **names;
    int n;
    TRY(dir_list(&names, &n, dir, err));
    bool trace = false;
    for (int i = 0; i < n; i++)
        trace |= is_trace_file(names[i]);
    bool model =
        holds(names, n, "model.safetensors") || holds(names, n, "model.safetensors.index.json");
    Status s;
    if (!model && holds(names, n, "adapter_model.safetensors")) {
        w->kind = INSPECT_ADAPTER;
        char *path = path_join(dir, "adapter_model.safetensors");
        s = add_file(w, path, NULL, err);
        free(path);
    } else if (!model && trace) {
        w->kind = INSPECT_TRACE;
        s = add_trace(w, dir, names, n, err);
    } else {
        w->kind = INSPECT_MODEL;
        s = add_file(w, dir, NULL, err);
    }
    dir_list_free(names, n);
    return s;
}

Status weight_files_open(WeightFiles *out, const char *path, Err *err)
{
    WeightFiles w = {.kind = INSPECT_FILE};
    Status s = path_is_dir(path) ? open_folder(&w, path, err) : add_file(&w, path, NULL, err);
    if (s != OK) {
        weight_files_close(&w);
        return s;
    }
    qsort(w.items, (size_t)w.n, sizeof *w.items, by_name);
    *out = w;
    return OK;
}

void weight_files_close(WeightFiles *f)
{
    for (int i = 0; i < f->n; i++)
        free(f->items[i].name);
    free(f->items);
    for (int i = 0; i < f->n_files; i++)
        safetensors_close(f->files[i]);
    free(f->files);
    *f = (WeightFiles){0};
}
