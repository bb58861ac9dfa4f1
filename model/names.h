/* A few names for one line to the user, and how many more there are. */
#pragma once

#include "base/str.h"

typedef struct NameList {
    StrBuf text;
    int n;
} NameList;

void names_add(NameList *l, const char *name);
/* OK for an empty list; else E_INPUT with "path: what: name, name and 3 more". */
Status names_tell(const NameList *l, const char *path, const char *what, Err *err) MUST_CHECK;
void names_clear(NameList *l);
