/* Lists of names in messages. */
#include "model/names.h"

#include <stdio.h>

enum { SHOWN = 4 };

void names_add(NameList *l, const char *name)
{
    if (l->n < SHOWN) strbuf_printf(&l->text, "%s%s", l->n ? ", " : "", name);
    l->n++;
}

Status names_tell(const NameList *l, const char *path, const char *what, Err *err)
{
    if (l->n == 0) return OK;
    char more[48] = "";
    if (l->n > SHOWN) snprintf(more, sizeof more, " and %d more", l->n - SHOWN);
    return err_set(err, E_INPUT, "%s: %s: %s%s", path, what, l->text.data, more);
}

void names_clear(NameList *l)
{
    strbuf_clear(&l->text);
    l->n = 0;
}
