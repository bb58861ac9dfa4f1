/* Opening safetensors: one file, or shards by their index, as one table sorted by name.  What a file must
 * be is safeheader.c's. */
#include "tensor/safetensors.h"

#include "base/json.h"
#include "tensor/safeheader.h"

#include <stdlib.h>
#include <string.h>

struct SafeTensors {
    SafeTensor *tensors; /* sorted by name */
    int n, n_unlisted;
    FileMap *maps;
    int n_maps;
    const char **meta; /* keys and values in turn */
    int n_meta;
    Arena *arena; /* names, shapes, metadata, paths */
};

static SafeTensors *safetensors_new(void)
{
    SafeTensors *s = xcalloc(1, sizeof *s);
    s->arena = arena_new(64 << 10);
    return s;
}

void safetensors_close(SafeTensors *s)
{
    if (!s) return;
    for (int i = 0; i < s->n_maps; i++)
        file_unmap(&s->maps[i]);
    free(s->maps);
    free(s->tensors);
    free(s->meta);
    arena_free(s->arena);
    free(s);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const SafeTensor *)a)->name, ((const SafeTensor *)b)->name);
}

static bool is_mapped_here(const Json *weight_map, const char *tensor, const char *path)
{
    const char *file;
    return !weight_map ||
           (json_str(json_get(weight_map, tensor), &file, NULL) && str_eq(file, path_base(path)));
}

/* Adds a file's tensors, or of them only those that weight_map assigns to this file. */
static Status add_file(SafeTensors *s, const uint8_t *data, size_t len, const char *path,
                       const Json *weight_map, Err *err)
{
    char *file = arena_alloc(s->arena, strlen(path) + 1);
    strcpy(file, path);
    SafeHeader h;
    TRY(safeheader_read(&h, s->arena, data, len, file, err));
    s->tensors = xrealloc(s->tensors, ((size_t)s->n + (size_t)h.n) * sizeof *s->tensors);
    for (int i = 0; i < h.n; i++) {
        if (is_mapped_here(weight_map, h.tensors[i].name, path))
            s->tensors[s->n++] = h.tensors[i];
        else
            s->n_unlisted++;
    }
    if (!s->meta) { /* the first file's */
        s->meta = h.meta;
        s->n_meta = h.n_meta;
        h.meta = NULL;
    }
    safeheader_clear(&h);
    return OK;
}

static Status map_file(SafeTensors *s, const char *path, const Json *weight_map, Err *err)
{
    FileMap m;
    TRY(file_map(&m, path, err));
    s->maps = xrealloc(s->maps, ((size_t)s->n_maps + 1) * sizeof *s->maps);
    s->maps[s->n_maps++] = m;
    return add_file(s, m.data, m.len, path, weight_map, err);
}

static void sort_tensors(SafeTensors *s)
{
    if (s->n) qsort(s->tensors, (size_t)s->n, sizeof *s->tensors, by_name);
}

/* ---- shards ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The sorted set of files that the index names; names that lead out of the folder are refused. */
static Status shard_names(const Json *weight_map, const char *index, const char ***out, int *n_out,
                          Err *err)
{
    const char **names = xcalloc(json_size(weight_map), sizeof *names);
    int n = 0, n_unique = 0;
    for (void *it = json_first(weight_map); it; it = json_next(weight_map, it)) {
        const char *name;
        size_t len;
        bool text = json_str(json_iter_value(it), &name, &len);
        if (!text || !*name || strlen(name) != len || strchr(name, '/') || strchr(name, '\\') ||
            str_eq(name, "..") || str_eq(name, ".")) {
            free(names);
            return err_set(
                err, E_INPUT,
                "%s: weight_map: '%s': needs the name of a file in the same folder%s%s%s", index,
                json_iter_key(it), text ? ", got '" : "", text ? name : "", text ? "'" : "");
        }
        names[n++] = name;
    }
    if (n) qsort(names, (size_t)n, sizeof *names, by_text);
    for (int i = 0; i < n; i++)
        if (i == 0 || !str_eq(names[i], names[i - 1])) names[n_unique++] = names[i];
    *out = names;
    *n_out = n_unique;
    return OK;
}

