/* Copying a model folder around its weights. */
#include "model/folder.h"

#include "base/fs.h"

#include <stdlib.h>
#include <string.h>

/* --- editing JSON as text -------------------------------------------------------------------------------- */

static size_t skip_space(const char *s, size_t at)
{
    return at + strspn(s + at, " \t\r\n");
}

/* Past the string that begins at s[at]. */
static size_t skip_string(const char *s, size_t at)
{
    for (at++; s[at] && s[at] != '"'; at++)
        if (s[at] == '\\' && s[at + 1]) at++;
    return s[at] ? at + 1 : at;
}

/* Past the value that begins at s[at]. */
static size_t skip_value(const char *s, size_t at)
{
    int depth = 0;
    for (; s[at]; at++) {
        if (s[at] == '"') {
            at = skip_string(s, at);
            if (depth == 0) return at;
            at--;
        } else if (s[at] == '{' || s[at] == '[') {
            depth++;
        } else if (s[at] == '}' || s[at] == ']') {
            if (depth == 0) return at;
            if (--depth == 0) return at + 1;
        } else if (depth == 0 && strchr(", \t\r\n", s[at])) {
            return at;
        }
    }
    return at;
}

/* Replaces text[from, to). */
static void splice(StrBuf *text, size_t from, size_t to, const char *with)
{
    StrBuf out = {0};
    strbuf_append(&out, text->data, from);
    strbuf_puts(&out, with);
    strbuf_append(&out, text->data + to, text->len - to);
    strbuf_clear(text);
    *text = out;
}

void json_text_set(StrBuf *text, const char *key, const char *value)
{
    const char *s = text->data;
    size_t open = skip_space(s, 0);
    ASSERT(s[open] == '{', "no JSON object");
    char *quoted = str_format("\"%s\"", key);
    size_t at = skip_space(s, open + 1);
    bool empty = s[at] == '}';
    while (s[at] == '"') {
        size_t name_end = skip_string(s, at);
        bool found = name_end - at == strlen(quoted) && memcmp(s + at, quoted, name_end - at) == 0;
        size_t entry = at;
        at = skip_space(s, skip_space(s, name_end) + 1); /* the colon */
        size_t end = skip_value(s, at);
        if (found && value) {
            splice(text, at, end, value);
        } else if (found) { /* with the comma behind it, or for the last one that before it */
            size_t next = skip_space(s, end);
            bool more = s[next] == ',';
            while (!more && strchr(" \t\r\n,", s[entry - 1]))
                entry--;
            splice(text, entry, more ? skip_space(s, next + 1) : end, "");
        }
        if (found) {
            free(quoted);
            return;
        }
        at = skip_space(s, end);
        if (s[at] == ',') at = skip_space(s, at + 1);
    }
    char *entry = value ? str_format("\n  %s: %s%s", quoted, value, empty ? "\n" : ",") : NULL;
    if (entry) splice(text, open + 1, open + 1, entry);
    free(entry);
    free(quoted);
}

Status folder_edit_config(const char *dir, const char *const *keys_values, Err *err)
{
    char *path = path_join(dir, "config.json"), *data;
    size_t len;
    Status s = file_read(&data, &len, path, err);
    if (s == OK) {
        StrBuf text = {0};
        strbuf_append(&text, data, len);
        free(data);
        for (; keys_values[0]; keys_values += 2)
            json_text_set(&text, keys_values[0], keys_values[1]);
        s = file_write_atomic(path, text.data, text.len, err);
        strbuf_clear(&text);
    }
    free(path);
    return s;
}

/* --- copying --------------------------------------------------------------------------------------------- */

/* What safetensors_write_model writes. */
static bool is_weights(const char *name)
{
    return str_starts(name, "model") &&
           (str_ends(name, ".safetensors") || str_ends(name, ".safetensors.index.json"));
}

/* The same model in another format: merged or trained on, it would be the one from before. */
static bool is_other_weights(const char *name)
{
    static const char *const starts[] = {"pytorch_model", "consolidated", "tf_model", "flax_model"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (str_starts(name, starts[i])) return true;
    return str_ends(name, ".gguf") || str_ends(name, ".onnx");
}

static Status copy_all(const char *from, const char *to, bool top, Log *log, Err *err);

static Status copy_one(const char *from, const char *to, const char *name, bool top, Log *log,
                       Err *err)
{
    if (top && is_weights(name)) return OK;
    char *source = path_join(from, name), *target = path_join(to, name);
    Status s = OK;
    if (path_exists(target)) {
        /* written anew by the caller */
    } else if (path_is_dir(source)) {
        if (name[0] != '.') s = copy_all(source, target, false, log, err); /* .git, .cache */
    } else if (is_other_weights(name)) {
        log_warn(log, "%s: not copied: its weights are those from before", source);
    } else {
        s = file_copy(source, target, err);
    }
    free(source);
    free(target);
    return s;
}

static Status copy_all(const char *from, const char *to, bool top, Log *log, Err *err)
{
    char **names;
    int n;
    TRY(dir_make(to, err));
    TRY(dir_list(&names, &n, from, err));
    Status s = OK;
    for (int i = 0; i < n && s == OK; i++)
        s = copy_one(from, to, names[i], top, log, err);
    dir_list_free(names, n);
    return s;
}

Status folder_copy_rest(const char *from, const char *to, Log *log, Err *err)
{
    return copy_all(from, to, true, log, err);
}
