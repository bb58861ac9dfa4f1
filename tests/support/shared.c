/* LORAC_SOURCE_ROOT comes from tests/support/meson.build. */
#include "tests/support/shared.h"

#include "base/fs.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

char *source_path(const char *rel)
{
    return path_join(LORAC_SOURCE_ROOT, rel);
}

char *shared_path(const char *rel)
{
    const char *root = getenv("LORAC_SHARED");
    char *path = path_join(root ? root : LORAC_SOURCE_ROOT "/../shared", rel);
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
