/* Values of flags: choices, ranges, names. */
#include "cli/flags.h"

#include "base/fs.h"
#include "base/str.h"

#include <stdlib.h>

Status flag_choice(int *out, const char *flag, const char *value, const char *const *names,
                   Err *err)
{
    for (int i = 0; names[i]; i++)
        if (str_eq(names[i], value)) {
            *out = i;
            return OK;
        }
    StrBuf all = {0};
    for (int i = 0; names[i]; i++)
        strbuf_printf(&all, "%s%s", i ? ", " : "", names[i]);
    Status s = err_set(err, E_INPUT, "--%s: must be one of %s, is '%s'", flag, all.data, value);
    strbuf_clear(&all);
    return s;
}

Status flag_range(const char *flag, int64_t value, int64_t least, int64_t most, Err *err)
{
    if (value >= least && value <= most) return OK;
    return err_set(err, E_INPUT, "--%s: must be from %lld to %lld, is %lld", flag, (long long)least,
                   (long long)most, (long long)value);
}

Status flag_threads(int64_t n, Err *err)
{
    if (n >= 0 && n <= 4096) return OK;
    return err_set(err, E_INPUT, "--threads: must be 0 (all) to 4096, got %lld", (long long)n);
}

Status flag_limit(int64_t n, Err *err)
{
    if (n >= 0) return OK;
    return err_set(err, E_INPUT, "--limit: must be 0 (all) or more, got %lld", (long long)n);
}

Status flag_out(const char *path, Err *err)
{
    if (!*path) return err_set(err, E_INPUT, "--out: is empty, name a file");
    if (path_is_dir(path)) return err_set(err, E_INPUT, "--out: %s is a folder, name a file", path);
    char *folder = xstrndup(path, (size_t)(path_base(path) - path));
    Status s = OK;
    if (*folder && !path_is_dir(folder))
        s = err_set(err, E_INPUT, "--out: %s: there is no folder %s", path, folder);
    else if (file_check_writable(path, err) != OK)
        s = err_wrap(err, E_INPUT, "--out");
    free(folder);
    return s;
}

Status flag_precision(DType *out, const char *value, const char *device, Err *err)
{
    static const char *const names[] = {"fp32", "bf16", NULL};
    bool cpu = str_eq(device, "cpu");
    int i = !cpu;
    if (value) TRY(flag_choice(&i, "precision", value, names, err));
    if (cpu && i == 1)
        return err_set(err, E_INPUT, "--precision: the CPU computes in fp32; leave it out");
    *out = i == 1 ? DT_BF16 : DT_F32;
    return OK;
}

Status flag_shape(LlamaConfig *out, const char *flag, const char *name, Err *err)
{
    if (llama_config_preset(out, name)) return OK;
    const char *names[64];
    int n = 0;
    for (; n < 64 && llama_preset_name(n); n++)
        names[n] = llama_preset_name(n);
    const char *near = str_nearest(name, names, n);
    if (near)
        return err_set(err, E_INPUT, "--%s: there is no '%s'; did you mean '%s'?", flag, name,
                       near);
    return err_set(err, E_INPUT, "--%s: there is no '%s'; --help lists them", flag, name);
}

void flag_shape_names(StrBuf *b)
{
    for (int i = 0; llama_preset_name(i); i++)
        strbuf_printf(b, " %s", llama_preset_name(i));
}

Status flags_check_use(const FlagUse *uses, size_t n, const char *why, Err *err)
{
    for (size_t i = 0; i < n; i++)
        if (uses[i].given && !uses[i].fits)
            return err_set(err, E_INPUT, "--%s: has no meaning %s", uses[i].name,
                           uses[i].why ? uses[i].why : why);
    return OK;
}