static Status check_all_found(const SafeTensors *s, const Json *weight_map, const char *index,
                              Err *err)
{
    for (void *it = json_first(weight_map); it; it = json_next(weight_map, it)) {
        const char *file;
        if (safetensors_find(s, json_iter_key(it)) || !json_str(json_iter_value(it), &file, NULL))
            continue;
        return err_set(err, E_INPUT, "%s: weight_map: '%s' should be in %s, which does not have it",
                       index, json_iter_key(it), file);
    }
    return OK;
}

static Status open_index(SafeTensors *s, const char *path, Err *err)
{
    Json *root;
    TRY(json_parse_file(&root, path, err));
    const Json *weight_map = json_kind(root) == JK_OBJECT ? json_get(root, "weight_map") : NULL;
    if (!weight_map || json_kind(weight_map) != JK_OBJECT) {
        json_free(root);
        return err_set(err, E_INPUT, "%s: 'weight_map' is missing or no object", path);
    }
    const char **names = NULL;
    int n = 0;
    Status status = shard_names(weight_map, path, &names, &n, err);
    if (status == OK) {
        char *dir = xstrndup(path, (size_t)(path_base(path) - path));
        for (int i = 0; i < n && status == OK; i++) {
            char *file = path_join(dir, names[i]);
            status = map_file(s, file, weight_map, err);
            free(file);
        }
        free(dir);
        free(names);
    }
    sort_tensors(s);
    if (status == OK) status = check_all_found(s, weight_map, path, err);
    json_free(root);
    return status;
}

static Status open_folder(SafeTensors *s, const char *dir, Err *err)
{
    char *file = path_join(dir, "model.safetensors");
    char *index = path_join(dir, "model.safetensors.index.json");
    char *pickle = path_join(dir, "pytorch_model.bin");
    Status status;
    if (path_exists(file))
        status = map_file(s, file, NULL, err);
    else if (path_exists(index))
        status = open_index(s, index, err);
    else
        status =
            err_set(err, E_INPUT,
                    "%s: has neither model.safetensors nor model.safetensors.index.json%s", dir,
                    path_exists(pickle) ? "; pytorch_model.bin is not read, save the model as "
                                          "safetensors"
                                        : "");
    free(file);
    free(index);
    free(pickle);
    return status;
}

Status safetensors_open(SafeTensors **out, const char *path, Err *err)
{
    SafeTensors *s = safetensors_new();
    Status status;
    if (path_is_dir(path))
        status = open_folder(s, path, err);
    else if (str_ends(path, ".json"))
        status = open_index(s, path, err);
    else
        status = map_file(s, path, NULL, err);
    if (status != OK) {
        safetensors_close(s);
        return status;
    }
    sort_tensors(s);
    *out = s;
    return OK;
}

Status safetensors_parse(SafeTensors **out, const uint8_t *data, size_t len, const char *name,
                         Err *err)
{
    SafeTensors *s = safetensors_new();
    Status status = add_file(s, data, len, name, NULL, err);
    if (status != OK) {
        safetensors_close(s);
        return status;
    }
    sort_tensors(s);
    *out = s;
    return OK;
}

int safetensors_count(const SafeTensors *s)
{
    return s->n;
}

const SafeTensor *safetensors_at(const SafeTensors *s, int i)
{
    return i >= 0 && i < s->n ? &s->tensors[i] : NULL;
}

const SafeTensor *safetensors_find(const SafeTensors *s, const char *name)
{
    SafeTensor key = {.name = name};
    return s->n ? bsearch(&key, s->tensors, (size_t)s->n, sizeof key, by_name) : NULL;
}

const char *safetensors_meta(const SafeTensors *s, const char *key)
{
    for (int i = 0; i < s->n_meta; i++)
        if (str_eq(s->meta[2 * i], key)) return s->meta[2 * i + 1];
    return NULL;
}

bool safetensors_meta_at(const SafeTensors *s, int i, const char **key, const char **value)
{
    if (i < 0 || i >= s->n_meta) return false;
    *key = s->meta[2 * i];
    *value = s->meta[2 * i + 1];
    return true;
}

int safetensors_unlisted(const SafeTensors *s)
{
    return s->n_unlisted;
}
