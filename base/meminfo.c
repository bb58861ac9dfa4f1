#include "base/meminfo.h"

#include "base/fs.h"

#include <stdlib.h>
#include <string.h>

/* A file's text, or NULL; the caller frees. */
static char *text_of(const char *root, const char *path)
{
    char *full = str_format("%s%s", root, path), *text = NULL;
    size_t len;
    Err ignored = {0};
    if (!path_exists(full) || file_read(&text, &len, full, &ignored) != OK) text = NULL;
    free(full);
    return text;
}

/* The number behind `key` at the beginning of a line; "" is the text's beginning.  False: none ("max"). */
static bool number_behind(size_t *out, const char *text, const char *key)
{
    size_t len = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, len) != 0) continue;
        const char *at = line + len + strspn(line + len, " \t");
        char *end;
        unsigned long long n = strtoull(at, &end, 10);
        if (end == at) return false;
        *out = (size_t)n;
        return true;
    }
    return false;
}

static bool number_in(size_t *out, const char *root, const char *dir, const char *name,
                      const char *key)
{
    char *path = str_format("%s/%s", dir, name), *text = text_of(root, path);
    bool found = text && number_behind(out, text, key);
    free(text);
    free(path);
    return found;
}

typedef struct GroupFiles {
    const char *mount, *limit, *usage, *cached; /* cached: the key in memory.stat */
} GroupFiles;

static const GroupFiles second = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                  "inactive_file"};
static const GroupFiles first = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                 "memory.usage_in_bytes", "total_inactive_file"};

/* What the group at `path` and those above it leave. */
static void ask_groups(size_t *least, const char *root, const GroupFiles *f, const char *path)
{
    char *dir = str_format("%s%s", f->mount, strcmp(path, "/") == 0 ? "" : path);
    for (;;) {
        size_t limit, used = 0, cached = 0;
        if (number_in(&limit, root, dir, f->limit, "")) {
            number_in(&used, root, dir, f->usage, "");
            number_in(&cached, root, dir, "memory.stat", f->cached);
            used -= cached < used ? cached : used;
            size_t left = limit > used ? limit - used : 0;
            if (left < *least) *least = left;
        }
        if (strlen(dir) <= strlen(f->mount)) break;
        *strrchr(dir, '/') = '\0';
    }
    free(dir);
}

/* Lines "0::/path" (version 2) or "4:memory:/path" (1). */
static void ask_all_groups(size_t *least, const char *root)
{
    char *text = text_of(root, "/proc/self/cgroup"), *rest = NULL;
    for (char *line = text ? strtok_r(text, "\n", &rest) : NULL; line;
         line = strtok_r(NULL, "\n", &rest)) {
        char *controllers = strchr(line, ':'),
             *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path) continue;
        *path++ = '\0';
        if (controllers[1] == '\0')
            ask_groups(least, root, &second, path);
        else if (strstr(controllers, "memory"))
            ask_groups(least, root, &first, path);
    }
    free(text);
}

size_t meminfo_available(const char *root)
{
    size_t kib, least = SIZE_MAX;
    char *text = text_of(root, "/proc/meminfo");
    if (text && number_behind(&kib, text, "MemAvailable:")) least = kib << 10;
    free(text);
    ask_all_groups(&least, root);
    return least == SIZE_MAX ? 0 : least;
}
