/* Command lines by a table. */
#include "base/opts.h"

#include "base/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const Opt *find(const Opt *opts, const char *name, size_t len)
{
    for (const Opt *o = opts; o->name; o++)
        if (strlen(o->name) == len && memcmp(o->name, name, len) == 0) return o;
    return NULL;
}

static Status unknown(const Opt *opts, const char *arg, size_t len, Err *err)
{
    const char *names[256];
    int n = 0;
    for (const Opt *o = opts; o->name && n < 255; o++)
        names[n++] = o->name;
    names[n++] = "help";
    char *word = xstrndup(arg + 2, len);
    const char *near = str_nearest(word, names, n);
    Status s = near
                   ? err_set(err, E_INPUT, "--%s: no such option; did you mean '--%s'?", word, near)
                   : err_set(err, E_INPUT, "--%s: no such option; --help lists them", word);
    free(word);
    return s;
}

static Status store(const Opt *o, const char *value, Err *err)
{
    char *end;
    errno = 0;
    switch (o->kind) {
    case OPT_FLAG:
        *(bool *)o->out = true;
        break;
    case OPT_STRING:
        *(const char **)o->out = value;
        break;
    case OPT_INT: {
        long long v = strtoll(value, &end, 10);
        if (end == value || *end || errno == ERANGE || v == OPT_UNSET_INT ||
            strchr(" \t\n\v\f\r", *value))
            return err_set(err, E_INPUT, "--%s: needs an integer, got '%s'", o->name, value);
        *(int64_t *)o->out = v;
        break;
    }
    case OPT_NUMBER: {
        double v = strtod(value, &end);
        bool plain =
            strspn(value, "0123456789+-.eE") == strlen(value); /* no hex, inf, nan, space */
        if (end == value || *end || !plain || !isfinite(v))
            return err_set(err, E_INPUT, "--%s: needs a number, got '%s'", o->name, value);
        *(double *)o->out = v;
        break;
    }
    case OPT_STRINGS: {
        OptStrings *list = o->out;
        int max = (int)(sizeof list->items / sizeof *list->items);
        if (list->n == max)
            return err_set(err, E_INPUT, "--%s: given more than %d times", o->name, max);
        list->items[list->n++] = value;
        break;
    }
    }
    return OK;
}

Status opts_parse(const Opt *opts, int argc, char **argv, const char **args, int *n_args,
                  int max_args, bool *help, Err *err)
{
    bool flags_over = false;
    *n_args = 0;
    *help = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (flags_over || arg[0] != '-' || arg[1] == '\0') { /* "-" alone is standard input */
            if (*n_args == max_args)
                return err_set(err, E_INPUT, "'%s': %s", arg,
                               max_args
                                   ? "one argument too many; --help shows the usage"
                                   : "this command takes no arguments; --help shows its usage");
            args[(*n_args)++] = arg;
            continue;
        }
        if (str_eq(arg, "--")) {
            flags_over = true;
            continue;
        }
        if (str_eq(arg, "--help") || str_eq(arg, "-h")) {
            *help = true;
            return OK;
        }
        if (arg[1] != '-')
            return err_set(err, E_INPUT, "%s: no such option; options begin with two dashes", arg);
        size_t len = strcspn(arg + 2, "=");
        const char *value = arg[2 + len] ? arg + 2 + len + 1 : NULL;
        const Opt *o = find(opts, arg + 2, len);
        if (!o) return unknown(opts, arg, len, err);
        if (o->kind == OPT_FLAG && value)
            return err_set(err, E_INPUT, "--%s: takes no value, got '%s'", o->name, value);
        if (o->kind != OPT_FLAG && !value) {
            if (i + 1 == argc)
                return err_set(err, E_INPUT, "--%s: needs a value (%s)", o->name,
                               o->value ? o->value : "VALUE");
            value = argv[++i];
        }
        TRY(store(o, value, err));
    }
    return OK;
}

static size_t left_column(StrBuf *b, const Opt *o)
{
    strbuf_reset(b);
    strbuf_printf(b, "  --%s", o->name);
    if (o->kind != OPT_FLAG) strbuf_printf(b, " %s", o->value ? o->value : "VALUE");
    return b->len;
}

void opts_help(FILE *to, const char *usage, const char *about, const Opt *opts)
{
    fprintf(to, "usage: %s\n", usage);
    if (about) fprintf(to, "\n%s\n", about);
    StrBuf b = {0};
    size_t width = strlen("  --help");
    for (const Opt *o = opts; o->name; o++) {
        size_t n = left_column(&b, o);
        if (n > width && n <= 34) width = n;
    }
    fputs("\noptions:\n", to);
    for (const Opt *o = opts; o->name; o++) {
        size_t n = left_column(&b, o);
        const char *help = o->help ? o->help : "";
        /* a long name stands on a line of its own; a help text goes on below itself */
        if (n > width)
            fprintf(to, "%s\n%*s", b.data, (int)width, "");
        else
            fprintf(to, "%-*s", (int)width, b.data);
        for (const char *line = help;; line++) {
            size_t k = strcspn(line, "\n");
            fprintf(to, "  %.*s\n", (int)k, line);
            line += k;
            if (!*line) break;
            fprintf(to, "%*s", (int)width, "");
        }
    }
    fprintf(to, "%-*s  show this text\n", (int)width, "  --help");
    strbuf_clear(&b);
}
