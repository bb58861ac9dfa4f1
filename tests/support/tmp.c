#include "tests/support/tmp.h"

#include "base/fs.h"

#include <criterion/criterion.h>
#include <stdlib.h>

char *tmp_dir(void)
{
    const char *root = getenv("TMPDIR");
    char *dir = path_join(root && *root ? root : "/tmp", "lorac-test-XXXXXX");
    cr_assert(mkdtemp(dir), "cannot make %s", dir);
    return dir;
}

void tmp_dir_remove(char *dir)
{
    Err err = {0};
    cr_assert_eq(dir_remove(dir, &err), OK, "%s", err.line);
    free(dir);
}
