/* LORAC_SOURCE_ROOT comes from tests/support/meson.build; the variable of the same name stands in where the
 * tests run on another machine than they were built on. */
#include "tests/support/shared.h"

#include "base/fs.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static const char *source_root(void)
{
    const char *moved = getenv("LORAC_SOURCE_ROOT");
    return moved ? moved : LORAC_SOURCE_ROOT;
}

char *source_path(const char *rel)
{
    return path_join(source_root(), rel);
}

char *shared_path(const char *rel)
{
    const char *root = getenv("LORAC_SHARED");
    char *beside = source_path("../shared");
    char *path = path_join(root ? root : beside, rel);
    free(beside);
    if (path_exists(path)) return path;
    free(path);
    return NULL;
}

char *shared_or_skip(const char *rel)
{
    char *path = shared_path(rel);
    if (path) return path;
    fprintf(stderr, "skipped: shared/%s is not here (set LORAC_SHARED)\n", rel);
    cr_skip_test("shared/%s is not here", rel);
    return NULL;
}
